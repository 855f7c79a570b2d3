package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/sidekick-proxy/sidekick/pkg/registry/registrytest"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

func TestForgottenLeaseIsFoundOutAtReconnect(t *testing.T) { // P3
	srv := newServer(t)
	r := newRegistry(srv.dial(t), registrytest.Node("a", "agent-a"))
	r.TTL = time.Hour // the next renewal is 20 minutes away
	s := registrytest.Open(t, r)
	want := registrytest.Instance("a", "web", 1)
	registrytest.Set(t, s, want)
	srv.stop(t)
	srv.wipe(t)
	srv.start(t)
	select {
	case <-s.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the session was not done")
	}
	if err := s.Set(limited(t), registrytest.Of(want)); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("got %v, want %v", err, ErrLeaseLost)
	}
	registrytest.Set(t, registrytest.Open(t, r), want)
	registrytest.Watch(t, newWatcher(srv.dial(t))).Until(t, want)
}

func TestUnansweredLeaseIsLostAfterItsTime(t *testing.T) {
	srv := newServer(t)
	l := newLink(t, srv)
	r := newRegistry(l.dial(t), registrytest.Node("a", "agent-a"))
	r.TTL = 2 * time.Second
	s := registrytest.Open(t, r)
	l.freeze(true)
	select {
	case <-s.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the session was not done")
	}
	if err := s.Set(limited(t), registrytest.Of()); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("got %v, want %v", err, ErrLeaseLost)
	}
}

func TestFencedSessionEndsByItself(t *testing.T) { // F15
	srv := newServer(t)
	c := srv.dial(t)
	older := registrytest.Open(t, newRegistry(c, registrytest.Node("a", "agent-a")))
	newer := registrytest.Open(t, newRegistry(c, registrytest.Node("a", "agent-a")))
	registrytest.Set(t, newer, registrytest.Instance("a", "web", 1))
	select {
	case <-older.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the older session, which never writes, was not done")
	}
}

func TestFencedWriteSaysSo(t *testing.T) { // F15, P9
	srv := newServer(t)
	c := srv.dial(t)
	older := registrytest.Open(t, newRegistry(c, registrytest.Node("a", "agent-a")))
	registrytest.Open(t, newRegistry(c, registrytest.Node("a", "agent-a")))
	if err := older.Set(limited(t), registrytest.Of(registrytest.Instance("a", "web", 1))); !errors.Is(err, ErrFenced) {
		t.Errorf("got %v, want %v", err, ErrFenced)
	}
}

func TestOwnedErrorNamesTheOtherAndTheMend(t *testing.T) { // P9
	srv := newServer(t)
	c := srv.dial(t)
	registrytest.Open(t, newRegistry(c, registrytest.Node("a", "agent-1")))
	if _, err := c.Put(limited(t), service.NodeKey(prefix, "b"), "by hand"); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		node service.Node
		want []string
	}{
		{registrytest.Node("a", "agent-2"), []string{"node name a", "agent-1", "192.0.2.1", "--node"}},
		{registrytest.Node("b", "agent-2"), []string{"node name b", "no agent wrote", "/sidekick/v1/nodes/b", "--node"}},
	}
	for _, tt := range tests {
		_, err := newRegistry(c, tt.node).Open(limited(t))
		if _, ok := errors.AsType[*OwnedError](err); !ok {
			t.Errorf("node %s: got %v, want an OwnedError", tt.node.Name, err)
			continue
		}
		for _, w := range tt.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("got %q, want it to contain %q", err, w)
			}
		}
	}
}

