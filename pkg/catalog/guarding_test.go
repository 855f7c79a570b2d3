package catalog

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// node claims a node and writes instances of the service web for it.
func (r *registry) node(node string, ns ...int) *service.Catalog {
	r.t.Helper()
	r.rev++
	r.b.Take(service.Item{
		Key: service.NodeKey(prefix, node), Value: fmt.Appendf(nil, `{"agent":%q,"boot":"b1","claimed":"2026-01-01T00:00:%02dZ"}`, node, r.rev),
		Created: r.rev, Modified: r.rev, Leased: true,
	})
	for _, n := range ns {
		i := instance("web", n)
		i.Node = node
		v, err := i.Encode()
		if err != nil {
			r.t.Fatal(err)
		}
		r.rev++
		r.b.Take(service.Item{Key: i.Key(prefix), Value: v, Created: r.rev, Modified: r.rev, Leased: true})
	}
	return r.b.Catalog(r.rev)
}

// expire ends the leases of these nodes, each with instances up to 9.
func (r *registry) expire(nodes ...string) *service.Catalog {
	for _, node := range nodes {
		r.rev++
		for n := range 10 {
			i := instance("web", n)
			i.Node = node
			r.b.Drop(i.Key(prefix), r.rev)
		}
		r.b.Drop(service.NodeKey(prefix, node), r.rev)
	}
	c := r.b.Catalog(r.rev)
	r.b.Taken()
	return c
}

// network is the addresses that answer.
type network struct {
	mu   sync.Mutex
	dead map[string]bool
	now  int // connections being made,
	most int // and at the most
	slow time.Duration
}

func (n *network) dial(ctx context.Context, to netip.AddrPort) error {
	n.mu.Lock()
	n.now++
	n.most = max(n.most, n.now)
	dead, slow := n.dead[to.Addr().String()], n.slow
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		n.now--
		n.mu.Unlock()
	}()
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if dead {
		return errors.New("nobody is there")
	}
	return nil
}

// states lists instances: "a/1" is registered, "a/1?" a suspect that is routed, "a/1!" one that is not.
func states(s *Snapshot) string {
	var all []string
	for _, svc := range s.Catalog.Services {
		for _, i := range svc.Instances {
			word, _, _ := strings.Cut(i.ID, ".")
			word = i.Node + "/" + strings.TrimPrefix(word, "c")
			if i.Doubt != nil {
				word += map[bool]string{true: "!", false: "?"}[i.Doubt.Out]
			}
			all = append(all, word)
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func (r *running) wantStates(t *testing.T, want string) *Snapshot {
	t.Helper()
	s := <-r.out
	if got := states(s); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	return s
}

func guarded(n *network) *View {
	return &View{KeepStale: 10 * time.Minute, TTL: 15 * time.Second, Node: "a", Dial: n.dial}
}

// TestMassExpiry: F13, F14. From the registry's loss over probes to the end of --keep-stale.
func TestMassExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg, net := newRegistry(t), &network{dead: map[string]bool{"10.0.0.3": true}}
		r := run(t, guarded(net))
		reg.node("a", 1)
		r.in <- reg.node("b", 2, 3)
		r.wantStates(t, "a/1 b/2 b/3")
		start := time.Now()
		r.in <- reg.expire("a", "b")
		first := r.wantStates(t, "a/1? b/2? b/3?")
		if !first.Live || first.Catalog.Doubts.Suspects() != 3 {
			t.Errorf("live %v, %d suspects, want true, 3", first.Live, first.Catalog.Doubts.Suspects())
		}
		r.wantStates(t, "a/1? b/2? b/3!")
		if took := time.Since(start); took < time.Second || took > 5*time.Second {
			t.Errorf("what does not answer was in service for %v, want about two seconds", took)
		}
		r.wantNothing(t)
		r.in <- reg.node("a", 1)
		r.wantStates(t, "a/1 b/2? b/3!")
		r.wantStates(t, "a/1")
		if took, want := time.Since(start), 10*time.Minute; took != want {
			t.Errorf("suspects were there for %v, want %v", took, want)
		}
		r.stop(t)
	})
}

