// Package holdoff joins two stages of a pipe so that a burst of values becomes one, while a lone
// value passes at once.
package holdoff

import (
	"context"
	"time"
)

// Run passes values from in to out until ctx is cancelled. A value that comes alone is passed
// without delay. What comes within settle after a value was passed is held until nothing has come
// for settle, or for most after the first held one; then the newest of it is passed. A slow reader
// gets the newest value, never stalls the writer. Only complete values may travel this way, never
// differences.
func Run[T any](ctx context.Context, settle, most time.Duration, in <-chan T, out chan<- T) error {
	quiet, ceiling := stopped(), stopped()
	var (
		latest  T
		holding bool     // latest waits for a timer
		open    bool     // something was passed less than settle ago
		ready   chan<- T // where latest may go now; nil while it may not
	)
	release := func() {
		quiet.Stop()
		ceiling.Stop()
		holding, ready = false, out
	}
	for {
		select {
		case latest = <-in:
			switch {
			case ready != nil: // released and not taken yet: the newer one goes instead
			case !open || settle <= 0:
				release()
			default:
				quiet.Reset(settle)
				if !holding {
					ceiling.Reset(most)
				}
				holding = true
			}
		case ready <- latest:
			ready, open = nil, true
			quiet.Reset(settle)
		case <-quiet.C:
			open = holding
			if holding {
				release()
			}
		case <-ceiling.C:
			release()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stopped returns a timer that does not run yet.
func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}