func TestDeregistrationLooksExplicit(t *testing.T) {
	srv := newServer(t)
	c := srv.dial(t)
	s := registrytest.Open(t, newRegistry(c, registrytest.Node("a", "agent-a")))
	i := registrytest.Instance("a", "web", 1)
	registrytest.Set(t, s, i)
	from := revision(t, c) + 1
	if err := s.Close(limited(t)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := range c.Watch(limited(t), prefix, clientv3.WithPrefix(), clientv3.WithRev(from)) {
		for _, e := range r.Events {
			got = append(got, fmt.Sprint(e.Type, " ", string(e.Kv.Key), " ", e.Kv.ModRevision-from))
			if e.Type == clientv3.EventTypePut && !strings.Contains(string(e.Kv.Value), `"leaving":true`) {
				t.Errorf("the node's key says %s, want that it leaves", e.Kv.Value)
			}
		}
		if len(got) >= 3 {
			break
		}
	}
	want := []string{"DELETE /sidekick/v1/instances/a/c1.web.80 0", "PUT /sidekick/v1/nodes/a 1", "DELETE /sidekick/v1/nodes/a 2"}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("events (-got +want):\n%s", diff)
	}
}

func TestOpenGivesUnusedLeaseBack(t *testing.T) {
	srv := newServer(t)
	c := srv.dial(t)
	registrytest.Open(t, newRegistry(c, registrytest.Node("a", "agent-1")))
	if _, err := newRegistry(c, registrytest.Node("a", "agent-2")).Open(limited(t)); err == nil {
		t.Fatal("a held node was opened")
	}
	leases, err := c.Leases(limited(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(leases.Leases) != 1 {
		t.Errorf("got %d leases, want the one in use", len(leases.Leases))
	}
}

// password protects the server, and returns a client of a user that may only use the prefix.
func password(t *testing.T, srv *server) *clientv3.Client {
	t.Helper()
	protect(t, srv.dial(t))
	return srv.dialAs(t, "agent", "word")
}

func protect(t *testing.T, admin *clientv3.Client) {
	t.Helper()
	ctx := limited(t)
	_, err1 := admin.RoleAdd(ctx, "root")
	_, err2 := admin.UserAdd(ctx, "root", "secret")
	_, err3 := admin.UserGrantRole(ctx, "root", "root")
	_, err4 := admin.RoleAdd(ctx, "agent")
	_, err5 := admin.RoleGrantPermission(ctx, "agent", prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermReadWrite))
	_, err6 := admin.UserAdd(ctx, "agent", "word")
	_, err7 := admin.UserGrantRole(ctx, "agent", "agent")
	_, err8 := admin.AuthEnable(ctx)
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7, err8); err != nil {
		t.Fatal(err)
	}
}

