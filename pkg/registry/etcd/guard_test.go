package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/catalog"
	"github.com/sidekick-proxy/sidekick/pkg/register"
	"github.com/sidekick-proxy/sidekick/pkg/registry/registrytest"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// proxyView is what a host's proxy would get of a real registry.
type proxyView struct {
	snapshots chan *catalog.Snapshot
	must      []string // that each snapshot is to route
	mustNot   []string // that none may
}

// view runs a watcher and a View with its guard until the end of the test. All addresses answer.
func view(t *testing.T, c *clientv3.Client, ttl time.Duration) *proxyView {
	t.Helper()
	v := &catalog.View{
		KeepStale: time.Hour, TTL: ttl, Node: "me", Log: quiet(),
		Dial: func(context.Context, netip.AddrPort) error { return nil },
	}
	p := &proxyView{snapshots: make(chan *catalog.Snapshot)}
	ctx, cancel := context.WithCancel(t.Context())
	catalogs, watched, viewed := make(chan *service.Catalog), make(chan error), make(chan error)
	go func() { watched <- newWatcher(c).Run(ctx, catalogs) }()
	go func() { viewed <- v.Run(ctx, catalogs, p.snapshots) }()
	t.Cleanup(func() { cancel(); <-watched; <-viewed })
	return p
}

// routed lists what gets requests, as "node/id".
func routed(s *catalog.Snapshot) []string {
	var all []string
	for _, one := range s.Catalog.Services {
		for _, i := range one.Instances {
			if i.Doubt == nil || !i.Doubt.Out {
				all = append(all, i.Node+"/"+i.ID)
			}
		}
	}
	slices.Sort(all)
	return all
}

// until reads snapshots until one is as wanted, and checks each.
func (p *proxyView) until(t *testing.T, what string, done func(*catalog.Snapshot) bool) {
	t.Helper()
	deadline, last := time.After(30*time.Second), ""
	for {
		select {
		case s := <-p.snapshots:
			got := routed(s)
			last = fmt.Sprintf("%v, in doubt %+v", got, s.Catalog.Doubts)
			for _, must := range p.must {
				if !slices.Contains(got, must) {
					t.Errorf("revision %d does not route %s: %s", s.Catalog.Revision, must, last)
				}
			}
			for _, not := range p.mustNot {
				if slices.Contains(got, not) {
					t.Errorf("revision %d routes %s: %s", s.Catalog.Revision, not, last)
				}
			}
			if done(s) {
				return
			}
		case <-deadline:
			t.Fatalf("%s: did not come; the last was %s", what, last)
		}
	}
}

// certain tells whether a snapshot has nothing in doubt and routes exactly these.
func certain(want ...string) func(*catalog.Snapshot) bool {
	slices.Sort(want)
	return func(s *catalog.Snapshot) bool { return s.Catalog.Doubts == nil && slices.Equal(routed(s), want) }
}

// anew tells whether a snapshot is certain of exactly these, and each node has claimed its name after that
// time.
func anew(since time.Time, want ...string) func(*catalog.Snapshot) bool {
	return func(s *catalog.Snapshot) bool {
		return certain(want...)(s) && !slices.ContainsFunc(s.Catalog.Nodes, func(n *service.Node) bool { return !n.Claimed.After(since) })
	}
}

// publish runs an agent's publisher until the end of the test, and returns what takes its sets.
func publish(t *testing.T, r *Registry) chan<- register.Set {
	t.Helper()
	sets, done := make(chan register.Set), make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- (&register.Publisher{Registry: r, Log: quiet()}).Run(ctx, sets) }()
	t.Cleanup(func() { cancel(); <-done })
	return sets
}

// nodeOf is the name of the n-th node, and of its instance as routed lists it.
func nodeOf(n int) (name, listed string, i service.Instance) {
	name = fmt.Sprint("n", n)
	i = registrytest.Instance(name, "web", n)
	return name, name + "/" + i.ID, i
}

