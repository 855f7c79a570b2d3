package registrytest

import (
	"slices"
	"strings"
	"testing"

	"github.com/sidekick-proxy/sidekick/pkg/register"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// lostLeaseDeparts: also for a reader that was busy meanwhile, and each departure is told once.
func lostLeaseDeparts(t *testing.T, s Store) {
	t.Helper()
	feed := Watch(t, s.Watcher())
	a, b := Open(t, s.Registry(Node("a", "agent-a"))), Open(t, s.Registry(Node("b", "agent-b")))
	web1, web2, other := Instance("a", "web", 1), Instance("a", "web", 2), Instance("b", "other", 3)
	Set(t, a, web1, web2)
	Set(t, b, other)
	feed.Until(t, web1, web2, other)
	s.Expire(t, "a")
	waitDone(t, a)
	again := Open(t, s.Registry(Node("a", "agent-a")))
	Set(t, again, web2)
	var departed []string
	for {
		c := feed.Next(t)
		departed = append(departed, departures(c)...)
		if Diff(c, []service.Instance{web2, other}) == "" {
			break
		}
	}
	wantDepartures(t, departed, "a c1.web.80 c2.web.80", "a c1.web.80")
	Set(t, b)
	if c := feed.Until(t, web2); len(c.Departed) > 0 {
		t.Errorf("departures are told again: %v", departures(c))
	}
}

// wantDepartures compares with what a reader may have seen: each alone, or how they add up.
func wantDepartures(t *testing.T, got []string, either ...string) {
	t.Helper()
	if len(got) != 1 || !slices.Contains(either, got[0]) {
		t.Errorf("departed %q, want one of %q", got, either)
	}
}

// departures lists what departed, as "node id id", with a full stop behind what left in good order.
func departures(c *service.Catalog) []string {
	var all []string
	for _, d := range c.Departed {
		words := []string{d.Node.Name}
		for _, i := range d.Instances {
			words = append(words, i.ID)
		}
		text := strings.Join(words, " ")
		if d.Node.Leaving {
			text += "."
		}
		all = append(all, text)
	}
	return all
}

func deletedDoesNotDepart(t *testing.T, s Store) {
	t.Helper()
	feed := Watch(t, s.Watcher())
	a := Open(t, s.Registry(Node("a", "agent-a")))
	web := Instance("a", "web", 1)
	Set(t, a, web)
	feed.Until(t, web)
	s.Delete(t, "a")
	if c := feed.Until(t); len(c.Departed) > 0 {
		t.Errorf("departed %q, want nothing", departures(c))
	}
}

func closeLeaves(t *testing.T, s Store) {
	t.Helper()
	feed := Watch(t, s.Watcher())
	for _, registry := range []func(service.Node) register.Registry{s.Registry, s.Parting} {
		a := Open(t, registry(Node("a", "agent-a")))
		web := Instance("a", "web", 1)
		Set(t, a, web)
		if c := feed.Until(t, web); len(c.Nodes) != 1 || c.Nodes[0].Leaving {
			t.Errorf("got nodes %v, want one that stays", c.Nodes)
		}
		if err := a.Close(limited(t)); err != nil {
			t.Fatal(err)
		}
		if c := Watch(t, s.Watcher()).Next(t); len(c.Nodes) > 0 { // under the parting lease
			s.Expire(t, "a")
		}
		var departed []string
		for gone := false; !gone; {
			c := feed.Next(t)
			departed, gone = append(departed, departures(c)...), len(c.Nodes) == 0
		}
		if slices.ContainsFunc(departed, func(d string) bool { return !strings.HasSuffix(d, ".") }) {
			t.Errorf("departed %q, want all in good order", departed)
		}
	}
}

func restoredIsNoticed(t *testing.T, s Store) {
	t.Helper()
	a := Open(t, s.Parting(Node("a", "agent-a")))
	web1, web2 := Instance("a", "web", 1), Instance("a", "web", 2)
	Set(t, a, web1)
	s.Stop(t)
	s.Save(t)
	s.Start(t)
	feed := Watch(t, s.Watcher())
	for range 5 {
		Set(t, a, web2)
		Set(t, a, web1, web2)
	}
	if c := feed.Until(t, web1, web2); c.Replaced != 0 {
		t.Errorf("replaced %d times before it was", c.Replaced)
	}
	s.Stop(t)
	s.Restore(t)
	s.Start(t)
	feed.Reset()
	if c := feed.Until(t, web1); c.Replaced != 1 || len(c.Departed) > 0 {
		t.Errorf("replaced %d times, departed %q, want once, nothing", c.Replaced, departures(c))
	}
}
