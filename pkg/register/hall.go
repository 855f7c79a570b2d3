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
			h.admit(ctx, i, false)
		case !sameRun(&c.instance, &i):
			c.stop()
			h.admit(ctx, i, c.drained && c.instance.Started.Equal(i.Started))
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
			delete(h.candidates, id)
		}
	}
	first := !h.known
	h.known = true
	return first
}

// admit takes a new candidate in and begins to check it.
func (h *hall) admit(ctx context.Context, i service.Instance, drained bool) {
	c := &candidate{instance: i, drained: drained}
	if n, ok := h.recalled[i.ID]; ok && n.Started.Equal(i.Started) {
		c.recall(n.State)
	}
	delete(h.recalled, i.ID)
	h.candidates[i.ID] = c
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

// judge takes the verdict of a check.
func (h *hall) judge(v verdict) {
	if c := h.candidates[v.id]; c != nil && c.generation == v.generation {
		c.last = &v
	}
}

// next returns the set to be sent, if it differs from the last and may be sent already.
func (h *hall) next() ([]service.Instance, bool) {
	if !h.known {
		return nil, false
	}
	set, held, waiting := []service.Instance{}, []service.Rejection{}, false
	for _, id := range h.order {
		c := h.candidates[id]
		state, reason := c.decide()
		switch {
		case state != "":
			i := c.instance
			i.State = state
			set = append(set, i)
		case reason != "":
			held = append(held, rejected(&c.instance, reason))
		}
		waiting = waiting || c.undecided()
		h.log(c, state, reason)
	}
	h.tell(held)
	h.open = h.open || !waiting
	if !h.open || h.sent != nil && reflect.DeepEqual(set, h.sent) {
		return nil, false
	}
	h.sent = set
	h.remember(set)
	return set, true
}

// remember notes what is let through. What an earlier process has noted stays for a while although
// its Source does not show it: an engine may be slow to describe one of its containers.
func (h *hall) remember(set []service.Instance) {
	if time.Since(h.began) > forgetAfter {
		clear(h.recalled)
	}
	notes := maps.Clone(h.recalled)
	for k := range set {
		notes[set[k].ID] = note{Started: set[k].Started, State: set[k].State}
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

func rejected(i *service.Instance, reason string) service.Rejection {
	return service.Rejection{
		Kind: service.HeldByCheck, Service: i.Service, Node: i.Node, ID: i.ID, Name: i.Name, Reason: plain("not let through: " + reason),
	}
}

// log writes down the turns in a candidate's life, each once.
func (h *hall) log(c *candidate, state service.State, reason string) {
	fields := logrus.Fields{"service": c.instance.Service, "instance": c.instance.ID, "container": c.instance.Name}
	if state == "" && reason != "" && !c.warned && (c.last != nil && c.last.overdue || c.waitsForDocker()) {
		c.warned = true
		h.Log.WithFields(fields).WithField("reason", reason).Info("instance is held back")
	}
	if state == "" || state == c.state {
		return
	}
	c.state = state
	switch entry := h.Log.WithFields(fields); state {
	case service.Unhealthy:
		entry.WithField("reason", reason).Warn("instance is unhealthy")
	case service.Draining:
		entry.Info("instance is draining")
	default:
		entry.Info("instance is let through")
	}
}