// TestDeadHostLeavesInTime: P5, through the whole View.
func TestDeadHostLeavesInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := newRegistry(t)
		r := run(t, guarded(&network{}))
		reg.node("a", 1)
		reg.node("b", 2)
		r.in <- reg.node("c", 3)
		r.wantStates(t, "a/1 b/2 c/3")
		start := time.Now()
		r.in <- reg.expire("b")
		r.wantStates(t, "a/1 b/2? c/3")
		r.wantStates(t, "a/1 c/3")
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("a dead host's instance was there for %v after its lease, want 5 s at most", took)
		}
		r.stop(t)
	})
}

// TestProbesAreBoundedAndQuick: however many suspects there are, and however long their addresses take, few
// are probed at once. Those of hosts that are down get no requests soon all the same: P5.
func TestProbesAreBoundedAndQuick(t *testing.T) {
	for _, tt := range []struct {
		suspects, most int
		out            time.Duration
	}{{10, 16, 6 * time.Second}, {200, 100, 12 * time.Second}, {1000, 128, 30 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			reg, net := newRegistry(t), &network{slow: time.Minute}
			r := run(t, guarded(net))
			var all []int
			for n := range tt.suspects {
				all = append(all, n+1)
			}
			r.in <- reg.node("b", all...)
			<-r.out
			start := time.Now()
			reg.rev++
			for _, n := range all {
				i := instance("web", n)
				i.Node = "b"
				reg.b.Drop(i.Key(prefix), reg.rev)
			}
			reg.b.Drop(service.NodeKey(prefix, "b"), reg.rev)
			r.in <- reg.b.Catalog(reg.rev)
			for s := range r.out {
				if !strings.Contains(states(s), "?") {
					break
				}
			}
			if took := time.Since(start); took > tt.out {
				t.Errorf("%d suspects that do not answer got requests for %v, want %v at most", tt.suspects, took, tt.out)
			}
			r.stop(t)
			if net.most > tt.most {
				t.Errorf("%d probes at one time, want %d at most", net.most, tt.most)
			}
		})
	}
}

// TestSuspectsOnDisk: what is routed is in the copy, with its node, and what is not is none. An agent that
// starts while the registry is empty goes on with it: P3, P4, F3.
func TestSuspectsOnDisk(t *testing.T) {
	for _, away := range []time.Duration{0, time.Minute} { // the registry, when the agent starts again
		path := filepath.Join(t.TempDir(), "catalog.json")
		synctest.Test(t, func(t *testing.T) {
			net := &network{dead: map[string]bool{"10.0.0.2": true}}
			view := func() *View {
				v := guarded(net)
				v.CachePath, v.Source, v.MaxCacheAge = path, prefix, time.Hour
				return v
			}
			reg := newRegistry(t)
			r := run(t, view())
			reg.node("a", 1)
			r.in <- reg.node("b", 2, 3)
			r.wantStates(t, "a/1 b/2 b/3")
			r.in <- reg.expire("a", "b")
			r.wantStates(t, "a/1? b/2? b/3?")
			r.wantStates(t, "a/1? b/2! b/3?")
			synctest.Wait()
			r.stop(t)
			c, _, err := readCopy(path, prefix, 0, time.Now())
			if err != nil || len(c.Nodes) != 2 {
				t.Fatalf("the copy has nodes %v (%v), want both", c, err)
			}
			if got := states(&Snapshot{Catalog: c}); got != "a/1 b/3" {
				t.Errorf("the copy has %q, want what is routed", got)
			}
			r = run(t, view())
			if away > 0 {
				r.wantStates(t, "a/1 b/3")
				time.Sleep(away)
			}
			r.in <- newRegistry(t).b.Catalog(1)
			if s := r.wantStates(t, "a/1? b/3?"); !s.Live {
				t.Error("the registry has answered, and the snapshot is not live")
			}
			r.stop(t)
		})
	}
}

