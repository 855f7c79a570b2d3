package e2e

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// etcdMember is one of several real members.
type etcdMember struct {
	addr   string
	server *embed.Etcd
	stop   func() // may be called again
}

// members starts an etcd of that many members, each with a loopback address of its own.
func (w *world) members(size int) []*etcdMember {
	w.Helper()
	var all []*etcdMember
	var peers []string
	for n := range size {
		m := &etcdMember{addr: fmt.Sprintf("127.%d.%d.%d", 64+os.Getpid()%64, os.Getpid()/64%250, worlds.Add(1))}
		all, peers = append(all, m), append(peers, fmt.Sprintf("m%d=http://%s:2380", n, m.addr))
	}
	for n, m := range all {
		c := embed.NewConfig()
		client, peer := url.URL{Scheme: "http", Host: m.addr + ":2379"}, url.URL{Scheme: "http", Host: m.addr + ":2380"}
		c.Name, c.Dir, c.InitialCluster = fmt.Sprintf("m%d", n), w.path(fmt.Sprintf("m%d", n)), strings.Join(peers, ",")
		c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
		c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
		c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
		server, err := embed.StartEtcd(c)
		w.check(err)
		m.server, m.stop = server, sync.OnceFunc(server.Close)
		w.Cleanup(m.stop)
	}
	for _, m := range all {
		select {
		case <-m.server.Server.ReadyNotify():
		case err := <-m.server.Err():
			w.Fatal(err)
		case <-w.ctx.Done():
			w.Fatal(w.ctx.Err())
		}
	}
	return all
}

// TestMembersChangeInTheFile: the configuration file names other members, and the one before is stopped:
// the agent goes on with the new ones under its lease, and no key is written for it. A file that is
// broken, or asks for what needs a restart, changes nothing. P3, P10.
func TestMembersChangeInTheFile(t *testing.T) {
	leftOut(t, "haproxy") // without which nothing is built
	w := emptyWorld(t)
	members := w.members(3)
	file := func(registry string) {
		w.Helper()
		w.check(os.WriteFile(w.path("new.yaml"), []byte("registry: "+registry+"\nttl: 6s\n"), 0o600))
		w.check(os.Rename(w.path("new.yaml"), w.path("sidekick.yaml")))
	}
	file("etcd://" + members[0].addr)
	w.declare("kiosk.yaml", w.item(app{service: "kiosk"}, 9001))
	w.listens(9001, "one")
	w.agent = w.start("agent", "run", "--config", w.path("sidekick.yaml"), "--docker", "off", "--haproxy", "off", "--services-dir", w.path("services"),
		"--advertise", w.host, "--node", "here", "--state-dir", w.path("state"), "--admin", w.adminAddr(), "--log-format", "text")
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{members[1].addr + ":2379"}, Logger: zap.NewNop()})
	w.check(err)
	t.Cleanup(func() { client.Close() })
	keys := func() (list []string) {
		w.Helper()
		resp, err := client.Get(w.ctx, "/sidekick/", clientv3.WithPrefix())
		w.check(err)
		for _, kv := range resp.Kvs {
			list = append(list, fmt.Sprint(string(kv.Key), " at ", kv.ModRevision, " under ", kv.Lease))
		}
		return list
	}
	w.until("the service is registered", func() error { return w.sees("kiosk", "here") })
	w.inStep()
	before := keys()

	says := func(parts ...string) {
		w.Helper()
		w.until("the agent says "+parts[0], func() error {
			if text := w.agent.Tail(100); !containsAll(text, parts...) {
				return errors.New(text)
			}
			return nil
		})
	}
	file("etcds://" + members[1].addr)
	says("needs a restart of the agent", "is not taken up")
	file("[")
	says("not YAML", "is not taken up")
	file("etcd://" + members[1].addr + "," + members[2].addr)
	says("the registry's hosts have changed in the configuration file")
	members[0].stop()
	w.renews(3)
	w.inStep()
	if now := keys(); fmt.Sprint(now) != fmt.Sprint(before) {
		w.Errorf("got the keys %v, want %v as before", now, before)
	}
	w.declare("more.yaml", w.item(app{service: "more"}, 9001))
	w.until("another service is registered", func() error { return w.sees("more", "here") })
	if n := strings.Count(w.agent.Tail(1000), "is not taken up"); n != 2 {
		w.Errorf("got %d complaints of two files, want one of each", n)
	}
}
