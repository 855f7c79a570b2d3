package histories

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
)

const (
	boxes     = 10
	addresses = 6 // of each network: fewer than containers, so that they are handed on
	port      = 8000
	port2     = 8001 // of the second service of those that have two
)

// joinable are the networks that a container may be in. It is reached by the address in the first of them.
var joinable = []string{"also", "bridge"}

// declared is one service of a container.
type declared struct {
	name string // "" for the container's own
	port uint16
}

// served is a run at one address.
type served struct {
	run
	at netip.AddrPort
}

// box is one container through all its runs.
type box struct {
	id, name   string
	labels     map[string]string
	stopSignal string
	number     string // of that signal
	health     string // Docker's word for its HEALTHCHECK, "" without one
	services   []declared

	exists, running, paused, told bool
	started                       time.Time
	places                        map[string]netip.Addr // by network
	open                          map[uint16]bool       // ports on which its process listens, in all networks
	listeners                     map[netip.AddrPort]net.Listener
}

// newBox makes up the container of that number: they differ in all that matters for a stop and a name.
func newBox(n int) *box {
	b := &box{
		id: strings.Repeat(fmt.Sprintf("%04x", n+1), 16), name: fmt.Sprintf("c%d", n), number: "15",
		labels: map[string]string{"sidekick.check.interval": "20ms", "sidekick.check.fall": "2"},
		places: map[string]netip.Addr{}, open: map[uint16]bool{}, listeners: map[netip.AddrPort]net.Listener{},
	}
	switch n {
	case 0, 5:
		b.declare(declared{"s0", port}, declared{"s1", port2})
		return b
	case 1: // its service is named after it
	case 2:
		b.health = string(container.Starting)
	case 3:
		b.stopSignal, b.number = "SIGQUIT", "3"
	case 4:
		b.stopSignal, b.number = "SIGRTMIN+3", "37"
	case 6:
		b.health = string(container.Starting)
		b.declare(declared{"s0", port2}, declared{"s1", port})
		return b
	}
	b.services = []declared{{"", port}}
	if n > 1 {
		b.services[0].name = fmt.Sprintf("s%d", n%2)
		b.labels["sidekick.service"] = b.services[0].name
	}
	return b
}

// declare gives the container several services by its labels.
func (b *box) declare(all ...declared) {
	b.services, b.labels = all, map[string]string{}
	for _, d := range all {
		for key, value := range map[string]string{"port": strconv.FormatUint(uint64(d.port), 10), "check.interval": "20ms", "check.fall": "2"} {
			b.labels["sidekick.services."+d.name+"."+key] = value
		}
	}
}

func (b *box) run() run { return run{b.id[:12], b.started.UnixNano()} }

// service is the name under which a service of it is registered.
func (b *box) service(d declared) string { return cmp.Or(d.name, b.name) }

// instance is the id under which a service of it is registered.
func (b *box) instance(d declared) string {
	return fmt.Sprintf("%s.%s.%d", b.id[:12], b.service(d), d.port)
}

// address is where it is reached; invalid if in no network.
func (b *box) address() netip.Addr {
	for _, name := range joinable {
		if at, ok := b.places[name]; ok {
			return at
		}
	}
	return netip.Addr{}
}

// at is where a service of it is reached.
func (b *box) at(d declared) served { return served{b.run(), netip.AddrPortFrom(b.address(), d.port)} }

// isHealthy tells whether its HEALTHCHECK passes, if it has one.
func (b *box) isHealthy() bool { return b.health == "" || b.health == string(container.Healthy) }

// described is what the engine tells of it.
func (b *box) described() container.InspectResponse {
	c := container.InspectResponse{
		ID: b.id, Name: "/" + b.name, HostConfig: &container.HostConfig{NetworkMode: "bridge"},
		Config: &container.Config{Labels: b.labels, StopSignal: b.stopSignal, ExposedPorts: network.PortSet{}},
		State:  &container.State{Status: container.StateExited, StartedAt: b.started.Format(time.RFC3339Nano)},
	}
	for _, d := range b.services {
		c.Config.ExposedPorts[network.MustParsePort(fmt.Sprintf("%d/tcp", d.port))] = struct{}{}
	}
	if !b.running {
		return c
	}
	c.State.Status, c.State.Running, c.State.Paused = container.StateRunning, true, b.paused
	if b.health != "" {
		c.State.Health = &container.Health{Status: container.HealthStatus(b.health)}
	}
	c.NetworkSettings = &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{}}
	for name, at := range b.places {
		c.NetworkSettings.Networks[name] = &network.EndpointSettings{NetworkID: name, IPAddress: at}
	}
	return c
}

// address is one of a network, and of this process's own, on loopback.
func address(network string, n int) netip.Addr {
	pid := os.Getpid()
	return netip.AddrFrom4([4]byte{127, byte(128 + pid%64), byte(pid / 64), byte(1 + addresses*slices.Index(joinable, network) + n)})
}

// reached is where its process listens, in every network.
func (b *box) reached() []netip.AddrPort {
	var all []netip.AddrPort
	for _, at := range b.places {
		for p := range b.open {
			all = append(all, netip.AddrPortFrom(at, p))
		}
	}
	return all
}

// listen makes true what reached says.
func (b *box) listen() error {
	want := b.reached()
	for at, l := range b.listeners {
		if !slices.Contains(want, at) {
			_ = l.Close()
			delete(b.listeners, at)
		}
	}
	for _, at := range want {
		if b.listeners[at] != nil {
			continue
		}
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", at.String())
		if err != nil {
			return err
		}
		b.listeners[at] = l
		go accept(l)
	}
	return nil
}

// accept takes connections and closes them, until the listener is closed.
func accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_ = c.Close()
	}
}

// silence ends what listens on these ports, on all if none is given.
func (b *box) silence(ports ...uint16) {
	for p := range b.open {
		if len(ports) == 0 || slices.Contains(ports, p) {
			delete(b.open, p)
		}
	}
	_ = b.listen() // only closes
}

// endings are the orders in which engines log the end of a container that is told to stop.
func endings(stopFirst bool) []events.Action {
	if stopFirst {
		return []events.Action{events.ActionStop, events.ActionDie}
	}
	return []events.Action{events.ActionDie, events.ActionStop}
}
