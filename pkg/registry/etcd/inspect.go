package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// inspect looks from time to time, and soon after each reconnect, whether the registry still holds
// what the session wrote, and ends the session if not: the next one writes it again. A registry that
// was restored from a backup would otherwise miss it for ever, for leases are restored as well.
func (t *tenure) inspect(ctx context.Context, reconnected <-chan struct{}, look func(context.Context) error) {
	const spread = 500 * time.Millisecond // over which the agents ask a registry that is back
	timer := time.NewTimer(pauseOf(t.every))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-reconnected:
			timer.Reset(rand.N(spread)) //nolint:gosec // spreads agents, protects nothing
			continue
		case <-timer.C:
		}
		err := look(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case ends(err):
			t.log.WithError(err).Warn("registrations are not in the registry as they were written; writing them again")
			t.end(err)
			return
		case err != nil: // the renewals tell of a registry that is away
			timer.Reset(pauseOf(min(t.every, t.ttl/3)))
		default:
			timer.Reset(pauseOf(t.every))
		}
	}
}

// ends tells whether an error is the end of a session.
func ends(err error) bool {
	return errors.Is(err, ErrUndone) || errors.Is(err, ErrLeaseLost) || errors.Is(err, ErrFenced)
}

// pauseOf is about that time, and differs from agent to agent.
func pauseOf(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1) //nolint:gosec // spreads agents, protects nothing
}

// errBusy says that a look came to nothing, because there was a write meanwhile.
var errBusy = errors.New("there was a write meanwhile")

// look reads the node's key and what is below it, and compares. It writes nothing.
func (s *session) look(ctx context.Context) error {
	turn, asked := s.now(), s.asks()
	resp, err := get(ctx, s.client, service.NodeKey(s.prefix, s.node), nil)
	if err != nil {
		return fmt.Errorf("read node %s: %w", s.node, err)
	}
	if err := s.heard(resp.Header, asked); err != nil {
		return err
	}
	if err := s.holds(resp); err != nil {
		return err
	}
	got, err := s.read(ctx, clientv3.WithKeysOnly())
	if err != nil {
		return err
	}
	return s.verdict(turn, got)
}

// holds tells by the node's key whether this session owns the node.
func (s *session) holds(node *clientv3.GetResponse) error {
	switch {
	case len(node.Kvs) == 0:
		return fmt.Errorf("%w: the key of node %s is gone", ErrLeaseLost, s.node)
	case node.Kvs[0].ModRevision != s.claimed:
		return ErrFenced
	}
	return nil
}
