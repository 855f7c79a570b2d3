package holdoff

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	settle = 10 * time.Millisecond
	most   = 250 * time.Millisecond
)

// passed is a value and when it was passed.
type passed struct {
	Value int
	At    time.Duration
}

// run sends value i at the i-th of these times, and tells what comes out until the end.
func run(t *testing.T, at []time.Duration, end time.Duration) []passed {
	t.Helper()
	var got []passed
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		in, out, done := make(chan int), make(chan int), make(chan error)
		go func() { done <- Run(ctx, settle, most, in, out) }()
		go func() {
			for i, d := range at {
				time.Sleep(d - time.Since(start))
				in <- i
			}
			time.Sleep(end - time.Since(start))
			cancel()
		}()
		for {
			select {
			case v := <-out:
				got = append(got, passed{v, time.Since(start)})
			case err := <-done:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("got %v, want %v", err, context.Canceled)
				}
				return
			}
		}
	})
	return got
}

func TestRun(t *testing.T) {
	const ms = time.Millisecond
	every := func(step, until time.Duration) (at []time.Duration) {
		for d := step; d <= until; d += step {
			at = append(at, d)
		}
		return at
	}
	tests := []struct {
		name string
		at   []time.Duration
		want []passed
	}{
		{"a lone change is not delayed", []time.Duration{5 * ms}, []passed{{0, 5 * ms}}},
		{"changes far apart are not delayed", []time.Duration{5 * ms, 20 * ms, 40 * ms}, []passed{{0, 5 * ms}, {1, 20 * ms}, {2, 40 * ms}}},
		{"a burst gives its first and its last", []time.Duration{5 * ms, 6 * ms, 9 * ms, 12 * ms}, []passed{{0, 5 * ms}, {3, 22 * ms}}},
		{"what comes after a burst's last is held too", []time.Duration{5 * ms, 6 * ms, 18 * ms}, []passed{{0, 5 * ms}, {1, 16 * ms}, {2, 28 * ms}}},
		{"an endless burst passes at the ceiling", every(9*ms, 540*ms), []passed{{0, 9 * ms}, {28, 268 * ms}, {56, 520 * ms}, {59, 550 * ms}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := run(t, tt.at, time.Second)
			if diff := cmp.Diff(got, tt.want); diff != "" {
				t.Errorf("sent at %v (-got +want):\n%s", tt.at, diff)
			}
		})
	}
}

func TestSlowReaderGetsTheNewestAndStallsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		in, out, done := make(chan int), make(chan int), make(chan error)
		go func() { done <- Run(ctx, settle, most, in, out) }()
		for i := range 100 {
			in <- i
		}
		if got := <-out; got != 99 {
			t.Errorf("got %d, want the newest, 99", got)
		}
		time.Sleep(time.Second)
		select {
		case v := <-out:
			t.Errorf("got %d, want nothing more", v)
		default:
		}
		cancel()
		<-done
	})
}

func TestNoSettleHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		in, out, done := make(chan int), make(chan int), make(chan error)
		go func() { done <- Run(ctx, 0, 0, in, out) }()
		for i := range 3 {
			in <- i
			if got := <-out; got != i {
				t.Errorf("got %d, want %d", got, i)
			}
		}
		cancel()
		<-done
	})
}
