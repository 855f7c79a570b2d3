package haproxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

const (
	retryMin   = 50 * time.Millisecond
	retryMax   = 5 * time.Second
	deleteMin  = 50 * time.Millisecond
	deleteMax  = time.Second
	lookEvery  = 2 * time.Second
	lookSilent = 250 * time.Millisecond // while HAProxy does not answer
	lookLimit  = time.Second            // for the master's answer
	auditEvery = time.Minute

	followQuiet = 800 * time.Millisecond // the file follows this long after the last change
	followShare = 100                    // while changes go on, at most 1/100 of a core is spent on it
)

// Run applies what comes in, the newest set winning, until ctx is cancelled, and returns ctx's error.
// What fails is tried again with back-off until HAProxy runs what is wanted. In the background the
// file on disk follows runtime changes, servers without sessions are deleted, and HAProxy is audited.
// In managed mode it runs HAProxy as well, and returns another error if it must not.
func (d *Driver) Run(ctx context.Context, in <-chan render.Files) error {
	if err := os.MkdirAll(filepath.Dir(d.cfg.Path), 0o755); err != nil { //nolint:gosec // HAProxy runs as another user
		return fmt.Errorf("directory of haproxy's configuration: %w", err)
	}
	if d.child == nil {
		d.tidy(ctx)
		d.begin()
		return d.loop(ctx, in)
	}
	// Before anything is touched: another agent's HAProxy must not be driven by two.
	lock, err := d.child.hold(ctx)
	if err != nil {
		return err
	}
	d.tidy(ctx)
	d.begin()
	// HAProxy outlives the loop, so that what the loop began can end well.
	childCtx, stopChild := context.WithCancel(context.WithoutCancel(ctx))
	defer stopChild()
	g, loopCtx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer stopChild()
		return d.loop(loopCtx, in)
	})
	g.Go(func() error {
		if err := d.child.run(childCtx, lock); !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
	return g.Wait()
}

// tidy removes what a crash left, while nobody else is at work. Nothing depends on it.
func (d *Driver) tidy(ctx context.Context) {
	if d.acquire(ctx) != nil {
		return
	}
	defer d.release()
	d.endStates()
	if err := d.store.tidy(); err != nil {
		d.cfg.Log.WithError(err).Warn("cannot remove what a crash left")
	}
}

// loop is the state of Run. A zero time means never.
type loop struct {
	*Driver
	want     render.Files // nil before the first
	retryAt  time.Time
	backoff  time.Duration
	failures int     // in a row
	logged   trouble // the worst since all was well
	inStep   bool    // the last attempt put in force what is wanted
	warnedOf string  // the comment that was warned of last

	deleteAt    time.Time
	deleteEvery time.Duration
	lookAt      time.Time
	auditAt     time.Time
	asking      chan struct{} // holds one token while old workers are asked for their memory
	downAt      time.Time

	following    chan followed // not nil while a candidate is being checked
	followAt     time.Time
	followAfter  time.Time // while changes go on, their share of a core allows no earlier one
	followHold   time.Time // after a failure, no earlier one
	followFailed bool      // and it is reported
}

func (d *Driver) loop(ctx context.Context, in <-chan render.Files) error {
	now := time.Now()
	l := &loop{
		Driver: d, backoff: retryMin, lookAt: now, auditAt: now.Add(auditEvery), downAt: now.Add(lookEvery),
		asking: make(chan struct{}, 1),
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for took := false; ; {
		l.schedule(ctx)
		timer.Reset(time.Until(l.next()))
		first := in // before what is due: that waits for a HAProxy that hangs
		if took {
			first = nil // but not all the time: sets may come faster than they are taken
		}
		select {
		case want, open := <-first:
			in, took = l.take(ctx, in, want, open), true
			continue
		default:
			took = false
		}
		select {
		case want, open := <-in:
			in = l.take(ctx, in, want, open)
		case f := <-l.following:
			l.followed(ctx, f)
		case <-l.wake:
		case <-timer.C:
			l.work(ctx)
		case <-ctx.Done():
			l.finish(ctx)
			return ctx.Err()
		}
	}
}

// next is when there is something to do.
func (l *loop) next() time.Time {
	first := l.lookAt
	for _, t := range []time.Time{l.retryAt, l.deleteAt, l.auditAt, l.downAt, l.followAt} {
		if !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	return first
}

// schedule looks at what the last step left to the background.
func (l *loop) schedule(ctx context.Context) {
	if l.acquire(ctx) != nil {
		return
	}
	defer l.release()
	if l.bulky {
		// Else the process keeps it until it has allocated as much again, which may take hours.
		debug.FreeOSMemory()
		l.bulky = false
	}
	if len(l.leaving) > 0 && l.deleteAt.IsZero() {
		l.deleteEvery = deleteMin
		l.deleteAt = time.Now().Add(l.deleteEvery)
	}
	l.followAt = time.Time{}
	if !l.dirtied.IsZero() && l.following == nil {
		quiet := l.changed.Add(followQuiet)
		l.followAt = latest(latest(l.dirtied.Add(followQuiet), l.followAfter), l.followHold)
		if quiet.Before(l.followAt) {
			l.followAt = latest(quiet, l.followHold)
		}
	}
}

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// work does what is due. Behind an answer that did not come nothing else waits for one in the same turn.
func (l *loop) work(ctx context.Context) {
	now := time.Now()
	due := func(t *time.Time) bool {
		if t.IsZero() || now.Before(*t) {
			return false
		}
		*t = time.Time{}
		return true
	}
	if due(&l.retryAt) {
		if l.attempt(ctx); l.silentFor(0) {
			return
		}
	}
	if due(&l.deleteAt) {
		l.delete(ctx)
	}
	if due(&l.auditAt) {
		l.auditAt = time.Now().Add(auditEvery)
		l.audit(ctx) // may want to look again sooner
	}
	if due(&l.lookAt) {
		l.look(ctx)
		l.lookAt = time.Now().Add(lookEvery)
		if l.silentFor(0) {
			l.lookAt = time.Now().Add(lookSilent)
			return
		}
	}
	if due(&l.downAt) {
		l.downAt = l.lookDown(ctx)
	}
	if due(&l.followAt) {
		l.follow(ctx)
	}
}

// take accepts what came from in, a wanted set or its end, and returns where the next one comes from. A
// set that is wanted already and whose next try is planned waits for that, so that whoever sends a set at
// each failure does not undo the back-off.
func (l *loop) take(ctx context.Context, in <-chan render.Files, want render.Files, open bool) <-chan render.Files {
	if !open {
		return nil
	}
	l.warn(want)
	planned := !l.retryAt.IsZero() && sameFiles(l.want, want)
	l.want = want
	if !planned {
		l.backoff = retryMin
		l.attempt(ctx)
	}
	return in
}

// attempt tries to put the wanted set in force and plans the next try.
func (l *loop) attempt(ctx context.Context) {
	if l.want == nil {
		return
	}
	_, wait, err := l.Driver.attempt(ctx, l.want)
	l.retryAt, l.inStep = time.Time{}, err == nil && wait == 0
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		l.failed(ctx, err)
	case wait > 0:
		l.retryAt = time.Now().Add(wait)
	default:
		l.backoff = retryMin
		if l.logged != noTrouble {
			l.cfg.Log.Info("haproxy is as wanted again")
		}
		l.logged, l.failures = noTrouble, 0
	}
}

// trouble is what can be wrong, the worst last.
type trouble int

const (
	noTrouble trouble = iota
	isAwaited         // it may be about to start
	isBehind          // the last good configuration serves
	isGone            // nothing serves
)

// failed plans the next try. A HAProxy that is just being started is no news.
func (l *loop) failed(ctx context.Context, err error) {
	pause, refused := l.backoff, asRefused(err) != nil
	silence, silent := errors.AsType[*silence](err)
	if refused && !silent {
		pause = l.refusedFor(ctx)
	}
	l.backoff = min(2*l.backoff, retryMax)
	l.retryAt = time.Now().Add(pause)
	if l.starting(err) {
		l.tellAwaited(err, silent && silence.gone && !silence.child)
		return
	}
	l.failures++
	never := silent && silence.gone && l.logged == isAwaited // and it had its time
	if !refused && !never && l.failures < 5 {
		return
	}
	l.tell(err, silent && silence.gone)
}

// tellAwaited says for what HAProxy is waited, that somebody else should have started by now.
func (l *loop) tellAwaited(err error, elsewhere bool) {
	const moment = time.Second
	if elsewhere && l.logged < isAwaited && l.silentFor(moment) {
		l.logged = isAwaited
		l.cfg.Log.WithError(err).Info("waiting for haproxy")
	}
}

// tell logs a failure, unless that or worse is logged already. Nothing serves where HAProxy is gone: an error.
func (l *loop) tell(err error, gone bool) {
	switch {
	case gone && l.logged < isGone:
		l.logged = isGone
		l.cfg.Log.WithError(err).Error("haproxy is not there; the last good configuration is on disk for its start")
	case !gone && l.logged < isBehind:
		l.logged = isBehind
		l.cfg.Log.WithError(err).Warn("haproxy is not as wanted; the last good configuration stays in force")
	}
}

// refusedFor is how long the refused text is not worth another try.
func (l *loop) refusedFor(ctx context.Context) time.Duration {
	if l.acquire(ctx) != nil {
		return retryMax
	}
	defer l.release()
	refused, until := l.refusal.of(l.want)
	if refused == nil {
		return retryMax
	}
	return max(retryMin, time.Until(until))
}
