package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// store is an etcd in a process of its own, so that what it takes is its own.
type store struct {
	binary, dir, addr string
	process           *process
	pid               atomic.Int64 // of the process
	client            *clientv3.Client
}

func newStore(ctx context.Context, binary string) (*store, error) {
	dir, err := os.MkdirTemp("", "skf")
	if err != nil {
		return nil, err
	}
	addrs, err := freeAddresses(1)
	if err != nil {
		return nil, err
	}
	s := &store{binary: binary, dir: dir, addr: addrs[0]}
	s.client, err = clientv3.New(clientv3.Config{Endpoints: []string{s.addr}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	_, err = s.start(ctx)
	return s, err
}

// start starts the server, and returns how long it took to answer.
func (s *store) start(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	var err error
	if s.process, err = start(s.binary, "etcd", "--state-dir", s.dir, "--listen", s.addr); err != nil {
		return 0, err
	}
	s.pid.Store(int64(s.process.cmd.Process.Pid))
	err = until(ctx, "etcd", s.process, func() bool { _, err := s.metrics(ctx); return err == nil })
	return time.Since(began), err
}

// kill ends the server as a crash does.
func (s *store) kill() {
	_ = syscall.Kill(-s.process.cmd.Process.Pid, syscall.SIGKILL)
	<-s.process.done
}

// wipe takes all data away from a server that does not run.
func (s *store) wipe() error { return os.RemoveAll(filepath.Join(s.dir, "etcd")) }

func (s *store) close() {
	s.client.Close()
	s.process.stop()
	os.RemoveAll(s.dir)
}

// revision is that of the whole store.
func (s *store) revision(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	reply, err := s.client.Get(ctx, "/")
	if err != nil {
		return 0, err
	}
	return reply.Header.Revision, nil
}

// count is the number of keys that begin with the text.
func (s *store) count(ctx context.Context, begin string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	reply, err := s.client.Get(ctx, begin, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return 0, err
	}
	return reply.Count, nil
}

// metrics are the server's, those of one name added up.
func (s *store) metrics(ctx context.Context) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr+"/metrics", http.NoBody)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	reply, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer reply.Body.Close()
	all := map[string]float64{}
	lines := bufio.NewScanner(reply.Body)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		name, _, _ = strings.Cut(name, "{")
		all[name] += number
	}
	return all, lines.Err()
}

// The counters of etcd that are shown.
const (
	renewals = "etcd_debugging_lease_renewed_total"
	putCount = "etcd_mvcc_put_total"
	ranges   = "etcd_mvcc_range_total"
	sent     = "etcd_network_client_grpc_sent_bytes_total"
	received = "etcd_network_client_grpc_received_bytes_total"
)

// load is what a server took between two moments.
type load struct {
	clock, cpu time.Duration
	peak       float64 // of the processor, in cores over a quarter of a second
	rss, most  float64 // MB
	counters   map[string]float64
	ours       time.Duration // what this program took meanwhile, with all agents in it
}

func (l load) rate(counter string) float64 { return l.counters[counter] / l.clock.Seconds() }

func (l load) String() string {
	return fmt.Sprintf("etcd: %.2f cores, %.2f at most; %.0f MB, %.0f at most; sent %.1f MB/s, received %.1f MB/s; the agents: %.2f cores",
		l.cpu.Seconds()/l.clock.Seconds(), l.peak, l.rss, l.most, l.rate(sent)/1e6, l.rate(received)/1e6, l.ours.Seconds()/l.clock.Seconds())
}

// under is what the server takes while something is done, counted from its start if that starts it anew.
func (s *store) under(ctx context.Context, do func() error) (load, error) {
	before, err := s.metrics(ctx)
	if err != nil {
		return load{}, err
	}
	pid := s.process.cmd.Process.Pid
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0) // forget the peak so far
	cpuBefore, oursBefore, began := ownCPU(pid), ownCPU(os.Getpid()), time.Now()
	watching, stop := context.WithCancel(ctx)
	peak := make(chan float64)
	go func() { peak <- s.peak(watching) }()
	err = do()
	l := load{clock: time.Since(began), ours: ownCPU(os.Getpid()) - oursBefore, counters: map[string]float64{}}
	stop()
	l.peak = <-peak
	if err != nil {
		return l, err
	}
	if now := s.process.cmd.Process.Pid; now != pid {
		pid, cpuBefore, before = now, 0, nil
	}
	l.cpu = ownCPU(pid) - cpuBefore
	if m, err := s.process.memory(); err == nil {
		l.rss, l.most = m.own+m.program, m.peak
	}
	after, err := s.metrics(ctx)
	for name, value := range after {
		l.counters[name] = value - before[name]
	}
	return l, err
}

// peak is the most that the server took of the processors in a quarter of a second.
func (s *store) peak(ctx context.Context) float64 {
	const every = 250 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	most, last, lastPID, at := 0.0, time.Duration(0), 0, time.Now()
	for {
		select {
		case <-ctx.Done():
			return most
		case <-tick.C:
		}
		pid := int(s.pid.Load())
		now, cpu := time.Now(), ownCPU(pid)
		if now.Sub(at) < every/2 {
			continue // on a busy machine, ticks come late and then together
		}
		if pid == lastPID {
			most = max(most, (cpu-last).Seconds()/now.Sub(at).Seconds())
		}
		last, lastPID, at = cpu, pid, now
	}
}
