package hosts

import (
	"context"
	"maps"
	"strings"
	"sync"
	"time"
)

// watched is what was seen of some hosts' proxies during a fault.
type watched map[*host]*seen

// seen is what was seen of one.
type seen struct {
	stop context.CancelFunc
	done sync.WaitGroup

	looks   int
	had     servers // at any time
	missing servers // at any time, of those that it had at first
}

// watch looks at the proxies all the time, until the end.
func (c *cluster) watch(hosts []*host) watched {
	c.Helper()
	all := watched{}
	for _, h := range hosts {
		first, err := h.routes()
		c.check(err)
		ctx, stop := context.WithCancel(c.ctx)
		one := &seen{stop: stop, had: maps.Clone(first), missing: servers{}}
		all[h] = one
		one.done.Go(func() { one.look(ctx, h, first) })
	}
	return all
}

func (s *seen) look(ctx context.Context, h *host, first servers) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now, err := h.routes()
		if err != nil {
			continue // a worker is being replaced
		}
		s.looks++
		maps.Copy(s.had, now)
		for name := range first {
			if !now[name] {
				s.missing[name] = true
			}
		}
	}
}

// end asserts that no proxy took out what went on running where it could be reached, nor ever had what
// was not running any more.
func (all watched) end(c *cluster, gone *host, running, ran servers) {
	c.Helper()
	for h, s := range all {
		s.stop()
		s.done.Wait()
		for _, name := range s.missing.sorted() {
			if running[name] && reachable(h, gone, name) {
				c.Errorf("HAProxy of %s took %s out, which ran and could be reached", h.Name, name)
			}
		}
		for _, name := range s.had.sorted() {
			if !ran[name] {
				c.Errorf("HAProxy of %s had %s, which did not run any more", h.Name, name)
			}
		}
		if s.looks == 0 {
			c.Errorf("HAProxy of %s was not seen even once", h.Name)
		}
	}
}

// reachable says whether a server can be reached from the host while another, or none, is gone.
func reachable(from, gone *host, name string) bool {
	if gone == nil {
		return true
	}
	there := strings.Contains(name, " "+gone.Name+":")
	return there == (from == gone)
}