// TestSuspectsEndInTimeOverRestarts: F14. --keep-stale counts from the loss, whatever becomes of the agent and
// however long it is away: for longer than a lease lasts the registry is believed in what was not in doubt.
func TestSuspectsEndInTimeOverRestarts(t *testing.T) {
	for _, away := range []time.Duration{0, 30 * time.Second} {
		path := filepath.Join(t.TempDir(), "catalog.json")
		synctest.Test(t, func(t *testing.T) {
			view := func() *View {
				v := guarded(&network{})
				v.CachePath, v.Source, v.MaxCacheAge = path, prefix, time.Hour
				return v
			}
			reg := newRegistry(t)
			r := run(t, view())
			reg.node("a", 1)
			reg.node("b", 2)
			r.in <- reg.node("c", 3)
			r.wantStates(t, "a/1 b/2 c/3")
			start := time.Now()
			r.in <- reg.expire("b", "c")
			r.wantStates(t, "a/1 b/2? c/3?")
			for range 2 {
				time.Sleep(4 * time.Minute)
				r.stop(t)
				time.Sleep(away)
				r = run(t, view())
				r.in <- reg.b.Catalog(reg.rev)
				r.wantStates(t, "a/1 b/2? c/3?")
			}
			r.wantStates(t, "a/1")
			if took, want := time.Since(start), 10*time.Minute; took != want {
				t.Errorf("suspects were there for %v, want %v", took, want)
			}
			r.stop(t)
			time.Sleep(away)
			r = run(t, view())
			r.in <- reg.b.Catalog(reg.rev)
			r.wantStates(t, "a/1")
			r.stop(t)
		})
	}
}

// TestOldCopyIsNoEvidence: an agent that was away for longer than a lease lasts believes the registry that
// answers at once. What runs on its own host it knows better: it is about to write that again, and HAProxy
// has served it all the time. P2. Unless the host was restarted, or the name is another's by now.
func TestOldCopyIsNoEvidence(t *testing.T) {
	for _, tt := range []struct {
		name, boot string
		registry   func(*registry) *service.Catalog
		want       string
	}{
		{"its key has gone", "b1", func(r *registry) *service.Catalog { return r.b.Catalog(1) }, "a/1?"},
		{"it has claimed the name before the list", "b1", func(r *registry) *service.Catalog { r.rev = 50; return r.node("a") }, "a/1?"},
		{"and written", "b1", func(r *registry) *service.Catalog { r.rev = 50; return r.node("a", 3) }, "a/3"},
		{"restarted", "b2", func(r *registry) *service.Catalog { return r.b.Catalog(1) }, ""},
	} {
		path := filepath.Join(t.TempDir(), "catalog.json")
		synctest.Test(t, func(t *testing.T) {
			view := func(boot string) *View {
				v := guarded(&network{})
				v.CachePath, v.Source, v.MaxCacheAge, v.Boot = path, prefix, time.Hour, boot
				return v
			}
			reg := newRegistry(t)
			r := run(t, view("b1"))
			reg.node("a", 1)
			r.in <- reg.node("b", 2)
			r.wantStates(t, "a/1 b/2")
			synctest.Wait()
			r.stop(t)
			time.Sleep(15 * time.Second)
			r = run(t, view(tt.boot))
			r.in <- tt.registry(newRegistry(t))
			if got := states(<-r.out); got != tt.want {
				t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
			}
			r.stop(t)
		})
	}
}

// TestLostOverridesAreToldAtTheStart: the copy is newer than the registry, however old it is. P3.
func TestLostOverridesAreToldAtTheStart(t *testing.T) {
	for _, away := range []time.Duration{0, time.Minute} {
		path := filepath.Join(t.TempDir(), "catalog.json")
		synctest.Test(t, func(t *testing.T) {
			log, hook := logtest.NewNullLogger()
			view := func() *View {
				v := guarded(&network{})
				v.CachePath, v.Source, v.MaxCacheAge, v.Log = path, prefix, time.Hour, log
				return v
			}
			reg := newRegistry(t)
			r := run(t, view())
			reg.b.Put(prefix+"/v1/overrides/web/a", []byte(`{"state":"maint"}`))
			r.in <- reg.node("a", 1)
			r.wantStates(t, "a/1")
			synctest.Wait()
			r.stop(t)
			time.Sleep(away)
			r = run(t, view())
			r.in <- newRegistry(t).b.Catalog(1)
			<-r.out
			var told []any
			for _, e := range hook.AllEntries() {
				if again, ok := e.Data["again"]; ok {
					told = append(told, again)
				}
			}
			if len(told) != 1 || told[0] != "sidekick maint web/a" {
				t.Errorf("away for %v: the log has %v, want the command that gives the override again, once", away, told)
			}
			r.stop(t)
		})
	}
}
