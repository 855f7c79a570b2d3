package docker

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"github.com/sidekick-proxy/sidekick/internal/fakeengine"
)

// F1, F5: whatever the engine tells of a container, the container is looked at again. Its name stands
// for all that may have changed.
func TestEachEventIsFollowedUp(t *testing.T) {
	actions := []events.Action{
		events.ActionStart, events.ActionStop, events.ActionPause, events.ActionUnPause, events.ActionRename, events.ActionUpdate,
		events.ActionOOM, events.ActionHealthStatus, events.ActionHealthStatusHealthy, events.ActionHealthStatusUnhealthy,
		events.ActionHealthStatusRunning, events.ActionDie, events.ActionDestroy,
	}
	e := fakeengine.New(t)
	c := fakeContainer(1)
	e.Start(c)
	w := watch(t, e)
	w.until(t, "c1:ready")
	for n, action := range actions {
		name := fmt.Sprintf("n%d", n)
		e.Change(c.ID, func(c *container.InspectResponse) { c.Name = "/" + name })
		e.EmitContainer(c.ID, action)
		w.until(t, name+":ready")
	}
	for n, action := range []events.Action{events.ActionConnect, events.ActionDisconnect} {
		address := netip.AddrFrom4([4]byte{10, 9, 0, byte(n)})
		e.Change(c.ID, func(c *container.InspectResponse) {
			c.NetworkSettings = &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{"front": {NetworkID: "f", IPAddress: address}}}
		})
		e.Emit(events.Message{Type: events.NetworkEventType, Action: action, Actor: events.Actor{
			ID: "f", Attributes: map[string]string{"container": c.ID},
		}})
		w.next(t)
		if got := w.last[0].Address; got != address {
			t.Errorf("after %s: got address %s, want %s", action, got, address)
		}
	}
}

// A service that is named after its container follows its name: the key under the old one goes in the
// step in which the one under the new one comes.
func TestRenameMovesTheDerivedService(t *testing.T) {
	e := fakeengine.New(t)
	c := fakeContainer(1)
	c.Config.Labels = map[string]string{"sidekick.enable": "true"}
	e.Start(c)
	w := watch(t, e, func(s *Source) { s.ExposeAll = true })
	w.until(t, "c1:ready")
	before := w.last[0]
	e.Change(c.ID, func(c *container.InspectResponse) { c.Name = "/shop" })
	e.EmitContainer(c.ID, events.ActionRename, "name", "shop", "oldName", "/c1")
	w.next(t)
	if len(w.last) != 1 || w.last[0].Service != "shop" || w.last[0].ID == before.ID || !w.last[0].Started.Equal(before.Started) {
		t.Errorf("got %+v, want the same run as service shop under another id", w.last)
	}
}

// P8: between two runs of a restart policy the engine calls the container running. It is nothing, and
// each new run is a new one, also after one that was told to stop.
func TestRestartPolicy(t *testing.T) {
	e := fakeengine.New(t)
	c := fakeContainer(1)
	e.Start(c)
	w := watch(t, e)
	w.until(t, "c1:ready")
	for _, signal := range []string{"", "15", ""} {
		first := w.last[0].Started
		if signal != "" {
			e.Kill(c.ID, signal)
			w.until(t, "c1:draining")
		}
		e.Change(c.ID, func(c *container.InspectResponse) {
			c.State.Status, c.State.Restarting = container.StateRestarting, true
		})
		e.EmitContainer(c.ID, events.ActionDie, "exitCode", "1")
		w.until(t, "")
		e.EmitContainer(c.ID, events.ActionHealthStatus) // looked at while it waits
		e.Start(c)
		w.until(t, "c1:ready")
		if !w.last[0].Started.After(first) {
			t.Errorf("the next run started %v, the last one %v", w.last[0].Started, first)
		}
	}
}

