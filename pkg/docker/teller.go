package docker

import (
	"context"
	"slices"

	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// teller passes on what a fleet holds: the set to the next stage, and what is left out to people.
type teller struct {
	sets     chan<- []service.Instance
	log      logrus.FieldLogger
	rejected func([]service.Rejection)
	last     []service.Rejection
	told     bool
}

// tell sends the fleet's set if it has changed and is one.
func (t *teller) tell(ctx context.Context, f *fleet) error {
	if !f.changed || !f.complete() {
		return nil
	}
	f.changed = false
	set, rejected := f.set()
	t.reject(rejected)
	select {
	case t.sets <- set:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reject logs what is newly left out, and hands the whole set over if it changed.
func (t *teller) reject(rejected []service.Rejection) {
	if t.told && slices.Equal(rejected, t.last) {
		return
	}
	for _, r := range rejected {
		if !slices.Contains(t.last, r) {
			t.log.WithFields(logrus.Fields{"container": r.Name, "service": r.Service, "reason": r.Reason}).
				Warn("container is not registered")
		}
	}
	t.told, t.last = true, rejected
	if t.rejected != nil {
		t.rejected(slices.Clone(rejected))
	}
}
