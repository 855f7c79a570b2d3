package render

import (
	"cmp"
	"fmt"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// said is what people said of an instance, as it counts for its server.
type said struct {
	state    service.OverrideState // "" for none
	share    int                   // weight, by an override or the instance's own
	weight   int                   // the same for the server: 0 if it is drained
	disabled string                // why it gets no requests at all, or ""
	idle     string                // why it gets none though it is not disabled, or ""
}

func newSaid(r service.Ruling, i *service.Instance) said {
	s := said{share: i.Weight}
	if r.Weight != nil {
		s.share = *r.Weight.Weight
	}
	s.weight = s.share
	switch {
	case s.share == 0 && r.Weight != nil:
		s.idle = fmt.Sprintf("its weight is 0%s: sidekick weight %s, without a number, takes that back", by(r.Weight), r.Weight.Target)
	case s.share == 0:
		s.idle = "its weight is 0: set sidekick.weight to 1 or more"
	}
	if r.State == nil {
		return s
	}
	s.state = r.State.State
	undo := fmt.Sprintf("%s: sidekick undrain %s", by(r.State), r.State.Target)
	if s.state == service.Maint {
		s.disabled = "in maintenance" + undo
	} else {
		s.idle, s.weight = "drained"+undo, 0
	}
	return s
}

// by says whose override it is, and how long it lasts.
func by(o *service.Override) string {
	text := " by an override of " + cmp.Or(o.By, "somebody")
	if !o.Until.IsZero() {
		text += " until " + o.Until.UTC().Format("2006-01-02 15:04:05 UTC")
	}
	return text
}
