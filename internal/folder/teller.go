package folder

import (
	"slices"

	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Teller tells people what is wrong with an operator's files.
type Teller struct {
	Log logrus.FieldLogger
	// Rejected is given all that is wrong, at first and when it changes. It may be nil.
	Rejected func([]service.Rejection)
	// Wrong is what is logged of each thing that is wrong, and Right when nothing is any more.
	Wrong, Right string

	told []service.Rejection // nil before the first time
}

// Tell logs what is newly wrong, and hands the whole over, which nobody changes any more, if it changed.
func (t *Teller) Tell(rejected []service.Rejection) {
	if t.told != nil && slices.Equal(rejected, t.told) {
		return
	}
	for _, r := range rejected {
		if slices.Contains(t.told, r) {
			continue
		}
		log := t.Log.WithField("reason", r.Reason)
		if r.Service != "" {
			log = log.WithField("service", r.Service)
		}
		log.Warn(t.Wrong)
	}
	if len(rejected) == 0 && len(t.told) > 0 {
		t.Log.Info(t.Right)
	}
	t.told = append([]service.Rejection{}, rejected...)
	if t.Rejected != nil {
		t.Rejected(rejected)
	}
}
