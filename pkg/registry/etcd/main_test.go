package etcd

import (
	"context"
	"io"
	"os"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/sidekick-proxy/sidekick/pkg/catalog"
	"github.com/sidekick-proxy/sidekick/pkg/register"
	"github.com/sidekick-proxy/sidekick/pkg/registry/embedded"
	"github.com/sidekick-proxy/sidekick/pkg/registry/registrytest"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

const prefix = "/sidekick"

// The members of a cluster leave idle connections to each other behind; the code under test uses no
// package net/http.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreAnyFunction("net/http.(*conn).serve"), goleak.IgnoreAnyFunction("net/http.(*connReader).backgroundRead"))
}

func quiet() logrus.FieldLogger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// server is a real etcd that can be stopped and started.
type server struct {
	dir     string
	running *embedded.Server
}

func newServer(tb testing.TB) *server {
	tb.Helper()
	dir, err := os.MkdirTemp("", "sk") //nolint:usetesting // tb.TempDir is too long for a socket
	if err != nil {
		tb.Fatal(err)
	}
	s := &server{dir: dir}
	s.start(tb)
	tb.Cleanup(func() {
		s.stop(tb)
		os.RemoveAll(dir)
	})
	return s
}

func (s *server) start(tb testing.TB) {
	tb.Helper()
	running, err := embedded.Start(context.WithoutCancel(tb.Context()), embedded.Config{Dir: s.dir, Log: quiet()})
	if err != nil {
		tb.Fatal(err)
	}
	s.running = running
}

func (s *server) stop(tb testing.TB) {
	tb.Helper()
	if s.running == nil {
		return
	}
	if err := s.running.Stop(); err != nil {
		tb.Fatal(err)
	}
	s.running = nil
}

// wipe makes the next start begin with an empty registry.
func (s *server) wipe(tb testing.TB) {
	tb.Helper()
	if err := os.RemoveAll(s.dir + "/etcd/data"); err != nil {
		tb.Fatal(err)
	}
}

// save keeps a copy of the data of a stopped server.
func (s *server) save(t *testing.T) {
	t.Helper()
	if err := os.CopyFS(s.dir+"/saved", os.DirFS(s.dir+"/etcd/data")); err != nil {
		t.Fatal(err)
	}
}

// restore takes the data back that was saved.
func (s *server) restore(t *testing.T) {
	t.Helper()
	s.wipe(t)
	if err := os.Rename(s.dir+"/saved", s.dir+"/etcd/data"); err != nil {
		t.Fatal(err)
	}
}

func (s *server) dial(tb testing.TB) *clientv3.Client {
	tb.Helper()
	c, err := Dial(Config{Endpoints: []string{"unix://" + s.dir + "/etcd.sock"}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}

// becomes waits until something is so, and tells whether it is.
func becomes(so func() bool) bool {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(patience); ; {
		select {
		case <-tick.C:
			if so() {
				return true
			}
		case <-limit:
			return false
		}
	}
}

func limited(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	tb.Cleanup(cancel)
	return ctx
}

func newRegistry(c *clientv3.Client, n service.Node) *Registry {
	return &Registry{Client: c, Prefix: prefix, Node: n, TTL: 6 * time.Second, Log: quiet()}
}

func newWatcher(c *clientv3.Client) *Watcher {
	return &Watcher{Client: c, Prefix: prefix, Log: quiet(), Page: 7, Progress: time.Second}
}

func TestConformance(t *testing.T) {
	registrytest.Run(t, func(t *testing.T) registrytest.Store {
		t.Helper()
		s, srv := newStore(t)
		s.Registry = func(n service.Node) register.Registry { return newRegistry(srv.dial(t), n) }
		s.Parting = func(n service.Node) register.Registry {
			r := newRegistry(srv.dial(t), n)
			r.TTL, r.ExitTTL = time.Minute, time.Hour
			return r
		}
		s.Expire = func(t *testing.T, node string) {
			t.Helper()
			expire(t, srv.dial(t), service.NodeKey(prefix, node))
		}
		return s
	})
}

func TestConformanceOfCommands(t *testing.T) {
	registrytest.RunCommands(t, func(t *testing.T) registrytest.Store {
		t.Helper()
		s, srv := newStore(t)
		s.Commands = true
		s.Registry = func(n service.Node) register.Registry { return newLone(srv.dial(t), n.Name) }
		s.Parting = func(n service.Node) register.Registry {
			l := newLone(srv.dial(t), n.Name)
			l.TTL, l.ExitTTL = time.Minute, time.Hour
			return l
		}
		s.Expire = func(t *testing.T, node string) {
			t.Helper()
			expire(t, srv.dial(t), service.InstancesKey(prefix, node))
		}
		return s
	})
}

// newStore returns a store without what opens sessions.
func newStore(t *testing.T) (registrytest.Store, *server) {
	t.Helper()
	srv := newServer(t)
	admin := srv.dial(t)
	return registrytest.Store{
		Watcher: func() catalog.Watcher { return newWatcher(srv.dial(t)) },
		Writes: func(t *testing.T) int64 {
			t.Helper()
			return revision(t, admin)
		},
		Delete: func(t *testing.T, node string) {
			t.Helper()
			if _, err := admin.Delete(limited(t), service.InstancesKey(prefix, node), clientv3.WithPrefix()); err != nil {
				t.Fatal(err)
			}
		},
		Save:    srv.save,
		Restore: srv.restore,
		Stop: func(t *testing.T) {
			t.Helper()
			srv.stop(t)
		},
		Start: func(t *testing.T) {
			t.Helper()
			srv.start(t)
		},
	}, srv
}

func revision(tb testing.TB, c *clientv3.Client) int64 {
	tb.Helper()
	resp, err := c.Get(limited(tb), "x")
	if err != nil {
		tb.Fatal(err)
	}
	return resp.Header.Revision
}

// expire ends the lease of the keys that begin so, which have one in common.
func expire(tb testing.TB, c *clientv3.Client, key string) {
	tb.Helper()
	resp, err := c.Get(limited(tb), key, clientv3.WithPrefix())
	if err != nil || len(resp.Kvs) == 0 {
		tb.Fatalf("there is no %s: %v", key, err)
	}
	if _, err := c.Revoke(limited(tb), clientv3.LeaseID(resp.Kvs[0].Lease)); err != nil {
		tb.Fatal(err)
	}
}
