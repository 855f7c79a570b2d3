package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"go.uber.org/goleak"

	"github.com/sidekick-proxy/sidekick/internal/fakeengine"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const deadline = 30 * time.Second

// fakeContainer makes up a container on the default bridge; n tells it from others.
func fakeContainer(n int, labels ...string) container.InspectResponse {
	c := container.InspectResponse{
		ID: strings.Repeat(fmt.Sprintf("%04x", n), 16), Name: fmt.Sprintf("/c%d", n),
		HostConfig: &container.HostConfig{NetworkMode: "bridge"},
		Config: &container.Config{
			Labels:       map[string]string{"sidekick.service": "web"},
			ExposedPorts: network.PortSet{network.MustParsePort("80/tcp"): {}},
		},
		NetworkSettings: &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{
			"bridge": {NetworkID: "bridge1", IPAddress: netip.AddrFrom4([4]byte{172, 17, byte(n >> 8), byte(n)})},
		}},
	}
	for k := 0; k+1 < len(labels); k += 2 {
		c.Config.Labels[labels[k]] = labels[k+1]
	}
	return c
}

// watched is a running Source with all that came out of it.
type watched struct {
	engine *fakeengine.Engine
	sets   chan []service.Instance
	last   []service.Instance

	mu       sync.Mutex
	reports  []error
	rejected []service.Rejection
	changed  chan struct{} // a token after each report and rejection
}

func watch(t *testing.T, e *fakeengine.Engine, change ...func(*Source)) *watched {
	t.Helper()
	w := &watched{engine: e, sets: make(chan []service.Instance), changed: make(chan struct{}, 1)}
	log := logrus.New()
	log.SetOutput(io.Discard)
	s := &Source{
		Host: e.Host(), Node: "h1", Advertise: netip.MustParseAddr("10.0.0.1"), Log: log, Resync: time.Hour,
		Report:   func(err error) { w.note(func() { w.reports = append(w.reports, err) }) },
		Rejected: func(r []service.Rejection) { w.note(func() { w.rejected = r }) },
	}
	for _, c := range change {
		c(s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, w.sets) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: got %v, want %v", err, context.Canceled)
		}
	})
	return w
}

func (w *watched) note(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// next returns the next set, as "name:state" of its instances.
func (w *watched) next(t *testing.T) string {
	t.Helper()
	select {
	case w.last = <-w.sets:
		return printed(w.last)
	case <-time.After(deadline):
		t.Fatal("no set came")
		return ""
	}
}

func printed(set []service.Instance) string {
	var texts []string
	for _, i := range set {
		texts = append(texts, i.Name+":"+string(i.State))
	}
	return strings.Join(texts, " ")
}

// until takes sets until one is as wanted.
func (w *watched) until(t *testing.T, want string) {
	t.Helper()
	after := time.After(deadline)
	for {
		select {
		case w.last = <-w.sets:
			if printed(w.last) == want {
				return
			}
		case <-after:
			t.Fatalf("no set %q came; the last was %q", want, printed(w.last))
		}
	}
}

// eventually waits for what reports and rejections bring about.
func (w *watched) eventually(t *testing.T, what string, met func() bool) {
	t.Helper()
	after := time.After(deadline)
	for {
		w.mu.Lock()
		ok := met()
		w.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-w.changed:
		case <-after:
			t.Fatalf("%s: did not come about", what)
		}
	}
}

// silent checks that no set comes while the engine handles some more requests for path.
func (w *watched) silent(t *testing.T, path string, requests int) {
	t.Helper()
	before, _ := w.engine.Requested(path)
	after := time.After(deadline)
	for {
		count, next := w.engine.Requested(path)
		if count >= before+requests {
			return
		}
		select {
		case set := <-w.sets:
			t.Fatalf("got set %q, want none", printed(set))
		case <-next:
		case <-after:
			t.Fatalf("%d requests for %s did not come", requests, path)
		}
	}
}

