package etcd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	claimed int64            // revision of the node's key while this session owns the node
	older   clientv3.LeaseID // of the session taken over, 0 if none or if nothing is under it
	every   time.Duration    // between two looks at the registry

	ledger
	failing    atomic.Bool         // the last Set failed
	encoded    map[string]*encoded // the last set, by id
	complained map[string]string   // instances left out and why, so that it is logged once

	once  sync.Once
	err   error         // why done is closed; read only after that
	done  chan struct{} // closed by the first end
	ended chan struct{} // closed when keep has returned
	stop  context.CancelFunc
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
	err := s.set(ctx, want)
	s.failing.Store(err != nil)
	if ends(err) {
		s.end(err)
		return s.over()
	}
	return err
}

func (s *session) set(ctx context.Context, want []service.Instance) error {
	if err := s.over(); err != nil {
		return err
	}
	if err := s.list(ctx); err != nil {
		return err
	}
	if err := s.write(ctx, s.ops(s.encode(want), s.lease), s.lease); err != nil {
		return err
	}
	s.releaseOlder(ctx)
	return nil
}

// takeOver moves what the registry holds of the node under the session's lease, so that it does not
// expire while nobody knows yet what is to be registered.
func (s *session) takeOver(ctx context.Context) error {
	if err := s.write(ctx, s.moves(s.lease), s.lease); err != nil {
		return err
	}
	s.releaseOlder(ctx)
	return nil
}

// releaseOlder ends the lease of the session that was taken over, once nothing of the node is under
// it. That session, if it lives, learns of its end by this.
func (s *session) releaseOlder(ctx context.Context) {
	if s.older != 0 && s.older != s.lease {
		if err := s.revoke(ctx, s.older); err != nil {
			s.log.WithError(err).Debug("lease of the session taken over could not be revoked; it will expire")
		}
	}
	s.older = 0
}

// moves are the writes that put all the node's keys as they are under that lease.
func (s *session) moves(lease clientv3.LeaseID) []clientv3.Op {
	below := len(service.InstancesKey(s.prefix, s.node))
	have := make(map[string]*encoded, len(s.keys))
	for key, k := range s.keys {
		have[key[below:]] = &encoded{key: key, value: k.value}
	}
	return s.ops(have, lease)
}

// ops are the fewest writes that make the node's keys what is wanted, by id, under that lease, in
// the order of keys. What is new comes before what goes, so that a replaced instance's service is
// never without both.
func (s *session) ops(want map[string]*encoded, lease clientv3.LeaseID) []clientv3.Op {
	below := len(service.InstancesKey(s.prefix, s.node))
	var put []*encoded
	var gone []string
	for _, w := range want {
		if k, ok := s.keys[w.key]; !ok || k.value != w.value || k.lease != lease {
			put = append(put, w)
		}
	}
	for key := range s.keys {
		if want[key[below:]] == nil {
			gone = append(gone, key)
		}
	}
	slices.SortFunc(put, func(a, b *encoded) int { return strings.Compare(a.key, b.key) })
	slices.Sort(gone)
	ops := make([]clientv3.Op, 0, len(put)+len(gone))
	for _, w := range put {
		ops = append(ops, clientv3.OpPut(w.key, w.value, clientv3.WithLease(lease)))
	}
	for _, key := range gone {
		ops = append(ops, clientv3.OpDelete(key))
	}
	return ops
}

// write does the writes, whose puts are under that lease, in guarded transactions.
func (s *session) write(ctx context.Context, ops []clientv3.Op, lease clientv3.LeaseID) error {
	const most = 128 // in one transaction, as servers are set up by default
	for chunk := range slices.Chunk(ops, most) {
		if err := s.writeChunk(ctx, chunk, lease); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) writeChunk(ctx context.Context, ops []clientv3.Op, lease clientv3.LeaseID) error {
	node := service.NodeKey(s.prefix, s.node)
	s.begin()
	resp, err := s.commit(ctx, clientv3.Compare(clientv3.ModRevision(node), "=", s.claimed), ops, clientv3.OpGet(node))
	s.finish(func() {
		switch {
		case err != nil:
			s.keys = nil // it may have been done or not
		case resp.Succeeded:
			s.note(ops, lease, resp.Header.Revision)
		}
	})
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return ErrLeaseLost
	case err != nil:
		return fmt.Errorf("write below %s: %w", service.InstancesKey(s.prefix, s.node), err)
	case !resp.Succeeded:
		return s.holds((*clientv3.GetResponse)(resp.Responses[0].GetResponseRange()))
	}
	return nil
}

// note takes writes down that were done.
func (s *session) note(ops []clientv3.Op, lease clientv3.LeaseID, revision int64) {
	for _, op := range ops {
		key := string(op.KeyBytes())
		if op.IsDelete() {
			delete(s.keys, key)
		} else {
			s.keys[key] = stored{string(op.ValueBytes()), lease, revision}
		}
	}
}

// commit does the writes if the guard holds, else what is to be done otherwise.
func (s *session) commit(ctx context.Context, guard clientv3.Cmp, ops []clientv3.Op, otherwise ...clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, opLimit)
	defer cancel()
	asked := s.asks()
	resp, err := s.client.Txn(ctx).If(guard).Then(ops...).Else(otherwise...).Commit()
	if err != nil {
		return nil, explained(s.client, err)
	}
	if err := s.heard(resp.Header, asked); err != nil {
		return nil, err
	}
	return resp, nil
}

// list reads the node's keys unless they are known.
func (s *session) list(ctx context.Context) error {
	if s.keys != nil {
		return nil
	}
	keys, err := s.read(ctx)
	if err != nil {
		return err
	}
	s.begin()
	s.finish(func() { s.keys = keys })
	return nil
}

// read reads the keys of the node's instances.
func (s *session) read(ctx context.Context, opts ...clientv3.OpOption) (map[string]stored, error) {
	keys := map[string]stored{}
	asked := s.asks()
	header, err := pages(ctx, s.client, service.InstancesKey(s.prefix, s.node), pageSize, func(kv keyValue) {
		keys[string(kv.Key)] = stored{string(kv.Value), clientv3.LeaseID(kv.Lease), kv.ModRevision}
	}, opts...)
	if err != nil {
		return nil, err
	}
	if err := s.heard(header, asked); err != nil {
		return nil, err
	}
	return keys, nil
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
		return nil, fmt.Errorf("lease for node %s: %w", s.node, explained(s.client, err))
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
		return nil // what is under the node is another session's, or goes with the lease, or waits for the next one
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
	if err := s.list(ctx); err != nil {
		return err
	}
	parting, err := s.grantFor(ctx, s.exitTTL)
	if err != nil {
		return err
	}
	ops := append(s.moves(parting.ID),
		clientv3.OpPut(service.NodeKey(s.prefix, s.node), s.nodeValue, clientv3.WithLease(parting.ID)))
	return s.write(ctx, ops, parting.ID)
}