func (s *server) dialAs(t *testing.T, user, password string) *clientv3.Client {
	t.Helper()
	c, err := Dial(Config{Endpoints: []string{"unix://" + s.dir + "/etcd.sock"}, Username: user, Files: Files{Password: secretFile(t, password)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func secretFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestExpiredTokenIsReplaced(t *testing.T) { // P3, F3
	srv := newServer(t)
	c := password(t, srv)
	r := newRegistry(c, registrytest.Node("a", "agent-a"))
	r.TTL = time.Minute
	s := registrytest.Open(t, r)
	web1, web2 := registrytest.Instance("a", "web", 1), registrytest.Instance("a", "web", 2)
	registrytest.Set(t, s, web1)
	feed := registrytest.Watch(t, newWatcher(c))
	feed.Until(t, web1)
	srv.stop(t) // it keeps tokens in memory only
	srv.start(t)
	registrytest.Set(t, s, web1, web2)
	feed.Until(t, web1, web2)
}

// TestTokensRunOut: tokens that live shorter than the time between two requests are no failure.
func TestTokensRunOut(t *testing.T) { // P3, F3
	t.Parallel()
	member := newCluster(t, 1, func(c *embed.Config) { c.AuthTokenTTL = 1 })[0]
	protect(t, dialed(t, Config{Endpoints: endpointsOf(member)}))
	c := dialed(t, Config{Endpoints: endpointsOf(member), Username: "agent", Files: Files{Password: secretFile(t, "word")}})
	var renewals, failures atomic.Int64
	r := newRegistry(c, registrytest.Node("a", "agent-a"))
	r.Report = func(err error) {
		if renewals.Add(1); err != nil {
			failures.Add(1)
		}
	}
	s := openSession(t, r)
	w := newWatcher(c)
	w.Progress = 3 * time.Second
	feed := registrytest.Watch(t, w)
	for n := range 3 {
		web := registrytest.Instance("a", "web", n)
		registrytest.Set(t, s, web)
		feed.Until(t, web)
		last := renewals.Load()
		eventually(t, "the lease is renewed", func() error {
			if renewals.Load() == last {
				return errors.New("not yet")
			}
			return nil
		})
	}
	if n := failures.Load(); n > 0 {
		t.Errorf("%d renewals failed, want none", n)
	}
}

func TestWrongPasswordIsASentence(t *testing.T) {
	srv := newServer(t)
	password(t, srv)
	_, err := newRegistry(srv.dialAs(t, "agent", "wrong"), registrytest.Node("a", "agent-a")).Open(limited(t))
	if err == nil || !strings.Contains(err.Error(), "--registry-password-file") {
		t.Errorf("got %v, want the setting to look at", err)
	}
}

func TestOpenWithoutARegistryFailsInTime(t *testing.T) {
	c, err := Dial(Config{Endpoints: []string{"unix:///nowhere/etcd.sock"}, Username: "u", Files: Files{Password: secretFile(t, "p")}})
	if err != nil {
		t.Fatalf("Dial waited for the registry: %v", err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := newRegistry(c, registrytest.Node("a", "agent-a")).Open(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
}

func TestSameSeesEveryField(t *testing.T) {
	unlike := service.Instance{
		Node: "n", ID: "i", Service: "s", Address: netip.MustParseAddr("10.0.0.1"), Port: 1, State: service.Draining, Weight: 1,
		Mode: service.TCP, Hosts: []string{"h"}, Path: "/p", Listen: 1, Scope: service.ScopeNode, Container: "c", Name: "n",
		Zone: "z", Started: time.Unix(1, 0), Options: map[string]string{"o": ""}, Tags: []string{"t"}, Meta: map[string]string{"m": ""},
		Check: &service.Check{}, Told: time.Unix(2, 0), Leased: true, Doubt: &service.Doubt{},
	}
	notInValues := []string{"Check", "Told", "Leased", "Doubt"}
	fields := reflect.TypeFor[service.Instance]()
	for n := range fields.NumField() {
		var a, b service.Instance
		reflect.ValueOf(&b).Elem().Field(n).Set(reflect.ValueOf(unlike).Field(n))
		name := fields.Field(n).Name
		if reflect.DeepEqual(a, b) {
			t.Fatalf("field %s is missing in this test", name)
		}
		if got, want := same(&a, &b), slices.Contains(notInValues, name); got != want {
			t.Errorf("instances that differ in %s: same = %v, want %v", name, got, want)
		}
	}
}

// BenchmarkSet measures one call of Set with 1,000 instances beside a bare put of one value.
func BenchmarkSet(b *testing.B) {
	srv := newServer(b)
	c := srv.dial(b)
	s, err := newRegistry(c, registrytest.Node("a", "agent-a")).Open(limited(b))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close(context.WithoutCancel(b.Context()))
	var want []service.Instance
	for n := range 1000 {
		want = append(want, registrytest.Instance("a", fmt.Sprint("s", n%100), n))
	}
	if err := s.Set(b.Context(), registrytest.Of(want...)); err != nil {
		b.Fatal(err)
	}
	set := func(b *testing.B, change int) {
		b.Helper()
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			want[500].Weight = (n * change) % 200
			if err := s.Set(b.Context(), registrytest.Of(want...)); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("one change", func(b *testing.B) { set(b, 1) })
	b.Run("no change", func(b *testing.B) { set(b, 0) })
	b.Run("bare put", func(b *testing.B) {
		v, err := want[0].Encode()
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if _, err := c.Put(b.Context(), "/bare", string(v)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
