package histories

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/internal/fakeengine"
	"github.com/sidekick-proxy/sidekick/pkg/register"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// crowd makes up containers that all listen: on one port, at addresses of their own.
func crowd(tb testing.TB, number int) []container.InspectResponse {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	go accept(l)
	tb.Cleanup(func() { _ = l.Close() })
	at := netip.MustParseAddrPort(l.Addr().String())
	all := make([]container.InspectResponse, number)
	for n := range all {
		all[n] = container.InspectResponse{
			ID: strings.Repeat(fmt.Sprintf("%04x", n+1), 16), Name: fmt.Sprintf("/c%d", n),
			HostConfig: &container.HostConfig{NetworkMode: "bridge"},
			Config: &container.Config{Labels: map[string]string{
				"sidekick.service": fmt.Sprintf("s%d", n%10), "sidekick.port": strconv.FormatUint(uint64(at.Port()), 10),
			}},
			// A network for each, or they would take the address from each other.
			NetworkSettings: &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{
				"bridge": {NetworkID: fmt.Sprintf("b%d", n), IPAddress: at.Addr()},
			}},
		}
	}
	return all
}

// runAgent runs an agent's first pipe until the end of the test.
func runAgent(tb testing.TB, e *fakeengine.Engine, r register.Registry) {
	tb.Helper()
	a := &agent{engine: e, registry: r, memory: filepath.Join(tb.TempDir(), "published.json")}
	a.start(context.WithoutCancel(tb.Context()))
	tb.Cleanup(func() {
		if err := a.end(); err != nil {
			tb.Error(err)
		}
	})
}

// untilRegistered waits for that many instances, and returns their keys.
func (s store) untilRegistered(tb testing.TB, prefix string, number int) *clientv3.GetResponse {
	tb.Helper()
	over := time.Now().Add(time.Minute)
	for {
		resp, err := s.Get(tb.Context(), service.InstancesKey(prefix, node), clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err == nil && resp.Count == int64(number) {
			resp, err = s.Get(tb.Context(), service.InstancesKey(prefix, node), clientv3.WithPrefix())
		}
		if err != nil {
			tb.Fatal(err)
		}
		if len(resp.Kvs) == number {
			return resp
		}
		if time.Now().After(over) {
			tb.Fatalf("%d of %d instances are registered", resp.Count, number)
		}
		<-time.After(time.Millisecond)
	}
}

// P10, F12: with 50 containers that go on running, whose engine is listed again and again, etcd gets one
// renewal per third of the lease's time, and not one write.
func TestSteadyStateWritesNothing(t *testing.T) {
	const ttl, thirds = 3 * time.Second, 4
	s, e := newEtcd(t), fakeengine.New(t)
	for _, c := range crowd(t, 50) {
		e.Start(c)
	}
	a := &agent{engine: e, registry: s.leased("/steady", ttl), memory: filepath.Join(t.TempDir(), "published.json"), resync: 50 * time.Millisecond}
	a.start(context.WithoutCancel(t.Context()))
	defer func() { _ = a.end() }()
	s.untilRegistered(t, "/steady", 50)

	const renewals = "etcd_debugging_lease_renewed_total"
	revision, renewed, began := s.revision(t), counter(t, renewals), time.Now()
	for counter(t, renewals) < renewed+thirds {
		if time.Since(began) > time.Minute {
			t.Fatalf("%v renewals in a minute", counter(t, renewals)-renewed)
		}
		<-time.After(5 * time.Millisecond)
	}
	if took, least := time.Since(began), (thirds-1)*ttl/3*9/10; took < least {
		t.Errorf("%d renewals in %s, want them to take %s at least", thirds, took, least)
	}
	if now := s.revision(t); now != revision {
		t.Errorf("%d writes while nothing happened", now-revision)
	}
}

// F12: an agent that finds 1,000 containers registers them in as few transactions as their size allows,
// and so does one that loses its lease.
func TestManyAtTheStartAreFewTransactions(t *testing.T) {
	const number = 1000
	s, e := newEtcd(t), fakeengine.New(t)
	for _, c := range crowd(t, number) {
		e.Start(c)
	}
	runAgent(t, e, s.registry("/many"))
	sizes := sizesOf(s.untilRegistered(t, "/many", number))
	if most := number/127 + 2; len(sizes) > most {
		t.Errorf("%d transactions %v, want %d at most", len(sizes), sizes, most)
	}
	bounded(t, sizes)
}

// F12: 1,000 containers that start while the agent runs are registered while they are being found, in
// transactions that grow with their number, not one for each.
func TestBurstIsFewTransactions(t *testing.T) {
	const number = 1000
	s, e := newEtcd(t), fakeengine.New(t)
	all := crowd(t, number)
	e.Start(all[0])
	runAgent(t, e, s.registry("/burst"))
	s.untilRegistered(t, "/burst", 1)
	began := time.Now()
	for _, c := range all[1:] {
		e.Start(c)
	}
	sizes := sizesOf(s.untilRegistered(t, "/burst", number))
	t.Logf("%d containers registered in %s by %d transactions", number, time.Since(began).Round(time.Millisecond), len(sizes))
	if most := number / 20; len(sizes) > most {
		t.Errorf("%d transactions, want %d at most", len(sizes), most)
	}
	bounded(t, sizes)
}

// sizesOf are the writes of each transaction, by its revision.
func sizesOf(resp *clientv3.GetResponse) map[int64]int {
	sizes := map[int64]int{}
	for _, kv := range resp.Kvs {
		sizes[kv.ModRevision]++
	}
	return sizes
}

func bounded(t *testing.T, sizes map[int64]int) {
	t.Helper()
	for revision, size := range sizes {
		if size > 128 {
			t.Errorf("revision %d has %d writes, want 128 at most", revision, size)
		}
	}
}
