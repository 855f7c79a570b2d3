package hosts

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/load"
)

// stream is the load through one host's proxy on one service.
type stream struct {
	host    *host
	service string
	run     *load.Run

	mu     sync.Mutex
	failed []load.Failure
}

// traffic is the load through all proxies.
type traffic []*stream

// traffic begins a steady load through the proxies of these hosts, sent by clients on the same host, and
// waits until all of it flows.
func (c *cluster) traffic(through []*host) traffic {
	c.Helper()
	var all traffic
	for _, h := range through {
		for _, service := range []string{web, solo} {
			s := &stream{host: h, service: service}
			s.run = load.Start(c.ctx, load.Options{
				Target: "127.0.0.1:80", Host: hostOf(service), Pause: 40 * time.Millisecond, Timeout: 20 * time.Second,
				Dial: h.Dial, Failed: s.note,
			})
			all = append(all, s)
		}
	}
	c.flows(all)
	return all
}

func (s *stream) note(f load.Failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = append(s.failed, f)
}

// flows waits until each stream has seen more answers.
func (c *cluster) flows(all traffic) {
	c.Helper()
	const answers = 40
	from := map[*stream]int{}
	for _, s := range all {
		from[s] = s.run.Now().OK
	}
	c.until("requests flow", func() error {
		for _, s := range all {
			if now := s.run.Now(); now.OK-from[s] < answers {
				return fmt.Errorf("%s through %s: %d answers: %s", s.service, s.host.Name, now.OK-from[s], now)
			}
		}
		return nil
	})
}

// stop ends all streams, with what they have in flight.
func (t traffic) stop() {
	var stopping sync.WaitGroup
	for _, s := range t {
		stopping.Go(func() { s.run.Stop() })
	}
	stopping.Wait()
}

// spell is the time of a fault.
type spell struct {
	gone   *host // that others could not reach; nil if all could be
	from   time.Time
	mended time.Time
	right  time.Time // since when the proxies are
}

// verdict is what became of the requests, by the rules of this package.
type verdict struct {
	sent       int
	lost       int // against the promise
	noInstance int
	inFlight   int
	delivered  int // to an open connection that led to a host that was gone
	slowest    time.Duration
	examples   []string // of lost ones
}

// notDelivered is what HAProxy answers if it has found no server that took the request.
const notDelivered = "status 503"

// judge counts by the rules; all streams must have been stopped.
func (t traffic) judge(s spell) verdict {
	var v verdict
	for _, one := range t {
		report := one.run.Now()
		v.sent += report.Sent
		v.slowest = max(v.slowest, report.Percentile(1))
		for _, f := range one.failed {
			*s.count(&v, one, f)++
		}
	}
	return v
}

// count is the one that a failure belongs to.
func (s spell) count(v *verdict, one *stream, f load.Failure) *int {
	during := s.gone != nil && f.Ended.After(s.from) && f.Began.Before(s.right)
	switch {
	case during && one.service == solo && !reachable(one.host, s.gone, soloAt):
		return &v.noInstance
	case during && f.Began.Before(s.from):
		return &v.inFlight
	case during && f.Kind.KeepAlive && f.Reason != notDelivered:
		return &v.delivered
	}
	v.examples = append(v.examples, fmt.Sprintf("%s through %s, begun %s after the fault, failed after %s: %s: %s: %s", one.service, one.host.Name,
		f.Began.Sub(s.from).Round(time.Millisecond), f.Ended.Sub(f.Began).Round(time.Millisecond), f.Kind, f.Reason, f.Detail))
	return &v.lost
}

// excused says what failed by the exceptions to the rules.
func (v verdict) excused() string {
	var parts []string
	for _, c := range []struct {
		n   int
		why string
	}{{v.noInstance, "no instance"}, {v.inFlight, "in flight"}, {v.delivered, "sent"}} {
		if c.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", c.n, c.why))
		}
	}
	if parts == nil {
		return "–"
	}
	return strings.Join(parts, ", ")
}
