package folder

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sidekick-proxy/sidekick/internal/newest"
)

const (
	// Every is how often a folder is looked at while nothing changes.
	Every = time.Second
	// again is the time until the next look while something changes.
	again = 100 * time.Millisecond
)

// Follow looks for ever, until ctx is cancelled, and calls next after each look. What that returns with true
// is sent; a reader that is slow gets the newest.
func Follow[T any](ctx context.Context, every time.Duration, look func() (changed, moving bool), next func(changed bool) (T, bool), out chan<- T) error {
	sets := make(chan T)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return newest.Run(ctx, sets, out) })
	g.Go(func() error {
		return watch(ctx, every, look, func(changed bool) error {
			set, ok := next(changed)
			if !ok {
				return nil
			}
			select {
			case sets <- set:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	return g.Wait()
}

// watch looks for ever, and calls seen after each look, until ctx is cancelled or seen fails.
func watch(ctx context.Context, every time.Duration, look func() (changed, moving bool), seen func(changed bool) error) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		changed, moving := look()
		if err := seen(changed); err != nil {
			return err
		}
		timer.Reset(every)
		if moving {
			timer.Reset(again)
		}
	}
}
