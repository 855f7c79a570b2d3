package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/register"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Lone opens sessions for a command that holds instances of a node by a lease of its own, beside the
// agent of that host or without one. It implements register.Registry.
//
// The node's key is the agent's, so each instance's key is its own guard: the revision at which the
// session wrote it. A key that is there under another lease is another command's, and is waited for.
type Lone struct {
	Client *clientv3.Client
	Prefix string
	Node   string
	TTL    time.Duration // of the lease; the cluster may grant a longer one
	// ExitTTL is how long the instances stay after Close; 0 takes them away at once.
	ExitTTL time.Duration
	Log     logrus.FieldLogger
}

// HeldError says that another session holds an instance's key.
type HeldError struct{ Key string }

// Error names the key and what can be done.
func (e *HeldError) Error() string {
	return e.Key + " is held by another `sidekick register` of the same service and address: end one of the two; this one waits for the key to go"
}

// Open takes a lease. It writes nothing yet.
func (l *Lone) Open(ctx context.Context) (register.Session, error) {
	s := &loneSession{Lone: l, tenure: newTenure(l.Client, "this command on node "+l.Node, l.Log), complained: map[string]bool{}}
	if err := s.grant(ctx, l.TTL); err != nil {
		return nil, err
	}
	s.keys = map[string]stored{}
	s.start(ctx, s.look)
	return s, nil
}

// loneSession implements register.Session. Its keys are those that it wrote.
type loneSession struct {
	*Lone
	*tenure
	complained map[string]bool // ids of instances that are left out, so that it is logged once
}

// Set implements register.Session. An instance that readers would refuse is left out and logged, and
// one that cannot be written does not keep the others.
func (s *loneSession) Set(ctx context.Context, want register.Set) error {
	return s.wrote(s.set(ctx, want))
}

func (s *loneSession) set(ctx context.Context, want register.Set) error {
	if err := s.over(); err != nil {
		return err
	}
	var errs []error
	wanted := map[string]bool{}
	for _, i := range want.Instances {
		key := i.Key(s.Prefix)
		wanted[key] = true
		value, err := s.value(&i)
		if err == nil {
			errs = append(errs, s.put(ctx, key, value, s.lease))
		} else if !s.complained[i.ID] {
			s.complained[i.ID] = true
			s.log.WithError(err).WithField("id", i.ID).Warn("instance cannot be registered")
		}
	}
	for _, key := range s.written() {
		if !wanted[key] {
			errs = append(errs, s.remove(ctx, key))
		}
	}
	return errors.Join(errs...)
}

func (s *loneSession) value(i *service.Instance) (string, error) {
	if i.Node != s.Node || service.OriginOf(i.ID) != service.FromCommand {
		return "", fmt.Errorf("instance %s/%s is none of a command on node %s", i.Node, i.ID, s.Node)
	}
	b, err := i.Encode()
	return string(b), err
}

// put makes a key hold that value under that lease, unless it does.
func (s *loneSession) put(ctx context.Context, key, value string, lease clientv3.LeaseID) error {
	k := s.keys[key]
	if k.value == value && k.lease == lease {
		return nil
	}
	return s.write(ctx, key, clientv3.OpPut(key, value, clientv3.WithLease(lease)), func(at int64) {
		s.keys[key] = stored{value, lease, at}
	})
}

func (s *loneSession) remove(ctx context.Context, key string) error {
	return s.write(ctx, key, clientv3.OpDelete(key), func(int64) { delete(s.keys, key) })
}

// write does one write if the key is as this session left it.
func (s *loneSession) write(ctx context.Context, key string, op clientv3.Op, note func(revision int64)) error {
	s.begin()
	guard := clientv3.Compare(clientv3.ModRevision(key), "=", s.keys[key].revision) // 0 if it wrote none
	resp, err := s.commit(ctx, guard, []clientv3.Op{op}, clientv3.OpGet(key))
	s.finish(func() {
		if err == nil && resp.Succeeded {
			note(resp.Header.Revision)
		}
	})
	switch {
	case err != nil:
		return fmt.Errorf("write %s: %w", key, err)
	case resp.Succeeded:
		return nil
	}
	return s.refused(key, (*clientv3.GetResponse)(resp.Responses[0].GetResponseRange()))
}

// refused tells why a key was not as this session left it.
func (s *loneSession) refused(key string, now *clientv3.GetResponse) error {
	_, ours := s.keys[key]
	switch {
	case len(now.Kvs) > 0 && clientv3.LeaseID(now.Kvs[0].Lease) == s.lease: // by a write whose answer did not come
		kv := now.Kvs[0]
		s.begin()
		s.finish(func() { s.keys[key] = stored{string(kv.Value), s.lease, kv.ModRevision} })
		return fmt.Errorf("write %s: it was written before; looking again", key)
	case ours:
		return fmt.Errorf("%w: %s is gone, or another's", ErrUndone, key)
	case len(now.Kvs) == 0:
		return fmt.Errorf("write %s: it is gone just now; trying again", key)
	}
	return &HeldError{key}
}

// look reads the keys that this session wrote, and compares. It writes nothing.
func (s *loneSession) look(ctx context.Context) error {
	turn, asked, got := s.now(), s.asks(), map[string]stored{}
	for _, key := range s.written() {
		resp, err := get(ctx, s.client, key, nil)
		if err != nil {
			return fmt.Errorf("read %s: %w", key, err)
		}
		if err := s.heard(resp.Header, asked); err != nil {
			return err
		}
		for _, kv := range resp.Kvs {
			got[key] = stored{string(kv.Value), clientv3.LeaseID(kv.Lease), kv.ModRevision}
		}
	}
	return s.verdict(turn, got)
}

// Close implements register.Session.
func (s *loneSession) Close(ctx context.Context) error {
	s.stop()
	<-s.ended
	if s.over() != nil {
		if errors.Is(s.err, ErrUndone) { // the lease may live, and something under it
			return s.revoke(ctx, s.lease)
		}
		return nil
	}
	defer s.end(errors.New("closed"))
	if s.ExitTTL > 0 && len(s.keys) > 0 {
		if err := s.part(ctx); err != nil {
			return err
		}
	}
	return s.revoke(ctx, s.lease)
}

// part moves the keys to a parting lease.
func (s *loneSession) part(ctx context.Context) error {
	parting, err := s.grantFor(ctx, s.ExitTTL)
	if err != nil {
		return err
	}
	for _, key := range s.written() {
		if err := s.put(ctx, key, s.keys[key].value, parting.ID); err != nil {
			return err
		}
	}
	return nil
}
