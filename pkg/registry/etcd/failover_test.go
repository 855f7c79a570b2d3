package etcd

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/sidekick-proxy/sidekick/pkg/registry/registrytest"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// TestMembersFailOver: whichever member of three goes, or stands still without a word, the lease is kept,
// the watch shows what is written meanwhile, and writes go on. The first endpoint is dead from the start.
func TestMembersFailOver(t *testing.T) {
	t.Parallel()
	members := newCluster(t, 3, nil)
	dead := "http://" + address() + ":2379"
	c := dialed(t, Config{Endpoints: append([]string{dead}, endpointsOf(members...)...)})
	var renewals atomic.Int64
	r := newRegistry(c, registrytest.Node("a", "agent-a"))
	r.Report = func(err error) {
		if err == nil {
			renewals.Add(1)
		}
	}
	s := openSession(t, r)
	feed := registrytest.Watch(t, newWatcher(c))
	n := 0
	works := func(t *testing.T, beside *member) {
		t.Helper()
		n++
		other := dialed(t, Config{Endpoints: []string{beside.direct()}})
		seen := registrytest.Instance("b", "web", n)
		value, err := seen.Encode()
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the others take a write", func() error {
			_, err := other.Put(limited(t), seen.Key(prefix), string(value))
			return err
		})
		own := registrytest.Instance("a", "own", n)
		eventually(t, "this agent writes", func() error { return s.Set(limited(t), registrytest.Of(own)) })
		feed.Until(t, own, seen)
		from := renewals.Load()
		eventually(t, "the lease is renewed twice", func() error {
			if now := renewals.Load() - from; now < 2 {
				return fmt.Errorf("%d times", now)
			}
			return nil
		})
		if err := s.over(); err != nil {
			t.Fatal(err)
		}
		if _, err := other.Delete(context.WithoutCancel(t.Context()), seen.Key(prefix)); err != nil {
			t.Fatal(err)
		}
	}
	works(t, members[0])
	for i, m := range members {
		beside := members[(i+1)%3]
		t.Run(m.name+" is killed", func(t *testing.T) {
			m.stop(t)
			works(t, beside)
			m.back(t)
		})
		t.Run(m.name+" stands still", func(t *testing.T) {
			m.way.freeze(true)
			works(t, beside)
			m.way.freeze(false)
		})
	}
	resp, err := c.Get(limited(t), service.NodeKey(prefix, "a"))
	if err != nil || len(resp.Kvs) != 1 || resp.Kvs[0].CreateRevision != s.claimed {
		t.Errorf("got %v, %v: want the node's key as it was claimed", resp, err)
	}
}
