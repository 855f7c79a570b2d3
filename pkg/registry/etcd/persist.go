package etcd

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// persist tries again and again until ctx is cancelled, each time after a longer pause, which ends when
// the connection is back. A try lists everything, and follows until it cannot be sure any more to see
// every change; it tells whether the watch has answered, for the pauses begin anew then. back hears of
// connections, and is for the try that runs.
func persist(ctx context.Context, c *clientv3.Client, back chan bool, try func(context.Context) (answered bool, err error), failed func(error)) error {
	ctx, cancel := context.WithCancel(ctx)
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		Reconnects(ctx, c, back)
	}()
	defer func() { cancel(); <-watching }()

	wait := &backoff.ExponentialBackOff{InitialInterval: 20 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: 10 * time.Second}
	wait.Reset()
	for {
		answered, err := try(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if answered {
			wait.Reset()
		}
		if errors.Is(err, errVerify) {
			continue
		}
		failed(err)
		pause(ctx, wait.NextBackOff(), back)
	}
}

// pause waits for that time, or until the connection is back.
func pause(ctx context.Context, d time.Duration, back <-chan bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-back:
	case <-ctx.Done():
	}
}
