// Package ask is how one host finds out what the proxies of all hosts do. An [Asker] puts an ask into the
// registry for as long as it waits; each agent's [Answerer] sees it through the watch that it has anyway,
// and answers once its proxy has in force what the registry held when the ask was made, and again when no
// session is left, if that was asked. Nothing is written while nobody asks.
//
// An ask and each answer are under leases of their own, so that nothing is left of a party that dies.
package ask

import (
	"context"
	"time"
)

// Registry holds the keys of asks and answers.
type Registry interface {
	// Open takes a lease of that time to live, which is renewed until it is closed. Whatever is put
	// under it goes with it, also when it is lost.
	Open(ctx context.Context, ttl time.Duration) (Lease, error)
}

// Lease is a set of keys that end together. An error says that it may be lost: its keys are to be put
// under another one.
type Lease interface {
	// Put writes a key, and returns the registry's revision from then on.
	Put(ctx context.Context, key string, value []byte) (revision int64, err error)
	// Delete takes a key away, which need not be there.
	Delete(ctx context.Context, key string) error
	// Close gives the lease back, and takes all its keys away.
	Close(ctx context.Context) error
}

// closeLimit bounds the giving back of a lease by somebody who was told to end.
const closeLimit = 2 * time.Second
