package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/catalog"
	"github.com/sidekick-proxy/sidekick/pkg/register"
	"github.com/sidekick-proxy/sidekick/pkg/registry/etcd"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// simulant is an agent without an engine and a proxy: the product's publisher with a session in etcd, and
// on the same connection its watcher and view, or a light watcher.
type simulant struct {
	client *clientv3.Client
	light  *light // nil for a full one
	seen   *arrivals

	opens     atomic.Int64 // sessions
	published atomic.Int64 // when the set last was, in nanoseconds
	renewed   atomic.Int64 // when the lease last was
	well      atomic.Int64 // when the watcher last was
	wg        sync.WaitGroup
}

// begin starts an agent, which runs until ctx is cancelled.
func (f *fleet) begin(ctx context.Context, n int) (*simulant, error) {
	client, err := etcd.Dial(etcd.Config{Endpoints: []string{"http://" + f.endpoints[n%len(f.endpoints)]}})
	if err != nil {
		return nil, err
	}
	a := &simulant{client: client, seen: &arrivals{recording: &f.recording}}
	if n >= f.o.full {
		a.light = &light{client: client, seen: a.seen}
	}
	a.publish(ctx, n, f.o.instances, f.o.ttl)
	if !f.o.late {
		a.watch(ctx, 0)
	}
	return a, nil
}

func silent() logrus.FieldLogger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// publish keeps the agent's instances registered.
func (a *simulant) publish(ctx context.Context, n, instances int, ttl time.Duration) {
	name := fmt.Sprintf("n%d", n)
	registry := &counted{&a.opens, etcd.Registry{
		Client: a.client, Prefix: prefix, TTL: ttl, Log: silent(),
		Node: service.Node{Name: name, Agent: "agent-" + name, Machine: "machine-" + name, Address: "192.0.2.1", Version: "bench"},
		Report: func(err error) {
			if err == nil {
				a.renewed.Store(time.Now().UnixNano())
			}
		},
	}}
	publisher := &register.Publisher{Registry: registry, Log: silent(), Report: func(err error) {
		if err == nil {
			a.published.Store(time.Now().UnixNano())
		}
	}}
	sets := make(chan register.Set, 1)
	sets <- register.Set{Instances: instancesOf(n, instances)}
	a.wg.Go(func() { _ = publisher.Run(ctx, sets) })
}

// counted counts the sessions of a registry.
type counted struct {
	opens *atomic.Int64
	etcd.Registry
}

// Open implements register.Registry.
func (c *counted) Open(ctx context.Context) (register.Session, error) {
	s, err := c.Registry.Open(ctx)
	if err == nil {
		c.opens.Add(1)
	}
	return s, err
}

// instancesOf are the n-th agent's, in services that ten agents share.
func instancesOf(n, count int) []service.Instance {
	all := make([]service.Instance, count)
	for k := range all {
		name := fmt.Sprintf("s%d-%d", n/10, k)
		all[k] = service.Instance{
			Node: fmt.Sprintf("n%d", n), ID: fmt.Sprintf("%012x.%s.8000", k, name), Service: name,
			Address: netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), byte(k)}), Port: 8000,
			State: service.Ready, Weight: 100, Mode: service.HTTP, Path: "/",
			Hosts: []string{name + ".bench.example"}, Container: fmt.Sprintf("%012x", k), Name: "/" + name,
			Started: time.Unix(1_700_000_000, 0).UTC(),
		}
	}
	return all
}

// watch is what an agent has between the registry and the renderer. A light one lists nothing if it is
// told of a revision to watch from.
func (a *simulant) watch(ctx context.Context, revision int64) {
	if a.light != nil {
		a.seen.newest.Store(revision)
		a.wg.Go(func() { a.light.run(ctx) })
		return
	}
	watcher := &etcd.Watcher{Client: a.client, Prefix: prefix, Log: silent(), Report: func(err error) {
		if err == nil {
			a.well.Store(time.Now().UnixNano())
		}
	}}
	follow(ctx, &a.wg, watcher, func(s *catalog.Snapshot) { a.seen.arrived(s.Catalog.Revision, time.Now(), true) })
}

// follow gives each snapshot of a view to its reader.
func follow(ctx context.Context, wg *sync.WaitGroup, watcher *etcd.Watcher, each func(*catalog.Snapshot)) {
	view := &catalog.View{Settle: 10 * time.Millisecond, SettleMax: 250 * time.Millisecond, KeepEmpty: time.Hour, Log: silent()}
	catalogs, snapshots := make(chan *service.Catalog), make(chan *catalog.Snapshot)
	wg.Go(func() { _ = watcher.Run(ctx, catalogs) })
	wg.Go(func() { _ = view.Run(ctx, catalogs, snapshots) })
	wg.Go(func() {
		for {
			select {
			case s := <-snapshots:
				each(s)
			case <-ctx.Done():
				return
			}
		}
	})
}

// end waits for all of the agent, whose context was cancelled.
func (a *simulant) end() {
	a.client.Close()
	a.wg.Wait()
}

// heldSince tells whether the agent's instances are registered, by an answer from after that time.
func (a *simulant) heldSince(at time.Time) bool {
	return max(a.published.Load(), a.renewed.Load()) > at.UnixNano()
}

// wellSince tells whether the agent follows the registry, by an answer from after that time.
func (a *simulant) wellSince(at time.Time) bool {
	if a.light == nil {
		return a.well.Load() > at.UnixNano()
	}
	return a.light.following.Load() > 0 && a.light.heard.Load() > at.UnixNano()
}
