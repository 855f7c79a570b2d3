package histories

import (
	"context"
	"os"
	"path"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/register"
	"github.com/sidekick-proxy/sidekick/pkg/registry/embedded"
	"github.com/sidekick-proxy/sidekick/pkg/registry/etcd"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// store is a real etcd with a client of its own.
type store struct{ *clientv3.Client }

func newEtcd(tb testing.TB) store {
	tb.Helper()
	dir, err := os.MkdirTemp("", "sk") //nolint:usetesting // tb.TempDir is too long for a socket
	if err != nil {
		tb.Fatal(err)
	}
	server, err := embedded.Start(context.WithoutCancel(tb.Context()), embedded.Config{Dir: dir, Log: quiet()})
	if err != nil {
		tb.Fatal(err)
	}
	client, err := etcd.Dial(etcd.Config{Endpoints: []string{"unix://" + dir + "/etcd.sock"}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = client.Close()
		_ = server.Stop()
		_ = os.RemoveAll(dir)
	})
	return store{client}
}

// registry is the agent's, whose entries outlast its end.
func (s store) registry(prefix string) register.Registry { return s.leased(prefix, time.Minute) }

func (s store) leased(prefix string, ttl time.Duration) register.Registry {
	return &etcd.Registry{
		Client: s.Client, Prefix: prefix, TTL: ttl, ExitTTL: time.Minute, Log: quiet(),
		Node: service.Node{Name: node, Agent: "agent", Machine: "machine", Address: "192.0.2.1", Version: "test"},
	}
}

// instances reads what is registered.
func (s store) instances(ctx context.Context, prefix string) ([]service.Instance, error) {
	resp, err := s.Get(ctx, service.InstancesKey(prefix, node), clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	var all []service.Instance
	for _, kv := range resp.Kvs {
		i, err := service.DecodeInstance(node, path.Base(string(kv.Key)), kv.Value)
		if err != nil {
			return nil, err
		}
		i.Container = i.ID[:min(len(i.ID), 12)]
		all = append(all, i)
	}
	return all, nil
}

// revision counts the transactions that wrote something.
func (s store) revision(tb testing.TB) int64 {
	tb.Helper()
	resp, err := s.Get(tb.Context(), "x")
	if err != nil {
		tb.Fatal(err)
	}
	return resp.Header.Revision
}

// counter reads one of the server's own counters.
func counter(tb testing.TB, name string) float64 {
	tb.Helper()
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	tb.Fatalf("etcd counts no %s", name)
	return 0
}
