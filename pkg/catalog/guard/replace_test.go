package guard

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// backup is what a registry holds, by key.
type backup map[string]service.Item

// with puts a node and instances of it into the backup, as they were written at that revision. A claim of
// 0 leaves the node's key out.
func (b backup) with(t *testing.T, node string, claim int64, instances ...service.Instance) backup {
	t.Helper()
	if claim > 0 {
		n := service.Node{Name: node, Agent: node, Claimed: time.Unix(claim, 0)}
		v, err := n.Encode()
		if err != nil {
			t.Fatal(err)
		}
		b[service.NodeKey(prefix, node)] = service.Item{Key: service.NodeKey(prefix, node), Value: v, Created: claim, Modified: claim, Leased: true}
	}
	for _, i := range instances {
		v, err := i.Encode()
		if err != nil {
			t.Fatal(err)
		}
		b[i.Key(prefix)] = service.Item{Key: i.Key(prefix), Value: v, Created: 1, Modified: 1, Leased: true}
	}
	return b
}

// replace has the registry be another one than before.
func (w *world) replace(b backup) {
	w.b.Relist(maps.Values(b), true)
	w.take()
}

// relist has the registry be read again, as after a connection was lost.
func (w *world) relist(b backup) {
	w.b.Relist(maps.Values(b), false)
	w.take()
}

// TestEmptiedRegistryKeepsWhatAnswers: P3, F3. What ran stays routed, one node or many; each node's part is
// believed again once it has registered.
func TestEmptiedRegistryKeepsWhatAnswers(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b", "c")
	w.die("c", 1)
	w.replace(nil)
	w.want("a/1? a/2? b/1? b/2? c/1? c/2?")
	w.pass(5 * time.Second)
	w.want("a/1? a/2? b/1? b/2? c/1! c/2?")
	w.claim("a")
	w.put("a", 1, 3)
	w.want("a/1 a/2? a/3 b/1? b/2? c/1! c/2?")
	w.pass(quiet)
	w.want("a/1 a/3 b/1? b/2? c/1! c/2?")
	w.has("b")
	w.want("a/1 a/3 b/1 b/2 c/1! c/2?")
	w.pass(keep)
	w.want("a/1 a/3 b/1 b/2")
	if w.logged("was replaced") != 1 || w.logged("believed again") != 1 {
		t.Errorf("the log says %d times that the registry was replaced and %d times that it is believed, want once each", w.logged("was replaced"), w.logged("believed again"))
	}
}

// TestResurrectedGetsNoTraffic: P3. What a restored registry says that was not so before gets no requests
// until its node has registered again; what was so before holds meanwhile.
func TestResurrectedGetsNoTraffic(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b")
	heavier := instance("a", 1)
	heavier.Weight = 7
	old := backup{}.with(t, "a", 1, heavier, instance("a", 9)).with(t, "b", 2, instance("b", 1), instance("b", 2)).with(t, "x", 1, instance("x", 1))
	w.replace(old)
	w.want("(a/9) (x/1) a/1? a/2? b/1 b/2")
	if i := w.now.Service("web").Instances[0]; i.Weight != 100 {
		t.Errorf("a/1 has weight %d, want that of before", i.Weight)
	}
	w.pass(time.Second)
	w.want("(a/9) (x/1) a/1? a/2? b/1 b/2")
	w.claim("a") // and takes over what is there, before it knows what is to be
	w.want("(a/9) (x/1) a/1? a/2? b/1 b/2")
	w.put("a", 1, 2)
	w.want("(a/9) (x/1) a/1 a/2 b/1 b/2")
	w.remove("a", 9)
	w.want("(x/1) a/1 a/2 b/1 b/2")
	w.expire("x") // its lease runs out
	w.want("a/1 a/2 b/1 b/2")
	w.pass(time.Minute)
	w.want("a/1 a/2 b/1 b/2")
}

// TestResurrectedServiceIsNone: nothing of a service that was not there before reaches the proxy.
func TestResurrectedServiceIsNone(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b")
	other := instance("x", 1)
	other.Service, other.Started = "other", time.Unix(1, 0)
	older := instance("x", 2)
	older.Mode, older.Started = service.TCP, time.Unix(1, 0)
	before := w.now.Service("web")
	w.replace(backup{}.with(t, "x", 1, other, older).with(t, "a", 1, instance("a", 1), instance("a", 2)).with(t, "b", 2, instance("b", 1), instance("b", 2)))
	w.want("(x/1) (x/2) a/1 a/2 b/1 b/2")
	s := w.now.Service("web")
	if w.now.Service("other") != nil || s == nil || s.Spec.Mode != service.HTTP || !slices.Equal(s.Instances, before.Instances) {
		t.Errorf("got services %v, want web alone, as it was", w.now.Services)
	}
}

