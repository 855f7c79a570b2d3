package etcd

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/newest"
	"github.com/sidekick-proxy/sidekick/pkg/ask"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

var webAt = service.Target{Service: "web", Node: "a"}

// say is a change that puts an override in the place of what is there.
func say(o *service.Override) func(*service.Override) (*service.Override, error) {
	return func(*service.Override) (*service.Override, error) { return o, nil }
}

// TestOverrideIsChangedAndEndsByItself: one with an end is forgotten by the registry itself, one without
// stays; a change sees what is there.
func TestOverrideIsChangedAndEndsByItself(t *testing.T) {
	c := newServer(t).dial(t)
	b := &Board{Client: c, Prefix: prefix}
	ctx := limited(t)
	weight := 20
	first, old, err := b.Change(ctx, webAt, say(&service.Override{Target: webAt, Weight: &weight, By: "x"}))
	if err != nil || old != nil || first == 0 {
		t.Fatalf("got revision %d, before it %+v, %v", first, old, err)
	}
	until := time.Now().Add(2 * time.Second).UTC()
	second, old, err := b.Change(ctx, webAt, func(old *service.Override) (*service.Override, error) {
		changed := *old
		changed.State, changed.Until = service.Maint, until
		return &changed, nil
	})
	if err != nil || second <= first || old == nil || *old.Weight != 20 {
		t.Fatalf("got revision %d, before it %+v, %v", second, old, err)
	}
	lease := leaseOf(t, b)
	if _, _, err := b.Change(ctx, webAt, say(&service.Override{Target: webAt, State: service.Drain, Until: until})); err != nil {
		t.Fatal(err)
	}
	if now := leaseOf(t, b); now != lease || now == 0 {
		t.Errorf("lease %d, want the %d that ends at the same time", now, lease)
	}
	untilGone(t, b, "it ends by itself")

	refusal := errors.New("no")
	if _, _, err := b.Change(ctx, webAt, func(*service.Override) (*service.Override, error) { return nil, refusal }); !errors.Is(err, refusal) {
		t.Errorf("got %v, want the refusal", err)
	}
	if _, _, err := b.Change(ctx, webAt, say(&service.Override{Target: webAt, State: service.Drain})); err != nil {
		t.Fatal(err)
	}
	if now := leaseOf(t, b); now != 0 {
		t.Errorf("lease %d, want none", now)
	}
	if _, _, err := b.Change(ctx, webAt, say(nil)); err != nil {
		t.Fatal(err)
	}
	untilGone(t, b, "it is taken away")
	if _, _, err := b.Change(ctx, webAt, say(nil)); err != nil {
		t.Errorf("what is not there cannot be taken away: %v", err)
	}
}

func leaseOf(t *testing.T, b *Board) int64 {
	t.Helper()
	resp, err := b.Client.Get(limited(t), webAt.Key(prefix))
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatalf("no override: %v", err)
	}
	return resp.Kvs[0].Lease
}

func untilGone(t *testing.T, b *Board, what string) {
	t.Helper()
	ctx := limited(t)
	for {
		resp, err := b.Client.Get(ctx, webAt.Key(prefix))
		if err != nil {
			t.Fatalf("waited for: %s: %v", what, err)
		}
		if len(resp.Kvs) == 0 {
			return
		}
		pause(ctx, 20*time.Millisecond, nil)
	}
}