// P1: a stop signal counts for the run that it was sent to, also if this agent knew only an earlier
// run, because the events in between were lost.
func TestKillOfARunThatWasNotTold(t *testing.T) {
	e := fakeengine.New(t)
	c := fakeContainer(1)
	e.Start(c)
	w := watch(t, e)
	w.until(t, "c1:ready")
	e.Deafen(true)
	e.Die(c.ID)
	e.Start(c)
	e.Deafen(false)
	e.Kill(c.ID, "15")
	w.until(t, "c1:draining")
	e.EmitContainer(c.ID, events.ActionHealthStatusHealthy) // shows the second run
	e.Start(fakeContainer(2))
	w.until(t, "c1:draining c2:ready")
	if got := w.last[0].State; got != "draining" {
		t.Errorf("got %s, want draining", got)
	}
	e.Die(c.ID)
	w.until(t, "c2:ready")
}

// A kill that is read late, when the next run is known already, is not for that one.
func TestKillOfAnEarlierRun(t *testing.T) {
	f := newFleet(testHost("10.0.0.1"))
	started := time.Unix(100, 0)
	f.list([]string{"aaaa"}, nil)
	f.inspected("aaaa", &run{started: started, stop: sigTerm})
	f.note(&note{id: "aaaa", kills: map[int]time.Time{sigTerm: started.Add(-time.Second)}})
	if f.at("aaaa").draining {
		t.Error("the run drains for a signal from before its start")
	}
	f.note(&note{id: "aaaa", kills: map[int]time.Time{sigTerm: {}}})
	if !f.at("aaaa").draining {
		t.Error("the run does not drain for a signal of unknown time")
	}
}

// F1, P1: a kill whose event was lost on the way is found in the engine's memory by the slow list.
func TestLostKillIsRecalled(t *testing.T) {
	e := fakeengine.New(t)
	c := fakeContainer(1)
	e.Start(c)
	w := watch(t, e, func(s *Source) { s.Resync = 20 * time.Millisecond })
	w.until(t, "c1:ready")
	e.Deafen(true)
	e.Kill(c.ID, "15")
	w.until(t, "c1:draining")
}

// F1: a stream that stands but brings nothing, as behind a proxy that has lost the connection, is
// given up once a list shows what it should have told; and only then.
func TestDeafStreamIsGivenUp(t *testing.T) {
	e := fakeengine.New(t)
	e.Start(fakeContainer(1))
	w := watch(t, e, func(s *Source) { s.Resync = 30 * time.Millisecond })
	w.until(t, "c1:ready")
	for range 30 {
		e.Start(fakeContainer(2))
		w.until(t, "c1:ready c2:ready")
		e.Die(fakeContainer(2).ID)
		w.until(t, "c1:ready")
	}
	deaf := func(err error) bool { return errors.Is(err, errDeaf) }
	w.eventually(t, "no stream was given up", func() bool { return !slices.ContainsFunc(w.reports, deaf) })
	e.Deafen(true)
	e.Start(fakeContainer(3))
	w.reported(t, "a start", deaf)
	w.reported(t, "another stream", func(err error) bool { return err == nil })
	w.silent(t, "/containers/json", 2) // the third container was looked at, and runs
	e.Die(fakeContainer(3).ID)
	w.reported(t, "an end", deaf)
}

// reported takes sets until the Source, from now on, reports what is wanted.
func (w *watched) reported(t *testing.T, what string, wanted func(error) bool) {
	t.Helper()
	after := time.After(deadline)
	w.mu.Lock()
	w.reports = nil
	w.mu.Unlock()
	for {
		w.mu.Lock()
		found := slices.ContainsFunc(w.reports, wanted)
		w.mu.Unlock()
		if found {
			return
		}
		select {
		case w.last = <-w.sets:
		case <-w.changed:
		case <-after:
			t.Fatalf("%s: it was not reported", what)
		}
	}
}

// F1: an engine loses events for a reader that does not read. This one reads whatever becomes of the
// sets, and while the engine does not answer anything else.
func TestReaderNeverStalls(t *testing.T) {
	e := fakeengine.New(t)
	c1, c2 := fakeContainer(1), fakeContainer(2)
	e.Start(c1)
	e.Start(c2)
	w := watch(t, e)
	w.until(t, "c1:ready c2:ready")
	release := e.Hold("/containers/")
	defer release()
	filler := strings.Repeat("x", 1000)
	for range 20_000 { // more than a socket holds
		e.EmitContainer(c1.ID, events.ActionHealthStatusHealthy, "filler", filler)
	}
	e.Kill(c2.ID, "15")
	after := time.After(deadline)
	for e.Backlog() > 0 {
		select {
		case <-time.After(time.Millisecond):
		case <-after:
			t.Fatalf("%d events were not read", e.Backlog())
		}
	}
	w.until(t, "c1:ready c2:draining")
}

