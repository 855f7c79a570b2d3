package guard

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// history is a random one of nodes, their instances, people and time, with what must hold at each moment.
type history struct {
	*world

	t       *rapid.T
	has     backup           // what the registry holds
	saved   backup           // a copy of that from some time
	deleted map[key]struct{} // taken away on purpose, and not written since
	steps   []string
}

// TestHistories: explicit deletions never survive, nothing is routed at an address that another container
// is registered with, all that is registered and believed is there, and every doubt ends. F2, F13, F14.
func TestHistories(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := &history{world: newWorld(t), t: rt, has: backup{}, saved: backup{}, deleted: map[key]struct{}{}}
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			h.step()
			if rapid.Bool().Draw(rt, "looked") { // else the guard sees this step along with the next
				h.check()
			}
		}
		h.check()
		h.pass(keep + ttl + standing + quiet)
		h.check()
		if h.now.Doubts != nil || h.now != h.g.last {
			rt.Fatalf("after %v: %s is in doubt for longer than that may be: %+v", h.steps, h.text(), h.now.Doubts)
		}
		if len(h.g.nodes) > 0 || len(h.g.probes.heap) > 0 || len(h.g.probes.all) > 0 {
			rt.Fatalf("after %v: the guard remembers %d nodes and %d addresses for ever", h.steps, len(h.g.nodes), len(h.g.probes.all))
		}
	})
}

// step lets one thing happen.
func (h *history) step() {
	node := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(h.t, "node")
	id := rapid.IntRange(1, 3).Draw(h.t, "id")
	what := rapid.SampledFrom([]string{
		"claim", "claim", "put", "put", "put", "remove", "expire", "expire", "leave", "relist", "save", "replace", "die", "live",
		"moment", "moment", "while", "long",
	}).Draw(h.t, "what")
	h.steps = append(h.steps, fmt.Sprintf("%s %s/%d", what, node, id))
	switch what {
	case "claim":
		h.claims++
		h.node(service.Node{Name: node, Agent: node, Claimed: time.Unix(int64(h.claims), 0)})
	case "put":
		h.instance(node, id)
	case "remove":
		i := instance(node, id)
		if _, ok := h.has[i.Key(prefix)]; ok {
			h.delete(i.Key(prefix))
			if instancesOf(h.g.last)[keyOf(&i)] != nil { // else it was written and went unseen
				h.deleted[keyOf(&i)] = struct{}{}
			}
		}
	case "expire":
		h.lapse(node, false)
	case "leave":
		if _, ok := h.has[service.NodeKey(prefix, node)]; ok {
			h.node(service.Node{Name: node, Agent: node, Leaving: true})
			h.lapse(node, true)
		}
	case "relist":
		h.b.Relist(maps.Values(h.has), false)
	case "save":
		h.saved = maps.Clone(h.has)
	case "replace":
		h.has = maps.Clone(h.saved)
		h.b.Relist(maps.Values(h.has), true)
		clear(h.deleted) // of which the backup knows nothing
		h.take()         // nor is it known what is taken away before the guard has seen it
	case "die", "live":
		i := instance(node, id)
		h.dead[i.Endpoint()] = what == "die"
	case "moment":
		h.pass(time.Duration(rapid.IntRange(1, 4000).Draw(h.t, "ms")) * time.Millisecond)
	case "while":
		h.pass(time.Duration(rapid.IntRange(1, 30).Draw(h.t, "s")) * time.Second)
	case "long":
		h.pass(keep / 2)
	}
}

func (h *history) set(key string, value []byte, leased bool) {
	h.rev++
	i := service.Item{Key: key, Value: value, Created: h.rev, Modified: h.rev, Leased: leased}
	if old, ok := h.has[key]; ok {
		i.Created = old.Created
	}
	h.has[key] = i
	h.b.Take(i)
}

func (h *history) delete(key string) {
	h.rev++
	h.b.Drop(key, h.rev)
	delete(h.has, key)
}

func (h *history) node(n service.Node) {
	v, err := n.Encode()
	if err != nil {
		h.t.Fatal(err)
	}
	h.set(service.NodeKey(prefix, n.Name), v, true)
}

// instance writes one, at an address out of few.
func (h *history) instance(node string, id int) {
	i := instance(node, id)
	other := rapid.IntRange(1, 3).Draw(h.t, "address")
	i.Address = netip.AddrFrom4([4]byte{10, 0, 0, byte(other)})
	i.Container = fmt.Sprintf("c%d", rapid.IntRange(1, 4).Draw(h.t, "container"))
	i.Service = rapid.SampledFrom([]string{"web", "api"}).Draw(h.t, "service")
	v, err := i.Encode()
	if err != nil {
		h.t.Fatal(err)
	}
	h.set(i.Key(prefix), v, rapid.IntRange(0, 4).Draw(h.t, "leased") > 0)
	delete(h.deleted, keyOf(&i))
}

// lapse ends the lease of a node: its key goes, and its instances that have one.
func (h *history) lapse(node string, onPurpose bool) {
	if _, ok := h.has[service.NodeKey(prefix, node)]; !ok {
		return
	}
	h.rev++
	for id := range 4 {
		i := instance(node, id)
		if item, ok := h.has[i.Key(prefix)]; ok && item.Leased {
			h.b.Drop(i.Key(prefix), h.rev)
			delete(h.has, i.Key(prefix))
			if onPurpose {
				h.deleted[keyOf(&i)] = struct{}{}
			}
		}
	}
	h.b.Drop(service.NodeKey(prefix, node), h.rev)
	delete(h.has, service.NodeKey(prefix, node))
}

// check wants what must hold whenever the guard has taken what there is.
func (h *history) check() {
	h.take()
	registered, withheld := instancesOf(h.g.last), map[key]bool{}
	for _, r := range h.now.Rejected {
		withheld[key{r.Node, r.ID}] = true
	}
	shown, twice := instancesOf(h.now), 0
	for _, s := range h.now.Services {
		twice += len(s.Instances)
	}
	if twice != len(shown) {
		h.t.Fatalf("after %v: of %d instances only %d have keys of their own", h.steps, twice, len(shown))
	}
	for k, i := range shown {
		_, deleted := h.deleted[k]
		switch {
		case i.Doubt == nil && registered[k] != i:
			h.t.Fatalf("after %v: %v is shown, and not as it is registered", h.steps, k)
		case i.Doubt == nil:
		case deleted:
			h.t.Fatalf("after %v: %v was taken away, and is a suspect", h.steps, k)
		case !i.Doubt.Out:
			h.free(i, shown)
		}
	}
	for k, i := range registered {
		if shown[k] == nil && !withheld[k] {
			h.t.Fatalf("after %v: %v is registered, and not shown", h.steps, k)
		}
		if s := h.now.Service(i.Service); shown[k] == i && (s == nil || !slices.Contains(s.Instances, i)) {
			h.t.Fatalf("after %v: %v is not in its service", h.steps, k)
		}
	}
}

// free wants nothing registered at the address of a suspect that is routed.
func (h *history) free(suspect *service.Instance, shown map[key]*service.Instance) {
	for k, i := range shown {
		if i.Doubt == nil && i.Endpoint() == suspect.Endpoint() && i.Container != suspect.Container {
			h.t.Fatalf("after %v: %s/%s is routed at %s, which %v is registered with", h.steps, suspect.Node, suspect.ID, i.Endpoint(), k)
		}
	}
}
