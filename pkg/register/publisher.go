package register

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// The bounds of the Publisher's pauses when its fields leave them open.
const (
	DefaultMinRetry     = 100 * time.Millisecond
	DefaultMaxRetry     = 3 * time.Second
	DefaultCloseTimeout = 5 * time.Second
)

// A session that was lost this soon after the one before was lost too early, and each such loss makes the
// pause longer, up to the longest. A registry that is too busy to keep the sessions of a whole fleet is
// not helped by all of them writing everything anew at once.
const (
	lostEarly    = 2 * time.Minute
	firstPause   = 500 * time.Millisecond
	longestPause = time.Minute
)

// Publisher makes a registry hold the newest set that it was given.
type Publisher struct {
	Registry Registry
	Log      logrus.FieldLogger
	// Report is told of each success (nil) and failure. It may be nil.
	Report func(error)
	// Unwritten is given the complete set of what is to be in the registry and was not written there, with
	// the reason, each time it changes: nothing once all is. It may be nil.
	Unwritten func([]service.Rejection)
	// MinRetry and MaxRetry bound the jittered pauses between attempts that fail.
	MinRetry, MaxRetry time.Duration
	// Back says that the registry can be reached again, so that a pause ends early. It may be nil.
	Back <-chan bool
	// Spread is over which the agents of a cluster spread what all do at one moment: opening a session
	// after a loss, or when the registry is back. Each waits for a random part of it; 0 is not at all.
	Spread time.Duration
	// Linger is how long Run goes on publishing sets after its ctx was cancelled, so that the
	// others learn which containers are stopped along with this agent, as when the host goes down.
	Linger time.Duration
	// CloseTimeout bounds what is under way when Linger is over, and then the closing of the
	// session, each.
	CloseTimeout time.Duration
}

// Run publishes each set of in until ctx is cancelled and Linger is over, then closes the session.
// The session is opened at once, so that what an earlier one has left does not expire while there is
// no set yet; it writes no instances before the first set is there: unknown is not empty. It returns nil after a
// clean end, else why the session could not be closed.
func (p *Publisher) Run(ctx context.Context, in <-chan Set) error {
	// The work outlives ctx by Linger, so it has a context of its own.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	l := &publishing{
		Publisher: p, results: make(chan result, 1), retry: time.NewTimer(0), linger: time.NewTimer(0),
		pause: &backoff.ExponentialBackOff{
			InitialInterval: orDefault(p.MinRetry, DefaultMinRetry), MaxInterval: orDefault(p.MaxRetry, DefaultMaxRetry),
			RandomizationFactor: 0.5, Multiplier: 2,
		},
	}
	l.losses = &backoff.ExponentialBackOff{InitialInterval: firstPause, MaxInterval: longestPause, RandomizationFactor: 0.5, Multiplier: 4}
	l.retry.Stop()
	l.linger.Stop()
	l.pause.Reset()
	l.loop(ctx, work, in)
	defer l.tellWait().Stop()
	return l.end(ctx)
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

// publishing is the state of one Run. The goroutine of Run owns it. Opening and writing are done by
// another one, one operation at a time, so that a registry that hangs delays no newer set and no end.
type publishing struct {
	*Publisher
	want    Set
	known   bool // whether there is a set at all
	written bool // whether want was written in this session
	session Session
	failing bool
	told    []string  // causes of which people know
	lost    time.Time // when the last session was

	cause      error           // of failing
	writing    Set             // what the operation under way writes
	inRegistry map[string]bool // ids that were written in this session

	results chan result
	busy    bool
	cancel  context.CancelFunc // of the operation under way
	waiting bool               // for retry
	retry   *time.Timer
	linger  *time.Timer
	pause   *backoff.ExponentialBackOff // after failures
	losses  *backoff.ExponentialBackOff // after sessions lost too early
}

// result is the outcome of an operation: of an opening if it has a session or err and opened is
// set, else of a writing.
type result struct {
	opened  bool
	session Session
	err     error
}

// loop works until the end. These wake it: a new set, an operation's outcome, the loss of the
// lease, the time to try again, the end.
func (l *publishing) loop(ctx, work context.Context, in <-chan Set) {
	over := ctx.Done()
	for {
		l.next(work)
		var lost <-chan struct{}
		if l.session != nil {
			lost = l.session.Done()
		}
		select {
		case set, ok := <-in:
			if !ok {
				in = nil
				continue
			}
			l.want, l.known, l.written = set, true, false
			l.tellUnwritten()
		case r := <-l.results:
			l.took(r)
		case <-lost:
			l.lose(work)
		case <-l.retry.C:
			l.waiting = false
		case <-l.Back:
			if l.waiting {
				l.wait(l.spread())
			}
		case <-over:
			over = nil
			l.linger.Reset(max(l.Linger, 0))
		case <-l.linger.C:
			return
		}
	}
}

