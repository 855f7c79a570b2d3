package etcd

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/sidekick-proxy/sidekick/pkg/registry/registrytest"
)

// TestEndpointsChange: a client that is given other endpoints leaves the connections to those before,
// also the one that its watch is on, and no key is written for it. Those before may go then.
func TestEndpointsChange(t *testing.T) {
	t.Parallel()
	members := newCluster(t, 3, nil)
	c := dialed(t, Config{Endpoints: endpointsOf(members[0])})
	s := openSession(t, newRegistry(c, registrytest.Node("a", "agent-a")))
	feed := registrytest.Watch(t, newWatcher(c))
	web1, web2 := registrytest.Instance("a", "web", 1), registrytest.Instance("a", "web", 2)
	registrytest.Set(t, s, web1)
	feed.Until(t, web1)
	before := registered(t, c)

	connected := func(m *member, want bool) {
		t.Helper()
		open := connectionOf(c).transport
		eventually(t, fmt.Sprintf("connected to %s: %v", m.name, want), func() error {
			open.mu.Lock()
			defer open.mu.Unlock()
			if names := slices.Collect(maps.Values(open.open)); slices.Contains(names, m.way.path) != want {
				return fmt.Errorf("connected to %v", names)
			}
			return nil
		})
	}
	c.SetEndpoints(endpointsOf(members...)...) // the watch stays where it is
	for _, m := range members {
		connected(m, true)
	}
	c.SetEndpoints(endpointsOf(members[1:]...)...)
	Leave(limited(t), c)
	connected(members[0], false)
	members[0].stop(t)
	eventually(t, "the lease is renewed by the others", func() error { return s.renew(limited(t), s.granted.Add(s.ttl*1000)) })
	if diff := registered(t, c); fmt.Sprint(diff) != fmt.Sprint(before) {
		t.Errorf("got the keys %v, want %v as before", diff, before)
	}
	eventually(t, "this agent writes", func() error { return s.Set(limited(t), registrytest.Of(web1, web2)) })
	feed.Until(t, web1, web2)
	if err := s.over(); err != nil {
		t.Error(err)
	}
}
