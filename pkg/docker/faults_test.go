package docker

import (
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"github.com/sidekick-proxy/sidekick/internal/fakeengine"
)

// F1: what happens while the stream is down is found by the list after it.
func TestDroppedStream(t *testing.T) {
	e := fakeengine.New(t)
	c1, c2 := fakeContainer(1), fakeContainer(2)
	e.Start(c1)
	e.Start(c2)
	w := watch(t, e)
	w.until(t, "c1:ready c2:ready")
	release := e.Hold("/events")
	e.DropStreams()
	e.Remove(c1.ID)
	e.Start(fakeContainer(3))
	e.Kill(c2.ID, "15") // nobody listens
	release()
	w.until(t, "c2:draining c3:ready")
}

// An engine that goes down: nothing is sent, what runs stays known, and what ended meanwhile goes
// once it is back (unknown is not empty).
func TestEngineRestart(t *testing.T) {
	e := fakeengine.New(t)
	c1 := fakeContainer(1)
	e.Start(c1)
	e.Start(fakeContainer(2))
	w := watch(t, e)
	w.until(t, "c1:ready c2:ready")
	e.Down()
	w.eventually(t, "a failure is reported", func() bool { return w.reports[len(w.reports)-1] != nil })
	e.Remove(c1.ID)
	select {
	case set := <-w.sets:
		t.Errorf("got %q while the engine was down", printed(set))
	default:
	}
	e.Up(t)
	if got, want := w.next(t), "c2:ready"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	w.eventually(t, "success is reported", func() bool { return w.reports[len(w.reports)-1] == nil })
}

func TestFailedReadSendsNothing(t *testing.T) {
	for _, path := range []string{"/containers/json", "/events", "/_ping"} {
		t.Run(path, func(t *testing.T) {
			e := fakeengine.New(t)
			e.Start(fakeContainer(1))
			e.Fail(path, http.StatusInternalServerError, `{"message":"out of order"}`)
			w := watch(t, e)
			if path == "/_ping" { // a client goes on without knowing the version
				w.until(t, "c1:ready")
				return
			}
			w.silent(t, path, 3)
			e.Heal(path)
			if got, want := w.next(t), "c1:ready"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// A container that cannot be inspected: the first set waits for one failure of it; then the others
// go on without it, and it says why (P7).
func TestContainerThatCannotBeInspected(t *testing.T) {
	for name, body := range map[string]string{"error": `{"message":"deadlock"}`, "no answer to it": `{"Id":`} {
		t.Run(name, func(t *testing.T) {
			status := http.StatusOK
			if name == "error" {
				status = http.StatusInternalServerError
			}
			e := fakeengine.New(t)
			c1, c2 := fakeContainer(1), fakeContainer(2)
			e.Start(c1)
			e.Start(c2)
			path := "/containers/" + c1.ID
			e.Fail(path, status, body)
			w := watch(t, e)
			if got, want := w.next(t), "c2:ready"; got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
			w.eventually(t, "rejection", func() bool {
				return len(w.rejected) == 1 && strings.HasPrefix(w.rejected[0].Reason, "the engine does not describe the container: ")
			})
			e.Heal(path)
			if got, want := w.next(t), "c1:ready c2:ready"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			w.eventually(t, "no rejection", func() bool { return len(w.rejected) == 0 })

			e.Fail(path, status, body) // now it is known: it stays, whatever else happens
			e.EmitContainer(c1.ID, events.ActionHealthStatusHealthy)
			w.silent(t, path+"/json", 3)
			e.Start(fakeContainer(3))
			if got, want := w.next(t), "c1:ready c2:ready c3:ready"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// P7: a container that hangs the engine holds up only itself.
func TestHangingInspectionHoldsNobodyUp(t *testing.T) {
	e := fakeengine.New(t)
	c1 := fakeContainer(1)
	e.Start(c1)
	w := watch(t, e)
	w.until(t, "c1:ready")
	release := e.Hold("/containers/" + c1.ID)
	defer release()
	e.EmitContainer(c1.ID, events.ActionHealthStatusHealthy)
	e.Start(fakeContainer(2))
	w.until(t, "c1:ready c2:ready")
	e.Kill(c1.ID, "15")
	w.until(t, "c1:draining c2:ready")
	e.Die(c1.ID)
	w.until(t, "c2:ready")
}

// F1, F5: a lost event is made good by the slow list.
func TestResyncRepairsLostEvents(t *testing.T) {
	e := fakeengine.New(t)
	c1, c2 := fakeContainer(1), fakeContainer(2)
	e.Start(c1)
	w := watch(t, e, func(s *Source) { s.Resync = 20 * time.Millisecond })
	w.until(t, "c1:ready")
	e.Remove(c1.ID)
	c2.State = &container.State{Running: true, StartedAt: "2026-11-23T04:11:27.426699168Z"}
	e.Put(c2)
	w.until(t, "c2:ready")
	w.silent(t, "/containers/json", 5) // equal lists say nothing
}

// Four questions are enough, all of which only read: an agent behind a filter that lets nothing else
// through registers all the same. A network that it may not ask for counts as a bridge.
func TestLeastPrivilege(t *testing.T) {
	asked := regexp.MustCompile(`^/(_ping|events|containers/json|containers/[0-9a-f]{64}/json|networks/front1)$`)
	e := fakeengine.New(t)
	e.Fail("/networks/", http.StatusForbidden, `{"message":"not let through"}`)
	c := fakeContainer(1)
	c.NetworkSettings.Networks = map[string]*network.EndpointSettings{
		"front": {NetworkID: "front1", IPAddress: netip.MustParseAddr("10.9.0.2")},
	}
	e.PutNetwork("front1", "macvlan")
	e.Start(c)
	w := watch(t, e, func(s *Source) { s.Resync = 20 * time.Millisecond })
	w.until(t, "c1:ready")
	if got, want := w.last[0].Endpoint().String()+" "+w.last[0].Scope, "10.9.0.2:80 node"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	e.Kill(c.ID, "15")
	w.until(t, "c1:draining")
	e.DropStreams()
	e.Die(c.ID)
	w.until(t, "")
	for _, path := range e.Requests() {
		if !asked.MatchString(path) {
			t.Errorf("the engine was asked for %s, which no filter lets through", path)
		}
	}
}

// A clock that was put back after the start of a run does not hide its stop signals.
func TestKillOfARunFromTheFuture(t *testing.T) {
	f := newFleet(testHost("10.0.0.1"))
	started := time.Unix(10_000, 0)
	f.list([]string{"aaaa"}, nil)
	f.inspected("aaaa", &run{started: started, stop: sigTerm})
	f.at("aaaa").known = time.Now().Add(-2 * eventTimeout)
	f.list([]string{"aaaa"}, []*note{{id: "aaaa", kills: map[int]time.Time{sigTerm: started.Add(-time.Hour)}}})
	if f.at("aaaa").draining {
		t.Error("the run drains for a signal that the engine remembers from before its start")
	}
	f.note(&note{id: "aaaa", kills: map[int]time.Time{sigTerm: started.Add(-time.Hour)}})
	if !f.at("aaaa").draining {
		t.Error("the run does not drain for a signal that came long after it was known")
	}
	f.inspected("aaaa", &run{started: started, stop: sigTerm})
	if !f.at("aaaa").draining {
		t.Error("the next inspection forgets the signal")
	}
}
