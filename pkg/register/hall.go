package register

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// forgetAfter is how long an earlier process's notes are kept on what does not show up.
const forgetAfter = 10 * time.Minute

// hall is where the candidates of one Run wait, and are known after they were let through. The
// goroutine of Run owns it; each candidate is checked by a goroutine of its own.
type hall struct {
	*Gate
	wg         *sync.WaitGroup
	check      *checker
	verdicts   chan verdict
	candidates map[string]*candidate // by id
	dampers    map[string]*damper    // by id, also of what is gone just now
	due        time.Time             // when one that is damped may be let through; zero if none is
	order      []string              // ids as the Source sorted them
	known      bool                  // whether there was a set at all
	open       bool                  // whether the first set need not wait any longer
	sent       []service.Instance    // what was passed on last
	held       []service.Rejection   // what was told last
	told       bool                  // whether held was told at all
	generation uint64
	notes      *notebook
	recalled   map[string]note // of an earlier process, on what did not show up yet
	noted      map[string]note // what notes was given last
	began      time.Time
}

// take makes the candidates those of set. It tells whether this is the first set.
func (h *hall) take(ctx context.Context, set []service.Instance) bool {
	present := make(map[string]bool, len(set))
	h.order = h.order[:0]
	for _, i := range set {
		present[i.ID] = true
		h.order = append(h.order, i.ID)
		c := h.candidates[i.ID]
		switch {
		case c == nil:
			h.admit(ctx, &candidate{instance: i})
		case !sameRun(&c.instance, &i):
			c.stop()
			if !c.instance.Started.Equal(i.Started) {
				c.damper.observe(false, time.Now())
			}
			h.admit(ctx, c.moved(i))
		case !sameCheck(c.instance.Check, i.Check):
			c.instance = i
			c.stop()
			h.examine(ctx, c)
		default:
			c.instance = i
		}
	}
	for id, c := range h.candidates {
		if !present[id] {
			c.stop()
			c.damper.observe(false, time.Now())
			if c.drained { // should its source show that run again
				n := noteOf(&c.instance, told, c.pardoned)
				n.since = time.Now()
				h.recalled[id] = n
			}
			delete(h.candidates, id)
		}
	}
	first := !h.known
	h.known = true
	return first
}

// admit takes a new candidate in and begins to check it.
func (h *hall) admit(ctx context.Context, c *candidate) {
	id := c.instance.ID
	if h.dampers[id] == nil {
		h.dampers[id] = &damper{}
	}
	c.damper = h.dampers[id]
	if n, ok := h.recalled[id]; ok && n.Started.Equal(c.instance.Started) {
		c.recall(n.State)
		c.pardoned = n.Pardoned
		if n.At != "" && n.At != answeredAt(&c.instance) { // there it has not answered yet
			c.published, c.last = false, nil
		}
	}
	delete(h.recalled, id)
	h.candidates[id] = c
	h.examine(ctx, c)
}

// examine begins to check a candidate, in the way that it asks for now. What is known of one that
// was let through holds until the new checks show otherwise, as often as it takes.
func (h *hall) examine(ctx context.Context, c *candidate) {
	h.generation++
	ctx, c.stop = context.WithCancel(ctx)
	c.generation = h.generation
	if !c.published {
		c.last = nil
	}
	if unchecked(c.instance.Check) {
		return
	}
	t := &task{check: *c.instance.Check, lane: c.lane(), known: c.known()}
	id, generation := c.instance.ID, c.generation
	h.wg.Go(func() {
		h.check.watch(ctx, t, func(v verdict) bool {
			v.id, v.generation = id, generation
			select {
			case h.verdicts <- v:
				return true
			case <-ctx.Done():
				return false
			}
		})
	})
}

// undrain forgets that an instance was told to stop.
func (h *hall) undrain(id string) {
	c := h.candidates[id]
	if c == nil {
		return
	}
	c.drained, c.pardoned = false, c.instance.Told
	if c.pardoned.IsZero() { // known from an earlier process only, or without its time
		c.pardoned = time.Now()
	}
	h.Log.WithFields(logrus.Fields{"service": c.instance.Service, "instance": id}).Info("instance is undrained")
}

// judge takes the verdict of a check.
func (h *hall) judge(v verdict) {
	if c := h.candidates[v.id]; c != nil && c.generation == v.generation {
		c.last = &v
	}
}

