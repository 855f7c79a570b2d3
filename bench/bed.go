package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

const (
	prefix    = "/bench"
	node      = "bench"
	probeHost = "probe.bench"
)

// bed is what both ways are measured on: one etcd, two HAProxys (the agent's and the hand-made
// one), and small servers that say who they are.
type bed struct {
	dir, binary     string
	program         string // HAProxy's
	etcdAddr        string
	agentFront      string
	handFront       string
	etcd, haproxy   *process
	agent, byHand   *process
	client          *clientv3.Client
	servers         [2]netip.AddrPort
	closers         []func()
	handSocket      string
	runtimeSocket   string
	agentStats      string
	handStats       string
	agentConfigPath string
}

func newBed(ctx context.Context, binary, program string) (*bed, error) {
	dir, err := os.MkdirTemp("", "skb")
	if err != nil {
		return nil, err
	}
	b := &bed{dir: dir, binary: binary, program: program, runtimeSocket: filepath.Join(dir, "r.sock")}
	b.closers = append(b.closers, func() { os.RemoveAll(dir) })
	addrs, err := freeAddresses(5)
	if err != nil {
		return nil, err
	}
	b.etcdAddr, b.agentFront, b.handFront = addrs[0], addrs[1], addrs[2]
	b.agentStats, b.handStats = addrs[3], addrs[4]
	for i := range b.servers {
		if b.servers[i], err = b.serve(fmt.Sprintf("server-%d", i)); err != nil {
			return nil, err
		}
	}
	if b.etcd, err = start(binary, "etcd", "--state-dir", filepath.Join(dir, "e"), "--listen", b.etcdAddr); err != nil {
		return nil, err
	}
	b.closers = append(b.closers, b.etcd.stop)
	b.client, err = clientv3.New(clientv3.Config{Endpoints: []string{b.etcdAddr}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, func() { b.client.Close() })
	return b, until(ctx, "etcd", b.etcd, func() bool {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := b.client.Get(ctx, prefix)
		return err == nil
	})
}

func (b *bed) close() {
	for _, closer := range slices.Backward(b.closers) {
		closer()
	}
}

// freeAddresses returns n addresses on loopback that nobody listens on.
func freeAddresses(n int) ([]string, error) {
	var addrs []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

// serve starts a server that answers with its name.
func (b *bed) serve(name string) (netip.AddrPort, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, err
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name) })}
	go server.Serve(l) //nolint:errcheck // ends with Close
	b.closers = append(b.closers, func() { server.Close() })
	return netip.ParseAddrPort(l.Addr().String())
}

