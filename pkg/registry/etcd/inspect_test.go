package etcd

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/registry/registrytest"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

func openSession(t *testing.T, r *Registry) *session {
	t.Helper()
	opened, err := r.Open(limited(t))
	if err != nil {
		t.Fatal(err)
	}
	s, ok := opened.(*session)
	if !ok {
		t.Fatalf("got a %T", opened)
	}
	t.Cleanup(func() { _ = s.Close(context.WithoutCancel(t.Context())) })
	return s
}

// endOf waits for the session's end and returns why it came.
func endOf(t *testing.T, s *session) error {
	t.Helper()
	select {
	case <-s.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the session was not done")
	}
	return s.over()
}

func TestChangesByOthersAreFoundWhileConnected(t *testing.T) { // P3
	node := service.NodeKey(prefix, "a")
	web1, web2 := registrytest.Instance("a", "web", 1), registrytest.Instance("a", "web", 2)
	tests := []struct {
		name   string
		change func(ctx context.Context, c *clientv3.Client) error
		want   error
	}{
		{"instance deleted", func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.Delete(ctx, web1.Key(prefix))
			return err
		}, ErrUndone},
		{"instance written", func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.Put(ctx, web1.Key(prefix), "{}")
			return err
		}, ErrUndone},
		{"instance added", func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.Put(ctx, web2.Key(prefix), "{}")
			return err
		}, ErrUndone},
		{"node deleted", func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.Delete(ctx, node)
			return err
		}, ErrLeaseLost},
		{"node written", func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.Put(ctx, node, "{}")
			return err
		}, ErrFenced},
	}
	srv := newServer(t)
	c := srv.dial(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRegistry(c, registrytest.Node("a", "agent-a"))
			r.TTL, r.Inspect = time.Minute, 50*time.Millisecond
			s := openSession(t, r)
			registrytest.Set(t, s, web1)
			if err := s.look(limited(t)); err != nil {
				t.Fatalf("before the change: %v", err)
			}
			if err := tt.change(limited(t), c); err != nil {
				t.Fatal(err)
			}
			if err := endOf(t, s); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if tt.want == ErrFenced { //nolint:errorlint // a value of the table
				if _, err := c.Delete(limited(t), node); err != nil {
					t.Fatal(err)
				}
			}
			r.Inspect = 0
			again := openSession(t, r)
			registrytest.Set(t, again, web1)
			if c := registrytest.Watch(t, newWatcher(c)).Next(t); registrytest.Diff(c, []service.Instance{web1}) != "" || len(c.Nodes) != 1 {
				t.Errorf("after the next session's set: %s, nodes %v", registrytest.Diff(c, []service.Instance{web1}), c.Nodes)
			}
			if err := again.Close(limited(t)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A look beside writes never takes them for those of others, and writes nothing itself (P10).
func TestLooksBesideWritesFindNothing(t *testing.T) {
	srv := newServer(t)
	c := srv.dial(t)
	s := openSession(t, newRegistry(c, registrytest.Node("a", "agent-a")))
	ctx, cancel := context.WithCancel(t.Context())
	var looks atomic.Int64
	done := make(chan error)
	go func() {
		var err error
		for ctx.Err() == nil && (err == nil || errors.Is(err, errBusy)) {
			err = s.look(ctx)
			looks.Add(1)
		}
		done <- err
	}()
	before := revision(t, c)
	for n := range 200 {
		registrytest.Set(t, s, registrytest.Instance("a", "web", n))
	}
	cancel()
	if err := <-done; err != nil && !errors.Is(err, errBusy) && !errors.Is(err, context.Canceled) {
		t.Errorf("look %d: %v", looks.Load(), err)
	}
	if err := s.look(limited(t)); err != nil {
		t.Errorf("after all writes: %v", err)
	}
	if got := revision(t, c); got != before+200 {
		t.Errorf("%d writes, want 200", got-before)
	}
}

func TestSetSeesThatTheRegistryWasReplaced(t *testing.T) {
	srv := newServer(t)
	s := openSession(t, newRegistry(srv.dial(t), registrytest.Node("a", "agent-a")))
	s.mu.Lock()
	s.revision += 1000
	s.mu.Unlock()
	if err := s.Set(limited(t), registrytest.Of(registrytest.Instance("a", "web", 1))); !errors.Is(err, ErrUndone) {
		t.Errorf("got %v, want %v", err, ErrUndone)
	}
	endOf(t, s)
}

func TestSetSaysThatTheNodeIsGone(t *testing.T) {
	srv := newServer(t)
	c := srv.dial(t)
	s := openSession(t, newRegistry(c, registrytest.Node("a", "agent-a")))
	if _, err := c.Delete(limited(t), service.NodeKey(prefix, "a")); err != nil {
		t.Fatal(err)
	}
	err := s.Set(limited(t), registrytest.Of(registrytest.Instance("a", "web", 1)))
	if !errors.Is(err, ErrLeaseLost) || errors.Is(err, ErrFenced) {
		t.Errorf("got %v, want %v", err, ErrLeaseLost)
	}
}

func TestRenewalIsNoSuccessWhileSetFails(t *testing.T) {
	srv := newServer(t)
	r := newRegistry(password(t, srv), registrytest.Node("a", "agent-a"))
	var reports atomic.Int64
	r.TTL, r.Report = time.Hour, func(error) { reports.Add(1) }
	s := openSession(t, r)
	told := func() bool {
		before := reports.Load()
		s.tell(nil)
		return reports.Load() > before
	}
	if !told() {
		t.Error("a renewal before the first set was not reported")
	}
	root := srv.dialAs(t, "root", "secret")
	grant := func(may clientv3.PermissionType) {
		if _, err := root.RoleGrantPermission(limited(t), "agent", prefix, clientv3.GetPrefixRangeEnd(prefix), may); err != nil {
			t.Fatal(err)
		}
	}
	grant(clientv3.PermissionType(clientv3.PermRead))
	web := registrytest.Instance("a", "web", 1)
	if err := s.Set(limited(t), registrytest.Of(web)); err == nil {
		t.Fatal("Set succeeded without the right to write")
	}
	if told() {
		t.Error("a renewal was reported as success while Set fails")
	}
	grant(clientv3.PermissionType(clientv3.PermReadWrite))
	registrytest.Set(t, s, web)
	if !told() {
		t.Error("a renewal after a set was not reported")
	}
}

func TestRestartedMachineKeepsNothing(t *testing.T) {
	srv := newServer(t)
	c := srv.dial(t)
	n := registrytest.Node("a", "agent-a")
	n.Boot = "boot-1"
	parting := newRegistry(c, n)
	parting.ExitTTL = time.Hour
	s := openSession(t, parting)
	web1, web2 := registrytest.Instance("a", "web", 1), registrytest.Instance("a", "web", 2)
	registrytest.Set(t, s, web1)
	if err := s.Close(limited(t)); err != nil {
		t.Fatal(err)
	}
	n.Boot = "boot-2"
	again := openSession(t, newRegistry(c, n))
	if k := again.keys[web1.Key(prefix)]; k.lease == again.lease || k.lease == 0 {
		t.Errorf("what ran before the restart is under lease %x, want the one that runs out", k.lease)
	}
	registrytest.Set(t, again, web2)
	registrytest.Watch(t, newWatcher(c)).Until(t, web2)
	leases, err := c.Leases(limited(t))
	if err != nil || len(leases.Leases) != 1 {
		t.Errorf("got leases %v, %v, want the one in use", leases, err)
	}
}

// What was moved under a new lease must not go with it when the rest could not be.
func TestFailedOpenTakesNothingAway(t *testing.T) {
	srv := newServer(t)
	c := password(t, srv)
	registrytest.Set(t, openSession(t, newRegistry(c, registrytest.Node("a", "agent-a"))), registrytest.Instance("a", "web", 1))
	root := srv.dialAs(t, "root", "secret")
	grant := func(key string, may clientv3.PermissionType) {
		if _, err := root.RoleGrantPermission(limited(t), "agent", key, clientv3.GetPrefixRangeEnd(key), may); err != nil {
			t.Fatal(err)
		}
	}
	grant(prefix, clientv3.PermissionType(clientv3.PermRead))
	grant(service.NodeKey(prefix, "a"), clientv3.PermissionType(clientv3.PermReadWrite))
	r := newRegistry(c, registrytest.Node("a", "agent-a"))
	if _, err := r.Open(limited(t)); err == nil {
		t.Fatal("Open succeeded though it could not move what was registered")
	}
	resp, err := c.Get(limited(t), service.NodeKey(prefix, "a"))
	if err != nil || len(resp.Kvs) != 1 {
		t.Errorf("the node's key, the first that was moved, went with the lease: %v", err)
	}
	grant(prefix, clientv3.PermissionType(clientv3.PermReadWrite))
	registrytest.Set(t, openSession(t, r), registrytest.Instance("a", "web", 2))
}

func TestOwnedErrorLeavesOutWhatIsUnknown(t *testing.T) {
	got := (&OwnedError{Node: "a", Owner: service.Node{Agent: "x"}}).Error()
	if want := "another agent (x):"; !strings.Contains(got, want) {
		t.Errorf("got %q, want it to contain %q", got, want)
	}
}