func TestFirstSetIsComplete(t *testing.T) {
	e := fakeengine.New(t)
	for n := range 40 {
		e.Start(fakeContainer(n + 1))
	}
	w := watch(t, e)
	w.next(t)
	if got, want := len(w.last), 40; got != want {
		t.Errorf("first set has %d instances, want %d", got, want)
	}
	if !slices.IsSortedFunc(w.last, compareIDs) {
		t.Error("the set is not sorted")
	}
}

func TestNoContainersIsASet(t *testing.T) {
	w := watch(t, fakeengine.New(t))
	if got := w.next(t); got != "" || w.last == nil {
		t.Errorf("got %q, want an empty set", got)
	}
}

func TestLifeOfAContainer(t *testing.T) {
	e := fakeengine.New(t)
	w := watch(t, e)
	w.next(t)
	c := fakeContainer(1)
	e.Start(c)
	if got, want := w.next(t), "c1:ready"; got != want {
		t.Fatalf("after start: got %q, want %q", got, want)
	}
	e.Change(c.ID, func(c *container.InspectResponse) { c.State.Paused = true })
	e.EmitContainer(c.ID, events.ActionPause)
	if got, want := w.next(t), "c1:unhealthy"; got != want {
		t.Fatalf("after pause: got %q, want %q", got, want)
	}
	e.Change(c.ID, func(c *container.InspectResponse) { c.State.Paused = false })
	e.EmitContainer(c.ID, events.ActionUnPause)
	if got, want := w.next(t), "c1:ready"; got != want {
		t.Fatalf("after unpause: got %q, want %q", got, want)
	}
	e.Change(c.ID, func(c *container.InspectResponse) { c.State.Health = &container.Health{Status: container.Starting} })
	e.EmitContainer(c.ID, events.ActionHealthStatusUnhealthy)
	w.next(t)
	if got, want := w.last[0].Check.Health, "starting"; got != want {
		t.Errorf("health: got %q, want %q", got, want)
	}
	e.Change(c.ID, func(c *container.InspectResponse) { c.Name = "/renamed" })
	e.EmitContainer(c.ID, events.ActionRename)
	if got, want := w.next(t), "renamed:ready"; got != want {
		t.Fatalf("after rename: got %q, want %q", got, want)
	}
	e.Change(c.ID, func(c *container.InspectResponse) {
		c.NetworkSettings = &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{
			"front": {NetworkID: "front1", IPAddress: netip.MustParseAddr("10.9.0.2")},
		}}
	})
	e.PutNetwork("front1", "macvlan")
	e.Emit(events.Message{Type: events.NetworkEventType, Action: events.ActionConnect, Actor: events.Actor{
		ID: "front1", Attributes: map[string]string{"container": c.ID},
	}})
	w.next(t)
	if got, want := w.last[0].Endpoint().String()+w.last[0].Scope, "10.9.0.2:80"; got != want {
		t.Errorf("after network connect: got %q, want %q", got, want)
	}
	e.Die(c.ID)
	if got, want := w.next(t), ""; got != want {
		t.Fatalf("after die: got %q, want %q", got, want)
	}
}

