package docker

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"pgregory.net/rapid"

	"github.com/sidekick-proxy/sidekick/internal/fakeengine"
)

// TestAnyHistoryEndsInTheTruth: whatever happens to containers, events and connections, in the end
// the set is what the engine's containers are (F1, F5), and a run that was told to stop was never
// ready again (P1).
func TestAnyHistoryEndsInTheTruth(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.IntRange(0, 79), 1, 30).Draw(rt, "steps")
		// A subtest, so that each history has its engine and cleans up after itself.
		if !t.Run("history", func(t *testing.T) { playHistory(t, steps) }) {
			rt.Fatalf("history %v", steps)
		}
	})
}

const (
	absent   = ""
	ready    = "ready"
	draining = "draining"
)

func playHistory(t *testing.T, steps []int) {
	t.Helper()
	e := fakeengine.New(t)
	truth := map[int]string{}
	w := watch(t, e, func(s *Source) { s.Resync = 30 * time.Millisecond })
	for _, step := range steps {
		n, lost := 1+step%4, step >= 40
		playStep(e, truth, n, step/4%10, lost)
	}
	want := make([]string, 0, len(truth))
	for n, state := range truth {
		if state != absent {
			want = append(want, strings.TrimPrefix(fakeContainer(n).Name, "/")+":"+state)
		}
	}
	slices.Sort(want)
	w.until(t, strings.Join(want, " "))
}

// playStep does one thing to container n. When it is lost, no event tells of it.
func playStep(e *fakeengine.Engine, truth map[int]string, n, what int, lost bool) {
	c := fakeContainer(n)
	switch what {
	case 0, 1, 2: // start, from the beginning
		c.State = &container.State{Running: true, StartedAt: time.Now().UTC().Format(time.RFC3339Nano)}
		if truth[n] != absent {
			return
		}
		e.Put(c)
		if !lost {
			e.EmitContainer(c.ID, events.ActionStart)
		}
		truth[n] = ready
	case 3, 4: // the end
		if truth[n] == absent {
			return
		}
		e.Change(c.ID, func(c *container.InspectResponse) { c.State.Running = false })
		if !lost {
			e.EmitContainer(c.ID, events.ActionDie)
		}
		truth[n] = absent
	case 5, 6: // a stop signal; it is never lost, because an engine remembers it
		if truth[n] == absent {
			return
		}
		e.Kill(c.ID, "15")
		truth[n] = draining
	case 7:
		e.DropStreams()
	case 8:
		e.EmitContainer(c.ID, events.ActionStop)
	case 9:
		e.EmitContainer(c.ID, events.ActionHealthStatusHealthy)
	}
}
