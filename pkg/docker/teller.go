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
	remarks  map[remark]bool // that were logged, of containers that are still there
	on       []string        // conventions
}

// remark is a sentence about a container of that name.
type remark struct{ container, text string }

// tell sends the fleet's set if it has changed and is one.
func (t *teller) tell(ctx context.Context, f *fleet) error {
	if !f.changed && !f.added || !f.complete() {
		return nil
	}
	f.changed, f.added = false, false
	set, rejected := f.set()
	if !t.told {
		t.countOff(f.off())
	}
	t.reject(rejected)
	t.remark(f.remarks())
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

// remark logs what containers say that is not acted on, once for each container.
func (t *teller) remark(remarks []remark) {
	known := make(map[remark]bool, len(remarks))
	for _, r := range remarks {
		if !t.remarks[r] && !known[r] {
			t.log.WithFields(logrus.Fields{"container": r.container, "what": r.text}).
				Warn("container asks for something that is not acted on")
		}
		known[r] = true
	}
	t.remarks = known
}

// countOff logs which conventions are off although containers carry their marks.
func (t *teller) countOff(containers map[string]int) {
	for _, name := range sortedIDs(containers) {
		t.log.WithFields(logrus.Fields{
			"convention": name, "containers": containers[name],
			"mend": TurnOn(t.on, name),
		}).Info("running containers carry marks of a convention that is off")
	}
}
