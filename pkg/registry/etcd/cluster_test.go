package etcd

import (
	"cmp"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// addresses counts the loopback addresses in use, so that each member has one of its own.
var addresses atomic.Int32

// address is a loopback address that nobody else has.
func address() string {
	return fmt.Sprintf("127.%d.%d.%d", 128+os.Getpid()%64, os.Getpid()/64%250, addresses.Add(1))
}

// member is a real etcd at an address of its own, which clients reach by a way that can be cut.
type member struct {
	name, addr, dir string
	config          func(*embed.Config)
	peers           string
	state           string
	running         *embed.Etcd
	way             *link
}

func (m *member) direct() string { return m.scheme() + "://" + m.addr + ":2379" }
func (m *member) at() string     { return m.scheme() + "://" + cmp.Or(m.way.name, m.way.path) }

func (m *member) scheme() string {
	c := embed.NewConfig()
	m.config(c)
	if c.ClientTLSInfo.CertFile != "" {
		return "https"
	}
	return "http"
}

// newCluster starts a cluster of that many members with configurations that config has changed.
func newCluster(t *testing.T, size int, config func(*embed.Config)) []*member {
	t.Helper()
	if config == nil {
		config = func(*embed.Config) {}
	}
	var at []string
	for range size {
		at = append(at, address())
	}
	return newClusterAt(t, at, config)
}

func newClusterAt(t *testing.T, addresses []string, config func(*embed.Config)) []*member {
	t.Helper()
	var members []*member
	var peers []string
	for n, addr := range addresses {
		m := &member{name: fmt.Sprintf("m%d", n+1), addr: addr, dir: t.TempDir(), config: config, state: embed.ClusterStateFlagNew}
		members, peers = append(members, m), append(peers, m.name+"=http://"+m.addr+":2380")
	}
	for _, m := range members {
		m.peers = strings.Join(peers, ",")
		m.start(t)
		m.way = linkTo(t, "tcp", m.addr+":2379", m.addr+":2378")
		t.Cleanup(func() { m.stop(t) })
	}
	for _, m := range members {
		m.ready(t)
	}
	return members
}

func (m *member) start(t *testing.T) {
	t.Helper()
	c := embed.NewConfig()
	m.config(c)
	client, peer := url.URL{Scheme: m.scheme(), Host: m.addr + ":2379"}, url.URL{Scheme: "http", Host: m.addr + ":2380"}
	c.Name, c.Dir, c.UnsafeNoFsync = m.name, filepath.Join(m.dir, "data"), true
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	c.InitialCluster, c.ClusterState = m.peers, m.state
	c.TickMs, c.ElectionMs = 100, 1000
	c.BcryptCost = 4 // passwords are slow on purpose, and slower still where races are looked for
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	running, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	m.running, m.state = running, embed.ClusterStateFlagExisting
}

func (m *member) ready(t *testing.T) {
	t.Helper()
	select {
	case <-m.running.Server.ReadyNotify():
	case err := <-m.running.Err():
		t.Fatal(err)
	case <-time.After(patience):
		t.Fatalf("member %s is not ready", m.name)
	}
}

// stop ends a member as a crash does: its clients' connections go first.
func (m *member) stop(t *testing.T) {
	t.Helper()
	if m.way != nil {
		m.way.freeze(false)
		m.way.cut()
	}
	if m.running != nil {
		m.running.Close()
	}
	m.running = nil
}

// back starts a member again that was stopped.
func (m *member) back(t *testing.T) {
	t.Helper()
	m.start(t)
	m.ready(t)
	m.way.mend(t)
}

func endpointsOf(members ...*member) []string {
	var all []string
	for _, m := range members {
		all = append(all, m.at())
	}
	return all
}

func dialed(tb testing.TB, cfg Config) *clientv3.Client {
	tb.Helper()
	c, err := Dial(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}

// patience is the longest that a condition may take on a machine that has much else to do.
const patience = time.Minute

// eventually waits for a condition: that fault finds no fault any more.
func eventually(t *testing.T, what string, fault func() error) {
	t.Helper()
	limit := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := fault()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("never: %s: %v", what, err)
		}
	}
}