// TestFasterAgents: an agent may have registered in the new registry before this one has read it. That it
// claimed its name later than before shows that.
func TestFasterAgents(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b")
	w.replace(backup{}.with(t, "a", 100, instance("a", 2), instance("a", 3)))
	w.want("(a/3) a/1? a/2 b/1? b/2?")
	w.pass(quiet)
	w.want("a/2 a/3 b/1? b/2?")
}

// TestNewNodeInAReplacedRegistry: nobody knew it before, so that its key proves nothing but by standing
// for longer than a lease that nobody renews.
func TestNewNodeInAReplacedRegistry(t *testing.T) {
	w := newWorld(t)
	w.has("a")
	w.replace(backup{}.with(t, "n", 100, instance("n", 1)))
	w.want("(n/1) a/1? a/2?")
	w.pass(ttl + standing - time.Nanosecond)
	w.want("(n/1) a/1? a/2?")
	w.put("n", 2) // what it writes now is not from before
	w.want("(n/1) a/1? a/2? n/2")
	w.pass(quiet + time.Nanosecond)
	w.want("a/1? a/2? n/1 n/2")
}

// TestWhatIsBelievedClaimsItsAddress: F2. What was withheld has no claim to an address, until it is believed.
func TestWhatIsBelievedClaimsItsAddress(t *testing.T) {
	w := newWorld(t)
	w.has("a")
	other := instance("a", 1)
	other.Node, other.Container = "n", "n1"
	w.replace(backup{}.with(t, "n", 100, other))
	w.want("(n/1) a/1? a/2?")
	w.pass(ttl + standing + quiet)
	w.want("a/2? n/1")
}

// TestKeyThatAnAgentLeftProvesNothing: a backup taken while an agent was replaced has its parting lease,
// which may be long.
func TestKeyThatAnAgentLeftProvesNothing(t *testing.T) {
	w := newWorld(t)
	w.has("a")
	old := backup{}.with(t, "a", 0, instance("a", 9))
	n := service.Node{Name: "a", Agent: "a", Leaving: true}
	v, err := n.Encode()
	if err != nil {
		t.Fatal(err)
	}
	old["n"] = service.Item{Key: service.NodeKey(prefix, "a"), Value: v, Created: 1, Modified: 1, Leased: true}
	w.replace(old)
	w.pass(time.Minute)
	w.want("(a/9) a/1? a/2?")
	w.expire("a")
	w.want("a/1? a/2?")
	w.replace(old)
	w.pass(keep)
	w.want("a/9") // F14: somebody renews it
}

// TestKeysOfCommandsAndScripts: without a node's key. What has a lease is held until it is written anew,
// even if it is equal then; what has none is believed as it stands.
func TestKeysOfCommandsAndScripts(t *testing.T) {
	w := newWorld(t)
	w.put("s", 1, 2)
	free := instance("s", 3)
	w.write(free, false)
	w.take()
	w.want("s/1 s/2 s/3")
	other := instance("s", 4)
	again := instance("s", 5)
	old := backup{}.with(t, "s", 0, instance("s", 2), other, again)
	unleased := old[other.Key(prefix)]
	unleased.Leased = false
	old[other.Key(prefix)] = unleased
	w.replace(old)
	w.want("(s/5) s/1? s/2 s/4")
	w.put("s", 5)
	w.want("s/1? s/2 s/4 s/5")
	w.put("s", 1)
	w.want("s/1 s/2 s/4 s/5")
	w.replace(nil)
	w.want("s/1? s/2? s/5?")
	w.pass(keep)
	w.want("")
}

// TestReplacedWhileInDoubt: what is held for a moment is held until its node has registered.
func TestReplacedWhileInDoubt(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b", "c")
	w.expire("a")
	w.replace(backup{}.with(t, "b", 2, instance("b", 1), instance("b", 2)).with(t, "c", 3, instance("c", 1), instance("c", 2)))
	w.pass(time.Minute)
	w.want("a/1? a/2? b/1 b/2 c/1 c/2")
}

// TestReplacedTwice: what was withheld the first time is not known the second time either.
func TestReplacedTwice(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b")
	w.replace(backup{}.with(t, "x", 1, instance("x", 1)))
	w.pass(time.Second)
	w.replace(backup{}.with(t, "a", 1, instance("a", 1)))
	w.want("a/1? a/2? b/1? b/2?")
	w.pass(keep + time.Second)
	w.want("a/1")
}

// TestDeletedByHandInAReplacedRegistry: explicit deletions are believed at any time.
func TestDeletedByHandInAReplacedRegistry(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b")
	other := instance("a", 1)
	other.Weight = 5
	w.replace(backup{}.with(t, "a", 1, other, instance("a", 2)))
	w.want("a/1? a/2 b/1? b/2?")
	w.remove("a", 1)
	w.want("a/2 b/1? b/2?")
	w.remove("a", 2)
	w.want("b/1? b/2?")
}

