package etcd

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/register"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

const (
	opLimit    = 5 * time.Second // for one request
	pageSize   = 1000            // keys in one answer
	lookEvery  = 5 * time.Minute // between two looks at what was written
	claimTries = 3
)

// Registry opens sessions for one node. It implements register.Registry.
type Registry struct {
	Client *clientv3.Client
	Prefix string
	Node   service.Node  // what the node's key will say; Name, Agent and Machine decide on ownership
	TTL    time.Duration // of the lease; the cluster may grant a longer one
	// ExitTTL is how long the registrations stay after Close; 0 takes them away at once.
	ExitTTL time.Duration
	// Inspect is how often a session looks whether the registry holds what it wrote; 0 means 5
	// minutes. It also looks when the connection was lost.
	Inspect time.Duration
	Log     logrus.FieldLogger
	// Report is told of each renewal of a session's lease, unless it succeeds while the last Set has
	// not; it may be nil.
	Report func(error)

	last *tenure // the one that claimed the node last
}

// OwnedError says that another agent holds the node's name.
type OwnedError struct {
	Node  string
	Owner service.Node
	Key   string
}

// Error names the other agent and what can be done.
func (e *OwnedError) Error() string {
	if e.Owner.Agent == "" {
		return fmt.Sprintf("node name %s is held by a registry key that no agent wrote: delete %s, or give this host another --node", e.Node, e.Key)
	}
	where := []string{e.Owner.Agent}
	if e.Owner.Address != "" {
		where = append(where, "at "+e.Owner.Address)
	}
	if e.Owner.Machine != "" {
		where = append(where, "on machine "+e.Owner.Machine)
	}
	return fmt.Sprintf("node name %s is held by another agent (%s): give one of the two hosts another --node, or wait until that agent has ended",
		e.Node, strings.Join(where, " "))
}

// Open takes a lease and claims the node with it. The node is free if it has no key; one whose key
// was written by the same agent on the same machine is taken over, which ends the older session;
// otherwise the error is an [OwnedError] and nothing was written. What is registered for the node is
// under the session's lease then, unless it is from before the machine was restarted.
func (r *Registry) Open(ctx context.Context) (register.Session, error) {
	seen, err := r.holder(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{
		tenure: newTenure(r.Client, "node "+r.Node.Name, r.Log.WithField("node", r.Node.Name)),
		prefix: r.Prefix, node: r.Node.Name, exitTTL: r.ExitTTL, complained: map[string]string{},
	}
	s.report, s.every = r.Report, cmp.Or(r.Inspect, lookEvery)
	if s.nodeValue, s.leaving, err = r.nodeValues(time.Now()); err != nil {
		return nil, err
	}
	if err := r.enter(ctx, s, seen); err != nil {
		s.end(err)
		return nil, err
	}
	s.start(ctx, s.look)
	return s, nil
}

// enter gives the session a lease, the node, and what is registered for it.
func (r *Registry) enter(ctx context.Context, s *session, seen holding) error {
	adopted := r.adopt(ctx, s, seen)
	if !adopted {
		if err := s.grant(ctx, r.TTL); err != nil {
			return err
		}
	}
	restarted, err := r.claim(ctx, s, seen)
	if err != nil && !adopted {
		return s.abandon(ctx, err)
	}
	if err != nil {
		return err
	}
	// From here on the lease stays if this fails: there may be instances under it, and the next
	// session takes them over.
	r.last = s.tenure
	if err := s.list(ctx); err != nil {
		return err
	}
	if !restarted { // what ran before that does not run now: it is left to expire, or to the first Set
		return s.takeOver(ctx)
	}
	return nil
}

// adopt takes the lease of this registry's last session up again, if that session is over and the lease
// lives. Then nothing has to be written anew. After an outage longer than the leases' time, etcd gives
// each of them its time once more; if all agents wrote all their keys then, each would be sent the keys
// of all, and etcd be too busy to renew the new leases in time.
func (r *Registry) adopt(ctx context.Context, s *session, seen holding) bool {
	if r.last == nil || r.last.over() == nil || seen.lease == 0 || seen.lease != r.last.lease {
		return false
	}
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), opLimit)
	defer cancel()
	asked := time.Now()
	resp, err := renewed(ctx, r.Client, seen.lease)
	if err != nil || resp.TTL <= 0 {
		return false
	}
	s.lease, s.ttl, s.granted = seen.lease, time.Duration(resp.TTL)*time.Second, asked
	return true
}

