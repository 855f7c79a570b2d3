package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// keep renews the lease every third of its time to live until the session ends. After a failure it
// tries again soon, and at once when the connection is back: a cluster that has forgotten the lease
// is then found out before it is missed. A lease that the cluster does not know, or that nobody
// answered for as long as it lives, is lost. Meanwhile look looks from time to time whether the
// registry holds what was written, and soon when a member is back that was silent: it may have done late
// what it was asked before.
func (t *tenure) keep(ctx context.Context, look func(context.Context) error) {
	defer close(t.ended)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	back, again := make(chan bool, 1), make(chan struct{}, 1)
	var others sync.WaitGroup
	others.Go(func() { Reconnects(ctx, t.client, back) })
	others.Go(func() { t.inspect(ctx, again, look) })
	defer func() { cancel(); others.Wait() }()

	answered, warned, returns := t.granted, false, t.returns()
	next := time.NewTimer(time.Until(answered.Add(t.ttl / 3)))
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.done:
			return
		case <-next.C:
		case <-back:
			wake(again)
		}
		asked := time.Now()
		err := t.renew(ctx, answered)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			answered, warned = asked, t.recovered(warned)
			returns = t.lookAfter(returns, again)
		case errors.Is(err, ErrLeaseLost) || time.Since(answered) >= t.ttl:
			t.lost(err)
			return
		case time.Since(answered) >= t.ttl/2:
			err = t.late(err, answered, warned)
			warned = true
		}
		t.tell(err)
		next.Reset(t.pause(err, answered))
	}
}

// lookAfter has the registry looked at if a member came back since that count, and returns the new one.
func (t *tenure) lookAfter(returns int, again chan<- struct{}) int {
	now := t.returns()
	if now != returns {
		wake(again)
	}
	return now
}

// returns is how often a member of the cluster came back that was silent for a while.
func (t *tenure) returns() int {
	if l := connectionOf(t.client); l != nil {
		return l.transport.returned()
	}
	return 0
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
func (t *tenure) pause(err error, answered time.Time) time.Duration {
	if err == nil {
		return time.Until(answered.Add(t.ttl / 3))
	}
	wait := t.ttl/30 + rand.N(t.ttl/30) //nolint:gosec // spreads agents, protects nothing
	return max(0, min(wait, time.Until(answered.Add(t.ttl))))
}

// late is the alarm of a lease of which half the time has passed unanswered. It is logged once, and told
// with each renewal that fails.
func (t *tenure) late(err error, answered time.Time, warned bool) error {
	since := time.Since(answered).Round(100 * time.Millisecond)
	if !warned {
		t.log.WithError(err).WithFields(logrus.Fields{"unanswered": since.String(), "ttl": t.ttl.String()}).Warn("lease is not renewed")
	}
	return fmt.Errorf("lease unanswered for %v, and lost after %v: %w", since, t.ttl, err)
}

func (t *tenure) recovered(warned bool) bool {
	if warned {
		t.log.Info("lease is renewed again")
	}
	return false
}

// lost ends the session because of its lease.
func (t *tenure) lost(err error) {
	if !errors.Is(err, ErrLeaseLost) {
		err = fmt.Errorf("%w: no answer for %v: %w", ErrLeaseLost, t.ttl, err)
	}
	t.tell(err)
	t.end(err)
}

// tell reports a renewal. While instances cannot be written, it is no success that others renew.
func (t *tenure) tell(err error) {
	if t.report != nil && (err != nil || !t.failing.Load()) {
		t.report(err)
	}
}

// renew renews the lease once. The client's own function for that repeats without a pause while the
// cluster has no leader; this one leaves repeating to its caller.
func (t *tenure) renew(ctx context.Context, answered time.Time) error {
	limit := max(time.Millisecond, min(t.ttl/6, time.Until(answered.Add(t.ttl))))
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), limit)
	defer cancel()
	resp, err := renewed(ctx, t.client, t.lease)
	if err != nil {
		return t.renewError(err)
	}
	if resp.TTL <= 0 {
		return fmt.Errorf("%w: the registry does not know it", ErrLeaseLost)
	}
	return nil
}

func (t *tenure) renewError(err error) error {
	if errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("%w: %w", ErrLeaseLost, err)
	}
	return fmt.Errorf("renew the lease of %s: %w", t.of, explained(t.client, err))
}
