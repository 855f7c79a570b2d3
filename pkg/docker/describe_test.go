package docker

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// planOf is the plan that a container was made by, as far as an inspection shows it.
func planOf(c *container.InspectResponse) *Plan {
	p := &Plan{
		Name: c.Name[1:], Image: c.Config.Image, Labels: c.Config.Labels, Env: c.Config.Env, StopSignal: c.Config.StopSignal,
		NetworkMode: string(c.HostConfig.NetworkMode), HealthCheck: c.State.Health != nil,
	}
	for port := range c.Config.ExposedPorts {
		bindings := c.NetworkSettings.Ports[port]
		if len(bindings) == 0 {
			p.Ports = append(p.Ports, PlannedPort{Number: port.Num(), Protocol: string(port.Proto())})
		}
		for _, place := range published(bindings) {
			p.Ports = append(p.Ports, PlannedPort{
				Number: port.Num(), Protocol: string(port.Proto()), Published: true, HostIP: place.Addr(), HostPort: place.Port(),
			})
		}
	}
	for name := range c.NetworkSettings.Networks {
		if name != "host" && name != "none" {
			p.Networks = append(p.Networks, PlannedNetwork{Name: name, Driver: "bridge"})
		}
	}
	slices.SortFunc(p.Networks, func(a, b PlannedNetwork) int { return len(a.Name) - len(b.Name) })
	return p
}

// What is said of a container that is planned is what is found when it runs, or what is missing is
// told in the same words.
func TestDescribeSaysWhatRuns(t *testing.T) {
	for _, name := range []string{"bridge", "host", "loopback", "none", "published", "shared", "two"} {
		c := recorded(t, name)
		s := &Source{Node: "h1", Zone: "eu", Advertise: netip.MustParseAddr("10.0.0.1")}
		ran, reason := readOne(t, s.describer(), &c, nil)
		got := s.Describe(planOf(&c))
		if reason != "" {
			if len(got.Rejected) != 1 || got.Rejected[0].Reason != reason {
				t.Errorf("%s: got %+v, want the reason %q", name, got, reason)
			}
			continue
		}
		if len(got.Prospects) != 1 {
			t.Errorf("%s: got %+v, want one instance", name, got)
			continue
		}
		planned := got.Prospects[0].Instance
		if planned.Scope == ran.Scope && ran.Scope == service.ScopeNode {
			planned.Address = ran.Address // of an engine's choice
		}
		if diff := cmp.Diff(fixed(ran), fixed(planned), byValue()); diff != "" {
			t.Errorf("%s (-ran +planned)\n%s", name, diff)
		}
	}
}

// fixed is an instance without what differs between two runs.
func fixed(i service.Instance) service.Instance {
	check := *i.Check
	check.Target, check.Health = netip.AddrPort{}, ""
	i.ID, i.Container, i.Started, i.Check = "", "", time.Time{}, &check
	return i
}
