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

	"github.com/sidekick-proxy/sidekick/pkg/convention"
)

// view is an inspection reduced to what matters here, with every part that an engine may leave out
// filled in.
type view struct {
	id        string // the first twelve characters
	name      string
	image     string
	labels    map[string]string
	env       []string
	running   bool
	paused    bool
	started   time.Time
	stop      int           // its stop signal
	grace     time.Duration // how long the engine waits after that, negative for ever
	health    string        // Docker's word, "" without a HEALTHCHECK
	mode      container.NetworkMode
	ports     convention.Ports            // exposed or published
	udp       []uint16                    // those of UDP that are published
	published map[uint16][]netip.AddrPort // container's TCP port → where on the host; an invalid address means everywhere
	endpoints []endpoint                  // the networks it has an address in, sorted by name
}

// endpoint is a container's place in one network.
type endpoint struct {
	network string // name
	id      string // of the network
	driver  string // of the network, "" until it is looked up
	address netip.Addr
	second  netip.Addr // of the other family, if it has one
}

// from is the address under which hosts that speak the family of advertise reach the container.
func (e endpoint) from(advertise netip.Addr) netip.Addr {
	if e.second.IsValid() && e.second.Is4() == advertise.Is4() {
		return e.second
	}
	return e.address
}

func newView(c *container.InspectResponse) view {
	v := view{
		id: c.ID[:min(len(c.ID), 12)], name: strings.TrimPrefix(c.Name, "/"),
		stop: sigTerm, grace: stopGrace, published: map[uint16][]netip.AddrPort{},
	}
	if c.State != nil {
		v.readState(c.State)
	}
	if c.HostConfig != nil {
		v.mode = c.HostConfig.NetworkMode
	}
	ports := portSet{network.TCP: {}, network.UDP: {}}
	if c.Config != nil {
		v.labels, v.env, v.image = c.Config.Labels, c.Config.Env, c.Config.Image
		if n, ok := parseSignal(c.Config.StopSignal); ok {
			v.stop = n
		}
		if t := c.Config.StopTimeout; t != nil {
			v.grace = time.Duration(*t) * time.Second
		}
		for p := range c.Config.ExposedPorts {
			ports.add(p)
		}
	}
	if c.NetworkSettings != nil {
		v.readNetworks(c.NetworkSettings, ports)
	}
	v.ports = convention.Ports{TCP: ports.sorted(network.TCP), UDP: ports.sorted(network.UDP)}
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

func (v *view) readNetworks(s *container.NetworkSettings, ports portSet) {
	for p, bindings := range s.Ports {
		ports.add(p)
		switch places := published(bindings); {
		case len(places) == 0 || p.Num() == 0:
		case p.Proto() == network.TCP:
			v.published[p.Num()] = places
		case p.Proto() == network.UDP:
			v.udp = append(v.udp, p.Num())
		}
	}
	slices.Sort(v.udp)
	for name, e := range s.Networks {
		if e == nil {
			continue
		}
		address, second := e.IPAddress, e.GlobalIPv6Address
		if !address.IsValid() {
			address, second = second, netip.Addr{}
		}
		if address.IsValid() {
			v.endpoints = append(v.endpoints, endpoint{network: name, id: e.NetworkID, address: address.Unmap(), second: second})
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

// portSet has ports by protocol; others than those it was made with are not taken.
type portSet map[network.IPProtocol]map[uint16]struct{}

func (s portSet) add(p network.Port) {
	if of := s[p.Proto()]; of != nil && p.Num() != 0 {
		of[p.Num()] = struct{}{}
	}
}

func (s portSet) sorted(protocol network.IPProtocol) []uint16 {
	return slices.Sorted(maps.Keys(s[protocol]))
}
