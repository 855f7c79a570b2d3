package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// keep renews the lease every third of its time to live until the session ends. After a failure it
// tries again soon, and at once when the connection is back: a cluster that has forgotten the lease
// is then found out before it is missed. A lease that the cluster does not know, or that nobody
// answered for as long as it lives, is lost.
func (s *session) keep(ctx context.Context) {
	defer close(s.ended)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	back, again := make(chan bool, 1), make(chan struct{}, 1)
	var others sync.WaitGroup
	others.Go(func() { reconnects(ctx, s.client, back) })
	others.Go(func() { s.inspect(ctx, again) })
	defer func() { cancel(); others.Wait() }()

	answered, warned := s.granted, false
	next := time.NewTimer(time.Until(answered.Add(s.ttl / 3)))
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.done:
			return
		case <-next.C:
		case <-back:
			wake(again)
		}
		asked := time.Now()
		err := s.renew(ctx, answered)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			answered, warned = asked, s.recovered(warned)
		case errors.Is(err, ErrLeaseLost) || time.Since(answered) >= s.ttl:
			s.lost(err)
			return
		case time.Since(answered) >= s.ttl/2 && !warned:
			warned = true
			s.log.WithError(err).WithField("unanswered", time.Since(answered).Round(time.Millisecond)).Warn("lease is not renewed")
		}
		s.tell(err)
		next.Reset(s.pause(err, answered))
	}
}

// wake makes the reader of a channel with room for one go, if it is not about to already.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pause is how long to wait until the next renewal: the rest of a third of the time to live, or
// after a failure a short time that differs from agent to agent.
func (s *session) pause(err error, answered time.Time) time.Duration {
	if err == nil {
		return time.Until(answered.Add(s.ttl / 3))
	}
	wait := s.ttl/30 + rand.N(s.ttl/30) //nolint:gosec // spreads agents, protects nothing
	return max(0, min(wait, time.Until(answered.Add(s.ttl))))
}

func (s *session) recovered(warned bool) bool {
	if warned {
		s.log.Info("lease is renewed again")
	}
	return false
}

// lost ends the session because of its lease.
func (s *session) lost(err error) {
	if !errors.Is(err, ErrLeaseLost) {
		err = fmt.Errorf("%w: no answer for %v: %w", ErrLeaseLost, s.ttl, err)
	}
	s.tell(err)
	s.end(err)
}

// tell reports a renewal. While instances cannot be written, it is no success that others renew.
func (s *session) tell(err error) {
	if s.report != nil && (err != nil || !s.failing.Load()) {
		s.report(err)
	}
}

// renew renews the lease once. The client's own function for that repeats without a pause while the
// cluster has no leader; this one leaves repeating to its caller.
func (s *session) renew(ctx context.Context, answered time.Time) error {
	limit := max(time.Millisecond, min(s.ttl/6, time.Until(answered.Add(s.ttl))))
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), limit)
	defer cancel()
	resp, err := s.ask(ctx)
	if e := rpctypes.Error(err); errors.Is(e, rpctypes.ErrInvalidAuthToken) || errors.Is(e, rpctypes.ErrUserEmpty) || errors.Is(e, rpctypes.ErrAuthOldRevision) {
		resp, err = s.ask(ctx) // a token that ran out is no failure: the next stream has a new one
	}
	if err != nil {
		return s.renewError(err)
	}
	if resp.TTL <= 0 {
		return fmt.Errorf("%w: the registry does not know it", ErrLeaseLost)
	}
	return nil
}

// ask asks for a renewal, and returns the answer.
func (s *session) ask(ctx context.Context) (*pb.LeaseKeepAliveResponse, error) {
	stream, err := pb.NewLeaseClient(s.client.ActiveConnection()).LeaseKeepAlive(ctx, grpc.WaitForReady(true))
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(s.lease)}); err != nil {
		return nil, err
	}
	return stream.Recv()
}

func (s *session) renewError(err error) error {
	if errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("%w: %w", ErrLeaseLost, err)
	}
	return fmt.Errorf("renew the lease of node %s: %w", s.node, explained(s.client, err))
}
