package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// model is what a registry holds below a prefix, at every revision. All writes go through it.
type model struct {
	prefix string
	admin  *clientv3.Client

	mu     sync.Mutex // held during a write, so that a catalog is not judged before it is known
	states []modelState
	leases map[string]clientv3.LeaseID // of keys, and those that were revoked
}

type modelState struct {
	revision int64
	items    map[string]string
}

func newModel(t *testing.T, admin *clientv3.Client, prefix string) *model {
	t.Helper()
	return &model{prefix: prefix, admin: admin, states: []modelState{{items: map[string]string{}}}, leases: map[string]clientv3.LeaseID{}}
}

// write does the writes in one transaction, whose puts are under that lease; an empty value deletes.
func (m *model) write(ctx context.Context, items map[string]string, lease clientv3.LeaseID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ops []clientv3.Op
	next := maps.Clone(m.newestLocked())
	for key, value := range items {
		if value == "" {
			ops = append(ops, clientv3.OpDelete(key))
			delete(next, key)
			delete(m.leases, key)
			continue
		}
		ops = append(ops, clientv3.OpPut(key, value, clientv3.WithLease(lease)))
		next[key], m.leases[key] = value, lease
	}
	resp, err := m.admin.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return err
	}
	m.states = append(m.states, modelState{resp.Header.Revision, next})
	return nil
}

// revoke ends a lease, and all keys under it.
func (m *model) revoke(ctx context.Context, lease clientv3.LeaseID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	resp, err := m.admin.Revoke(ctx, lease)
	if err != nil {
		return err
	}
	next := maps.Clone(m.newestLocked())
	for key, of := range m.leases {
		if of == lease {
			delete(next, key)
			delete(m.leases, key)
		}
	}
	m.states = append(m.states, modelState{resp.Header.Revision, next})
	return nil
}

func (m *model) newestLocked() map[string]string { return m.states[len(m.states)-1].items }

// newest is what the registry holds now.
func (m *model) newest() map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.newestLocked()
}

// at is what the registry held at a revision.
func (m *model) at(revision int64) map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n := len(m.states) - 1; n > 0; n-- {
		if m.states[n].revision <= revision {
			return m.states[n].items
		}
	}
	return m.states[0].items
}

// held reads what the registry holds.
func (m *model) held(ctx context.Context) (map[string]string, error) {
	resp, err := m.admin.Get(ctx, service.Root(m.prefix), clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	items := map[string]string{}
	for _, kv := range resp.Kvs {
		items[string(kv.Key)] = string(kv.Value)
	}
	return items, nil
}

// nonsense is a value that readers turn away.
const nonsense = "nonsense"

// said is what a catalog says the registry holds.
func said(c *service.Catalog) (map[string]string, error) {
	items := map[string]string{}
	for _, s := range c.Services {
		for _, i := range s.Instances {
			v, err := i.Encode()
			if err != nil {
				return nil, err
			}
			items[i.Key(c.Prefix)] = string(v)
		}
	}
	for _, n := range c.Nodes {
		v, err := n.Encode()
		if err != nil {
			return nil, err
		}
		items[service.NodeKey(c.Prefix, n.Name)] = string(v)
	}
	for _, r := range c.Rejected {
		items[r.Name] = nonsense
	}
	return items, nil
}

// reader runs a Watcher and judges each catalog: it must be what the registry held at its revision, and
// no revision may be lower than the one before.
type reader struct {
	model *model
	stop  context.CancelFunc
	done  chan error
	turn  sync.Mutex // whoever holds it keeps the reader from reading

	mu     sync.Mutex
	last   map[string]string // what the last catalog said, nil before the first
	number int               // of catalogs
	wrong  []string
}

// read begins to run a Watcher of the model's prefix.
func (m *model) read(ctx context.Context, w *Watcher) *reader {
	ctx, stop := context.WithCancel(ctx)
	r := &reader{model: m, stop: stop, done: make(chan error, 1)}
	out := make(chan *service.Catalog)
	w.Prefix = m.prefix
	var reading sync.WaitGroup
	reading.Go(func() {
		revision := int64(0)
		for {
			r.turn.Lock()
			select {
			case c := <-out:
				r.judge(c, revision)
				revision = c.Revision
			case <-time.After(time.Millisecond): // somebody may want the turn
			case <-ctx.Done():
				r.turn.Unlock()
				return
			}
			r.turn.Unlock()
		}
	})
	go func() {
		err := w.Run(ctx, out)
		reading.Wait()
		r.done <- err
	}()
	return r
}

func (r *reader) judge(c *service.Catalog, before int64) {
	got, err := said(c)
	diff := cmp.Diff(got, r.model.at(c.Revision))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = got
	r.number++
	switch {
	case err != nil:
		r.wrong = append(r.wrong, err.Error())
	case c.Revision < before:
		r.wrong = append(r.wrong, fmt.Sprintf("revision %d comes after %d", c.Revision, before))
	case diff != "":
		r.wrong = append(r.wrong, fmt.Sprintf("at revision %d (-got +want):\n%s", c.Revision, diff))
	}
}

// inStep tells whether the last catalog says what the registry holds.
func (r *reader) inStep() bool {
	want := r.model.newest()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last != nil && maps.Equal(r.last, want)
}

// end stops the Watcher, and returns what was wrong.
func (r *reader) end() error {
	r.stop()
	if err := <-r.done; !errors.Is(err, context.Canceled) {
		return fmt.Errorf("got %w from Run, want %w", err, context.Canceled)
	}
	if len(r.wrong) > 0 {
		return fmt.Errorf("%d of %d catalogs are wrong: %s", len(r.wrong), r.number, strings.Join(r.wrong, "\n"))
	}
	return nil
}

// What can happen to the streams of watches.
const (
	streamsPass   int32 = iota
	streamsCancel       // the server cancels each watch that has something to say
	streamsReset        // each stream ends at its next message
	streamsMute         // nothing comes through those that there are, and new ones, ever
	streamsLose         // what is written does not come through, all else does
)

// streams are those of a client's watches.
type streams struct {
	mode      atomic.Int32
	fragments atomic.Int64 // parts of answers that came
}

// dial returns a client whose watches' streams are under control.
func (s *streams) dial(t *testing.T, endpoints ...string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop(), DialOptions: []grpc.DialOption{
		grpc.WithChainStreamInterceptor(s.open),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1.6, Jitter: 0.3, MaxDelay: 50 * time.Millisecond}, MinConnectTimeout: time.Second,
		}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (s *streams) open(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := open(ctx, desc, cc, method, opts...)
	return &watched{ClientStream: stream, all: s}, err
}

type watched struct {
	grpc.ClientStream
	all  *streams
	mute bool
}

func (w *watched) RecvMsg(msg any) error {
	for {
		if err := w.ClientStream.RecvMsg(msg); err != nil {
			return err
		}
		resp, ok := msg.(*pb.WatchResponse)
		if !ok {
			return nil
		}
		if resp.Fragment {
			w.all.fragments.Add(1)
		}
		switch mode := w.all.mode.Load(); {
		case w.mute || mode == streamsMute:
			w.mute = true
			continue
		case mode == streamsLose && len(resp.Events) > 0:
			continue
		case mode == streamsReset:
			return status.Error(codes.Unavailable, "the stream was reset")
		case mode == streamsCancel && len(resp.Events) > 0:
			resp.Canceled, resp.CancelReason, resp.Events = true, "the server does not want to", nil
		}
		return nil
	}
}
