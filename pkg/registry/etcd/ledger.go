package etcd

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// ErrUndone ends a session whose registrations the registry lost, or others changed.
var ErrUndone = errors.New("the registry does not hold what was registered")

// stored is a key as the registry holds it.
type stored struct {
	value    string
	lease    clientv3.LeaseID
	revision int64 // of its last write
}

// ledger is what a session knows of the registry: the node's keys, and how far the registry was. One
// goroutine writes keys, between begin and finish; it may read them at any time, others by compare.
type ledger struct {
	mu       sync.Mutex
	keys     map[string]stored // nil while that is unknown
	turn     uint64            // odd while a write is under way
	revision int64             // the highest seen
	cluster  uint64            // whose revision it is, 0 before the first answer
}

// begin says that keys are about to change in the registry.
func (l *ledger) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turn++
}

// finish says that they have, and takes down what is known now.
func (l *ledger) finish(note func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	note()
	l.turn++
}

// now is the turn for compare.
func (l *ledger) now() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.turn
}

// asks is what heard wants to be told of the time when a question is asked.
func (l *ledger) asks() (revision int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.revision
}

// heard takes an answer's header down. A registry that is another one, or has gone back behind what
// was known when it was asked, has lost what was registered.
func (l *ledger) heard(h *pb.ResponseHeader, asked int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cluster == 0 {
		l.cluster = h.GetClusterId()
	}
	l.revision = max(l.revision, h.GetRevision())
	switch {
	case h.GetClusterId() != l.cluster:
		return fmt.Errorf("%w: %w", ErrUndone, errCluster)
	case h.GetRevision() < asked:
		return fmt.Errorf("%w: %w", ErrUndone, errOlder)
	}
	return nil
}

// written lists the keys that are known, in a fixed order.
func (l *ledger) written() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.keys))
}

// verdict says of the keys that were read since that turn whether they are as they were written.
func (l *ledger) verdict(turn uint64, got map[string]stored) error {
	differ, known := l.compare(turn, got)
	switch {
	case !known:
		return errBusy
	case differ:
		return ErrUndone
	}
	return nil
}

// compare tells whether the registry holds other keys than are known, given those that were read
// since that turn. It goes by revisions, as servers tell neither values nor leases when only keys are
// asked for. It is not known if there was a write meanwhile.
func (l *ledger) compare(turn uint64, got map[string]stored) (differ, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keys == nil || l.turn != turn || turn%2 == 1 {
		return false, false
	}
	for key, k := range l.keys {
		if g, ok := got[key]; !ok || g.revision != k.revision {
			return true, true
		}
	}
	return len(got) != len(l.keys), true
}
