package folder

import (
	"fmt"
	"slices"
	"testing"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Each thing that is wrong is told of once, and that nothing is any more; the whole is handed over when it
// changed.
func TestTeller(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	var handed [][]service.Rejection
	teller := Teller{Log: log, Wrong: "wrong", Right: "right", Rejected: func(list []service.Rejection) { handed = append(handed, list) }}
	a, b := service.Rejection{Name: "a", Reason: "it is a"}, service.Rejection{Name: "b", Reason: "it is b", Service: "web"}
	for _, step := range []struct {
		wrong []service.Rejection
		logs  []string
		hands bool
	}{
		{nil, nil, true},
		{nil, nil, false},
		{[]service.Rejection{a}, []string{"wrong it is a <nil>"}, true},
		{[]service.Rejection{a}, nil, false},
		{[]service.Rejection{a, b}, []string{"wrong it is b web"}, true},
		{[]service.Rejection{b}, nil, true},
		{[]service.Rejection{}, []string{"right <nil> <nil>"}, true},
		{[]service.Rejection{}, nil, false},
	} {
		hook.Reset()
		handed = nil
		teller.Tell(step.wrong)
		var logs []string
		for _, e := range hook.AllEntries() {
			logs = append(logs, fmt.Sprint(e.Message, " ", e.Data["reason"], " ", e.Data["service"]))
		}
		if !slices.Equal(logs, step.logs) {
			t.Errorf("%v: got logs %q, want %q", step.wrong, logs, step.logs)
		}
		if step.hands != (len(handed) == 1 && slices.Equal(handed[0], step.wrong)) {
			t.Errorf("%v: got %v handed over, want %v", step.wrong, handed, step.hands)
		}
	}
}