// TestMissedDepartures: what happened while the connection was lost. A node whose key was created again
// was gone meanwhile, and may not have written all yet.
func TestMissedDepartures(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b", "c")
	w.relist(backup{}.with(t, "c", 3, instance("c", 2)).with(t, "b", 50, instance("b", 1)))
	w.want("a/1? a/2? b/1 b/2? c/2") // c's key stands: what is missing was taken away
	w.pass(quiet)
	w.want("a/1? a/2? b/1 c/2")
	w.pass(keep)
	w.want("b/1 c/2")
}

// TestColdStart: what the copy on disk had and the registry has not, when it answers for the first time.
func TestColdStart(t *testing.T) {
	before := newWorld(t)
	before.has("a", "b", "c")
	script := instance("s", 1)
	before.write(script, false)
	before.take()
	w := newWorld(t)
	w.rev = before.rev
	w.g.last = nil
	w.claim("c")
	w.g.last = nil
	w.put("c", 1)
	w.g.last = nil
	w.now = w.g.Start(before.now, w.b.Catalog(w.rev), w.at)
	w.want("a/1? a/2? b/1? b/2? c/1") // two of three
	w.has("a")
	w.pass(time.Minute)
	w.want("a/1 a/2 b/1? b/2? c/1")
	if got := w.now.Service("web").Instances[2].Doubt.Why; !strings.Contains(got, "2 of 3") {
		t.Errorf("got %q, want the measure", got)
	}
}

// TestColdStartAtAnotherRegistry: an agent that ended in good order and was pointed at an empty registry
// serves what it has until it has written it there.
func TestColdStartAtAnotherRegistry(t *testing.T) {
	before := newWorld(t)
	before.has("me", "b")
	for _, n := range []string{"me", "b"} {
		before.mark(service.Node{Name: n, Agent: n, Leaving: true, Lost: before.at.Add(-time.Hour)})
	}
	before.take()
	w := newWorld(t)
	w.rev = before.rev // it has been in use, so that its revision says nothing
	w.now = w.g.Start(before.now, w.b.Catalog(w.rev), w.at)
	w.want("me/1? me/2?") // b has left for good
	w.claim("me")
	w.put("me", 1)
	w.want("me/1 me/2?")
	w.pass(quiet)
	w.want("me/1")
}

// TestColdStartWithAnOlderRegistry: P3, P4. The copy on disk is at a later revision than the registry, so
// that this was replaced while no agent was here.
func TestColdStartWithAnOlderRegistry(t *testing.T) {
	before := newWorld(t)
	before.has("a", "b", "c", "d")
	before.rev = 100
	before.take()
	w := newWorld(t)
	w.g.last = nil
	w.b.Relist(maps.Values(backup{}.with(t, "a", 1, instance("a", 1), instance("a", 9)).with(t, "b", 100, instance("b", 1), instance("b", 2))), false)
	w.now = w.g.Start(before.now, w.b.Catalog(10), w.at)
	w.want("(a/9) a/1 a/2? b/1 b/2 c/1? c/2? d/1? d/2?")
	w.has("c")
	w.pass(time.Minute)
	w.want("a/1 a/9 b/1 b/2 c/1 c/2 d/1? d/2?") // a's key stands for longer than a lease lasts
}

// TestDoubtsOutlastTheirAgent: F14. An agent that starts again goes on with what another was in doubt of, for
// as long as that would have been, however many nodes are back by then. A node that had only just gone
// goes anew.
func TestDoubtsOutlastTheirAgent(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b", "c", "d")
	w.expire("a", "b")
	w.pass(keep - time.Minute)
	w.has("b")
	w.expire("c")
	for range 3 {
		before := w.now
		if len(before.Doubts.Absent) != 2 {
			t.Fatalf("nodes %v are kept, want a and c", before.Doubts.Absent)
		}
		copied := *before
		copied.Nodes = slices.Concat(before.Doubts.Absent, before.Nodes)
		w.g = &Guard{Keep: keep, TTL: ttl, Node: "me", Log: w.g.Log}
		w.now = w.g.Start(&copied, w.b.Catalog(w.rev), w.at)
		w.want("a/1? a/2? b/1 b/2 c/1? c/2? d/1 d/2")
		w.pass(mostHold - time.Second)
	}
	w.pass(time.Second)
	w.want("a/1? a/2? b/1 b/2 d/1 d/2")
	w.pass(50 * time.Second)
	w.want("a/1? a/2? b/1 b/2 d/1 d/2")
	w.pass(10 * time.Second)
	w.want("b/1 b/2 d/1 d/2")
}
