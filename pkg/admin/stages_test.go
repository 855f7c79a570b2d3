package admin

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestStagesTellWhatTheyDo(t *testing.T) {
	clock := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	s := newStages(func() time.Time { return clock }, []Stage{StageWatch, StageHAProxy})
	start := clock

	s.report(StageWatch)(nil)
	clock = clock.Add(time.Second)
	s.report(StageWatch)(errors.New("no answer"))
	clock = clock.Add(2 * time.Second)
	s.report(StageWatch)(errors.New("still no answer"))

	got := s.statuses()
	want := []StageStatus{
		{Stage: StageWatch, LastSuccess: &start, AgeSeconds: 3, Error: "still no answer", FailedFor: 2, Errors: 2},
		{Stage: StageHAProxy, Error: "has not succeeded yet"},
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("while failing (- got, + want):\n%s", diff)
	}

	clock = clock.Add(time.Second)
	s.report(StageWatch)(fmt.Errorf("list: %w", caused{}))
	if got := s.statuses()[0]; got.Cause != "no-quorum" {
		t.Errorf("got the cause %q of an error that has one", got.Cause)
	}

	s.report(StageWatch)(nil)
	recovered := clock
	want[0] = StageStatus{Stage: StageWatch, OK: true, LastSuccess: &recovered, Errors: 3}
	if diff := cmp.Diff(s.statuses(), want); diff != "" {
		t.Errorf("after recovery (- got, + want):\n%s", diff)
	}
}

// caused is an error with a cause.
type caused struct{}

func (caused) Error() string { return "no leader" }
func (caused) Cause() string { return "no-quorum" }
