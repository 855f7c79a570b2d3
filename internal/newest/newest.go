// Package newest joins two stages of a pipe so that a slow reader never stalls its writer: what
// the reader has not taken yet is replaced by what comes after it.
package newest

import "context"

// Run passes values from in to out until ctx is cancelled. Only complete values may travel this
// way, never differences, because the reader sees the newest and not each.
func Run[T any](ctx context.Context, in <-chan T, out chan<- T) error {
	var latest T
	var ready chan<- T // nil while there is nothing to send
	for {
		select {
		case latest = <-in:
			ready = out
		case ready <- latest:
			ready = nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
