package etcd

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/register"
	"github.com/sidekick-proxy/sidekick/pkg/registry/registrytest"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

func newLone(c *clientv3.Client, node string) *Lone {
	return &Lone{Client: c, Prefix: prefix, Node: node, TTL: 6 * time.Second, Log: quiet()}
}

// byCommand is an instance of node a as a command holds it.
func byCommand(name string) service.Instance {
	i := registrytest.Instance("a", name, 1)
	i.ID = service.DeclaredID(service.FromCommand, name, i.Endpoint())
	return i
}

// A command's instance is there as long as its session, and costs no write while nothing changes.
func TestLoneHoldsItsInstance(t *testing.T) { // P10
	srv := newServer(t)
	c := srv.dial(t)
	feed := registrytest.Watch(t, newWatcher(c))
	s := registrytest.Open(t, newLone(c, "a"))
	want := byCommand("web")
	registrytest.Set(t, s) // held back: nothing is there yet
	if got := revision(t, c); got != 1 {
		t.Errorf("a set of none wrote %d times, want none", got-1)
	}
	registrytest.Set(t, s, want)
	feed.Until(t, want)
	before := revision(t, c)
	registrytest.Set(t, s, want)
	if got := revision(t, c); got != before {
		t.Errorf("an equal set wrote %d times, want none", got-before)
	}
	want.State = service.Unhealthy
	registrytest.Set(t, s, want)
	feed.Until(t, want)
	registrytest.Set(t, s)
	feed.Until(t)
	registrytest.Set(t, s, want)
	feed.Until(t, want)
	if err := s.Close(limited(t)); err != nil {
		t.Fatal(err)
	}
	feed.Until(t)
	if leases, err := c.Leases(limited(t)); err != nil || len(leases.Leases) != 0 {
		t.Errorf("got %v (%v), want no lease left", leases, err)
	}
}

// With a parting lease the instance stays for its time.
func TestLoneParts(t *testing.T) {
	srv := newServer(t)
	c := srv.dial(t)
	r := newLone(c, "a")
	r.ExitTTL = time.Hour
	s := registrytest.Open(t, r)
	want := byCommand("web")
	registrytest.Set(t, s, want)
	if err := s.Close(limited(t)); err != nil {
		t.Fatal(err)
	}
	registrytest.Watch(t, newWatcher(c)).Until(t, want)
	resp, err := c.Get(limited(t), want.Key(prefix))
	if err != nil {
		t.Fatal(err)
	}
	left, err := c.TimeToLive(limited(t), clientv3.LeaseID(resp.Kvs[0].Lease))
	if err != nil || left.GrantedTTL != 3600 {
		t.Errorf("got a lease of %v s (%v), want 3600", left, err)
	}
}

// TestLoneBesideAnAgent: the exact set of an agent's session leaves alone what commands hold: at the
// start, at each set, when it takes over, parts or deregisters (F15). And the other way round.
func TestLoneBesideAnAgent(t *testing.T) {
	srv := newServer(t)
	c := srv.dial(t)
	feed := registrytest.Watch(t, newWatcher(c))
	command := registrytest.Open(t, newLone(c, "a"))
	held, web := byCommand("db"), registrytest.Instance("a", "web", 2)
	registrytest.Set(t, command, held)
	at := func() int64 {
		t.Helper()
		resp, err := c.Get(limited(t), held.Key(prefix))
		if err != nil || len(resp.Kvs) != 1 {
			t.Fatalf("the command's key: got %v (%v), want one", resp.Kvs, err)
		}
		return resp.Kvs[0].ModRevision
	}
	written := at()

	first := registrytest.Open(t, newRegistry(c, registrytest.Node("a", "agent-a")))
	registrytest.Set(t, first, web)
	feed.Until(t, held, web)
	parting := newRegistry(c, registrytest.Node("a", "agent-a"))
	parting.ExitTTL = time.Hour
	second := registrytest.Open(t, parting)
	registrytest.Set(t, second, web)
	if err := second.Close(limited(t)); err != nil {
		t.Fatal(err)
	}
	third := registrytest.Open(t, newRegistry(c, registrytest.Node("a", "agent-a")))
	registrytest.Set(t, third)
	feed.Until(t, held)
	if err := third.Close(limited(t)); err != nil {
		t.Fatal(err)
	}
	if got := at(); got != written {
		t.Errorf("the command's key was written at revision %d, and then at %d: want it left alone", written, got)
	}

	fourth := registrytest.Open(t, newRegistry(c, registrytest.Node("a", "agent-a")))
	registrytest.Set(t, fourth, web, held) // what is of a command, an agent cannot write
	if got := at(); got != written {
		t.Errorf("an agent has written a command's key")
	}
	if err := command.Close(limited(t)); err != nil {
		t.Fatal(err)
	}
	feed.Until(t, web)
	select {
	case <-fourth.Done():
		t.Error("the agent's session ended with the command's")
	default:
	}
}

