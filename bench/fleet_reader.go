package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/catalog"
	"github.com/sidekick-proxy/sidekick/pkg/registry/etcd"
)

// fleetReader is an agent's way from the registry to snapshots as a process of its own. It prints the
// revision of each snapshot, and at the end of its input what is in use of its heap.
func fleetReader(ctx context.Context, endpoint, below string, in io.Reader, out io.Writer) error {
	client, err := etcd.Dial(etcd.Config{Endpoints: []string{"http://" + endpoint}})
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var last *catalog.Snapshot
	follow(ctx, &wg, &etcd.Watcher{Client: client, Prefix: below, Log: silent()}, func(s *catalog.Snapshot) {
		last = s
		fmt.Fprintln(out, s.Catalog.Revision)
	})
	_, _ = io.Copy(io.Discard, in)
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	stop()
	wg.Wait()
	fmt.Fprintln(out, "heap", m.HeapAlloc)
	runtime.KeepAlive(last)
	return nil
}

// reader is such a process, seen from outside.
type reader struct {
	*process
	size      int
	below     string
	in        io.WriteCloser
	revisions chan int64
	heap      chan float64 // MB
	first     time.Duration
	took      []time.Duration
}

// benchReaders measures one change among that many instances, from the write to the snapshot. All sizes
// take turns, so that the growth is not that of the machine's load.
func benchReaders(ctx context.Context, o fleetOptions) error {
	s, err := newStore(ctx, o.binary)
	if err != nil {
		return err
	}
	defer s.close()
	var all []*reader
	for n, size := range o.sizes {
		r, err := newReader(ctx, s, fmt.Sprintf("/readers-%d", n), size)
		if err != nil {
			return err
		}
		defer r.stop()
		all = append(all, r)
	}
	for n := range 2 * o.puts {
		for _, r := range all {
			if err := r.change(ctx, s, n); err != nil {
				return fmt.Errorf("%d instances: %w", r.size, err)
			}
		}
	}
	fmt.Printf("\none reader: etcd → catalog → snapshot, without a proxy\n")
	for _, r := range all {
		m, err := r.memory()
		if err != nil {
			return err
		}
		r.in.Close()
		fmt.Printf("  reader   %-44s put → snapshot p50 %.2f ms, p99 %.2f ms, ratio %.2f; first %.0f ms; %.1f MB of its own, %.1f MB at most, heap in use %.1f MB\n",
			fmt.Sprintf("%d instances", r.size), ms(quantile(r.took, 0.5)), ms(quantile(r.took, 0.99)),
			float64(quantile(r.took, 0.5))/float64(quantile(all[0].took, 0.5)), ms(r.first), m.own, m.peak, <-r.heap)
	}
	return nil
}

func newReader(ctx context.Context, s *store, below string, size int) (*reader, error) {
	r := &reader{size: size, below: below, revisions: make(chan int64, 1000), heap: make(chan float64, 1)}
	for n := 0; n < size; n += 100 {
		var ops []clientv3.Op
		for _, i := range instancesOf(n/100, min(100, size-n)) {
			value, err := i.Encode()
			if err != nil {
				return nil, err
			}
			ops = append(ops, clientv3.OpPut(i.Key(below), string(value)))
		}
		if _, err := s.client.Txn(ctx).Then(ops...).Commit(); err != nil {
			return nil, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if r.process, err = r.run(self, s.addr); err != nil {
		return nil, err
	}
	err = r.next(ctx, 0)
	r.first = time.Since(began)
	return r, err
}

// run starts the process, and reads what it prints.
func (r *reader) run(self, endpoint string) (*process, error) {
	input, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	out, output, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer input.Close()
	defer output.Close()
	r.in = in
	go func() {
		defer close(r.revisions)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			word, number, ok := strings.Cut(lines.Text(), " ")
			if !ok {
				revision, _ := strconv.ParseInt(word, 10, 64)
				r.revisions <- revision
				continue
			}
			bytes, _ := strconv.ParseFloat(number, 64)
			r.heap <- bytes / (1 << 20)
		}
	}()
	return startWith(input, output, self, "fleet-reader", endpoint, r.below)
}

// next waits for a snapshot of that revision at least.
func (r *reader) next(ctx context.Context, revision int64) error {
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	for {
		select {
		case got, ok := <-r.revisions:
			if !ok {
				return fmt.Errorf("the reader ended:\n%s", r.log.String())
			}
			if got >= revision {
				return nil
			}
		case <-timer.C:
			return fmt.Errorf("no snapshot of revision %d within a minute", revision)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// change writes one instance of the middle anew, and waits for its snapshot.
func (r *reader) change(ctx context.Context, s *store, n int) error {
	i := instancesOf(r.size/200, 50)[49]
	i.Weight = 1 + n%200
	value, err := i.Encode()
	if err != nil {
		return err
	}
	began := time.Now()
	reply, err := s.client.Put(ctx, i.Key(r.below), string(value))
	if err != nil {
		return err
	}
	if err := r.next(ctx, reply.Header.Revision); err != nil {
		return err
	}
	r.took = append(r.took, time.Since(began))
	return pause(ctx, apart) // a lone change is not delayed
}
