package docker

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// view is an inspection reduced to what matters here, with every part that an engine may leave out
// filled in.
type view struct {
	id        string // the first twelve characters
	name      string
	labels    map[string]string
	running   bool
	paused    bool
	started   time.Time
	stop      int    // its stop signal
	health    string // Docker's word, "" without a HEALTHCHECK
	mode      container.NetworkMode
	ports     []uint16                    // TCP ports, exposed or published, sorted
	published map[uint16][]netip.AddrPort // container port → where on the host; an invalid address means everywhere
	endpoints []endpoint                  // the networks it has an address in, sorted by name
}

// endpoint is a container's place in one network.
type endpoint struct {
	network string // name
	id      string // of the network
	driver  string // of the network, "" until it is looked up
	address netip.Addr
}

func newView(c *container.InspectResponse) view {
	v := view{
		id: c.ID[:min(len(c.ID), 12)], name: strings.TrimPrefix(c.Name, "/"),
		stop: sigTerm, published: map[uint16][]netip.AddrPort{},
	}
	if c.State != nil {
		v.readState(c.State)
	}
	if c.HostConfig != nil {
		v.mode = c.HostConfig.NetworkMode
	}
	ports := map[uint16]struct{}{}
	if c.Config != nil {
		v.labels = c.Config.Labels
		if n, ok := parseSignal(c.Config.StopSignal); ok {
			v.stop = n
		}
		for p := range c.Config.ExposedPorts {
			addTCP(ports, p)
		}
	}
	if c.NetworkSettings != nil {
		v.readNetworks(c.NetworkSettings, ports)
	}
	v.ports = slices.Sorted(maps.Keys(ports))
	return v
}

func (v *view) readState(s *container.State) {
	// While a restart policy waits, the engine calls the container running and restarting.
	v.running = s.Running && !s.Restarting && !s.Dead
	v.paused = s.Paused
	if t, err := time.Parse(time.RFC3339Nano, s.StartedAt); err == nil {
		v.started = t.UTC()
	}
	if s.Health != nil && s.Health.Status != container.NoHealthcheck {
		v.health = string(s.Health.Status)
	}
}

func (v *view) readNetworks(s *container.NetworkSettings, ports map[uint16]struct{}) {
	for p, bindings := range s.Ports {
		if !addTCP(ports, p) {
			continue
		}
		if places := published(bindings); len(places) > 0 {
			v.published[p.Num()] = places
		}
	}
	for name, e := range s.Networks {
		if e == nil {
			continue
		}
		address := e.IPAddress
		if !address.IsValid() {
			address = e.GlobalIPv6Address
		}
		if address.IsValid() {
			v.endpoints = append(v.endpoints, endpoint{network: name, id: e.NetworkID, address: address.Unmap()})
		}
	}
	slices.SortFunc(v.endpoints, func(a, b endpoint) int { return cmp.Compare(a.network, b.network) })
}

// published is where on the host a port is published, sorted.
func published(bindings []network.PortBinding) []netip.AddrPort {
	var places []netip.AddrPort
	for _, b := range bindings {
		port, err := strconv.ParseUint(b.HostPort, 10, 16)
		if err == nil && port > 0 {
			places = append(places, netip.AddrPortFrom(b.HostIP.Unmap(), uint16(port)))
		}
	}
	slices.SortFunc(places, netip.AddrPort.Compare)
	return places
}

// addTCP takes a port in if it is one of TCP, and tells whether it was.
func addTCP(ports map[uint16]struct{}, p network.Port) bool {
	if p.Proto() != network.TCP || p.Num() == 0 {
		return false
	}
	ports[p.Num()] = struct{}{}
	return true
}
