package guard

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

const (
	prefix = "/p"
	ttl    = 15 * time.Second
	keep   = 10 * time.Minute
)

// world is a registry with nodes, the addresses that answer, a clock, and a guard that watches it all.
type world struct {
	tb     testing.TB
	b      *service.Builder
	rev    int64
	claims int
	at     time.Time
	g      *Guard
	log    *test.Hook
	dead   map[netip.AddrPort]bool
	probes int
	now    *service.Catalog
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	log, hook := test.NewNullLogger()
	log.SetOutput(io.Discard)
	log.SetLevel(logrus.InfoLevel)
	w := &world{
		tb: tb, b: service.NewBuilder(prefix), at: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), log: hook, dead: map[netip.AddrPort]bool{},
		g: &Guard{Keep: keep, TTL: ttl, Node: "me", Log: log},
	}
	w.take()
	return w
}

// take lets the guard have the registry's catalog.
func (w *world) take() {
	w.now = w.g.Take(w.b.Catalog(w.rev), w.at)
	w.b.Taken()
}

// instance is the one of that node and number: 10.0.<node's letter>.<number>:80 of the service web.
func instance(node string, n int) service.Instance {
	return service.Instance{
		Node: node, ID: strconv.Itoa(n), Service: "web", Address: netip.AddrFrom4([4]byte{10, 0, node[0], byte(n)}), Port: 80,
		State: service.Ready, Weight: 100, Mode: service.HTTP, Path: "/", Container: fmt.Sprintf("%s%d", node, n),
	}
}

func (w *world) write(i service.Instance, leased bool) {
	w.tb.Helper()
	v, err := i.Encode()
	if err != nil {
		w.tb.Fatal(err)
	}
	w.rev++
	w.b.Take(service.Item{Key: i.Key(prefix), Value: v, Created: w.rev, Modified: w.rev, Leased: leased})
}

// put writes instances of a node.
func (w *world) put(node string, ns ...int) {
	w.tb.Helper()
	for _, n := range ns {
		w.write(instance(node, n), true)
	}
	w.take()
}

// claim writes the keys of nodes, as their agents do when they open a session.
func (w *world) claim(nodes ...string) {
	for _, n := range nodes {
		w.claims++
		w.mark(service.Node{Name: n, Agent: n, Claimed: time.Unix(int64(w.claims), 0)})
	}
	w.take()
}

func (w *world) mark(n service.Node) {
	w.tb.Helper()
	v, err := n.Encode()
	if err != nil {
		w.tb.Fatal(err)
	}
	w.rev++
	w.b.Take(service.Item{Key: service.NodeKey(prefix, n.Name), Value: v, Created: w.rev, Modified: w.rev, Leased: true})
}

// has claims nodes and writes two instances for each.
func (w *world) has(nodes ...string) {
	w.tb.Helper()
	w.claim(nodes...)
	for _, n := range nodes {
		w.put(n, 1, 2)
	}
}

// remove takes one instance away, on purpose.
func (w *world) remove(node string, n int) {
	i := instance(node, n)
	w.rev++
	w.b.Drop(i.Key(prefix), w.rev)
	w.take()
}

// expire ends the leases of nodes, one after the other at one moment.
func (w *world) expire(nodes ...string) {
	for _, node := range nodes {
		w.rev++
		for n := range 10 {
			i := instance(node, n)
			w.b.Drop(i.Key(prefix), w.rev)
		}
		w.b.Drop(service.NodeKey(prefix, node), w.rev)
	}
	w.take()
}

// leave has nodes end in good order, with a parting lease that then ends.
func (w *world) leave(nodes ...string) {
	w.tb.Helper()
	for _, n := range nodes {
		w.mark(service.Node{Name: n, Agent: n, Leaving: true})
	}
	w.expire(nodes...)
}

// pass lets time pass: the guard gets its ticks and its probes their answers.
func (w *world) pass(d time.Duration) {
	end := w.at.Add(d)
	for again := 0; ; again++ {
		next := w.g.Next()
		for {
			p, at, ok := w.g.Due(w.at)
			if !ok {
				if !at.IsZero() && (next.IsZero() || at.Before(next)) {
					next = at
				}
				break
			}
			w.probes++
			if w.g.Answered(p, !w.dead[p.Address], w.at) {
				w.now = w.g.Tick(w.at)
			}
		}
		if next.IsZero() || next.After(end) {
			w.at = end
			return
		}
		if next.Before(w.at) || again > 1_000_000 {
			w.tb.Fatalf("the guard wants to be asked at %v, again and again at %v", next, w.at)
		}
		if next.After(w.at) {
			again = 0
		}
		w.at = next
		w.now = w.g.Tick(w.at)
	}
}