// P1: the stop signal takes an instance out of rotation before anything is asked.
func TestKillDrainsBeforeAnyInspection(t *testing.T) {
	tests := map[string]struct{ stop, signal string }{
		"default":                 {"", "15"},
		"by name":                 {"SIGQUIT", "3"},
		"by number":               {"10", "10"},
		"real-time":               {"RTMIN+3", "37"},
		"real-time, in full":      {"SIGRTMIN+3", "37"},
		"real-time in the event":  {"37", "SIGRTMIN+3"},
		"a name in the event":     {"", "SIGTERM"},
		"SIGKILL ends everything": {"SIGQUIT", "9"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			e := fakeengine.New(t)
			c := fakeContainer(1)
			c.Config.StopSignal = tt.stop
			e.Start(c)
			w := watch(t, e)
			w.until(t, "c1:ready")
			release := e.Hold("/containers/")
			defer release()
			e.Kill(c.ID, tt.signal)
			if got, want := w.next(t), "c1:draining"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestOtherSignalsDoNotDrain(t *testing.T) {
	e := fakeengine.New(t)
	c := fakeContainer(1)
	c.Config.StopSignal = "SIGQUIT"
	e.Start(c)
	w := watch(t, e)
	w.until(t, "c1:ready")
	for _, signal := range []string{"1", "10", "15", "nonsense", ""} {
		e.Kill(c.ID, signal)
	}
	e.Start(fakeContainer(2)) // comes after them
	if got, want := w.next(t), "c1:ready c2:ready"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// P1: once told to stop, a run is never ready again: not by an inspection, a list, a new
// connection, or a new agent. The next run of the same container is.
func TestDrainingIsKept(t *testing.T) {
	e := fakeengine.New(t)
	c := fakeContainer(1)
	e.Start(c)
	w := watch(t, e)
	w.until(t, "c1:ready")
	e.Kill(c.ID, "15")
	w.until(t, "c1:draining")
	e.EmitContainer(c.ID, events.ActionHealthStatusHealthy)
	e.Start(fakeContainer(2))
	if got, want := w.next(t), "c1:draining c2:ready"; got != want {
		t.Errorf("after an inspection: got %q, want %q", got, want)
	}
	e.DropStreams()
	w.silent(t, "/containers/json", 1)
	e.Start(fakeContainer(3))
	w.until(t, "c1:draining c2:ready c3:ready")

	another := watch(t, e)
	if got, want := another.next(t), "c1:draining c2:ready c3:ready"; got != want {
		t.Errorf("a new agent: got %q, want %q", got, want)
	}
	e.Die(c.ID)
	w.until(t, "c2:ready c3:ready")
	e.Start(c)
	w.until(t, "c1:ready c2:ready c3:ready")
}

// TestCutsAreWarnedOf: once of a container whose sessions may last longer than its engine lets it live.
func TestCutsAreWarnedOf(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	tell := &teller{sets: make(chan []service.Instance, 10), log: log}
	f := newFleet(host{node: "n"})
	f.list(nil, nil)
	at := func(id, drain string, grace time.Duration) {
		t.Helper()
		f.inspected(id, &run{name: id, grace: grace, instances: []service.Instance{{ID: id, Options: map[string]string{"drain": drain}}}})
		f.changed = true
		if err := tell.tell(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	at("short", "10s", stopGrace)
	at("none", "", stopGrace)
	at("for ever", "1h", -time.Second)
	if n := len(hook.AllEntries()); n != 0 {
		t.Errorf("%d warnings of what is not cut", n)
	}
	at("long", "11s", stopGrace)
	at("long", "11s", stopGrace)
	if all := hook.AllEntries(); len(all) != 1 || all[0].Data["container"] != "long" || !strings.Contains(fmt.Sprint(all[0].Data["what"]), "gives sessions 11s") {
		t.Errorf("warned of %v, want of the long one once", all)
	}
}

// TestLastStopSignalIsTold: the time of a stop signal is known, and that of a later one, so that one can be
// forgotten and the other not; an engine that is asked again tells the same time.
func TestLastStopSignalIsTold(t *testing.T) {
	at := func(second int) time.Time { return time.Unix(int64(1_700_000_000+second), 0) }
	f := newFleet(host{node: "n"})
	running := &run{started: at(0), stop: sigTerm, instances: []service.Instance{{ID: "i", State: service.Ready}}}
	f.list([]string{"c"}, nil)
	f.inspected("c", running)
	for _, step := range []struct {
		signal, second, want int
		changed              bool
	}{
		{1, 1, 0, false}, {sigTerm, 2, 2, true}, {sigTerm, 2, 2, false}, {sigTerm, 5, 5, true}, {sigTerm, 3, 5, false},
	} {
		f.changed = false
		f.note(&note{id: "c", kills: map[int]time.Time{step.signal: at(step.second)}})
		set, _ := f.set()
		want := time.Time{}
		if step.want > 0 {
			want = at(step.want)
		}
		if !set[0].Told.Equal(want) || f.changed != step.changed {
			t.Errorf("signal %d at %d: told %v, changed %v; want %v, %v", step.signal, step.second, set[0].Told, f.changed, want, step.changed)
		}
	}
}

// Both orders in which engines log a stop, and one that comes after the next start.
func TestEndInAnyOrder(t *testing.T) {
	for _, stopFirst := range []bool{false, true} {
		t.Run(fmt.Sprintf("stop first %v", stopFirst), func(t *testing.T) {
			e := fakeengine.New(t)
			c := fakeContainer(1)
			e.Start(c)
			w := watch(t, e)
			w.until(t, "c1:ready")
			e.Stop(c.ID, stopFirst)
			w.until(t, "")
			e.Start(c)
			if got, want := w.next(t), "c1:ready"; got != want {
				t.Errorf("after the next start: got %q, want %q", got, want)
			}
			e.EmitContainer(c.ID, events.ActionStop)
			e.Start(fakeContainer(2))
			if got, want := w.next(t), "c1:ready c2:ready"; got != want {
				t.Errorf("after a late stop: got %q, want %q", got, want)
			}
			e.EmitContainer(c.ID, events.ActionDestroy)
			e.Remove(c.ID)
			e.EmitContainer(c.ID, events.ActionDestroy)
			w.until(t, "c2:ready")
		})
	}
}

// An inspection that was under way when a container ended must not bring it back.
func TestOldAnswerDoesNotReviveTheDead(t *testing.T) {
	f := newFleet(testHost("10.0.0.1"))
	id := "aaaa"
	alive := &run{started: time.Unix(1, 0), stop: sigTerm, instances: []service.Instance{{ID: "x", Name: "c", State: service.Ready}}}
	f.list(nil, nil)
	f.at(id).asked = true // an inspection is under way
	if !f.note(&note{id: id, ended: true, inspect: true}) {
		t.Error("want another inspection after the end")
	}
	f.at(id).again = true
	if !f.inspected(id, alive) {
		t.Error("want another inspection after the old answer")
	}
	if set, _ := f.set(); len(set) != 0 {
		t.Errorf("got %q, want nothing", printed(set))
	}
	f.at(id).asked = true
	f.inspected(id, nil)
	if len(f.containers) != 0 {
		t.Errorf("%d containers are still tracked", len(f.containers))
	}
}

// F7, P7: what a container asks for and cannot get is told, and harms nobody else.
func TestRejections(t *testing.T) {
	e := fakeengine.New(t)
	e.Start(fakeContainer(1))
	hostile := fakeContainer(2, "sidekick.host", "x\nbackend evil", "sidekick.port", "99999", "sidekick.nonsense", strings.Repeat("z", 10_000))
	e.Start(hostile)
	w := watch(t, e)
	if got, want := w.next(t), "c1:ready"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	w.eventually(t, "rejection", func() bool {
		return len(w.rejected) == 1 && w.rejected[0].Name == "c2" && w.rejected[0].Service == "web" &&
			w.rejected[0].Kind == service.RejectedLabel && !strings.ContainsAny(w.rejected[0].Reason, "\n") && len(w.rejected[0].Reason) < 1100
	})
	e.Die(hostile.ID)
	w.eventually(t, "no rejection", func() bool { return len(w.rejected) == 0 })
}

// A storm of events grows no queue and delays no kill: events of one container fold into one.
func TestEventStorm(t *testing.T) {
	e := fakeengine.New(t)
	c1, c2 := fakeContainer(1), fakeContainer(2)
	e.Start(c1)
	e.Start(c2)
	w := watch(t, e)
	w.until(t, "c1:ready c2:ready")
	release := e.Hold("/containers/" + c1.ID)
	before := len(e.Requests())
	for range 20_000 {
		e.EmitContainer(c1.ID, events.ActionHealthStatusHealthy)
	}
	e.Kill(c2.ID, "15")
	w.until(t, "c1:ready c2:draining")
	release()
	e.Die(c2.ID)
	w.until(t, "c1:ready")
	if got := len(e.Requests()) - before; got > 2000 {
		t.Errorf("20000 events caused %d requests", got)
	}
}

func TestUnusableSettingsFail(t *testing.T) {
	s := &Source{Host: "nonsense", Node: "h1", Log: logrus.New()}
	err := s.Run(t.Context(), make(chan []service.Instance))
	if err == nil || !strings.Contains(err.Error(), "check --docker") {
		t.Errorf("got %v, want an error that names the setting", err)
	}
}
