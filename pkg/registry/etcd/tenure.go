package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// ErrFenced ends a session whose node another session has taken over.
var ErrFenced = errors.New("another session has taken the node over")

// ErrLeaseLost ends a session whose lease is gone, or was not renewed in time.
var ErrLeaseLost = errors.New("the lease is lost")

// tenure is a lease that is kept alive, and what is known of the keys under it: what the sessions of
// agents and of commands have in common.
type tenure struct {
	client *clientv3.Client
	of     string // whose it is, for messages
	log    logrus.FieldLogger
	report func(error)   // told of renewals; may be nil
	every  time.Duration // between two looks at the registry

	lease   clientv3.LeaseID
	ttl     time.Duration // as granted
	granted time.Time     // not later than the lease's start

	ledger
	failing atomic.Bool // the last Set failed

	once  sync.Once
	err   error         // why done is closed; read only after that
	done  chan struct{} // closed by the first end
	ended chan struct{} // closed when keep has returned
	stop  context.CancelFunc
}

func newTenure(c *clientv3.Client, of string, log logrus.FieldLogger) *tenure {
	return &tenure{client: c, of: of, log: log, every: lookEvery, done: make(chan struct{}), ended: make(chan struct{})}
}

// start keeps the lease alive from now on. It must outlive the context of the call that opened the
// session; Close ends it.
func (t *tenure) start(ctx context.Context, look func(context.Context) error) {
	ctx, t.stop = context.WithCancel(context.WithoutCancel(ctx))
	go t.keep(ctx, look)
}

// Done implements register.Session for those who have a tenure.
func (t *tenure) Done() <-chan struct{} { return t.done }

// end closes done. Only the first reason counts.
func (t *tenure) end(why error) {
	t.once.Do(func() {
		t.err = why
		close(t.done)
	})
}

// over is why the session is done, or nil while it is not.
func (t *tenure) over() error {
	select {
	case <-t.done:
		return fmt.Errorf("session of %s is over: %w", t.of, t.err)
	default:
		return nil
	}
}

// Err is why the session is done, or nil while it is not.
func (t *tenure) Err() error { return t.over() }

// wrote takes the outcome of a Set down, and returns it. One after which nothing can be written any
// more ends the session.
func (t *tenure) wrote(err error) error {
	t.failing.Store(err != nil)
	if ends(err) {
		t.end(err)
		return t.over()
	}
	return err
}

// commit does the writes if the guard holds, else what is to be done otherwise.
func (t *tenure) commit(ctx context.Context, guard clientv3.Cmp, ops []clientv3.Op, otherwise ...clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, opLimit)
	defer cancel()
	asked := t.asks()
	resp, err := t.client.Txn(ctx).If(guard).Then(ops...).Else(otherwise...).Commit()
	if err != nil {
		return nil, explained(t.client, err)
	}
	if err := t.heard(resp.Header, asked); err != nil {
		return nil, err
	}
	return resp, nil
}

// grant takes a lease for the session. Servers may grant more time than was asked for.
func (t *tenure) grant(ctx context.Context, ttl time.Duration) error {
	t.granted = time.Now()
	resp, err := t.grantFor(ctx, ttl)
	if err != nil {
		return err
	}
	t.lease, t.ttl = resp.ID, time.Duration(resp.TTL)*time.Second
	return nil
}

func (t *tenure) grantFor(ctx context.Context, ttl time.Duration) (*clientv3.LeaseGrantResponse, error) {
	resp, err := granted(ctx, t.client, ttl)
	if err != nil {
		return nil, fmt.Errorf("lease for %s: %w", t.of, err)
	}
	return resp, nil
}

// revoke ends a lease and all keys under it. It also works after ctx is cancelled.
func (t *tenure) revoke(ctx context.Context, lease clientv3.LeaseID) error {
	if err := revoked(context.WithoutCancel(ctx), t.client, lease); err != nil {
		return fmt.Errorf("revoke the lease of %s: %w", t.of, err)
	}
	return nil
}

// abandon gives a lease back that came to no use, and returns why. If that fails, it expires.
func (t *tenure) abandon(ctx context.Context, why error) error {
	if err := t.revoke(ctx, t.lease); err != nil {
		t.log.WithError(err).Debug("unused lease is left to expire")
	}
	return why
}
