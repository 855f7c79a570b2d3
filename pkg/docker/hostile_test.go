package docker

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/fakeengine"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// P7: a container that declares thousands of services gets some of them, and says so once.
func TestServicesOfAContainerAreBounded(t *testing.T) {
	e := fakeengine.New(t)
	var labels []string
	for n := range 5000 {
		labels = append(labels, fmt.Sprintf("sidekick.services.n%04d.port", n), "80")
	}
	e.Start(fakeContainer(1, labels...))
	e.Start(fakeContainer(2))
	w := watch(t, e)
	w.next(t)
	if got, want := len(w.last), mostServices+1; got != want {
		t.Errorf("got %d instances, want %d", got, want)
	}
	const want = "container c1 declares 5001 services: only the first 32 are taken, in the order of their names; spread them over several containers"
	w.eventually(t, "one rejection", func() bool { return len(w.rejected) == 1 && w.rejected[0].Reason == want })
}

// A container whose inspection hangs delays the first set by its short limit, not by three long ones.
func TestHangingInspectionDelaysTheFirstSetOnce(t *testing.T) {
	e := fakeengine.New(t)
	c1 := fakeContainer(1)
	e.Start(c1)
	e.Start(fakeContainer(2))
	release := e.Hold("/containers/" + c1.ID)
	w := watch(t, e)
	if got, want := w.next(t), "c2:ready"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, _ := e.Requested("/containers/" + c1.ID + "/json"); got != 1 {
		t.Errorf("the first set came after %d tries, want 1", got)
	}
	w.eventually(t, "rejection", func() bool { return len(w.rejected) == 1 && w.rejected[0].ID == c1.ID[:12] })
	release()
	w.until(t, "c1:ready c2:ready")
}

// An engine that describes no container at all is slow: a first set without any is told only when it
// has failed for each as often as patience says (unknown is not empty).
func TestFirstSetWaitsWhileNothingIsLegible(t *testing.T) {
	f := newFleet(testHost("10.0.0.1"))
	f.list([]string{"a", "b"}, nil)
	f.unreadable("a", errSilent)
	f.unreadable("b", errSilent)
	f.unreadable("b", errSilent)
	if f.complete() {
		t.Error("complete although nothing was described")
	}
	f.unreadable("b", errSilent)
	if f.complete() {
		t.Error("complete although a may still be described")
	}
	f.inspected("c", nil)
	if !f.complete() {
		t.Error("not complete although others were described")
	}
	if _, rejected := f.set(); len(rejected) != 2 {
		t.Errorf("got %d rejections, want 2", len(rejected))
	}
}

// P1: an answer that shows no run for a moment does not make a run ready again that was told to
// stop; a new run is.
func TestDrainingOutlastsAWrongAnswer(t *testing.T) {
	of := func(second int64) *run {
		return &run{started: time.Unix(second, 0), stop: sigTerm, instances: []service.Instance{{ID: "x", Name: "c", State: service.Ready}}}
	}
	f := newFleet(testHost("10.0.0.1"))
	f.list([]string{"a"}, nil)
	f.inspected("a", of(1))
	f.note(&note{id: "a", kills: map[int]time.Time{sigTerm: {}}})
	for _, step := range []struct {
		what string
		do   func()
		want string
	}{
		{"told to stop", func() {}, "c:draining"},
		{"an answer without a run", func() { f.inspected("a", nil) }, ""},
		{"the same run again", func() { f.inspected("a", of(1)) }, "c:draining"},
		{"another run", func() { f.inspected("a", of(2)) }, "c:ready"},
	} {
		step.do()
		if set, _ := f.set(); printed(set) != step.want {
			t.Errorf("%s: got %q, want %q", step.what, printed(set), step.want)
		}
	}
	f.note(&note{id: "a", kills: map[int]time.Time{sigTerm: {}}})
	f.inspected("a", nil)
	f.gone("a")
	if len(f.containers) != 0 {
		t.Errorf("%d containers are tracked after the end", len(f.containers))
	}
}

func TestReasonsHaveNoControlCharacters(t *testing.T) {
	got := oneLine(fmt.Errorf("a\nb\x1b[2J\u202e\xff%s", strings.Repeat("é", 1000)))
	if !strings.HasPrefix(got, "a; b[2Jéé") || len(got) > 1010 {
		t.Errorf("got %q", got)
	}
}