// judgeWaiting takes the verdicts that wait to be taken, so that many that come together, as at the
// start, cost one look at all candidates.
func (h *hall) judgeWaiting() {
	for {
		select {
		case v := <-h.verdicts:
			h.judge(v)
		default:
			return
		}
	}
}

// next returns the set to be sent, if it differs from the last and may be sent already.
func (h *hall) next() ([]service.Instance, bool) {
	if !h.known {
		return nil, false
	}
	set, held, waiting := []service.Instance{}, []service.Rejection{}, false
	now := time.Now()
	h.due = time.Time{}
	for _, id := range h.order {
		c := h.candidates[id]
		state, reason := c.decide(now)
		if state != "" {
			i := c.instance
			i.State = state
			set = append(set, i)
		}
		if reason != "" {
			held = append(held, rejected(&c.instance, state, reason))
		}
		if until := c.damper.until(); c.damped(now) && (h.due.IsZero() || until.Before(h.due)) {
			h.due = until
		}
		waiting = waiting || c.undecided()
		h.log(c, state, reason)
	}
	h.forget(now)
	h.tell(held)
	h.open = h.open || !waiting
	if !h.open {
		return nil, false
	}
	h.remember(set)
	if h.sent != nil && reflect.DeepEqual(set, h.sent) {
		return nil, false
	}
	h.sent = set
	return set, true
}

// forget gives up what is known of the turns of ids that are gone and have long been quiet.
func (h *hall) forget(now time.Time) {
	for id, d := range h.dampers {
		if d.decay(now); d.idle() && h.candidates[id] == nil {
			delete(h.dampers, id)
		}
	}
}

// remember notes what is let through, and what was told to stop before it was. What an earlier process
// has noted stays for a while although its Source does not show it: an engine may be slow to describe
// one of its containers.
func (h *hall) remember(set []service.Instance) {
	maps.DeleteFunc(h.recalled, func(_ string, n note) bool {
		since := n.since
		if since.IsZero() {
			since = h.began
		}
		return time.Since(since) > forgetAfter
	})
	notes := maps.Clone(h.recalled)
	for k := range set {
		notes[set[k].ID] = noteOf(&set[k], set[k].State, h.candidates[set[k].ID].pardoned)
	}
	for id, c := range h.candidates {
		if c.drained && !c.published {
			notes[id] = noteOf(&c.instance, told, time.Time{})
		}
	}
	if h.noted == nil || !maps.EqualFunc(notes, h.noted, note.equal) {
		h.noted = notes
		h.notes.keep(notes)
	}
}

// tell hands over what is held back, if that has changed.
func (h *hall) tell(held []service.Rejection) {
	if h.told && slices.Equal(held, h.held) {
		return
	}
	h.told, h.held = true, held
	if h.Held != nil {
		h.Held(slices.Clone(held))
	}
}

// rejected says of an instance why it is held back, or why it is not ready although it was let through.
func rejected(i *service.Instance, state service.State, reason string) service.Rejection {
	r := service.Rejection{
		Kind: service.HeldByCheck, Service: i.Service, Node: i.Node, ID: i.ID, Name: i.Name, Reason: plain("not let through: " + reason),
	}
	if state != "" {
		r.Kind, r.Reason = service.UnhealthyByCheck, plain(reason)
	}
	return r
}

// log writes down the turns in a candidate's life, each once.
func (h *hall) log(c *candidate, state service.State, reason string) {
	if state == "" && reason != "" && !c.warned && (c.last != nil && c.last.overdue || c.waitsForDocker()) {
		c.warned = true
		h.entry(c, reason).Info("instance is held back")
	}
	if d := c.damper; d.passing && reason != "" && !d.told {
		d.told = true
		h.entry(c, reason).Warn("instance turns again and again")
	}
	if state == "" || state == c.state {
		return
	}
	c.state = state
	switch state {
	case service.Unhealthy:
		h.entry(c, reason).Warn("instance is unhealthy")
	case service.Draining:
		h.entry(c, reason).Info("instance is draining")
	default:
		h.entry(c, reason).Info("instance is let through")
	}
}

// entry begins a line about a candidate.
func (h *hall) entry(c *candidate, reason string) logrus.FieldLogger {
	e := h.Log.WithFields(logrus.Fields{"service": c.instance.Service, "instance": c.instance.ID})
	if c.instance.Name != "" { // of a container
		e = e.WithField("container", c.instance.Name)
	}
	if reason != "" {
		e = e.WithField("reason", reason)
	}
	return e
}