// TestLoneWaitsForAnother: of two commands that register the same, the second waits with a sentence
// and writes nothing, and has its turn when the first has ended (P9).
func TestLoneWaitsForAnother(t *testing.T) {
	srv := newServer(t)
	c := srv.dial(t)
	want := byCommand("web")
	first, second := registrytest.Open(t, newLone(c, "a")), registrytest.Open(t, newLone(c, "a"))
	registrytest.Set(t, first, want)
	before := revision(t, c)
	other := want
	other.Weight = 5
	err := second.Set(limited(t), registrytest.Of(other))
	if _, ok := errors.AsType[*HeldError](err); !ok || !strings.Contains(err.Error(), want.Key(prefix)) || !strings.Contains(err.Error(), "end one of the two") {
		t.Errorf("got %v, want a HeldError that names the key and the mend", err)
	}
	if got := revision(t, c); got != before {
		t.Errorf("waiting wrote %d times, want none", got-before)
	}
	if err := first.Close(limited(t)); err != nil {
		t.Fatal(err)
	}
	registrytest.Set(t, second, other)
	registrytest.Watch(t, newWatcher(c)).Until(t, other)
}

// TestLoneFindsOutWhatWasTaken: what others deleted or wrote ends the session, and the next one holds
// the instance again (P3, F15).
func TestLoneFindsOutWhatWasTaken(t *testing.T) {
	tests := map[string]func(t *testing.T, c *clientv3.Client, key string) error{
		"deleted": func(t *testing.T, c *clientv3.Client, key string) error {
			t.Helper()
			_, err := c.Delete(limited(t), key)
			return err
		},
		"expired": func(t *testing.T, c *clientv3.Client, key string) error {
			t.Helper()
			resp, err := c.Get(limited(t), key)
			if err != nil {
				return err
			}
			_, err = c.Revoke(limited(t), clientv3.LeaseID(resp.Kvs[0].Lease))
			return err
		},
	}
	for name, take := range tests {
		t.Run(name, func(t *testing.T) {
			srv := newServer(t)
			c := srv.dial(t)
			r := newLone(c, "a")
			s := registrytest.Open(t, r)
			want := byCommand("web")
			registrytest.Set(t, s, want)
			if err := take(t, c, want.Key(prefix)); err != nil {
				t.Fatal(err)
			}
			want.Weight = 7
			if err := s.Set(limited(t), registrytest.Of(want)); !errors.Is(err, ErrUndone) && !errors.Is(err, ErrLeaseLost) {
				t.Errorf("got %v, want that the session is over", err)
			}
			select {
			case <-s.Done():
			case <-time.After(30 * time.Second):
				t.Fatal("the session was not done")
			}
			if err := s.Close(limited(t)); err != nil {
				t.Errorf("Close: %v", err)
			}
			registrytest.Set(t, registrytest.Open(t, r), want)
			registrytest.Watch(t, newWatcher(c)).Until(t, want)
		})
	}
}

// A write whose answer was lost is found to be the session's own.
func TestLoneKnowsItsOwnWrite(t *testing.T) { // P3
	srv := newServer(t)
	c := srv.dial(t)
	s, err := newLone(c, "a").Open(limited(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.WithoutCancel(t.Context()))
	want := byCommand("web")
	value, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(limited(t), want.Key(prefix), string(value), clientv3.WithLease(s.(*loneSession).lease)); err != nil {
		t.Fatal(err)
	}
	before := revision(t, c)
	if err := s.Set(limited(t), registrytest.Of(want)); err == nil {
		t.Error("a key that was not known to be there was written over")
	}
	registrytest.Set(t, s, want)
	if got := revision(t, c); got != before {
		t.Errorf("%d writes, want none", got-before)
	}
}

// TestLoneFollowsThePublisher: the command's session is one for a register.Publisher, which opens
// another when the lease is lost.
func TestLoneFollowsThePublisher(t *testing.T) { // P3
	srv := newServer(t)
	c := srv.dial(t)
	want := byCommand("web")
	feed := registrytest.Watch(t, newWatcher(c))
	ctx, cancel := context.WithCancel(t.Context())
	in, done := make(chan register.Set), make(chan error, 1)
	go func() { done <- (&register.Publisher{Registry: newLone(c, "a"), Log: quiet()}).Run(ctx, in) }()
	in <- registrytest.Of(want)
	feed.Until(t, want)
	resp, err := c.Get(limited(t), want.Key(prefix))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Revoke(limited(t), clientv3.LeaseID(resp.Kvs[0].Lease)); err != nil {
		t.Fatal(err)
	}
	feed.Until(t)
	feed.Until(t, want)
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	feed.Until(t)
}