// die has addresses of a node not answer any more.
func (w *world) die(node string, ns ...int) {
	for _, n := range ns {
		i := instance(node, n)
		w.dead[i.Endpoint()] = true
	}
}

// text lists what there is: "a/1" is registered, "a/1?" is a suspect that is routed, "a/1!" one that is not,
// and "(a/1)" is withheld.
func (w *world) text() string {
	var all []string
	for _, s := range w.now.Services {
		for _, i := range s.Instances {
			word := i.Node + "/" + i.ID
			switch {
			case i.Doubt != nil && i.Doubt.Out:
				word += "!"
			case i.Doubt != nil:
				word += "?"
			}
			all = append(all, word)
		}
	}
	for _, r := range w.now.Rejected {
		all = append(all, "("+r.Node+"/"+r.ID+")")
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func (w *world) want(want string) {
	w.tb.Helper()
	if got := w.text(); got != want {
		w.tb.Errorf("at %s got %q, want %q", w.at.Format("15:04:05"), got, want)
	}
}

// logged counts lines of the log with these words.
func (w *world) logged(words string) int {
	n := 0
	for _, e := range w.log.AllEntries() {
		if strings.Contains(e.Message, words) {
			n++
		}
	}
	return n
}

// TestLoneDepartureIsBelieved: P5. One host that dies leaves soon, whether it answers or not.
func TestLoneDepartureIsBelieved(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b", "c")
	w.expire("a")
	w.want("a/1? a/2? b/1 b/2 c/1 c/2")
	w.pass(mostHold - time.Nanosecond)
	w.want("a/1? a/2? b/1 b/2 c/1 c/2")
	w.pass(time.Nanosecond)
	w.want("b/1 b/2 c/1 c/2")
	if w.now.Doubts != nil || len(w.log.AllEntries()) != w.logged("left the registry without") {
		t.Errorf("doubts %v and %d lines in the log, want none but that a node left", w.now.Doubts, len(w.log.AllEntries()))
	}
	w.pass(time.Hour)
	w.want("b/1 b/2 c/1 c/2")
	if mostHold > 5*time.Second {
		t.Error("a dead host's instances stay longer than TTL + 5 s")
	}
}

// TestShortLeasesAreHeldLess: P5, where 3 s would be longer than a third of a lease.
func TestShortLeasesAreHeldLess(t *testing.T) {
	w := newWorld(t)
	w.g.TTL = 4 * time.Second
	w.has("a", "b", "c")
	w.expire("a")
	w.pass(time.Second)
	w.want("b/1 b/2 c/1 c/2")
}

// TestMassExpiryKeepsWhatAnswers: F13. What answers is routed until --keep-stale is over, what does not is
// out of service after three probes and stays listed.
func TestMassExpiryKeepsWhatAnswers(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b", "c", "d")
	w.die("a", 1)
	w.expire("a")
	w.pass(time.Second)
	w.expire("b")
	w.want("a/1? a/2? b/1? b/2? c/1 c/2 d/1 d/2")
	w.pass(5 * time.Second)
	w.want("a/1! a/2? b/1? b/2? c/1 c/2 d/1 d/2")
	if d := w.now.Doubts; d == nil || d.Instances != 4 || len(d.Nodes) != 2 || len(d.Absent) != 2 {
		t.Errorf("doubts %+v, want 4 instances of 2 nodes", d)
	}
	w.die("a", 2)
	w.dead[netip.MustParseAddrPort("10.0.97.1:80")] = false
	w.pass(10 * time.Second)
	w.want("a/1? a/2! b/1? b/2? c/1 c/2 d/1 d/2")
	w.pass(keep - 16*time.Second)
	w.want("b/1? b/2? c/1 c/2 d/1 d/2")
	w.pass(time.Second)
	w.want("c/1 c/2 d/1 d/2")
	if got := w.logged("too many nodes"); got != 1 {
		t.Errorf("%d warnings of a mass expiry, want one", got)
	}
	if got := w.logged("believed again"); got != 1 {
		t.Errorf("%d lines about its end, want one", got)
	}
}

// TestMassExpiryCallsBelievedOnesBack: expiries of one cause lie apart by up to a third of the TTL, longer
// than one is held.
func TestMassExpiryCallsBelievedOnesBack(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b", "c")
	w.expire("a")
	w.pass(5 * time.Second)
	w.want("b/1 b/2 c/1 c/2")
	w.expire("b")
	w.want("a/1? a/2? b/1? b/2? c/1 c/2")
	w.pass(time.Minute)
	w.want("a/1? a/2? b/1? b/2? c/1 c/2")
}

func TestFarApartDeparturesAreBelieved(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b", "c")
	w.expire("a")
	w.pass(ttl)
	w.expire("b")
	w.pass(mostHold)
	w.want("c/1 c/2")
}

// TestMeasure: two nodes and 30 %, or all.
func TestMeasure(t *testing.T) {
	for _, tt := range []struct {
		gone, known int
		want        bool
	}{{1, 1, true}, {1, 2, false}, {1, 3, false}, {2, 2, true}, {2, 6, true}, {2, 7, false}, {3, 10, true}, {30, 101, false}, {31, 101, true}} {
		if got := tooMany(tt.gone, tt.known); got != tt.want {
			t.Errorf("%d of %d: got %v, want %v", tt.gone, tt.known, got, tt.want)
		}
	}
	w := newWorld(t)
	w.has("a")
	w.expire("a")
	w.pass(time.Minute)
	w.want("a/1? a/2?") // the only one
}

// TestLeavingInGoodOrderDoesNotCount: F14. A whole cluster may be shut down.
func TestLeavingInGoodOrderDoesNotCount(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b", "c")
	w.leave("a", "b")
	w.want("c/1 c/2")
	w.leave("c")
	w.want("")
	if len(w.log.AllEntries()) != 0 {
		t.Errorf("%d lines in the log, want none", len(w.log.AllEntries()))
	}
}

// TestThoseThatLeaveAreNoMeasure: who has left in good order, and is there under a parting lease, is not
// known to be well.
func TestThoseThatLeaveAreNoMeasure(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b", "c")
	w.mark(service.Node{Name: "a", Agent: "a", Leaving: true})
	w.mark(service.Node{Name: "b", Agent: "b", Leaving: true})
	w.take()
	w.expire("c")
	w.pass(time.Minute)
	w.want("a/1 a/2 b/1 b/2 c/1? c/2?")
}

// TestDepartingAgainAfterItWasBelieved: what was believed to be gone is not shown again.
func TestDepartingAgainAfterItWasBelieved(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b", "c", "d")
	w.expire("a")
	w.pass(mostHold)
	w.claim("a")
	w.put("a", 3)
	w.pass(time.Second)
	w.expire("a")
	w.want("a/3? b/1 b/2 c/1 c/2 d/1 d/2")
}

// TestAnswersThatComeLate: a probe is under way while its suspect ends, or comes to be shown anew.
func TestAnswersThatComeLate(t *testing.T) {
	w := newWorld(t)
	w.claim("a", "b")
	w.put("a", 1)
	w.expire("a")
	p, _, ok := w.g.Due(w.at)
	w.expire("b") // it is one of two now
	if _, _, again := w.g.Due(w.at); !ok || again {
		t.Errorf("probes %v and %v, want one at a time", ok, again)
	}
	w.claim("a")
	w.put("a", 1)
	if w.g.Answered(p, false, w.at) || w.g.Waiting() > 0 {
		t.Errorf("%d suspects are probed, want none", w.g.Waiting())
	}
	w.want("a/1")
}

// TestExplicitDeletionsAreBelieved: also those of a node that has departed before, and was back.
func TestExplicitDeletionsAreBelieved(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b")
	w.remove("a", 1)
	w.want("a/2 b/1 b/2")
	w.expire("a", "b")
	w.want("a/2? b/1? b/2?")
	w.claim("a")
	w.put("a", 1, 2)
	w.remove("a", 2)
	w.want("a/1 b/1? b/2?")
	w.pass(time.Minute)
	w.want("a/1 b/1? b/2?")
	w.has("b")
	w.remove("b", 2)
	w.want("a/1 b/1")
}

// TestNodeThatIsBackDecides: what it does not write again within 5 s after the last thing that it wrote is
// gone.
func TestNodeThatIsBackDecides(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b")
	w.expire("a", "b")
	w.claim("a")
	w.want("a/1? a/2? b/1? b/2?")
	w.pass(4 * time.Second)
	w.put("a", 3)
	w.want("a/1? a/2? a/3 b/1? b/2?")
	w.pass(4 * time.Second)
	w.put("a", 2)
	w.want("a/1? a/2 a/3 b/1? b/2?")
	w.pass(quiet - time.Nanosecond)
	w.want("a/1? a/2 a/3 b/1? b/2?")
	w.pass(time.Nanosecond)
	w.want("a/2 a/3 b/1? b/2?")
}

// TestClaimingAgainIsASignOfLife: a node that claims its name again has more to write.
func TestClaimingAgainIsASignOfLife(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b")
	w.expire("a", "b")
	w.claim("a")
	w.pass(4 * time.Second)
	w.claim("a")
	w.pass(4 * time.Second)
	w.want("a/1? a/2? b/1? b/2?")
	w.pass(time.Second)
	w.want("b/1? b/2?")
}

// TestLoneNodeThatIsBackInTimeLosesNothing: it writes again before what was known of it is given up.
func TestLoneNodeThatIsBackInTimeLosesNothing(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b", "c")
	w.expire("a")
	w.pass(time.Second)
	w.claim("a")
	w.pass(mostHold)
	w.want("a/1? a/2? b/1 b/2 c/1 c/2")
	w.put("a", 1, 2)
	w.want("a/1 a/2 b/1 b/2 c/1 c/2")
	if w.now.Doubts != nil {
		t.Errorf("doubts %+v, want none", w.now.Doubts)
	}
}

// TestAddressBelongsToWhoIsRegistered: F2. A suspect ends when another container has its address, on
// whatever host; not when its own container is known there under another name.
func TestAddressBelongsToWhoIsRegistered(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b", "c")
	w.expire("a", "b")
	taken := instance("a", 1)
	taken.Node, taken.ID, taken.Container, taken.Service = "c", "9", "c9", "other"
	w.write(taken, true)
	w.take()
	w.want("a/2? b/1? b/2? c/1 c/2 c/9")
	w.claim("a")
	second := instance("a", 2)
	second.ID, second.Service = "2-too", "other"
	w.write(second, true)
	w.take()
	w.want("a/2-too a/2? b/1? b/2? c/1 c/2 c/9")
	third := instance("b", 1)
	third.Node, third.ID, third.Container, third.Scope = "c", "8", "c8", service.ScopeNode
	w.write(third, true)
	w.take()
	w.want("a/2-too a/2? b/1? b/2? c/1 c/2 c/8 c/9") // an address within c is none within b's reach
	fourth := instance("b", 2)
	fourth.Node, fourth.ID, fourth.Container = "c", "7", "c7"
	w.write(fourth, true)
	w.take()
	w.want("a/2-too a/2? b/1? c/1 c/2 c/7 c/8 c/9")
}

// TestAddressTakenBefore: F2 again, for an address that was taken before its suspect was one.
func TestAddressTakenBefore(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b", "c")
	taken := instance("a", 1)
	taken.Node, taken.ID, taken.Container = "c", "9", "c9"
	w.write(taken, true)
	w.take()
	w.expire("a", "b")
	w.want("a/2? b/1? b/2? c/1 c/2 c/9")
}

// TestWhatIsNotRoutedIsNotProbed: suspects that get no requests anyway, or none from here, stay as they are.
func TestWhatIsNotRoutedIsNotProbed(t *testing.T) {
	w := newWorld(t)
	w.claim("a", "me")
	draining, scoped, own := instance("a", 1), instance("a", 2), instance("me", 3)
	draining.State, scoped.Scope, own.Scope = service.Draining, service.ScopeNode, service.ScopeNode
	for _, i := range []service.Instance{draining, scoped, own} {
		w.dead[i.Endpoint()] = true
		w.write(i, true)
	}
	w.take()
	w.expire("a", "me")
	w.pass(time.Minute)
	w.want("a/1? a/2? me/3!")
	for _, i := range w.now.Services[0].Instances {
		if i.Node == "a" && strings.Contains(i.Doubt.Why, "routed") {
			t.Errorf("it is said of one that is not routed: %s", i.Doubt.Why)
		}
	}
}

// TestProbesAreBounded: three at once, then one in two seconds, or the fewer the more agents ask.
func TestProbesAreBounded(t *testing.T) {
	w := newWorld(t)
	w.claim("a")
	w.put("a", 1)
	w.expire("a")
	w.pass(3 * time.Second)
	if w.probes < 3 || w.probes > 4 {
		t.Errorf("%d probes in the first 3 s, want three", w.probes)
	}
	w.probes = 0
	w.pass(time.Minute)
	if w.probes < 27 || w.probes > 34 {
		t.Errorf("%d probes in a minute, want one in about two seconds", w.probes)
	}
	w.g.known, w.probes = 2000, 0
	w.pass(10 * time.Second)
	w.probes = 0
	w.pass(5 * time.Minute)
	if w.probes < 12 || w.probes > 18 {
		t.Errorf("%d probes in five minutes with 2,000 agents, want one in about 20 s", w.probes)
	}
}

// TestWhatFailsIsProbedSoon: however seldom it is probed while it answers.
func TestWhatFailsIsProbedSoon(t *testing.T) {
	w := newWorld(t)
	w.claim("a")
	w.put("a", 1)
	w.expire("a")
	w.g.known = 1000
	w.pass(time.Minute)
	w.die("a", 1)
	w.pass(15 * time.Second)
	w.want("a/1!")
}

// TestDepartingAgainDoesNotLastLonger: F14. A node that comes and goes keeps no suspect for ever.
func TestDepartingAgainDoesNotLastLonger(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b")
	w.expire("a", "b")
	for range 200 {
		w.pass(4 * time.Second)
		w.claim("a")
		w.pass(time.Second)
		w.expire("a")
	}
	w.want("")
}

// TestKeepStaleOff believes the registry in everything at once.
func TestKeepStaleOff(t *testing.T) {
	w := newWorld(t)
	w.g.Keep = 0
	w.has("a", "b")
	w.expire("a", "b")
	w.want("")
	w.b.Relist(func(func(service.Item) bool) {}, true)
	w.take()
	w.want("")
}

// TestSuspectsCostNoChange: services keep their identity while nothing of them changes. P12.
func TestSuspectsCostNoChange(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b")
	other := instance("b", 5)
	other.Service = "other"
	w.write(other, true)
	w.take()
	w.expire("a")
	w.expire("b")
	w.claim("c")
	first := w.now
	third := instance("c", 1)
	third.Service = "third"
	w.write(third, true)
	w.take()
	w.pass(30 * time.Second)
	for _, name := range []string{"web", "other"} {
		if s := w.now.Service(name); s == nil || s != first.Service(name) {
			t.Errorf("service %s is another value though nothing of it changed", name)
		}
	}
	if w.now.Doubts != first.Doubts {
		t.Error("the sum of doubts is another value though it says the same")
	}
}

// TestSuspectsKeepTheirOverrides: also when the registry has nothing else of the service.
func TestSuspectsKeepTheirOverrides(t *testing.T) {
	w := newWorld(t)
	w.has("a")
	w.expire("a")
	for _, state := range []string{"maint", "drain"} {
		w.b.Put(prefix+"/v1/overrides/web", fmt.Appendf(nil, `{"state":%q}`, state))
		w.take()
		s := w.now.Service("web")
		if s == nil || len(s.Overrides) != 1 || string(s.Overrides[0].State) != state {
			t.Errorf("got %+v, want an override to %s", s, state)
		}
	}
}

func TestSentences(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b", "c")
	why := func(node string) string {
		for _, i := range w.now.Service("web").Instances {
			if i.Node == node {
				return i.Doubt.Why
			}
		}
		return ""
	}
	w.expire("a")
	if got, want := why("a"), "its node left the registry at 12:00:00 UTC without taking leave; it stays as it was for a moment longer, to see whether other nodes leave as well"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	w.die("b", 1)
	w.pass(time.Second)
	w.expire("b")
	if got, want := why("a"), "its node left the registry at 12:00:00 UTC along with others, 2 of 3 nodes in all; it stays as it was while its address answers, until 12:10:00 UTC at the longest"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	w.pass(10 * time.Second)
	if got, want := why("b"), "its node left the registry at 12:00:01 UTC along with others, 2 of 3 nodes in all; its address does not answer from here: out of service, listed until 12:10:01 UTC unless it is registered again"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestDepartingAgainBeforeItIsSeen: F14. A node is back, writes an instance in another service, and departs
// again, all before this host has looked: there is one suspect of that key, and it ends.
func TestDepartingAgainBeforeItIsSeen(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b")
	w.expire("a", "b")
	w.mark(service.Node{Name: "a", Agent: "a", Claimed: time.Unix(9, 0)})
	moved := instance("a", 1)
	moved.Service = "moved"
	w.write(moved, true)
	w.expire("a")
	w.want("a/1? a/2? b/1? b/2?")
	if s := w.now.Service("moved"); s == nil || len(s.Instances) != 1 {
		t.Errorf("a/1 is not listed in the service that it was in last: %+v", w.now.Services)
	}
	w.pass(keep)
	w.want("")
	if len(w.g.probes.heap) > 0 || len(w.g.probes.all) > 0 {
		t.Errorf("%d suspects are probed for ever", len(w.g.probes.heap))
	}
}
