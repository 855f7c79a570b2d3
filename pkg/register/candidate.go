package register

import (
	"context"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// healthy is Docker's word for a HEALTHCHECK that passes.
const healthy = "healthy"

// candidate is one instance of the Source.
type candidate struct {
	instance   service.Instance
	generation uint64 // tells verdicts of its checks from those of earlier ones under its id
	stop       context.CancelFunc
	last       *verdict // of its checks; nil before the first
	damper     *damper  // of its id
	published  bool
	drained    bool          // this run was told to stop, once and for all
	pardoned   time.Time     // the last stop signal that does not count any more
	state      service.State // as last logged
	warned     bool
}

// moved is the candidate that takes this one's place: another run, or the same at another address, which
// keeps what was said of its end.
func (c *candidate) moved(i service.Instance) *candidate {
	if !c.instance.Started.Equal(i.Started) {
		return &candidate{instance: i}
	}
	return &candidate{instance: i, drained: c.drained, pardoned: c.pardoned}
}

// recall takes up in which state an earlier process had let this run through.
func (c *candidate) recall(state service.State) {
	switch state {
	case service.Ready:
		c.last = &verdict{up: true}
	case service.Unhealthy:
		c.last = &verdict{reason: "it did not pass before the agent was started anew"}
	case service.Draining:
		c.last = &verdict{up: true}
		c.drained = !c.instance.Started.IsZero()
	case told:
		c.drained = !c.instance.Started.IsZero()
		return
	default:
		return // not our words
	}
	c.published = true
}

// known is what earlier checks have shown of a run that was let through.
func (c *candidate) known() *verdict {
	switch {
	case !c.published:
		return nil
	case c.last == nil: // it had no check
		c.last = &verdict{up: true}
	}
	return &verdict{up: c.last.up, reason: c.last.reason}
}

// lane names what shares the bound on checks under way with this candidate: its container's others,
// or, if it is none, those at its address.
func (c *candidate) lane() string {
	if c.instance.Container != "" {
		return c.instance.Container
	}
	return c.instance.Check.Target.Addr().String()
}

// sameRun tells whether what is known of a holds for b.
func sameRun(a, b *service.Instance) bool {
	return a.Started.Equal(b.Started) && a.Endpoint() == b.Endpoint()
}

func sameCheck(a, b *service.Check) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	x.Health, y.Health = "", "" // judged anew each time
	return x == y
}

func unchecked(c *service.Check) bool { return c == nil || c.Kind == service.CheckNone }

// decide says in which state the candidate is let through, and why it is not ready or is held back;
// neither if it is of no interest any more.
func (c *candidate) decide(now time.Time) (service.State, string) {
	draining := c.instance.State == service.Draining && !c.pardons()
	c.drained = c.drained || draining && !c.instance.Started.IsZero()
	if c.drained || draining {
		if c.published {
			return service.Draining, ""
		}
		return "", ""
	}
	reason := c.fault()
	c.damper.observe(reason == "", now)
	if c.damped(now) {
		reason = c.damper.reason()
	}
	switch {
	case reason == "":
		c.published = true
		return service.Ready, ""
	case c.published:
		return service.Unhealthy, reason
	}
	return "", reason
}

// pardons tells whether the stop signal that its Source knows of does not count any more.
func (c *candidate) pardons() bool {
	return !c.pardoned.IsZero() && !c.instance.Told.After(c.pardoned)
}

// damped tells whether the candidate passes, but has turned too often to be let through yet.
func (c *candidate) damped(now time.Time) bool {
	return c.damper.passing && now.Before(c.damper.until())
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

func (c *candidate) waitsForDocker() bool {
	k := c.instance.Check
	return k != nil && k.Kind == service.CheckDocker && k.Health != healthy
}
