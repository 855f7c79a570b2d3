package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/register"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// session implements register.Session.
type session struct {
	*tenure
	prefix    string
	node      string
	nodeValue string
	leaving   string // the node's value once it ends in good order
	exitTTL   time.Duration

	claimed int64            // revision of the node's key while this session owns the node
	older   clientv3.LeaseID // of the session taken over, 0 if none or if nothing is under it

	encoded    map[string]*encoded // the last set, by id
	complained map[string]string   // instances left out and why, so that it is logged once
}

// Set implements register.Session. An instance that readers would refuse is left out and logged;
// the rest is written.
func (s *session) Set(ctx context.Context, want register.Set) error {
	return s.wrote(s.set(ctx, want))
}

func (s *session) set(ctx context.Context, want register.Set) error {
	if err := s.over(); err != nil {
		return err
	}
	if err := s.list(ctx); err != nil {
		return err
	}
	if err := s.write(ctx, s.ops(s.encode(want.Instances), s.lease, want.Unknown...), s.lease); err != nil {
		return err
	}
	if len(want.Unknown) == 0 { // what is not known may be under the older lease
		s.releaseOlder(ctx)
	}
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
// the order of keys. What is of an unknown origin stays. What is new comes before what goes, so that
// a replaced instance's service is never without both.
func (s *session) ops(want map[string]*encoded, lease clientv3.LeaseID, unknown ...service.Origin) []clientv3.Op {
	below := len(service.InstancesKey(s.prefix, s.node))
	var put []*encoded
	var gone []string
	for _, w := range want {
		if k, ok := s.keys[w.key]; !ok || k.value != w.value || k.lease != lease {
			put = append(put, w)
		}
	}
	for key := range s.keys {
		if id := key[below:]; want[id] == nil && !slices.Contains(unknown, service.OriginOf(id)) {
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
			return s.writeLess(ctx, chunk, lease, err)
		}
	}
	return nil
}

// writeLess takes away what is gone, after a write was refused for want of space: that much a cluster
// that is full still does, and nobody is sent to what is not there.
func (s *session) writeLess(ctx context.Context, refused []clientv3.Op, lease clientv3.LeaseID, why error) error {
	less := slices.DeleteFunc(slices.Clone(refused), func(op clientv3.Op) bool { return !op.IsDelete() })
	var p *Problem
	if !errors.As(why, &p) || p.Is != NoSpace || len(less) == 0 || len(less) == len(refused) {
		return why
	}
	if err := s.list(ctx); err != nil {
		return errors.Join(why, err)
	}
	if err := s.writeChunk(ctx, less, lease); err != nil {
		return err
	}
	return why
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

// read reads the keys of the node's instances, but for those that commands hold.
func (s *session) read(ctx context.Context, opts ...clientv3.OpOption) (map[string]stored, error) {
	keys := map[string]stored{}
	asked, below := s.asks(), service.InstancesKey(s.prefix, s.node)
	header, err := pages(ctx, s.client, below, pageSize, func(kv keyValue) {
		if service.OriginOf(string(kv.Key)[len(below):]) != service.FromCommand {
			keys[string(kv.Key)] = stored{string(kv.Value), clientv3.LeaseID(kv.Lease), kv.ModRevision}
		}
	}, opts...)
	if err != nil {
		return nil, err
	}
	if err := s.heard(header, asked); err != nil {
		return nil, err
	}
	return keys, nil
}

// Close implements register.Session. With a parting lease everything registered stays for its
// time; without one all is deleted. Either way the node's key says in the end that it leaves in good order.
func (s *session) Close(ctx context.Context) error {
	s.stop()
	<-s.ended
	if s.over() != nil {
		return nil // what is under the node is another session's, or goes with the lease, or waits for the next one
	}
	defer s.end(errors.New("closed"))
	leave := s.part
	if s.exitTTL <= 0 {
		leave = s.deregister
	}
	if err := leave(ctx); err != nil {
		return err // the lease stays: if the session was taken over, its keys are about to be moved
	}
	return s.revoke(ctx, s.lease)
}

// deregister takes everything registered away, and says that the node leaves in good order, so that
// nobody takes the going of its key for the loss of a host. The node's key comes last, because the guard
// holds only until it is written.
func (s *session) deregister(ctx context.Context) error {
	if err := s.Set(ctx, register.Set{}); err != nil {
		return err
	}
	return s.write(ctx, []clientv3.Op{s.leave(s.lease)}, s.lease)
}

// leave is the write that says that the node leaves in good order.
func (s *session) leave(lease clientv3.LeaseID) clientv3.Op {
	return clientv3.OpPut(service.NodeKey(s.prefix, s.node), s.leaving, clientv3.WithLease(lease))
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
	return s.write(ctx, append(s.moves(parting.ID), s.leave(parting.ID)), parting.ID)
}
