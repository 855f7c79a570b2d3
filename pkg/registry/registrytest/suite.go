package registrytest

import (
	"context"
	"testing"

	"github.com/sidekick-proxy/sidekick/pkg/register"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Run tests a registry. open makes a new store for each test and takes it away at its end.
func Run(t *testing.T, open func(t *testing.T) Store) {
	t.Helper()
	run(t, open, []promise{
		{"what is set is seen", setIsSeen},
		{"set is exact and writes nothing twice", setIsExact},
		{"the first catalog is complete", firstCatalogIsComplete},
		{"close takes everything away", closeRemoves},
		{"close leaves everything under a parting lease", closeParts},
		{"a lost lease ends the session and its keys", lostLease},
		{"nodes do not touch each other", nodesAreSeparate},
		{"P9: another agent of the same node name waits", otherAgentWaits},
		{"F15: a session taken over cannot write", takeOverFences},
		{"P7: a bad instance does not block the others", badInstance},
		{"F5: a watcher misses nothing over a restart of the store", watcherSurvivesRestart},
		{"P3: a session goes on after a short outage", sessionSurvivesRestart},
		{"P3: what was deleted is registered again", deletedComesBack},
		{"P3: what a restored registry lacks is registered again", restoredIsRepaired},
		{"P3: opening a session keeps what is registered", openKeeps},
		{"P9: a clone without a machine id waits", namelessCloneWaits},
		{"P3: what is of an unknown origin stays", unknownStays},
		{"F13: what a lost lease takes has departed", lostLeaseDeparts},
		{"F13: what is deleted has not departed", deletedDoesNotDepart},
		{"F14: a session that is closed leaves in good order", closeLeaves},
		{"P3: a restored registry is known for one", restoredIsNoticed},
	})
}

// RunCommands tests what a registry has for commands, which hold instances of a node without owning
// it: those promises that have nothing to do with the node's key. The Store must say Commands.
func RunCommands(t *testing.T, open func(t *testing.T) Store) {
	t.Helper()
	run(t, open, []promise{
		{"set is exact and writes nothing twice", setIsExact},
		{"a lost lease ends the session and its keys", lostLease},
		{"P7: a bad instance does not block the others", badInstance},
		{"P3: a session goes on after a short outage", sessionSurvivesRestart},
		{"P3: what was deleted is registered again", deletedComesBack},
		{"P3: what a restored registry lacks is registered again", restoredIsRepaired},
	})
}

// promise is one thing that a registry owes.
type promise struct {
	name string
	test func(t *testing.T, s Store)
}

func run(t *testing.T, open func(t *testing.T) Store, promises []promise) {
	t.Helper()
	for _, p := range promises {
		t.Run(p.name, func(t *testing.T) { p.test(t, open(t)) })
	}
}

func setIsSeen(t *testing.T, s Store) {
	t.Helper()
	feed := Watch(t, s.Watcher())
	if c := feed.Next(t); len(c.Services) != 0 {
		t.Fatalf("an empty registry shows %d services", len(c.Services))
	}
	a := Open(t, s.Registry(Node("a", "agent-a")))
	web1, web2 := Instance("a", "web", 1), Instance("a", "web", 2)
	Set(t, a, web1, web2)
	before := feed.Until(t, web1, web2)
	if len(before.Nodes) != 1 || before.Nodes[0].Name != "a" || before.Nodes[0].Agent != "agent-a" {
		t.Errorf("got nodes %v, want a by agent-a", before.Nodes)
	}
	web2.State = service.Draining
	other := Instance("a", "other", 3)
	Set(t, a, web1, web2, other)
	after := feed.Until(t, web1, web2, other)
	Set(t, a, other)
	last := feed.Until(t, other)
	if after.Service("other") != last.Service("other") {
		t.Error("a service that did not change is another value in the next catalog")
	}
}

func setIsExact(t *testing.T, s Store) {
	t.Helper()
	a := Open(t, s.Registry(Node("a", "agent-a")))
	var many []service.Instance
	for n := range 300 { // more than one transaction holds
		many = append(many, s.instance("a", n))
	}
	Set(t, a, many...)
	before := s.Writes(t)
	Set(t, a, many...)
	if got := s.Writes(t); got != before {
		t.Errorf("an equal set wrote %d times, want none", got-before)
	}
	many[7].Weight = 0
	Set(t, a, many...)
	if got := s.Writes(t); got != before+1 {
		t.Errorf("one change wrote %d times, want once", got-before)
	}
	Set(t, a, many[:1]...)
	Watch(t, s.Watcher()).Until(t, many[:1]...)
}

func firstCatalogIsComplete(t *testing.T, s Store) {
	t.Helper()
	a, b := Open(t, s.Registry(Node("a", "agent-a"))), Open(t, s.Registry(Node("b", "agent-b")))
	var all []service.Instance
	for n := range 40 {
		all = append(all, Instance("a", "web", n), Instance("b", "web", n))
	}
	var ofA, ofB []service.Instance
	for _, i := range all {
		if i.Node == "a" {
			ofA = append(ofA, i)
		} else {
			ofB = append(ofB, i)
		}
	}
	Set(t, a, ofA...)
	Set(t, b, ofB...)
	if diff := Diff(Watch(t, s.Watcher()).Next(t), all); diff != "" {
		t.Errorf("first catalog (-got +want):\n%s", diff)
	}
}

func closeRemoves(t *testing.T, s Store) {
	t.Helper()
	feed := Watch(t, s.Watcher())
	a := Open(t, s.Registry(Node("a", "agent-a")))
	web := Instance("a", "web", 1)
	Set(t, a, web)
	feed.Until(t, web)
	if err := a.Close(limited(t)); err != nil {
		t.Fatal(err)
	}
	for c := feed.Until(t); len(c.Nodes) > 0; {
		c = feed.Next(t)
	}
}

func closeParts(t *testing.T, s Store) {
	t.Helper()
	feed := Watch(t, s.Watcher())
	a := Open(t, s.Parting(Node("a", "agent-a")))
	web := Instance("a", "web", 1)
	Set(t, a, web)
	feed.Until(t, web)
	if err := a.Close(limited(t)); err != nil {
		t.Fatal(err)
	}
	if c := Watch(t, s.Watcher()).Next(t); Diff(c, []service.Instance{web}) != "" || len(c.Nodes) != 1 {
		t.Fatalf("after closing got %v and nodes %v, want both as before", Diff(c, []service.Instance{web}), c.Nodes)
	}
	// The next session of the same agent goes on with what is there, and nobody saw it go.
	again := Open(t, s.Registry(Node("a", "agent-a")))
	web2 := Instance("a", "web", 2)
	Set(t, again, web, web2)
	for {
		c := feed.Next(t)
		if Diff(c, []service.Instance{web, web2}) == "" {
			return
		}
		if diff := Diff(c, []service.Instance{web}); diff != "" {
			t.Fatalf("meanwhile (-got +want):\n%s", diff)
		}
	}
}

func lostLease(t *testing.T, s Store) {
	t.Helper()
	feed := Watch(t, s.Watcher())
	a := Open(t, s.Registry(Node("a", "agent-a")))
	web := s.instance("a", 1)
	Set(t, a, web)
	feed.Until(t, web)
	s.Expire(t, "a")
	feed.Until(t)
	waitDone(t, a)
	if err := a.Set(limited(t), Of(web)); err == nil {
		t.Error("Set succeeded without a lease")
	}
	if err := a.Close(limited(t)); err != nil {
		t.Errorf("Close: %v", err)
	}
	again := Open(t, s.Registry(Node("a", "agent-a")))
	Set(t, again, web)
	feed.Until(t, web)
}

func nodesAreSeparate(t *testing.T, s Store) {
	t.Helper()
	feed := Watch(t, s.Watcher())
	// One name begins with the other, and would be caught by a prefix without its slash.
	a, ab := Open(t, s.Registry(Node("a", "agent-a"))), Open(t, s.Registry(Node("ab", "agent-ab")))
	webA, webAB := Instance("a", "web", 1), Instance("ab", "web", 1)
	Set(t, a, webA)
	Set(t, ab, webAB)
	feed.Until(t, webA, webAB)
	Set(t, a)
	feed.Until(t, webAB)
	if err := a.Close(limited(t)); err != nil {
		t.Fatal(err)
	}
	for c := feed.Next(t); ; c = feed.Next(t) {
		if diff := Diff(c, []service.Instance{webAB}); diff != "" {
			t.Fatalf("closing one node's session changed another's (-got +want):\n%s", diff)
		}
		if len(c.Nodes) == 1 && c.Nodes[0].Name == "ab" {
			return
		}
	}
}

func otherAgentWaits(t *testing.T, s Store) {
	t.Helper()
	a := Open(t, s.Registry(Node("a", "agent-1")))
	before := s.Writes(t)
	// A clone has the same identity, but another machine.
	clone := Node("a", "agent-1")
	clone.Machine = "another"
	for _, n := range []service.Node{Node("a", "agent-2"), clone} {
		if other, err := s.Registry(n).Open(limited(t)); err == nil {
			_ = other.Close(context.WithoutCancel(t.Context()))
			t.Fatalf("agent %s on %s opened a session of a node that is held", n.Agent, n.Machine)
		}
	}
	if got := s.Writes(t); got != before {
		t.Errorf("waiting wrote %d times, want none", got-before)
	}
	if err := a.Close(limited(t)); err != nil {
		t.Fatal(err)
	}
	Open(t, s.Registry(Node("a", "agent-2")))
}

func takeOverFences(t *testing.T, s Store) {
	t.Helper()
	feed := Watch(t, s.Watcher())
	older := Open(t, s.Registry(Node("a", "agent-a")))
	web1, web2 := Instance("a", "web", 1), Instance("a", "web", 2)
	Set(t, older, web1, web2)
	newer := Open(t, s.Registry(Node("a", "agent-a")))
	if err := older.Set(limited(t), Of(web1)); err == nil {
		t.Error("a session that was taken over could write")
	}
	waitDone(t, older)
	if err := older.Close(limited(t)); err != nil {
		t.Errorf("Close: %v", err)
	}
	if c := Watch(t, s.Watcher()).Next(t); Diff(c, []service.Instance{web1, web2}) != "" {
		t.Errorf("the older session's end changed something:\n%s", Diff(c, []service.Instance{web1, web2}))
	}
	Set(t, newer, web2)
	feed.Until(t, web2)
}

func badInstance(t *testing.T, s Store) {
	t.Helper()
	feed := Watch(t, s.Watcher())
	a := Open(t, s.Registry(Node("a", "agent-a")))
	good, bad, foreign := s.instance("a", 1), s.instance("a", 2), s.instance("b", 3)
	bad.Service = "no name\n"
	Set(t, a, bad, good, foreign)
	feed.Until(t, good)
}

func watcherSurvivesRestart(t *testing.T, s Store) {
	t.Helper()
	feed := Watch(t, s.Watcher())
	a := Open(t, s.Parting(Node("a", "agent-a")))
	web1, web2 := Instance("a", "web", 1), Instance("a", "web", 2)
	Set(t, a, web1)
	feed.Until(t, web1)
	s.Stop(t)
	s.Start(t)
	again := Open(t, s.Registry(Node("a", "agent-a")))
	Set(t, again, web1, web2)
	feed.Until(t, web1, web2)
}

func sessionSurvivesRestart(t *testing.T, s Store) {
	t.Helper()
	a := Open(t, s.Parting(Node("a", "agent-a")))
	web1, web2 := s.instance("a", 1), s.instance("a", 2)
	Set(t, a, web1)
	s.Stop(t)
	short, cancel := context.WithTimeout(t.Context(), patience/100)
	defer cancel()
	if err := a.Set(short, Of(web1, web2)); err == nil {
		t.Error("Set succeeded without a registry")
	}
	s.Start(t)
	Set(t, a, web2) // what the failed call did is found out first
	Watch(t, s.Watcher()).Until(t, web2)
	select {
	case <-a.Done():
		t.Error("the session ended over an outage shorter than its lease")
	default:
	}
}

func deletedComesBack(t *testing.T, s Store) {
	t.Helper()
	feed := Watch(t, s.Watcher())
	a := Open(t, s.Parting(Node("a", "agent-a")))
	web := s.instance("a", 1)
	Set(t, a, web)
	feed.Until(t, web)
	s.Delete(t, "a")
	feed.Until(t)
	s.Stop(t)
	s.Start(t)
	waitDone(t, a) // what was known of the registry is not so
	if err := a.Set(limited(t), Of(web)); err == nil {
		t.Error("Set succeeded in a session that is done")
	}
	Set(t, Open(t, s.Registry(Node("a", "agent-a"))), web)
	feed.Until(t, web)
}

func restoredIsRepaired(t *testing.T, s Store) {
	t.Helper()
	a := Open(t, s.Parting(Node("a", "agent-a")))
	web1, web2, web3 := s.instance("a", 1), s.instance("a", 2), s.instance("a", 3)
	Set(t, a, web1, web2)
	s.Stop(t)
	s.Save(t)
	s.Start(t)
	Set(t, a, web2, web3)
	s.Stop(t)
	s.Restore(t)
	s.Start(t)
	waitDone(t, a)
	if err := a.Close(limited(t)); err != nil {
		t.Errorf("Close: %v", err)
	}
	Set(t, Open(t, s.Registry(Node("a", "agent-a"))), web2, web3)
	if diff := Diff(Watch(t, s.Watcher()).Next(t), []service.Instance{web2, web3}); diff != "" {
		t.Errorf("after the restore (-got +want):\n%s", diff)
	}
}

func openKeeps(t *testing.T, s Store) {
	t.Helper()
	feed := Watch(t, s.Watcher())
	var many []service.Instance
	for n := range 300 { // more than one transaction holds
		many = append(many, Instance("a", "web", n))
	}
	older := Open(t, s.Registry(Node("a", "agent-a")))
	Set(t, older, many...)
	feed.Until(t, many...)
	newer := Open(t, s.Registry(Node("a", "agent-a")))
	waitDone(t, older) // its lease is gone, and nothing with it
	if diff := Diff(Watch(t, s.Watcher()).Next(t), many); diff != "" {
		t.Errorf("before the first set (-got +want):\n%s", diff)
	}
	before := s.Writes(t)
	Set(t, newer, many...)
	if got := s.Writes(t); got != before {
		t.Errorf("the first set, of what was registered, wrote %d times, want none", got-before)
	}
}

func namelessCloneWaits(t *testing.T, s Store) {
	t.Helper()
	nameless := func(boot string) service.Node {
		n := Node("a", "agent-a")
		n.Machine, n.Boot = "", boot
		return n
	}
	a := Open(t, s.Registry(nameless("boot-1")))
	for _, boot := range []string{"boot-2", ""} {
		if other, err := s.Registry(nameless(boot)).Open(limited(t)); err == nil {
			_ = other.Close(context.WithoutCancel(t.Context()))
			t.Fatalf("a clone whose boot is %q opened a session of a node that is held", boot)
		}
	}
	again := Open(t, s.Registry(nameless("boot-1"))) // one host, one boot: the same agent
	waitDone(t, a)
	if err := again.Close(limited(t)); err != nil {
		t.Fatal(err)
	}
	Open(t, s.Registry(nameless("")))
	if other, err := s.Registry(nameless("")).Open(limited(t)); err == nil {
		_ = other.Close(context.WithoutCancel(t.Context()))
		t.Fatal("of two agents that know neither machine nor boot the second opened a session of a node that is held")
	}
}

func unknownStays(t *testing.T, s Store) {
	t.Helper()
	feed := Watch(t, s.Watcher())
	c1, c2, f1, f2 := Instance("a", "web", 1), Instance("a", "web", 2), Instance("a", "db", 3), Instance("a", "db", 4)
	f1.ID, f2.ID = "file.db.00000003", "file.db.00000004"
	older := Open(t, s.Registry(Node("a", "agent-a")))
	Set(t, older, c1, f1)
	feed.Until(t, c1, f1)
	// The next agent knows what the files say, but its engine is away.
	newer := Open(t, s.Registry(Node("a", "agent-a")))
	onlyFiles := register.Set{Instances: []service.Instance{f2}, Unknown: []service.Origin{service.FromContainer}}
	if err := newer.Set(limited(t), onlyFiles); err != nil {
		t.Fatal(err)
	}
	waitDone(t, older)
	feed.Until(t, c1, f2)
	onlyContainers := register.Set{Instances: []service.Instance{c2}, Unknown: []service.Origin{service.FromFile}}
	if err := newer.Set(limited(t), onlyContainers); err != nil {
		t.Fatal(err)
	}
	feed.Until(t, c2, f2)
	Set(t, newer, c2)
	feed.Until(t, c2)
}
