package etcd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/register"
	"github.com/sidekick-proxy/sidekick/pkg/registry/registrytest"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// happened lists what has been done to the keys of a server since a revision: per key, each event
// with its value; the node's own is only counted.
func happened(t *testing.T, c *clientv3.Client, since int64) map[string]string {
	t.Helper()
	until := revision(t, c)
	got := map[string]string{}
	if until < since {
		return got
	}
	ctx, cancel := context.WithCancel(limited(t))
	defer cancel()
	if _, err := c.Put(ctx, prefix+"-mark", ""); err != nil { // the end of what is to be seen
		t.Fatal(err)
	}
	for r := range c.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(since)) {
		for _, e := range r.Events {
			if string(e.Kv.Key) == prefix+"-mark" {
				return got
			}
			got[string(e.Kv.Key)] += strings.TrimSpace(fmt.Sprint(e.Type, " ", string(e.Kv.Value))) + "; "
		}
	}
	t.Fatal("the watch ended")
	return nil
}

// TestRestartIsNotSeen: an agent that is started again after a crash, or after a clean end with a
// parting lease, takes over what it had registered: nobody sees a key go or a value change. Each key
// is put once as it was, because that is how etcd moves it to another lease; the set that follows
// writes nothing (P9, P2, P10).
func TestRestartIsNotSeen(t *testing.T) {
	for name, clean := range map[string]bool{"crash": false, "clean end": true} {
		t.Run(name, func(t *testing.T) {
			srv := newServer(t)
			c := srv.dial(t)
			r := newRegistry(c, registrytest.Node("a", "agent-a"))
			r.TTL, r.ExitTTL = time.Minute, time.Minute
			var set []service.Instance
			want := map[string]string{}
			for n := range 200 { // more than one transaction holds
				i := registrytest.Instance("a", "web", n)
				value, err := i.Encode()
				if err != nil {
					t.Fatal(err)
				}
				set, want[i.Key(prefix)] = append(set, i), "PUT "+string(value)+"; "
			}
			first := registrytest.Open(t, r)
			registrytest.Set(t, first, set...)
			from := revision(t, c) + 1
			if clean {
				if err := first.Close(limited(t)); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(ofInstances(happened(t, c, from)), want); diff != "" {
					t.Errorf("the end (-got +want):\n%s", diff)
				}
				from = revision(t, c) + 1
			}
			second := registrytest.Open(t, r)
			opened := revision(t, c) + 1
			registrytest.Set(t, second, set...)
			if diff := cmp.Diff(ofInstances(happened(t, c, from)), want); diff != "" {
				t.Errorf("the next start (-got +want):\n%s", diff)
			}
			if got := ofInstances(happened(t, c, opened)); len(got) > 0 {
				t.Errorf("the first set wrote %v, want nothing", got)
			}
		})
	}
}

// ofInstances leaves out what is not about instances.
func ofInstances(events map[string]string) map[string]string {
	events = maps.Clone(events)
	maps.DeleteFunc(events, func(key, _ string) bool { return !strings.Contains(key, "/instances/") })
	return events
}

// TestZombieCannotWrite: an agent that was stopped for longer than its lease lives finds, when it
// goes on, that its session is over: it writes nothing through it, also not into a node that another
// one has meanwhile, and comes back as a new session (F13, F15, P9).
func TestZombieCannotWrite(t *testing.T) {
	srv := newServer(t)
	c := srv.dial(t)
	web1, web2 := registrytest.Instance("a", "web", 1), registrytest.Instance("a", "web", 2)
	for _, tt := range []struct {
		name  string
		heirs func(t *testing.T) // what happens while it stands still
	}{
		{"nobody else came", func(*testing.T) {}},
		{"another agent has the node", func(t *testing.T) {
			t.Helper()
			registrytest.Set(t, registrytest.Open(t, newRegistry(c, registrytest.Node("a", "agent-2"))), web2)
		}},
		{"the same agent was started anew", func(t *testing.T) {
			t.Helper()
			registrytest.Set(t, registrytest.Open(t, newRegistry(c, registrytest.Node("a", "agent-1"))), web2)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLink(t, srv)
			r := newRegistry(l.dial(t), registrytest.Node("a", "agent-1"))
			s := registrytest.Open(t, r)
			registrytest.Set(t, s, web1)
			l.freeze(true) // to the registry it stands still
			expire(t, c, service.NodeKey(prefix, "a"))
			tt.heirs(t)
			before := registered(t, c)
			l.freeze(false)
			if err := s.Set(limited(t), registrytest.Of(web1, web2)); err == nil {
				t.Error("a zombie could write")
			}
			select {
			case <-s.Done():
			case <-time.After(30 * time.Second):
				t.Fatal("its session was not done")
			}
			if diff := cmp.Diff(registered(t, c), before); diff != "" {
				t.Errorf("a zombie has changed the registry (-got +want):\n%s", diff)
			}
			if err := s.Close(limited(t)); err != nil {
				t.Errorf("Close: %v", err)
			}
			if diff := cmp.Diff(registered(t, c), before); diff != "" {
				t.Errorf("the end of a zombie has changed the registry (-got +want):\n%s", diff)
			}
		})
	}
}

// registered lists the instances' keys, each with its value and last revision.
func registered(t *testing.T, c *clientv3.Client) []string {
	t.Helper()
	resp, err := c.Get(limited(t), service.Root(prefix)+"instances/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, kv := range resp.Kvs {
		list = append(list, fmt.Sprint(string(kv.Key), " ", string(kv.Value), " ", kv.ModRevision))
	}
	slices.Sort(list)
	return list
}

// TestUnknownOutlivesARestartOfTheMachine: what ran before the machine was restarted is left to its
// lease, and what is not known yet is not deleted with it (P3).
func TestUnknownOutlivesARestartOfTheMachine(t *testing.T) {
	srv := newServer(t)
	c := srv.dial(t)
	node := registrytest.Node("a", "agent-a")
	node.Boot = "1"
	older := newRegistry(c, node)
	older.TTL, older.ExitTTL = time.Hour, time.Hour
	s := registrytest.Open(t, older)
	web := registrytest.Instance("a", "web", 1)
	registrytest.Set(t, s, web)
	if err := s.Close(limited(t)); err != nil {
		t.Fatal(err)
	}
	node.Boot = "2"
	next := registrytest.Open(t, newRegistry(c, node))
	before := registered(t, c)
	if err := next.Set(limited(t), register.Set{Unknown: []service.Origin{service.FromContainer}}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(registered(t, c), before); diff != "" {
		t.Errorf("while the containers are not known (-got +want):\n%s", diff)
	}
	registrytest.Set(t, next)
	if got := registered(t, c); len(got) > 0 {
		t.Errorf("when it is known that there are none: got %v", got)
	}
}
