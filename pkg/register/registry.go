package register

import (
	"context"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Source says what this host should register. Run sends the complete set, sorted by id: first when
// it is known in full, then after each change. A read that failed or is incomplete sends nothing,
// so that what was sent before stays wanted. It blocks until ctx is cancelled, does not close out,
// and does not change a set that it has sent.
type Source interface {
	Run(ctx context.Context, out chan<- []service.Instance) error
}

// Set is what a node is to have registered. Once sent it is never changed.
type Set struct {
	Instances []service.Instance // sorted by id
	// Unknown are the origins of which nothing is known yet, because their source has not sent its
	// first set: unknown is not empty.
	Unknown []service.Origin
}

// Registry opens leased sessions. Open takes a lease and claims the node's name with it. It fails
// when the registry cannot be reached or another agent holds the name; the caller tries again
// later. ctx limits only the opening. Whoever got a session must close it, also a lost one.
type Registry interface {
	Open(ctx context.Context) (Session, error)
}

// Session holds a node's instances in a registry under one lease, which it keeps alive. Set and
// Close are called by one goroutine at a time; Done may be used by others.
type Session interface {
	// Set makes the node's keys exactly want, by as few writes as that takes: none when nothing
	// differs. What the registry holds of an origin that want does not know stays as it is, and so
	// does what commands hold by leases of their own. It may be called again with the same set, and
	// must be after an error, because a failed call may have written a part.
	Set(ctx context.Context, want Set) error
	// Done is closed when the lease is lost or another session has taken the node over. Nothing
	// can be written through this session then; the caller opens a new one. If the session also has a
	// method Err() error, that says why.
	Done() <-chan struct{}
	// Close ends the session in good order and leaves in the registry what is to outlive it. It is
	// called exactly once. On a session that is done it only frees what it held in this process.
	Close(ctx context.Context) error
}
