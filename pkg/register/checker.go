package register

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

const (
	soonest = 5 * time.Millisecond   // between two tries of one that has never passed
	latest  = 250 * time.Millisecond // the same, when it has been tried for long
	overdue = 5 * time.Second        // after which people should be told
)

// The bounds of what a container may ask and answer.
const (
	longestTimeout = time.Minute
	longestHead    = 64 << 10
)

// verdict is what the checks of one candidate have come to.
type verdict struct {
	id         string
	generation uint64
	up         bool
	reason     string // when not up
	overdue    bool   // never up, for long
}

// checker makes the connections of all checks, a bounded number at a time.
type checker struct {
	dial  dialer
	lanes *lanes
	http  http.RoundTripper
}

func newChecker(dial dialer) *checker {
	if dial == nil {
		dial = (&net.Dialer{KeepAlive: -1}).DialContext // no connection lives long enough for that
	}
	return &checker{
		dial: dial, lanes: newLanes(), http: newTransport(dial),
	}
}

// task is what one candidate's checks are made of.
type task struct {
	check service.Check
	lane  string   // which candidates share one
	known *verdict // on this run from earlier checks, nil if there is none
}

// watch checks until ctx is cancelled, and tells its verdict whenever that changes. Until the first
// success it tries at a pace that follows the time it has tried already, so that a container that
// starts fast is found within milliseconds and one that starts slowly costs little. After that it
// looks at the check's interval, and what failed or passed as often as the check says counts. What
// is known from earlier checks has passed already, and counts until then.
func (c *checker) watch(ctx context.Context, t *task, tell func(verdict) bool) {
	own, leave := c.lanes.join(t.lane)
	defer leave()
	begin := time.Now()
	check := &t.check
	h := history{last: t.known, passed: t.known != nil}
	spread, hangs := false, false
	for {
		hung, err := c.once(ctx, own, check, hangs)
		if ctx.Err() != nil {
			return
		}
		hangs = hung
		v := verdict{up: err == nil}
		if err != nil {
			v.reason = plain(err.Error())
			v.overdue = !h.passed && time.Since(begin) >= overdue
		}
		if h.turn(check, v) && !tell(v) {
			return
		}
		pause := pace(check, h.passed, time.Since(begin))
		if v.up && !spread {
			// What is let through together, as after a restart of the agent, is not checked together.
			pause, spread = rand.N(pause), true //nolint:gosec // no secret
		}
		if !wait(ctx, pause) {
			return
		}
	}
}

// history is what the checks of one candidate have shown so far.
type history struct {
	last   *verdict // told; nil before the first
	passed bool     // once at least
	streak int      // outcomes in a row that speak against last
}

// turn takes the next outcome in, and tells whether it becomes the verdict.
func (h *history) turn(check *service.Check, v verdict) bool {
	needed := 1
	if h.passed && v.up != h.last.up {
		h.streak++
		needed = patience(check, v.up)
	} else {
		h.streak = 0
	}
	turned := h.last == nil || *h.last != v && (v.up == h.last.up || h.streak >= needed || !h.passed)
	if turned {
		h.last, h.streak = &v, 0
	}
	h.passed = h.passed || v.up
	return turned
}

// patience is how many outcomes in a row turn a verdict.
func patience(check *service.Check, up bool) int {
	if up {
		return max(check.Rise, 1)
	}
	return max(check.Fall, 1)
}

// pace is the time until the next try.
func pace(check *service.Check, passed bool, tried time.Duration) time.Duration {
	if !passed {
		return min(max(tried/10, soonest), latest)
	}
	interval := orDefault(check.Interval, service.DefaultCheckInterval)
	// Spread, so that what started together is not checked together for ever.
	return time.Duration(float64(interval) * (0.9 + 0.2*rand.Float64())) //nolint:gosec // no secret
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// once makes one check of a candidate, and tells whether that hung until its time was over. Whether the one
// before it did decides where it has to wait for its turn.
func (c *checker) once(ctx context.Context, own *lane, check *service.Check, hangs bool) (hung bool, err error) {
	exit, err := c.lanes.enter(ctx, own, hangs)
	if err != nil {
		return false, err
	}
	defer exit()
	ctx, cancel := context.WithTimeout(ctx, min(orDefault(check.Timeout, service.DefaultCheckTimeout), longestTimeout))
	defer cancel()
	if check.Kind == service.CheckHTTP {
		err = c.get(ctx, check)
	} else {
		err = c.connect(ctx, check)
	}
	return ctx.Err() != nil, err
}

func (c *checker) connect(ctx context.Context, check *service.Check) error {
	conn, err := c.dial(ctx, "tcp", check.Target.String())
	if err != nil {
		return fmt.Errorf("it does not listen on %s: %s", check.Target, cause(err, err.Error()))
	}
	_ = conn.Close()
	return nil
}

func (c *checker) get(ctx context.Context, check *service.Check) error {
	scheme := "http://"
	if check.TLS {
		scheme = "https://"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+check.Target.String()+check.HTTPPath, nil)
	if err != nil {
		return fmt.Errorf("check http:%s: %w", check.HTTPPath, err)
	}
	request.Host = check.Host
	request.Header.Set("User-Agent", "sidekick")
	response, err := c.transport(check).RoundTrip(request)
	if err != nil {
		return fmt.Errorf("check http:%s of %s: %s", check.HTTPPath, check.Target,
			cause(err, "what it answers is no "+tongue(check)+", or has a head of more than 64 KiB"))
	}
	_ = response.Body.Close()
	// The container's own words for the status are left out: they may be anything.
	if response.StatusCode < 200 || response.StatusCode > 399 {
		return fmt.Errorf("check http:%s: the answer is %d, not 2xx or 3xx", check.HTTPPath, response.StatusCode)
	}
	return nil
}
