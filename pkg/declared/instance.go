package declared

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Host is what must be known of the host that registers an instance.
type Host struct{ Node, Zone string }

// Set gives d what is said of an instance under a label's name, without "sidekick.". The error names
// both, and what they should be.
func Set(d *service.Definition, key, text string) error {
	switch {
	case key == "port", key == "address":
		return fmt.Errorf("%s: the address has the port, as in address: 10.0.0.7:5432", key)
	case key == "network", key == "enable", strings.HasPrefix(key, "services."):
		return fmt.Errorf("%.60q is for containers alone; remove it", key)
	case key == "check" && text == string(service.CheckDocker):
		return errors.New("check: docker is for containers alone: want tcp, none or http:/path")
	}
	err := d.Set(key, text)
	if unknown, ok := errors.AsType[service.UnknownError](err); ok {
		return fmt.Errorf("%.60q %w", key, unknown)
	}
	if err != nil {
		return fmt.Errorf("%s: %.40q: %w", key, text, err)
	}
	return nil
}

// ParseEndpoint reads an IP address with a port.
func ParseEndpoint(text string) (netip.AddrPort, error) {
	at, err := netip.ParseAddrPort(text)
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	if err != nil || at.Port() == 0 || at.Addr().IsUnspecified() || at.Addr().Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("%.60q is no endpoint: want an IP address and a port, as in 10.0.0.7:5432 or [2001:db8::7]:5432 (names are not looked up)", text)
	}
	return at, nil
}

// Instance is the one at that endpoint that d describes, ready as far as its declaration goes. Of one
// on a loopback address only its own host can make use.
func (h Host) Instance(o service.Origin, d *service.Definition, at netip.AddrPort, started time.Time) (service.Instance, error) {
	i := service.Instance{
		Node: h.Node, ID: service.DeclaredID(o, d.Service, at), Service: d.Service,
		Address: at.Addr(), Port: at.Port(), State: service.Ready, Weight: d.Weight,
		Mode: d.Mode, Hosts: d.Hosts, Path: d.Path, Listen: d.Listen, Zone: h.Zone, Started: started,
		Options: orNil(d.Options), Tags: d.Tags, Meta: orNil(d.Meta), Check: d.NewCheck(at),
	}
	if at.Addr().IsLoopback() {
		i.Scope = service.ScopeNode
	}
	// What cannot be written is left out here, alone.
	if _, err := i.Encode(); err != nil {
		return service.Instance{}, err
	}
	return i, nil
}

// orNil makes an empty map none, as it is after a way through the registry.
func orNil(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	return m
}