// TestChangesAreNotLost: two who change one override at a time both succeed, one after the other.
func TestChangesAreNotLost(t *testing.T) {
	c := newServer(t).dial(t)
	b := &Board{Client: c, Prefix: prefix}
	meddled := false
	_, _, err := b.Change(limited(t), webAt, func(old *service.Override) (*service.Override, error) {
		if !meddled {
			meddled = true
			weight := 7
			if _, _, err := b.Change(limited(t), webAt, say(&service.Override{Target: webAt, Weight: &weight})); err != nil {
				return nil, err
			}
		}
		changed := service.Override{Target: webAt, State: service.Drain}
		if old != nil {
			changed.Weight = old.Weight
		}
		return &changed, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	o, _, err := b.read(limited(t), webAt)
	if err != nil || o.State != service.Drain || o.Weight == nil || *o.Weight != 7 {
		t.Errorf("got %+v, %v, want both changes", o, err)
	}
}

// TestAskAndAnswers: an ask made through a real registry is answered by the agents that are there, and
// leaves nothing behind. P10: with nobody asking, nothing is written.
func TestAskAndAnswers(t *testing.T) {
	srv := newServer(t)
	admin := srv.dial(t)
	ctx := limited(t)
	for _, node := range []string{"a", "b"} {
		startAnswerer(ctx, t, srv, node)
		n := service.Node{Name: node, Agent: node}
		value, err := n.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := admin.Put(ctx, service.NodeKey(prefix, node), string(value)); err != nil {
			t.Fatal(err)
		}
	}
	before := revision(t, admin)
	asker := &ask.Asker{Registry: &Board{Client: srv.dial(t), Prefix: prefix}, Watcher: newWatcher(srv.dial(t)), Prefix: prefix}
	report, err := asker.Wait(ctx, service.Ask{ID: "q", By: "test", Want: service.WantApplied, Revision: before})
	if err != nil || report.Nodes != 2 || !report.Done() {
		t.Fatalf("got %+v, %v, want the answers of two nodes", report, err)
	}
	for _, key := range []string{service.AsksKey(prefix), service.AnswersKey(prefix, "a"), service.AnswersKey(prefix, "b")} {
		for {
			resp, err := admin.Get(ctx, key+"q")
			if err != nil {
				t.Fatal(err)
			}
			if len(resp.Kvs) == 0 {
				break
			}
			pause(ctx, 20*time.Millisecond, nil)
		}
	}
	quiet := revision(t, admin)
	pause(ctx, 500*time.Millisecond, nil)
	if now := revision(t, admin); now != quiet {
		t.Errorf("revision %d became %d while nobody asks", quiet, now)
	}
}

// startAnswerer runs an agent's answerer whose proxy runs whatever the registry says.
func startAnswerer(ctx context.Context, t *testing.T, srv *server, node string) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	client := srv.dial(t)
	a := &ask.Answerer{Node: node, Agent: node, Prefix: prefix, Registry: &Board{Client: client, Prefix: prefix}, Log: quiet()}
	watched, seen, done := make(chan *service.Catalog), make(chan *service.Catalog), make(chan error, 3)
	go func() { done <- newWatcher(client).Run(ctx, watched) }()
	go func() { done <- newest.Run(ctx, watched, seen) }()
	go func() { done <- a.Run(ctx) }()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for number := uint64(1); ; number++ {
			select {
			case c := <-seen:
				a.See(c, number)
				a.InForce(number)
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		for range 3 {
			<-done
		}
		<-ended
	})
}

// TestLeaseOfTheBoard: it is renewed beyond its time, and what is under it goes with it.
func TestLeaseOfTheBoard(t *testing.T) {
	srv := newServer(t)
	client := srv.dial(t)
	b := &Board{Client: client, Prefix: prefix}
	ctx := limited(t)
	l, err := b.Open(ctx, 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Put(ctx, "/k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	pause(ctx, 4*time.Second, nil)
	resp, err := client.Get(ctx, "/k")
	if err != nil || len(resp.Kvs) != 1 {
		t.Errorf("the key is gone before its lease was closed: %v", err)
	}
	if err := l.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if resp, err = client.Get(ctx, "/k"); err != nil || len(resp.Kvs) != 0 {
		t.Errorf("the key is there after its lease was closed: %v", err)
	}
	if _, err := l.Put(ctx, "/k", nil); err == nil {
		t.Error("a key can be put under a closed lease")
	}
	if err := l.Close(ctx); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}