// nodeValues are what the node's key says while a session that begins now lasts, and after its end.
func (r *Registry) nodeValues(now time.Time) (present, leaving string, err error) {
	if !service.ValidName(r.Node.Name) {
		return "", "", fmt.Errorf("node name %q is no name (lower-case letters, digits, inner hyphens, at most 63): give another --node", r.Node.Name)
	}
	n := r.Node
	n.Claimed = now.UTC()
	if present, err = nodeText(n); err != nil {
		return "", "", err
	}
	n.Leaving = true
	leaving, err = nodeText(n)
	return present, leaving, err
}

func nodeText(n service.Node) (string, error) {
	b, err := n.Encode()
	if err != nil {
		return "", fmt.Errorf("node %s: %w", n.Name, err)
	}
	return string(b), nil
}

// holding is what the node's key was when it was read. The zero value is that of a free node.
type holding struct {
	revision  int64
	lease     clientv3.LeaseID
	restarted bool // the machine was, since then
}

// holder reads who has the node. That it is another agent is an error.
func (r *Registry) holder(ctx context.Context) (holding, error) {
	ctx, cancel := context.WithTimeout(ctx, opLimit)
	defer cancel()
	key := service.NodeKey(r.Prefix, r.Node.Name)
	resp, err := r.Client.Get(ctx, key)
	if err != nil {
		return holding{}, fmt.Errorf("read %s: %w", key, explained(r.Client, err))
	}
	if len(resp.Kvs) == 0 {
		return holding{}, nil
	}
	kv := resp.Kvs[0]
	owner, err := service.DecodeNode(r.Node.Name, kv.Value)
	if err != nil {
		owner = service.Node{} // whoever wrote this is not us
	}
	if owner.Agent == "" || owner.Agent != r.Node.Agent || !sameMachine(owner, r.Node) {
		return holding{}, &OwnedError{Node: r.Node.Name, Owner: owner, Key: key}
	}
	return holding{revision: kv.ModRevision, lease: clientv3.LeaseID(kv.Lease), restarted: owner.Boot != r.Node.Boot}, nil
}

// sameMachine tells whether two agents run on one machine. Of one that has no id it is known only as
// long as it is not restarted; a container may have none of its host's.
func sameMachine(a, b service.Node) bool {
	if a.Machine == "" && b.Machine == "" {
		return a.Boot != "" && a.Boot == b.Boot
	}
	return a.Machine == b.Machine
}

// claim writes the node's key under the session's lease, provided that it is as it was seen. If it
// is not, it looks again who has it. It tells whether the machine was restarted since the claim
// before.
func (r *Registry) claim(ctx context.Context, s *session, seen holding) (restarted bool, err error) {
	key := service.NodeKey(r.Prefix, r.Node.Name)
	for range claimTries {
		unchanged := clientv3.Compare(clientv3.ModRevision(key), "=", seen.revision) // 0 if there is no key
		resp, err := s.commit(ctx, unchanged, []clientv3.Op{clientv3.OpPut(key, s.nodeValue, clientv3.WithLease(s.lease))})
		if err != nil {
			return false, fmt.Errorf("claim %s: %w", key, err)
		}
		if resp.Succeeded {
			s.claimed, s.older = resp.Header.Revision, seen.lease
			return seen.restarted, nil
		}
		if seen, err = r.holder(ctx); err != nil {
			return false, err
		}
	}
	return false, fmt.Errorf("claim %s: it changed %d times meanwhile: do two agents share one identity?", key, claimTries)
}
