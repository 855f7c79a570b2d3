package etcd

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/sidekick-proxy/sidekick/pkg/catalog"
	"github.com/sidekick-proxy/sidekick/pkg/register"
	"github.com/sidekick-proxy/sidekick/pkg/registry/registrytest"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// newProxy starts what `etcd grpc-proxy start` runs, before a server, and returns its address.
func newProxy(tb testing.TB, s *server) string {
	tb.Helper()
	upstream, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + s.dir + "/etcd.sock"}, Logger: zap.NewNop()})
	if err != nil {
		tb.Fatal(err)
	}
	kv, _ := grpcproxy.NewKvProxy(upstream)
	watch, watched := grpcproxy.NewWatchProxy(upstream.Ctx(), zap.NewNop(), upstream)
	lease, leased := grpcproxy.NewLeaseProxy(upstream.Ctx(), upstream)
	g := grpc.NewServer()
	pb.RegisterKVServer(g, kv)
	pb.RegisterWatchServer(g, watch)
	pb.RegisterLeaseServer(g, lease)
	path := filepath.Join(s.dir, "proxy.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		tb.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	tb.Cleanup(func() {
		g.Stop()
		upstream.Close()
		<-served
		<-watched
		<-leased
		os.Remove(path)
	})
	return "unix://" + path
}

func dialTo(tb testing.TB, endpoint string) *clientv3.Client {
	tb.Helper()
	c, err := Dial(Config{Endpoints: []string{endpoint}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}

// All that a registry owes holds through etcd's gRPC proxy as well. The connection to the proxy stays
// when etcd restarts, so that a session finds out what a restored etcd lacks by looking from time to time.
func TestConformanceThroughProxy(t *testing.T) {
	registrytest.Run(t, func(t *testing.T) registrytest.Store {
		t.Helper()
		s, srv := newStore(t)
		at := newProxy(t, srv)
		open := func(n service.Node) *Registry {
			r := newRegistry(dialTo(t, at), n)
			r.Inspect = time.Second
			return r
		}
		s.Watcher = func() catalog.Watcher { return newWatcher(dialTo(t, at)) }
		s.Registry = func(n service.Node) register.Registry { return open(n) }
		s.Parting = func(n service.Node) register.Registry {
			r := open(n)
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
