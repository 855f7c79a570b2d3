package etcd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// ErrFenced ends a session whose node another session has taken over.
var ErrFenced = errors.New("another session has taken the node over")

// ErrLeaseLost ends a session whose lease is gone, or was not renewed in time.
var ErrLeaseLost = errors.New("the lease is lost")

// session implements register.Session.
type session struct {
	client    *clientv3.Client
	prefix    string
	node      string
	nodeValue string
	exitTTL   time.Duration
	log       logrus.FieldLogger
	report    func(error)

	lease   clientv3.LeaseID
	ttl     time.Duration    // as granted
	granted time.Time        // not later than the lease's start
	guard   clientv3.Cmp     // holds while this session owns the node
	older   clientv3.LeaseID // of the session taken over, 0 if none; empty once Set has succeeded

	keys       map[string]stored  // what the registry holds of the node; nil while that is unknown
	encoded    map[string]encoded // the last set
	complained map[string]string  // instances left out and why, so that it is logged once

	once  sync.Once
	err   error         // why done is closed; read only after that
	done  chan struct{} // closed by the first end
	ended chan struct{} // closed when keep has returned
	stop  context.CancelFunc
}

// stored is a key as the registry holds it.
type stored struct {
	value string
	lease clientv3.LeaseID
}

// Done implements register.Session.
func (s *session) Done() <-chan struct{} { return s.done }

// end closes done. Only the first reason counts.
func (s *session) end(why error) {
	s.once.Do(func() {
		s.err = why
		close(s.done)
	})
}

// over is why the session is done, or nil while it is not.
func (s *session) over() error {
	select {
	case <-s.done:
		return fmt.Errorf("session of node %s is over: %w", s.node, s.err)
	default:
		return nil
	}
}

// Set implements register.Session. An instance that readers would refuse is left out and logged;
// the rest is written.
func (s *session) Set(ctx context.Context, want []service.Instance) error {
	if err := s.over(); err != nil {
		return err
	}
	if s.keys == nil {
		if err := s.list(ctx); err != nil {
			return err
		}
	}
	if err := s.write(ctx, s.ops(s.encode(want), s.lease)); err != nil {
		return err
	}
	if s.older != 0 && s.older != s.lease {
		// Nothing of ours is under it now. Its session, if it lives, learns of its end by this.
		if err := s.revoke(ctx, s.older); err != nil {
			s.log.WithError(err).Debug("lease of the session taken over could not be revoked; it will expire")
		}
	}
	s.older = 0
	return nil
}

// ops are the fewest writes that make the node's keys what is wanted under that lease, in the order
// of keys. What is new comes before what goes, so that a replaced instance's service is never
// without both.
func (s *session) ops(want map[string]encoded, lease clientv3.LeaseID) []clientv3.Op {
	var put, gone []string
	for key, w := range want {
		if s.keys[key] != (stored{w.value, lease}) {
			put = append(put, key)
		}
	}
	for key := range s.keys {
		if _, ok := want[key]; !ok {
			gone = append(gone, key)
		}
	}
	slices.Sort(put)
	slices.Sort(gone)
	var ops []clientv3.Op
	for _, key := range put {
		ops = append(ops, clientv3.OpPut(key, want[key].value, clientv3.WithLease(lease)))
	}
	for _, key := range gone {
		ops = append(ops, clientv3.OpDelete(key))
	}
	return ops
}

// write does the writes in guarded transactions. Servers take up to 128 operations in one; the
// guard is counted with them.
func (s *session) write(ctx context.Context, ops []clientv3.Op) error {
	const most = 127
	for chunk := range slices.Chunk(ops, most) {
		resp, err := s.commit(ctx, s.guard, chunk)
		switch {
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			s.end(ErrLeaseLost)
			return s.over()
		case err != nil:
			s.keys = nil // it may have been done or not
			return fmt.Errorf("register instances of node %s: %w", s.node, err)
		case !resp.Succeeded:
			s.end(ErrFenced)
			return s.over()
		}
		for _, op := range chunk {
			s.note(op)
		}
	}
	return nil
}

// note remembers a write that was done.
func (s *session) note(op clientv3.Op) {
	key := string(op.KeyBytes())
	if op.IsDelete() {
		delete(s.keys, key)
		return
	}
	s.keys[key] = stored{string(op.ValueBytes()), s.lease}
}

func (s *session) commit(ctx context.Context, guard clientv3.Cmp, ops []clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, opLimit)
	defer cancel()
	resp, err := s.client.Txn(ctx).If(guard).Then(ops...).Commit()
	if err != nil {
		return nil, silent(s.client, err)
	}
	return resp, nil
}

// list reads the node's keys.
func (s *session) list(ctx context.Context) error {
	keys := map[string]stored{}
	_, err := pages(ctx, s.client, service.InstancesKey(s.prefix, s.node), pageSize, func(kv keyValue) {
		keys[string(kv.Key)] = stored{string(kv.Value), clientv3.LeaseID(kv.Lease)}
	})
	if err != nil {
		return err
	}
	s.keys = keys
	return nil
}

// grant takes a lease for the session. Servers may grant more time than was asked for.
func (s *session) grant(ctx context.Context, ttl time.Duration) error {
	s.granted = time.Now()
	resp, err := s.grantFor(ctx, ttl)
	if err != nil {
		return err
	}
	s.lease, s.ttl = resp.ID, time.Duration(resp.TTL)*time.Second
	return nil
}

func (s *session) grantFor(ctx context.Context, ttl time.Duration) (*clientv3.LeaseGrantResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, opLimit)
	defer cancel()
	resp, err := s.client.Grant(ctx, max(1, int64(math.Ceil(ttl.Seconds()))))
	if err != nil {
		return nil, fmt.Errorf("lease for node %s: %w", s.node, silent(s.client, err))
	}
	return resp, nil
}

// revoke ends a lease and all keys under it. It also works after ctx is cancelled.
func (s *session) revoke(ctx context.Context, lease clientv3.LeaseID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), opLimit)
	defer cancel()
	if _, err := s.client.Revoke(ctx, lease); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("revoke the lease of node %s: %w", s.node, err)
	}
	return nil
}

// Close implements register.Session. With a parting lease everything registered stays for its
// time; without one all is deleted: first the instances, while the node's key stands, so that
// nobody takes it for the loss of a host.
func (s *session) Close(ctx context.Context) error {
	s.stop()
	<-s.ended
	if s.over() != nil {
		return nil // nothing under the node is ours any more, or all of it goes with the lease
	}
	defer s.end(errors.New("closed"))
	leave := s.part
	if s.exitTTL <= 0 {
		leave = func(ctx context.Context) error { return s.Set(ctx, nil) }
	}
	if err := leave(ctx); err != nil {
		return err // the lease stays: if the session was taken over, its keys are about to be moved
	}
	return s.revoke(ctx, s.lease)
}

// part moves all keys from the session's lease to the parting one. The node's key comes last,
// because the guard holds only until it is written.
func (s *session) part(ctx context.Context) error {
	if s.keys == nil {
		if err := s.list(ctx); err != nil {
			return err
		}
	}
	parting, err := s.grantFor(ctx, s.exitTTL)
	if err != nil {
		return err
	}
	have := make(map[string]encoded, len(s.keys))
	for key, k := range s.keys {
		have[key] = encoded{value: k.value}
	}
	ops := append(s.ops(have, parting.ID),
		clientv3.OpPut(service.NodeKey(s.prefix, s.node), s.nodeValue, clientv3.WithLease(parting.ID)))
	return s.write(ctx, ops)
}
