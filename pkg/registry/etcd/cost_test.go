package etcd

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/registry/registrytest"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// asked counts by their names the requests that servers in this process have been asked.
func asked(t *testing.T) map[string]int {
	t.Helper()
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, f := range families {
		if f.GetName() != "grpc_server_started_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "grpc_method" {
					counts[l.GetValue()] += int(m.GetCounter().GetValue())
				}
			}
		}
	}
	return counts
}

// TestSteadyStateCostsRenewalsAndNoWrite: an agent at rest, with its session and its watch, asks the
// server for one renewal in a third of the lease's time, and for nothing else but now and then how far it
// is (P10).
func TestSteadyStateCostsRenewalsAndNoWrite(t *testing.T) {
	srv := newServer(t)
	c := srv.dial(t)
	var renewed atomic.Int64
	r := newRegistry(c, registrytest.Node("a", "agent-a"))
	r.TTL = 3 * time.Second
	r.Report = func(err error) {
		if err != nil {
			t.Errorf("renewal: %v", err)
		}
		renewed.Add(1)
	}
	began := time.Now()
	s := registrytest.Open(t, r)
	want := registrytest.Instance("a", "web", 1)
	registrytest.Set(t, s, want)
	w := newWatcher(c)
	w.Progress = 0 // as agents have it
	registrytest.Watch(t, w).Until(t, want)
	revisionBefore, before := revision(t, c), asked(t)
	if !becomes(func() bool { return renewed.Load() >= 4 }) {
		t.Fatal("the lease is not renewed")
	}
	after, passed := asked(t), time.Since(began)
	registrytest.Set(t, s, want)
	if got := revision(t, c); got != revisionBefore {
		t.Errorf("%d writes while nothing changed, want none", got-revisionBefore)
	}
	counts := map[string]int{}
	for method, n := range after {
		if n -= before[method]; n > 0 {
			counts[method] = n
		}
	}
	if got := slices.Sorted(maps.Keys(counts)); !slices.Equal(got, []string{"LeaseKeepAlive"}) && !slices.Equal(got, []string{"LeaseKeepAlive", "Range"}) {
		t.Errorf("got %v, want renewals, and a look at most", counts)
	}
	if most := int(passed/time.Second) + 1; counts["LeaseKeepAlive"] < 3 || counts["LeaseKeepAlive"] > most {
		t.Errorf("%d renewals in %v, want one in a third of the 3 s that the lease lives", counts["LeaseKeepAlive"], passed)
	}
	if most := int(passed/(10*time.Second)) + 1; counts["Range"] > most {
		t.Errorf("%d reads in %v, want one in 10 s at most", counts["Range"], passed)
	}
}

// TestManyKeysGoInOneStep: a host with more keys than a message holds dies. That is one change, however many messages
// the server makes of it: no catalog shows a part of it (F4).
func TestManyKeysGoInOneStep(t *testing.T) {
	// What a server cuts up costs it the square of the number of events, so they are few and large: more
	// than the 2 MiB of one message.
	const keys = 800
	prefix := "/" + strings.Repeat("long", 800)
	srv := newServer(t)
	admin := srv.dial(t)
	l, err := admin.Grant(limited(t), 3600)
	if err != nil {
		t.Fatal(err)
	}
	i := registrytest.Instance("a", "web", 0)
	value, err := i.Encode()
	if err != nil {
		t.Fatal(err)
	}
	ops := []clientv3.Op{}
	for n := range keys {
		i.ID = fmt.Sprint("c", n)
		ops = append(ops, clientv3.OpPut(i.Key(prefix), string(value), clientv3.WithLease(l.ID)))
	}
	for chunk := range slices.Chunk(ops, 128) {
		if _, err := admin.Txn(limited(t)).Then(chunk...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	var s streams
	w := newWatcher(s.dial(t, "unix://"+srv.dir+"/etcd.sock"))
	w.Prefix, w.Page, w.Progress = prefix, 0, 30*time.Second // a busy machine's watch is not to be taken for a silent one
	feed := registrytest.Watch(t, w)
	registered := func(c *service.Catalog) int {
		if web := c.Service("web"); web != nil {
			return len(web.Instances)
		}
		return 0
	}
	if got := registered(feed.Next(t)); got != keys {
		t.Fatalf("the first catalog has %d instances, want %d", got, keys)
	}
	if _, err := admin.Revoke(limited(t), l.ID); err != nil {
		t.Fatal(err)
	}
	if got := registered(feed.Next(t)); got != 0 {
		t.Errorf("the next catalog has %d instances, want none", got)
	}
	if s.fragments.Load() == 0 {
		t.Error("the server sent all in one message: take more keys")
	}
}

// TestReconnectsLeaveNothingBehind: an agent that loses its connection again and again has no more
// goroutines afterwards than before, and neither has the server in this process.
func TestReconnectsLeaveNothingBehind(t *testing.T) {
	const times = 100
	srv := newServer(t)
	l := newLink(t, srv)
	c := l.dial(t)
	s := registrytest.Open(t, newRegistry(c, registrytest.Node("a", "agent-a")))
	registrytest.Set(t, s, web(1))
	var seen, back atomic.Int64
	w := newWatcher(c)
	w.seen = func(int64) { seen.Add(1) }
	registrytest.Watch(t, w).Until(t, web(1))
	ctx, cancel := context.WithCancel(t.Context())
	reconnected := make(chan bool, 1)
	var counting sync.WaitGroup
	counting.Go(func() { Reconnects(ctx, c, reconnected) })
	t.Cleanup(func() { cancel(); counting.Wait() })
	cycle := func() {
		before := seen.Load()
		l.cut()
		l.mend(t)
		select {
		case <-reconnected:
			back.Add(1)
		case <-time.After(30 * time.Second):
			t.Fatal("the connection does not come back")
		}
		if !becomes(func() bool { return seen.Load() > before }) {
			t.Fatal("the registry is not followed again")
		}
	}
	cycle() // what is made once is there
	was := runtime.NumGoroutine()
	for range times {
		cycle()
	}
	if !becomes(func() bool { return runtime.NumGoroutine() <= was+10 }) {
		t.Errorf("%d goroutines after %d reconnects, %d before", runtime.NumGoroutine(), times, was)
	}
	registrytest.Set(t, s, web(1), web(2)) // the session lives as well
}
