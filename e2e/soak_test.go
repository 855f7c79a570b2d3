package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// What a soak takes from the environment: the seconds for each HAProxy, and the seed of its first
// round, which a failure prints beside that of the round that failed: a round depends on what those
// before it have left.
const (
	soakTime = "SOAKTIME"
	soakSeed = "SOAKSEED"
)

// soakShort is the time without SOAKTIME: what a test before every change may take.
const soakShort = time.Minute

// externalShare is how much of the time HAProxy is a process of its own; then more can happen to it.
const externalShare = 2.0 / 3

// TestSoak lets faults, changes and outside edits follow and overlap each other at random, round after
// round, and lets each round end well: then HAProxy runs what is wanted, which is what is on disk, by
// itself and within a bounded time. Wherever the agent is stopped or killed, HAProxy accepts the file on
// disk. With an agent that runs HAProxy, no port is ever shared by two of them. P6, F5, F6, F8.
func TestSoak(t *testing.T) {
	leftOut(t, "haproxy")
	t.Parallel()
	length, seed := soakLength(t), soakFirst(t)
	haproxytest.Each(t, func(t haproxytest.T) {
		t.Parallel()
		t.Run("external", func(sub *testing.T) {
			soakFor(newSoak(sub, t.Bin, true), time.Duration(float64(length)*externalShare), seed)
		})
		t.Run("managed", func(sub *testing.T) {
			soakFor(newSoak(sub, t.Bin, false), time.Duration(float64(length)*(1-externalShare)), seed)
		})
	})
}

// soakLength is how long to go on with each HAProxy. Hours are the normal case of `make soak`.
func soakLength(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv(soakTime)
	if text == "" {
		return soakShort
	}
	seconds, err := strconv.Atoi(text)
	if err != nil || seconds <= 0 {
		t.Fatalf("%s=%q: give a number of seconds", soakTime, text)
	}
	return time.Duration(seconds) * time.Second
}

// soakFirst is the seed of the first round.
func soakFirst(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv(soakSeed)
	if text == "" {
		return rand.Uint64N(1_000_000_000)
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q: give the number that a failure has printed", soakSeed, text)
	}
	return seed
}

// soakFor plays rounds until the time is over, at least one. The seeds of the rounds follow each other.
func soakFor(s *soak, length time.Duration, seed uint64) {
	s.Helper()
	s.log.first = seed
	s.startAll()
	rounds, worst := 0, time.Duration(0)
	for over := time.Now().Add(length); rounds == 0 || time.Now().Before(over); rounds++ {
		took := s.round(seed + uint64(rounds))
		worst = max(worst, took)
	}
	s.watched()
	if err := s.points.fault(); err != nil {
		s.tell(err)
	}
	s.Logf("%d rounds from seed %d; %d faults and changes, %d different sets of files checked at %d kill points; slowest return %s",
		rounds, seed, s.played, s.points.different(), s.points.taken(), worst.Round(time.Millisecond))
}

// round draws steps, plays them, ends all faults and waits until all is as it should be. It returns how
// long that took.
func (s *soak) round(seed uint64) time.Duration {
	s.ends.Store(0)
	s.Helper()
	s.log.begin(seed)
	steps := s.draw(rand.New(rand.NewPCG(seed, 0)))
	s.play(steps)
	s.played += len(steps) - 1
	return s.returns()
}

// step is one thing that happens.
type step struct {
	what string
	do   func(ctx context.Context) error
	// alone says that the next step waits for the end of this one; it waits in any case for the pause.
	alone bool
	pause time.Duration
}

// play lets the steps happen. What one of them could not do because of another is no failure.
func (s *soak) play(steps []step) {
	var running sync.WaitGroup
	for _, one := range steps {
		done := make(chan struct{})
		running.Go(func() {
			defer close(done)
			began := time.Now()
			s.log.add("begin %s", one.what)
			if err := one.do(s.ctx); err != nil {
				s.log.add("      %s: %v", one.what, err)
			}
			s.log.add("end   %s, after %s", one.what, time.Since(began).Round(time.Millisecond))
		})
		if one.alone {
			<-done
		}
		wait(s.ctx, one.pause)
	}
	running.Wait()
}

// wait lets a time of the plan pass; it is never waited for something to come true.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// returns ends all faults and waits for the promise.
func (s *soak) returns() time.Duration {
	s.Helper()
	s.log.add("all faults end")
	if err := s.mend(); err != nil {
		s.tell(fmt.Errorf("the faults do not end: %w", err))
	}
	began := time.Now()
	err := s.comesTrue()
	took := time.Since(began)
	s.log.add("as it should be after %s: %v", took.Round(time.Millisecond), err == nil)
	if err == nil {
		err = s.points.fault()
	}
	if err != nil {
		s.tell(err)
	}
	return took
}

// returnLimit is how long the return may take by itself. HAProxy is audited every minute: an outside
// edit that nothing else finds waits for that.
const returnLimit = 90 * time.Second

// slowReturn is what a return without an audit stays far below, even on a busy machine.
const slowReturn = 40 * time.Second

// comesTrue waits until there is nothing left to find fault with.
func (s *soak) comesTrue() error {
	limit := slowReturn
	if s.waitForAudit {
		limit = returnLimit
	}
	ctx, cancel := context.WithTimeout(s.ctx, limit)
	defer cancel()
	var last error
	for {
		err := s.differs(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // else it only says that the time is over
			last = err
		}
		if wait(ctx, 50*time.Millisecond); ctx.Err() != nil {
			return fmt.Errorf("not as it should be %s after the last fault: %w", limit, last)
		}
	}
}
