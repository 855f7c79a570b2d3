package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/ask"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Board is where people's overrides, their asks, and the agents' answers are written. It implements
// ask.Registry.
type Board struct {
	Client *clientv3.Client
	Prefix string
}

// Change makes the override of a target what change says, given the one that is there and in force, nil if
// there is none; nil takes it away. Nobody else's change in between is lost. One that is to end is put
// under a lease of that time, so that the registry itself forgets it. It returns the revision from which on
// the registry has it, and what it was before.
func (b *Board) Change(ctx context.Context, t service.Target, change func(old *service.Override) (*service.Override, error)) (revision int64, old *service.Override, err error) {
	key := t.Key(b.Prefix)
	for range claimTries {
		var seen int64
		if old, seen, err = b.read(ctx, t); err != nil {
			return 0, nil, err
		}
		wanted, err := change(old)
		if err != nil {
			return 0, old, err
		}
		op, err := b.op(ctx, key, old, wanted)
		if err != nil {
			return 0, old, err
		}
		resp, err := b.commit(ctx, clientv3.Compare(clientv3.ModRevision(key), "=", seen), op)
		if err != nil {
			return 0, old, fmt.Errorf("write %s: %w", key, byOperator(err))
		}
		if resp.Succeeded {
			return resp.Header.Revision, old, nil
		}
	}
	return 0, nil, fmt.Errorf("write %s: it changed %d times meanwhile: who else writes it?", key, claimTries)
}

// byOperator says of a right that is missing who has it: of overrides it is not the host's.
func byOperator(err error) error {
	denied, ok := errors.AsType[*Problem](err)
	if !ok || denied.Is != Denied {
		return err
	}
	return &Problem{Denied, fmt.Errorf("%w; overrides are written with an operator's settings, not a host's: see deploy/etcd.md, section \"Operators\"", errors.Unwrap(denied.err))}
}

// read returns the override that is in force, and the revision of whatever is there, 0 if nothing is.
func (b *Board) read(ctx context.Context, t service.Target) (*service.Override, int64, error) {
	resp, err := get(ctx, b.Client, t.Key(b.Prefix), nil)
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", t.Key(b.Prefix), err)
	}
	if len(resp.Kvs) == 0 {
		return nil, 0, nil
	}
	o, err := service.DecodeOverride(t, resp.Kvs[0].Value)
	if err != nil || !o.InForce(time.Now()) {
		return nil, resp.Kvs[0].ModRevision, nil //nolint:nilerr // nobody follows what cannot be read
	}
	return &o, resp.Kvs[0].ModRevision, nil
}

// op is the write that makes an override what is wanted.
func (b *Board) op(ctx context.Context, key string, old, wanted *service.Override) (clientv3.Op, error) {
	if wanted == nil {
		return clientv3.OpDelete(key), nil
	}
	value, err := wanted.Encode()
	if err != nil {
		return clientv3.Op{}, err
	}
	switch {
	case wanted.Until.IsZero():
		return clientv3.OpPut(key, string(value)), nil
	case old != nil && old.Until.Equal(wanted.Until):
		return clientv3.OpPut(key, string(value), clientv3.WithIgnoreLease()), nil
	}
	l, err := granted(ctx, b.Client, time.Until(wanted.Until))
	if err != nil {
		return clientv3.Op{}, fmt.Errorf("lease for %s: %w", key, err)
	}
	return clientv3.OpPut(key, string(value), clientv3.WithLease(l.ID)), nil
}

// commit does a write, if the guard holds.
func (b *Board) commit(ctx context.Context, guard clientv3.Cmp, op clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, opLimit)
	defer cancel()
	resp, err := b.Client.Txn(ctx).If(guard).Then(op).Commit()
	if err != nil {
		return nil, explained(b.Client, err)
	}
	return resp, nil
}

// Open implements ask.Registry.
func (b *Board) Open(ctx context.Context, ttl time.Duration) (ask.Lease, error) {
	granted, err := granted(ctx, b.Client, ttl)
	if err != nil {
		return nil, fmt.Errorf("take a lease: %w", err)
	}
	// The lease must outlive the context of this call. Close ends its renewal.
	keepCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	l := &boardLease{board: b, id: granted.ID, stop: stop, ended: make(chan struct{})}
	go l.keep(keepCtx, ttl)
	return l, nil
}

// boardLease implements ask.Lease.
type boardLease struct {
	board *Board
	id    clientv3.LeaseID
	stop  context.CancelFunc
	ended chan struct{}
}

// keep renews the lease until it is told to end, or the cluster does not know it.
func (l *boardLease) keep(ctx context.Context, ttl time.Duration) {
	defer close(l.ended)
	timer := time.NewTimer(ttl / 3)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		err := l.renew(ctx, ttl/6)
		if errors.Is(err, ErrLeaseLost) {
			return // what was under it is gone; whoever put it there sees that
		}
		timer.Reset(ttl / 3)
		if err != nil {
			timer.Reset(ttl/30 + rand.N(ttl/30)) //nolint:gosec // spreads agents, protects nothing
		}
	}
}

func (l *boardLease) renew(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), limit)
	defer cancel()
	resp, err := renewed(ctx, l.board.Client, l.id)
	if errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseNotFound) || err == nil && resp.TTL <= 0 {
		return ErrLeaseLost
	}
	return err
}

// Put implements ask.Lease.
func (l *boardLease) Put(ctx context.Context, key string, value []byte) (revision int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, opLimit)
	defer cancel()
	resp, err := l.board.Client.Put(ctx, key, string(value), clientv3.WithLease(l.id))
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", key, explained(l.board.Client, err))
	}
	return resp.Header.Revision, nil
}

// Delete implements ask.Lease.
func (l *boardLease) Delete(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, opLimit)
	defer cancel()
	if _, err := l.board.Client.Delete(ctx, key); err != nil {
		return fmt.Errorf("delete %s: %w", key, explained(l.board.Client, err))
	}
	return nil
}

// Close implements ask.Lease.
func (l *boardLease) Close(ctx context.Context) error {
	l.stop()
	<-l.ended
	if err := revoked(ctx, l.board.Client, l.id); err != nil {
		return fmt.Errorf("give a lease back: %w", err)
	}
	return nil
}