// P1: what an engine tells is heard although it describes nothing and answers no ping meanwhile, as
// when it goes down.
func TestLastWordsAreHeard(t *testing.T) {
	e := fakeengine.New(t)
	c := fakeContainer(1)
	e.Start(c)
	w := watch(t, e)
	w.until(t, "c1:ready")
	for _, path := range []string{"/_ping", "/containers/" + c.ID, "/containers/" + fakeContainer(2).ID} {
		e.Fail(path, http.StatusInternalServerError, `{"message":"going down"}`)
	}
	e.EmitContainer(fakeContainer(2).ID, events.ActionStart)
	e.Kill(c.ID, "15")
	w.until(t, "c1:draining")
}

// F2: an address that a new container has is no longer that of another, even if the other's end was
// lost. Who has moved to another address comes back with that.
func TestAddressIsHandedOn(t *testing.T) {
	for _, moved := range []bool{false, true} {
		t.Run(fmt.Sprintf("moved %v", moved), func(t *testing.T) {
			e := fakeengine.New(t)
			c1, c2 := fakeContainer(1), fakeContainer(2)
			e.Start(c1)
			w := watch(t, e)
			w.until(t, "c1:ready")
			e.Deafen(true)
			want := "c2:ready"
			if moved {
				want = "c1:ready c2:ready"
				e.Change(c1.ID, func(c *container.InspectResponse) { c.NetworkSettings = fakeContainer(3).NetworkSettings })
			} else {
				e.Die(c1.ID)
			}
			e.Deafen(false)
			c2.NetworkSettings = c1.NetworkSettings
			e.Start(c2)
			for printed(w.last) != want {
				w.next(t)
				if len(w.last) == 2 && w.last[0].Endpoint() == w.last[1].Endpoint() {
					t.Errorf("both have the address %s", w.last[0].Endpoint())
				}
			}
		})
	}
}

// F2: an address that a younger container had is no longer that of this one when an older one is seen to move
// there, even if the younger one's move was lost.
func TestAddressIsHandedOnToAnOlderContainer(t *testing.T) {
	e := fakeengine.New(t)
	c1, c2 := fakeContainer(1), fakeContainer(2)
	e.Start(c1)
	e.Start(c2)
	w := watch(t, e)
	w.until(t, "c1:ready c2:ready")
	e.Change(c2.ID, func(c *container.InspectResponse) { c.NetworkSettings = fakeContainer(3).NetworkSettings })
	connected(e, c1.ID, events.ActionConnect, "bridge", map[string]string{"bridge": "172.17.0.2"})
	for len(w.last) != 2 || w.last[1].Address != netip.MustParseAddr("172.17.0.3") {
		w.next(t)
		if len(w.last) == 2 && w.last[0].Endpoint() == w.last[1].Endpoint() {
			t.Errorf("both have the address %s", w.last[0].Endpoint())
		}
	}
}

// P1: a stop waits for nothing, however many containers come at the same time; and who can be looked at
// is told of although others behind them cannot.
func TestStopInABurst(t *testing.T) {
	e := fakeengine.New(t)
	c := fakeContainer(1)
	e.Start(c)
	w := watch(t, e)
	w.until(t, "c1:ready")
	var releases []func()
	for n := range 3 * parallel {
		if n > 1 {
			releases = append(releases, e.Hold("/containers/"+fakeContainer(2+n).ID))
		}
		e.Start(fakeContainer(2 + n))
	}
	w.until(t, "c1:ready c2:ready c3:ready")
	e.Kill(c.ID, "15")
	w.until(t, "c1:draining c2:ready c3:ready")
	for _, release := range releases {
		release()
	}
}
