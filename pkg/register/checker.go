package register

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

const (
	soonest = 5 * time.Millisecond   // between two tries of one that has never passed
	latest  = 250 * time.Millisecond // the same, when it has been tried for long
	overdue = 5 * time.Second        // after which people should be told
)

// The options of a check that leaves them open.
const (
	defaultInterval = 5 * time.Second
	defaultTimeout  = 2 * time.Second
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
	dial  func(ctx context.Context, network, address string) (net.Conn, error)
	slots chan struct{}
	http  *http.Client
}

func newChecker(dial func(ctx context.Context, network, address string) (net.Conn, error), parallel int) *checker {
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return &checker{
		dial: dial, slots: make(chan struct{}, parallel),
		http: &http.Client{
			// No connection is kept: each check must show that a new one is taken.
			Transport:     &http.Transport{DialContext: dial, DisableKeepAlives: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// watch checks until ctx is cancelled, and tells its verdict whenever that changes. Until the first
// success it tries at a pace that follows the time it has tried already, so that a container that
// starts fast is found within milliseconds and one that starts slowly costs little. After that it
// looks at the check's interval, and what failed or passed as often as the check says counts.
func (c *checker) watch(ctx context.Context, check *service.Check, tell func(verdict) bool) {
	begin := time.Now()
	var h history
	for {
		err := c.once(ctx, check)
		if ctx.Err() != nil {
			return
		}
		v := verdict{up: err == nil}
		if err != nil {
			v.reason = err.Error()
			v.overdue = !h.passed && time.Since(begin) >= overdue
		}
		if h.turn(check, v) && !tell(v) {
			return
		}
		if !wait(ctx, pace(check, h.passed, time.Since(begin))) {
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
	interval := orDefault(check.Interval, defaultInterval)
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

// once makes one check.
func (c *checker) once(ctx context.Context, check *service.Check) error {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, orDefault(check.Timeout, defaultTimeout))
	defer cancel()
	if check.Kind == service.CheckHTTP {
		return c.get(ctx, check)
	}
	conn, err := c.dial(ctx, "tcp", check.Target.String())
	if err != nil {
		return fmt.Errorf("it does not listen on %s: %w", check.Target, err)
	}
	_ = conn.Close()
	return nil
}

func (c *checker) get(ctx context.Context, check *service.Check) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address(check.Target, check.HTTPPath), nil)
	if err != nil {
		return fmt.Errorf("check http:%s: %w", check.HTTPPath, err)
	}
	request.Host = check.Host
	request.Header.Set("User-Agent", "sidekick")
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("check http:%s: %w", check.HTTPPath, err)
	}
	_ = response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 399 {
		return fmt.Errorf("check http:%s: the answer is %s, not 2xx or 3xx", check.HTTPPath, response.Status)
	}
	return nil
}

func address(target netip.AddrPort, path string) string { return "http://" + target.String() + path }
