package guard

import (
	"container/heap"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

const (
	misses   = 3               // in a row, after which a suspect gets no requests
	soon     = time.Second     // between two probes while that is open
	pace     = 2 * time.Second // between two after that, at least,
	perAgent = 10 * time.Millisecond
)

// suspect is an instance that the registry has lost.
type suspect struct {
	was    *service.Instance // as the registry had it
	shown  *service.Instance // the same with its doubt
	of     *doubted
	since  time.Time
	until  time.Time // when it is gone in any case
	probed bool      // it matters whether its address answers from here
	out    bool      // it does not
	tries  int       // probes so far,
	fails  int       // and those that failed since the last that did not
	due    time.Time
	place  int  // in the queue, -1 if it is not there
	asked  bool // a probe is under way
	ended  bool
}

// suspect puts an instance in doubt. One of that key may have been so before, if it was written and went
// again between two catalogs.
func (g *Guard) suspect(d *doubted, i *service.Instance, at time.Time) {
	if old := d.suspects[i.ID]; old != nil {
		g.end(old)
	}
	s := &suspect{was: i, of: d, since: at, until: at.Add(g.Keep), due: at, probed: g.probed(i), place: -1}
	d.suspects[i.ID] = s
	if d.until.IsZero() || s.until.Before(d.until) {
		d.until = s.until
	}
	g.probes.add(s)
	g.show(s)
}

// end ends a doubt.
func (g *Guard) end(s *suspect) {
	delete(s.of.suspects, s.was.ID)
	s.ended = true
	g.probes.remove(s)
	g.merged.hide(s)
}

// show has the suspect listed as it is now, or not at all while its departure is believed.
func (g *Guard) show(s *suspect) {
	if s.of.verdict == believed {
		g.probes.rest(s)
		g.merged.hide(s)
		return
	}
	if s.probed {
		g.probes.wake(s)
	}
	s.shown = s.was.Suspect(&service.Doubt{Out: s.out, Why: s.why()})
	g.merged.show(s)
}

// probed tells whether it matters here whether an instance's address answers.
func (g *Guard) probed(i *service.Instance) bool {
	return i.State == service.Ready && (i.Scope == "" || i.Node == g.Node)
}

// Probe is a question: does this address answer?
type Probe struct {
	Address netip.AddrPort
	of      *suspect
}

// Due returns a probe that is due, and when the next one is, zero for none. What becomes of it is told to
// Answered.
func (g *Guard) Due(at time.Time) (p Probe, next time.Time, ok bool) {
	if len(g.probes.heap) == 0 {
		return Probe{}, time.Time{}, false
	}
	s := g.probes.heap[0]
	if s.due.After(at) {
		return Probe{}, s.due, false
	}
	g.probes.rest(s)
	s.asked = true
	return Probe{Address: s.was.Endpoint(), of: s}, at, true
}

// Waiting is how many suspects are probed.
func (g *Guard) Waiting() int { return len(g.probes.heap) }

// Answered takes the outcome of a probe, and tells whether that changes anything.
func (g *Guard) Answered(p Probe, answers bool, at time.Time) bool {
	s := p.of
	s.asked = false
	if s.ended {
		return false
	}
	s.tries++
	if answers {
		s.fails = 0
	} else {
		s.fails++
	}
	s.due = at.Add(g.pause(s))
	out := s.fails >= misses
	changed := out != s.out
	s.out = out
	if s.of.verdict == believed {
		return false
	}
	if changed {
		g.show(s)
		return true
	}
	g.probes.wake(s)
	return false
}

// pause is how long until the next probe: a moment as long as it may decide, else the longer the more
// agents ask the same address.
func (g *Guard) pause(s *suspect) time.Duration {
	d := max(pace, time.Duration(g.known)*perAgent)
	if s.tries < misses || s.fails > 0 && s.fails < misses {
		d = soon
	}
	return d - d/10 + rand.N(d/5) //nolint:gosec // spreads agents, protects nothing
}

// queue holds suspects, and those that are to be probed in the order of their time.
type queue struct {
	heap byDue
	all  map[netip.AddrPort][]*suspect
}

func (q *queue) add(s *suspect) {
	if q.all == nil {
		q.all = map[netip.AddrPort][]*suspect{}
	}
	q.all[s.was.Endpoint()] = append(q.all[s.was.Endpoint()], s)
}

// remove takes a suspect out for good.
func (q *queue) remove(s *suspect) {
	q.rest(s)
	var others []*suspect
	for _, o := range q.all[s.was.Endpoint()] {
		if o != s {
			others = append(others, o)
		}
	}
	if len(others) == 0 {
		delete(q.all, s.was.Endpoint())
		return
	}
	q.all[s.was.Endpoint()] = others
}

// at are the suspects of that address and port.
func (q *queue) at(a netip.AddrPort) []*suspect { return q.all[a] }

// wake has a suspect probed when that is due.
func (q *queue) wake(s *suspect) {
	if s.asked {
		return
	}
	if s.place < 0 {
		heap.Push(&q.heap, s)
	} else {
		heap.Fix(&q.heap, s.place)
	}
}

// rest has it not probed.
func (q *queue) rest(s *suspect) {
	if s.place >= 0 {
		heap.Remove(&q.heap, s.place)
	}
}

// byDue implements heap.Interface.
type byDue []*suspect

// Len implements heap.Interface.
func (q byDue) Len() int { return len(q) }

// Less implements heap.Interface.
func (q byDue) Less(a, b int) bool { return q[a].due.Before(q[b].due) }

// Swap implements heap.Interface.
func (q byDue) Swap(a, b int) {
	q[a], q[b] = q[b], q[a]
	q[a].place, q[b].place = a, b
}

// Push implements heap.Interface.
func (q *byDue) Push(s any) {
	one := s.(*suspect) //nolint:forcetypeassert // nothing else is pushed
	one.place = len(*q)
	*q = append(*q, one)
}

// Pop implements heap.Interface.
func (q *byDue) Pop() any {
	last := len(*q) - 1
	s := (*q)[last]
	s.place, (*q)[last] = -1, nil
	*q = (*q)[:last]
	return s
}
