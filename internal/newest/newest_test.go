package newest

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestSlowReaderGetsTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		in, out := make(chan int), make(chan int)
		done := make(chan error)
		go func() { done <- Run(ctx, in, out) }()
		for i := range 100 { // never blocks, though nobody reads
			in <- i
		}
		if got := <-out; got != 99 {
			t.Errorf("got %d, want the last value 99", got)
		}
		synctest.Wait()
		select {
		case v := <-out:
			t.Errorf("got %d a second time", v)
		default:
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
	})
}
