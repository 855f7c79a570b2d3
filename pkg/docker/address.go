package docker

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// place is where an instance is reached.
type place struct {
	at     netip.AddrPort // by proxies
	scope  string         // service.ScopeNode when only by those of this host
	target netip.AddrPort // by the gate, which must not be deceived by Docker's own proxy
	kind   string         // what at is, for people: one of the constants below
}

// The kinds of addresses.
const (
	kindPublished = "published" // on the host
	kindHost      = "host"      // the host's own, whose network the container shares
	kindContainer = "container" // the container's, in a network that spans hosts
	kindNode      = "node"      // the container's, for its own host only
)

// place finds the address of a container's port. Without a wish in the labels these are tried in
// turn: a port published for other hosts, the host's own network, a network that spans hosts, and
// last a bridge, which only this host can reach.
func (h host) place(v *view, d *service.Definition, port uint16) (place, error) {
	if v.mode.IsHost() {
		if d.Network != "" {
			return place{}, fmt.Errorf("container %s is on its host's network and in no other: remove the label sidekick.network", v.name)
		}
		if !h.advertise.IsValid() {
			return place{}, errNoAdvertise(v)
		}
		// The address that proxies use is also the one to check: nothing stands between it and the
		// process, and a process that listens on loopback only must not pass.
		at := netip.AddrPortFrom(h.advertise, port)
		return place{at: at, target: at, kind: kindHost}, nil
	}
	own, target, err := v.own(d.Network)
	if err != nil {
		return place{}, err
	}
	p := place{at: netip.AddrPortFrom(own.address, port), target: netip.AddrPortFrom(target.address, port), kind: kindContainer}
	if spansHosts(own.driver) {
		p.at = netip.AddrPortFrom(own.from(h.advertise), port)
	} else {
		p.scope, p.kind = service.ScopeNode, kindNode
	}
	if d.Address == "container" || d.Address == "" && d.Network != "" {
		return p, nil
	}
	at, ok := h.published(v.published[port])
	switch {
	case ok:
		p.at, p.scope, p.kind = at, "", kindPublished
	case d.Address == "published" && !h.advertise.IsValid():
		return place{}, errNoAdvertise(v)
	case d.Address == "published":
		return place{}, fmt.Errorf("container %s does not publish port %d on an address that other hosts reach: publish it (-p %d), or drop the label sidekick.address", v.name, port, port)
	}
	return p, nil
}

func errNoAdvertise(v *view) error {
	return fmt.Errorf("container %s is reached through this host, whose address is not known: set --advertise", v.name)
}

// published picks the best of the places where a port is published: one that takes the advertised
// address, else the address it is bound to, unless that means something on its link only. Loopback
// counts only for an agent that advertises loopback, because its cluster is this one host.
func (h host) published(bindings []netip.AddrPort) (netip.AddrPort, bool) {
	if h.advertise.IsValid() {
		for _, b := range bindings {
			if !b.Addr().IsValid() || b.Addr() == h.advertise ||
				b.Addr().IsUnspecified() && b.Addr().Is4() == h.advertise.Is4() {
				return netip.AddrPortFrom(h.advertise, b.Port()), true
			}
		}
	}
	best := slices.IndexFunc(bindings, func(b netip.AddrPort) bool {
		a := b.Addr()
		return a.IsValid() && !a.IsUnspecified() && (!a.Is6() || !a.IsLinkLocalUnicast()) && (!a.IsLoopback() || h.advertise.IsLoopback())
	})
	if best < 0 {
		return netip.AddrPort{}, false
	}
	return bindings[best], true
}

// own picks the network by whose address the container is reached, and the one by which it is
// checked. They differ when it has a network that spans hosts beside a bridge: a host does not
// reach its own containers in macvlan and overlay networks, but always those on its bridges.
func (v *view) own(wanted string) (own, target endpoint, err error) {
	if wanted != "" {
		at := slices.IndexFunc(v.endpoints, func(e endpoint) bool { return e.network == wanted })
		if at < 0 {
			return own, target, fmt.Errorf("container %s has no address in the network %q, but in: %s; mend the label sidekick.network", v.name, wanted, v.networkNames())
		}
		return v.endpoints[at], v.endpoints[at], nil
	}
	switch {
	case len(v.endpoints) > 0:
	case v.mode.IsContainer():
		return own, target, fmt.Errorf("container %s shares the network of another container: put its labels on that one", v.name)
	default:
		return own, target, fmt.Errorf("container %s has no address in any network: connect it to one", v.name)
	}
	own, target = v.endpoints[0], v.endpoints[0]
	if at := slices.IndexFunc(v.endpoints, func(e endpoint) bool { return spansHosts(e.driver) }); at >= 0 {
		own = v.endpoints[at]
	}
	if at := slices.IndexFunc(v.endpoints, func(e endpoint) bool { return !spansHosts(e.driver) }); at >= 0 {
		target = v.endpoints[at]
	}
	return own, target, nil
}

func (v *view) networkNames() string {
	names := make([]string, 0, len(v.endpoints))
	for _, e := range v.endpoints {
		names = append(names, e.network)
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// spansHosts tells whether the addresses of a network of that driver mean the same on other hosts.
func spansHosts(driver string) bool {
	return driver == "macvlan" || driver == "ipvlan" || driver == "overlay"
}
