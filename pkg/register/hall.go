package register

import (
	"context"
	"reflect"
	"slices"
	"sync"

	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// healthy is Docker's word for a HEALTHCHECK that passes.
const healthy = "healthy"

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
}

// candidate is one instance of the Source.
type candidate struct {
	instance   service.Instance
	generation uint64 // tells verdicts on it from those on a predecessor with its id
	stop       context.CancelFunc
	last       *verdict // of its checks; nil before the first
	published  bool
	state      service.State // as last logged
	warned     bool
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
			h.admit(ctx, i)
		case !sameRun(&c.instance, &i):
			c.stop()
			h.admit(ctx, i)
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

// sameRun tells whether what is known of a from its checks holds for b.
func sameRun(a, b *service.Instance) bool {
	return a.Started.Equal(b.Started) && a.Endpoint() == b.Endpoint() && sameCheck(a.Check, b.Check)
}

func sameCheck(a, b *service.Check) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	x.Health, y.Health = "", "" // judged anew each time
	return x == y
}

// admit takes a new candidate in and begins to check it.
func (h *hall) admit(ctx context.Context, i service.Instance) {
	h.generation++
	ctx, stop := context.WithCancel(ctx)
	c := &candidate{instance: i, generation: h.generation, stop: stop}
	h.candidates[i.ID] = c
	if unchecked(i.Check) {
		return
	}
	check, id, generation := *i.Check, i.ID, h.generation
	h.wg.Go(func() {
		h.check.watch(ctx, &check, func(v verdict) bool {
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

func unchecked(c *service.Check) bool { return c == nil || c.Kind == service.CheckNone }

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
	return set, true
}

// decide says in which state the candidate is let through, or why it is held back, or neither if
// it is of no interest any more.
func (c *candidate) decide() (service.State, string) {
	if c.instance.State == service.Draining {
		if c.published {
			return service.Draining, ""
		}
		return "", ""
	}
	reason := c.fault()
	switch {
	case reason == "":
		c.published = true
		return service.Ready, ""
	case c.published:
		return service.Unhealthy, reason
	}
	return "", reason
}

// fault says why the candidate may not get requests, or "".
func (c *candidate) fault() string {
	check := c.instance.Check
	switch {
	case c.instance.State == service.Unhealthy:
		return "it is paused, or its source calls it unhealthy"
	case unchecked(check):
		return ""
	case check.Kind == service.CheckDocker && check.Health == "unhealthy":
		return "its HEALTHCHECK fails"
	case check.Kind == service.CheckDocker && check.Health != healthy:
		return "its HEALTHCHECK has not passed yet: Docker runs an image's first one only after its interval, by default 30 s; a shorter --health-interval or --health-start-interval makes it ready sooner"
	case c.last == nil:
		return "its first check is under way"
	case !c.last.up:
		return c.last.reason
	}
	return ""
}

// undecided tells whether the first verdict on the candidate may still come soon.
func (c *candidate) undecided() bool {
	check := c.instance.Check
	return c.last == nil && c.instance.State == service.Ready && !unchecked(check) &&
		(check.Kind != service.CheckDocker || check.Health == healthy)
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
		Kind: service.HeldByCheck, Service: i.Service, Node: i.Node, ID: i.ID, Name: i.Name, Reason: "not let through: " + reason,
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
	if state == service.Unhealthy {
		h.Log.WithFields(fields).WithField("reason", reason).Warn("instance is unhealthy")
		return
	}
	h.Log.WithFields(fields).WithField("state", state).Info("instance is let through")
}

func (c *candidate) waitsForDocker() bool {
	k := c.instance.Check
	return k != nil && k.Kind == service.CheckDocker && k.Health != healthy
}