// next begins the operation that is due, if there is one.
func (l *publishing) next(work context.Context) {
	if l.busy || l.waiting || l.session != nil && (!l.known || l.written) {
		return
	}
	ctx, cancel := context.WithCancel(work)
	l.busy, l.cancel = true, cancel
	if l.session == nil {
		go func() {
			s, err := l.Registry.Open(ctx)
			l.results <- result{opened: true, session: s, err: err}
		}()
		return
	}
	l.written = true // unless it fails, or a newer set comes
	session, want := l.session, l.want
	l.writing = want
	go func() { l.results <- result{err: session.Set(ctx, want)} }()
}

// took takes an operation's outcome.
func (l *publishing) took(r result) {
	l.busy = false
	l.cancel()
	if r.err != nil {
		l.written = false
		l.fail(r)
		return
	}
	if r.opened {
		l.session, l.written = r.session, false
		return
	}
	l.pause.Reset()
	l.report(nil)
	l.inRegistry = map[string]bool{}
	for _, i := range l.writing.Instances {
		l.inRegistry[i.ID] = true
	}
	if l.failing {
		l.failing, l.told, l.cause = false, nil, nil
		l.Log.Info("registry is in step again")
		if l.Unwritten != nil {
			l.Unwritten(nil)
		}
	}
}

// tellUnwritten says what the registry does not have while it takes nothing.
func (l *publishing) tellUnwritten() {
	if l.Unwritten == nil || l.cause == nil {
		return
	}
	var list []service.Rejection
	for _, i := range l.want.Instances {
		if !l.inRegistry[i.ID] {
			list = append(list, service.Rejection{
				Kind: service.Unwritten, Service: i.Service, Node: i.Node, ID: i.ID, Name: i.Name,
				Reason: fmt.Sprintf("not written to the registry yet: %v", l.cause),
			})
		}
	}
	l.Unwritten(list)
}

func (l *publishing) fail(r result) {
	verb := "write to the registry"
	if r.opened {
		verb = "open the registry"
	}
	err := fmt.Errorf("%s: %w", verb, r.err)
	l.report(err)
	l.failing, l.cause = true, err
	l.tellUnwritten()
	if word := causeWord(err); !slices.Contains(l.told, word) {
		l.told = append(l.told, word)
		l.Log.WithError(err).WithField("cause", word).Warn("registry cannot be written; trying again")
	}
	l.wait(l.pause.NextBackOff())
}

// wait lets nothing begin for that time.
func (l *publishing) wait(d time.Duration) {
	l.waiting = d > 0
	l.retry.Reset(d)
}

// spread is this agent's part of Spread.
func (l *publishing) spread() time.Duration {
	return rand.N(max(l.Spread, 0) + 1) //nolint:gosec // spreads agents, protects nothing
}

// lose gives up a session whose lease is gone. The next is opened at once, but for the spread, unless
// this one did not last: neither may sessions that keep taking the node from each other do so at full
// speed, nor may a fleet keep a registry so busy that it loses them all again.
func (l *publishing) lose(work context.Context) {
	why := errors.New("the registry session was lost")
	if s, ok := l.session.(interface{ Err() error }); ok {
		why = fmt.Errorf("%w: %w", why, s.Err())
	}
	l.Log.WithError(why).Warn("registry session lost; opening a new one")
	l.report(why)
	if l.busy { // a writing, which cannot succeed any more
		l.cancel()
		<-l.results
		l.busy = false
	}
	ctx, cancel := context.WithTimeout(work, orDefault(l.CloseTimeout, DefaultCloseTimeout))
	defer cancel()
	_ = l.session.Close(ctx) // nothing of it is left to be kept
	l.session, l.written, l.inRegistry = nil, false, nil
	l.failing = true // so that the return is logged, and why it takes long if it does
	pause := l.spread()
	if time.Since(l.lost) < lostEarly {
		pause = l.losses.NextBackOff()
	} else {
		l.losses.Reset()
	}
	l.lost = time.Now()
	l.wait(pause)
}

// tellWait says what the end waits for, if that takes a while: a registry that is away.
func (l *publishing) tellWait() *time.Timer {
	const unremarkable = time.Second
	limit := orDefault(l.CloseTimeout, DefaultCloseTimeout)
	return time.AfterFunc(unremarkable, func() {
		l.Log.WithField("at_most", limit.String()).Warn("ending: waiting for the registry to answer, so that the registrations are left in good order")
	})
}

// end closes the session. What is under way may end first, if it does so in time.
func (l *publishing) end(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	limit := orDefault(l.CloseTimeout, DefaultCloseTimeout)
	if l.busy {
		if l.session == nil {
			l.cancel() // an opening has nothing to save
		}
		stop := time.AfterFunc(limit, l.cancel)
		r := <-l.results
		stop.Stop()
		l.cancel()
		if r.session != nil {
			l.session = r.session
		}
	}
	if l.session == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := l.session.Close(ctx); err != nil {
		return fmt.Errorf("close the registry session: %w", err)
	}
	return nil
}

func (l *publishing) report(err error) {
	if l.Report != nil {
		l.Report(err)
	}
}