// TestLeasesEndTogether: F13. Leases that end at one time take nothing out of the proxies, and the agents
// register again.
func TestLeasesEndTogether(t *testing.T) {
	srv := newServer(t)
	admin := srv.dial(t)
	p := view(t, srv.dial(t), 6*time.Second)
	var all []string
	for n := range 3 {
		name, listed, i := nodeOf(n)
		publish(t, newRegistry(srv.dial(t), registrytest.Node(name, "agent-"+name))) <- registrytest.Of(i)
		all = append(all, listed)
	}
	p.until(t, "all three", certain(all...))
	p.must = all
	since := time.Now()
	leases, err := admin.Leases(limited(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range leases.Leases {
		if _, err := admin.Revoke(limited(t), l.ID); err != nil {
			t.Fatal(err)
		}
	}
	p.until(t, "all three again", anew(since, all...))
}

// TestLeasesExpireTogether: the same for agents that do not come back, as when all lost the registry.
func TestLeasesExpireTogether(t *testing.T) {
	srv := newServer(t)
	p := view(t, srv.dial(t), 2*time.Second)
	l := newLink(t, srv)
	var all []string
	for n := range 3 {
		name, listed, i := nodeOf(n)
		r := newRegistry(l.dial(t), registrytest.Node(name, "agent-"+name))
		r.TTL = 2 * time.Second
		publish(t, r) <- registrytest.Of(i)
		all = append(all, listed)
	}
	p.until(t, "all three", certain(all...))
	l.cut()
	// The first of them is believed for a moment if it is far ahead of the others.
	p.until(t, "all three in doubt", func(s *catalog.Snapshot) bool {
		return s.Catalog.Doubts.Suspects() == 3 && slices.Equal(routed(s), all)
	})
	l.mend(t)
	p.must = all
	p.until(t, "all three again", certain(all...))
}

// TestEmptiedRegistryLosesNothing: P3, F3. Stopped, its data removed, started: the proxies go on.
func TestEmptiedRegistryLosesNothing(t *testing.T) {
	srv := newServer(t)
	p := view(t, srv.dial(t), 6*time.Second)
	var all []string
	for n := range 3 {
		name, listed, i := nodeOf(n)
		publish(t, newRegistry(srv.dial(t), registrytest.Node(name, "agent-"+name))) <- registrytest.Of(i)
		all = append(all, listed)
	}
	p.until(t, "all three", certain(all...))
	p.must = all
	for range 20 { // so that an empty one is behind
		put(t, srv.dial(t), registrytest.Instance("elsewhere", "web", 9))
	}
	remove(t, srv.dial(t), registrytest.Instance("elsewhere", "web", 9))
	p.until(t, "only these", certain(all...))
	since := time.Now()
	srv.stop(t)
	srv.wipe(t)
	srv.start(t)
	p.until(t, "all three again", anew(since, all...))
}

// TestRestoredRegistryResurrectsNothing: P3. What a backup has and nobody runs any more gets no requests,
// and what it lacks goes on.
func TestRestoredRegistryResurrectsNothing(t *testing.T) {
	srv := newServer(t)
	var sets []chan<- register.Set
	var all, then []string
	for n := range 3 {
		name, listed, i := nodeOf(n)
		sets = append(sets, publish(t, newRegistry(srv.dial(t), registrytest.Node(name, "agent-"+name))))
		old := registrytest.Instance(name, "web", 10+n)
		sets[n] <- registrytest.Of(i, old)
		all, then = append(all, listed), append(then, name+"/"+old.ID)
	}
	gone := newRegistry(srv.dial(t), registrytest.Node("gone", "agent-gone"))
	session := registrytest.Open(t, gone)
	registrytest.Set(t, session, registrytest.Instance("gone", "other", 20))
	p := view(t, srv.dial(t), 6*time.Second)
	p.until(t, "what is in the backup", certain(slices.Concat(all, then, []string{"gone/c20.other.80"})...))
	srv.stop(t)
	srv.save(t)
	srv.start(t)
	if err := session.Close(limited(t)); err != nil {
		t.Fatal(err)
	}
	var now []string
	for n := range 3 {
		name, _, i := nodeOf(n)
		newer := registrytest.Instance(name, "web", 30+n)
		sets[n] <- registrytest.Of(i, newer)
		now = append(now, name+"/"+newer.ID)
	}
	p.until(t, "what came after it", certain(slices.Concat(all, now)...))
	p.must, p.mustNot = slices.Concat(all, now), append(then, "gone/c20.other.80")
	since := time.Now()
	srv.stop(t)
	srv.restore(t)
	srv.start(t)
	p.until(t, "that of before again", anew(since, slices.Concat(all, now)...))
}

// TestRestoredAndWrittenOn: P3. Nobody else need have been slow: by the time that this host is connected
// again, the others have brought a restored registry beyond the revision that was known here.
func TestRestoredAndWrittenOn(t *testing.T) {
	srv, later := newServer(t), registrytest.Instance("other", "web", 3)
	old, known := registrytest.Instance("gone", "web", 1), registrytest.Instance("b", "web", 2)
	put(t, srv.dial(t), old)
	srv.stop(t)
	srv.save(t)
	srv.start(t)
	l := newLink(t, srv)
	feed := registrytest.Watch(t, newWatcher(l.dial(t)))
	remove(t, srv.dial(t), old)
	put(t, srv.dial(t), known)
	feed.Until(t, known)
	l.cut()
	srv.stop(t)
	srv.restore(t)
	srv.start(t)
	admin := srv.dial(t)
	for range 20 {
		put(t, admin, later)
	}
	l.mend(t)
	if c := feed.Until(t, old, later); c.Replaced != 1 {
		t.Errorf("replaced %d times, want once: what was restored is taken for what is new", c.Replaced)
	}
}

// TestOlderIsNotForgotten: that the registry was read at an older revision counts, also if it is beyond the
// known one by the time that it is listed, and nothing of the list shows it.
func TestOlderIsNotForgotten(t *testing.T) {
	srv, later := newServer(t), registrytest.Instance("other", "web", 3)
	put(t, srv.dial(t), registrytest.Instance("a", "web", 1))
	srv.stop(t)
	srv.save(t)
	srv.start(t)
	for range 5 {
		put(t, srv.dial(t), registrytest.Instance("b", "web", 2))
	}
	w, st := newWatcher(srv.dial(t)), &state{builder: service.NewBuilder(prefix)}
	if err := w.list(limited(t), st); err != nil {
		t.Fatal(err)
	}
	srv.stop(t)
	srv.restore(t)
	srv.start(t)
	p := newProbe(w, st, nil)
	if err := p.judge(limited(t), p.read(limited(t), st.revision, 0, false)); !errors.Is(err, errOlder) {
		t.Fatalf("got %v, want that it is older", err)
	}
	for range 20 {
		put(t, srv.dial(t), later)
	}
	for range 2 {
		if err := w.list(limited(t), st); err != nil {
			t.Fatal(err)
		}
		if got := st.builder.Catalog(st.revision).Replaced; got != 1 {
			t.Errorf("replaced %d times, want once: what is missing is taken for what was taken away", got)
		}
	}
}

// TestLostChangeIsNoReplacement: a server that lost a change, and showed the next one, is none that was
// restored, though its list is not what was shown.
func TestLostChangeIsNoReplacement(t *testing.T) {
	srv := newServer(t)
	w, st := newWatcher(srv.dial(t)), &state{builder: service.NewBuilder(prefix)}
	if err := w.list(limited(t), st); err != nil {
		t.Fatal(err)
	}
	put(t, srv.dial(t), registrytest.Instance("a", "web", 1))
	st.revision = revision(t, srv.dial(t))
	st.shown = st.revision
	p := newProbe(w, st, nil)
	if err := p.judge(limited(t), p.read(limited(t), st.revision, st.builder.Len(), true)); !errors.Is(err, errMissed) {
		t.Fatalf("got %v, want that a key was missed", err)
	}
	if err := w.list(limited(t), st); err != nil {
		t.Fatal(err)
	}
	if c := st.builder.Catalog(st.revision); c.Replaced != 0 || c.Service("web") == nil {
		t.Errorf("replaced %d times, services %v, want web in the same registry", c.Replaced, c.Services)
	}
}