// fill writes that many instances in services of ten, and the probe service's first instance.
func (b *bed) fill(ctx context.Context, size int) error {
	var ops []clientv3.Op
	flush := func() error {
		_, err := b.client.Txn(ctx).Then(ops...).Commit()
		ops = ops[:0]
		return err
	}
	for n := range size {
		i := service.Instance{
			Node: node, ID: fmt.Sprintf("i%d", n), Service: fmt.Sprintf("s%d", n/10),
			Address: netip.AddrFrom4([4]byte{127, 2, byte(n >> 8), byte(n)}), Port: 8000,
			State: service.Ready, Weight: 100, Mode: service.HTTP, Path: "/",
			Hosts: []string{fmt.Sprintf("s%d.bench", n/10)}, Started: time.Unix(1_700_000_000, 0).UTC(),
		}
		op, err := put(&i)
		if err != nil {
			return err
		}
		if ops = append(ops, op); len(ops) == 100 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	op, err := put(b.probe(0))
	if err != nil {
		return err
	}
	ops = append(ops, op)
	return flush()
}

func put(i *service.Instance) (clientv3.Op, error) {
	value, err := i.Encode()
	return clientv3.OpPut(i.Key(prefix), string(value)), err
}

// probe is the instance of the probe service that server n stands for. Each call is a new
// registration: its id, and so the server's name in HAProxy, was not used before.
func (b *bed) probe(n int) *service.Instance {
	return &service.Instance{
		Node: node, ID: fmt.Sprintf("probe-%d-%d", n, time.Now().UnixNano()), Service: "probe",
		Address: b.servers[n].Addr(), Port: b.servers[n].Port(), State: service.Ready, Weight: 100,
		Mode: service.HTTP, Path: "/", Hosts: []string{probeHost}, Started: time.Unix(1_700_000_000, 0).UTC(),
	}
}

// answers asks the front end once, on a connection of its own, and tells who answered.
func answers(front string) string {
	conn, err := net.DialTimeout("tcp", front, time.Second)
	if err != nil {
		return ""
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	fmt.Fprintf(conn, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", probeHost)
	reply, err := io.ReadAll(conn)
	if err != nil {
		return ""
	}
	head, body, _ := strings.Cut(string(reply), "\r\n\r\n")
	if !strings.Contains(head, " 200 ") {
		return ""
	}
	return body
}

// startAgent starts HAProxy and the agent, and returns the time from the agent's start to the
// first answer. docker is the engine, as in --docker.
func (b *bed) startAgent(ctx context.Context, docker string) (time.Duration, error) {
	at := func(name string) string { return filepath.Join(b.dir, name) }
	b.agentConfigPath = at("haproxy.cfg")
	sockets := []string{"--haproxy-config", b.agentConfigPath, "--haproxy-master-socket", at("m.sock"), "--haproxy-runtime-socket", b.runtimeSocket, "--haproxy-bin", b.program}
	var err error
	if b.haproxy, err = start(b.binary, append([]string{"haproxy"}, sockets...)...); err != nil {
		return 0, err
	}
	b.closers = append(b.closers, b.haproxy.stop)
	if err := until(ctx, "haproxy", b.haproxy, func() bool { _, err := os.Stat(at("m.sock")); return err == nil }); err != nil {
		return 0, err
	}
	began := time.Now()
	b.agent, err = start(b.binary, append([]string{
		"run", "--registry", "etcd://" + b.etcdAddr, "--prefix", prefix, "--docker", docker, "--haproxy", "external",
		"--node", "bench-agent", "--advertise", "192.0.2.1", "--state-dir", at("s"), "--admin", "off", "--http-listen", b.agentFront, "--log-level", "warn", "--stats-listen", b.agentStats,
	}, sockets...)...)
	if err != nil {
		return 0, err
	}
	b.closers = append(b.closers, b.agent.stop)
	err = until(ctx, "agent", b.agent, func() bool { return answers(b.agentFront) != "" })
	return time.Since(began), err
}

// startByHand starts a HAProxy with the same file but for its addresses, and returns the time to
// the first answer.
func (b *bed) startByHand(ctx context.Context) (time.Duration, error) {
	dir := filepath.Join(b.dir, "hand")
	b.handSocket = filepath.Join(b.dir, "h.sock")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, err
	}
	files, err := filepath.Glob(filepath.Join(b.dir, "*.map"))
	if err != nil {
		return 0, err
	}
	for _, file := range append(files, b.agentConfigPath) {
		text, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), []byte(b.byHandText(string(text))), 0o600); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	if b.byHand, err = start(b.program, "-W", "-f", filepath.Join(dir, "haproxy.cfg")); err != nil {
		return 0, err
	}
	b.closers = append(b.closers, b.byHand.stop)
	err = until(ctx, "HAProxy by hand", b.byHand, func() bool { return answers(b.handFront) != "" })
	return time.Since(began), err
}

// byHandText gives the agent's configuration other addresses to listen on.
func (b *bed) byHandText(text string) string {
	return strings.NewReplacer(
		b.agentFront, b.handFront, b.agentStats, b.handStats,
		b.runtimeSocket, b.handSocket,
	).Replace(text)
}
