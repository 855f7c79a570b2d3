package histories

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/moby/moby/api/types/events"
	"pgregory.net/rapid"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// soakTime is the variable with the seconds to go on for; rapid's own flags say how many histories there
// are at most, and with which seed.
const soakTime = "SOAKTIME"

// shortTime is the time without it: what a test before every change may take.
const shortTime = 8 * time.Second

// step is one thing that happens.
type step struct {
	What  string
	Box   int
	Other int  // tells variants apart
	Lost  bool // events of it reach nobody
	Pause time.Duration
}

// String implements fmt.Stringer, for the history that a failure prints.
func (s step) String() string {
	return fmt.Sprintf("%s(c%d, %d, lost %v, then %s)", s.What, s.Box, s.Other, s.Lost, s.Pause)
}

// somePorts are those on which a process begins or ceases to listen.
var somePorts = [][]uint16{{port, port2}, {port}, {port, port2}, {port2}}

// steps are what can happen, by name.
var steps = map[string]func(h *history, b *box, s step){
	"start": func(h *history, b *box, s step) { h.begin(b, s.Lost, s.Other%4 != 0) },
	"listen": func(h *history, b *box, s step) {
		if b.running {
			h.listen(b, somePorts[s.Other%len(somePorts)]...)
		}
	},
	"listen no more": func(_ *history, b *box, s step) { b.silence(somePorts[s.Other%len(somePorts)]...) },
	"replug":         func(h *history, b *box, s step) { h.replug(b, joinable[s.Other%len(joinable)], s.Lost) },
	"stop": func(h *history, b *box, s step) {
		if b.running {
			h.signal(b, s.Lost, b.number)
			h.finish(b, s.Lost, endings(s.Other%2 == 0)...)
		}
	},
	"tell to stop": func(h *history, b *box, s step) {
		if b.running && b.address().IsValid() { // see replug
			b.told = true
			h.signal(b, s.Lost, b.number)
		}
	},
	"another signal": func(h *history, b *box, s step) { h.signal(b, s.Lost, []string{"1", "SIGUSR1", "nonsense"}[s.Other%3]) },
	"crash": func(h *history, b *box, s step) {
		if b.running {
			h.finish(b, s.Lost, events.ActionDie)
		}
	},
	"oom": func(h *history, b *box, s step) {
		if b.running {
			h.finish(b, s.Lost, events.ActionOOM, events.ActionDie)
		}
	},
	"restart": func(h *history, b *box, s step) {
		if b.running {
			h.signal(b, s.Lost, b.number)
			h.finish(b, s.Lost, endings(s.Other%2 == 0)...)
			h.begin(b, s.Lost, true)
			h.tell(b, s.Lost, events.ActionRestart, events.ActionStop) // an engine may be late with it
		}
	},
	"pause": func(h *history, b *box, s step) {
		if b.running {
			b.paused = !b.paused
			h.engine.Put(b.described())
			h.tell(b, s.Lost, map[bool]events.Action{true: events.ActionPause, false: events.ActionUnPause}[b.paused])
		}
	},
	"health": func(h *history, _ *box, s step) { h.turnHealth(h.boxes[[]int{2, 6}[s.Other/4]], s) },
	"rename": func(h *history, b *box, s step) {
		if b.exists {
			b.name = fmt.Sprintf("n%d-%d", s.Box, s.Other%3)
			h.engine.Put(b.described())
			h.tell(b, s.Lost, events.ActionRename)
		}
	},
	"update": func(h *history, b *box, s step) { h.tell(b, s.Lost, events.ActionUpdate) },
	"remove": func(h *history, b *box, s step) {
		if b.running {
			h.signal(b, s.Lost, "9")
			h.finish(b, s.Lost, events.ActionDie)
		}
		b.exists = false
		h.engine.Remove(b.id)
		h.tell(b, s.Lost, events.ActionDestroy)
	},
	"drop streams": func(h *history, _ *box, _ step) { h.engine.DropStreams() },
	"engine restarts": func(h *history, _ *box, _ step) {
		h.noted()
		h.engine.Down()
		h.engine.Up(h)
	},
	"engine forgets": func(h *history, b *box, _ step) {
		h.noted()
		for range 300 {
			h.engine.EmitContainer(b.id, events.ActionExecStart)
		}
	},
	"engine breaks": func(h *history, _ *box, s step) { h.breaks(faultyPaths[s.Box%len(faultyPaths)], s.Other) },
	"engine heals":  func(h *history, _ *box, _ step) { h.heal() },
	"agent restarts": func(h *history, _ *box, _ step) {
		h.check(h.agent.end())
		h.agent.start(context.WithoutCancel(h.Context()))
	},
	"agent crashes": func(h *history, _ *box, _ step) {
		h.check(h.agent.crash())
		h.agent.start(context.WithoutCancel(h.Context()))
	},
	"registry fails": func(h *history, _ *box, s step) {
		if h.faulty != nil {
			h.faulty.fail(s.Other)
		}
	},
	"lease is lost": func(h *history, _ *box, _ step) {
		if h.faulty != nil {
			h.faulty.expire()
		}
	},
	"all is quiet": func(h *history, _ *box, _ step) { h.returns() },
}

// turnHealth lets a HEALTHCHECK pass or fail.
func (h *history) turnHealth(b *box, s step) {
	if !b.running {
		return
	}
	b.health = []string{"healthy", "unhealthy"}[s.Other%2]
	h.answers(b)
	h.engine.Put(b.described())
	h.tell(b, s.Lost, events.Action("health_status: "+b.health))
}

// aHistory draws one. Each is made of a few kinds of steps and containers, so that in some what belongs
// together comes together.
func aHistory(t *rapid.T, most int) []step {
	names := rapid.SliceOfNDistinct(rapid.SampledFrom(slices.Sorted(maps.Keys(steps))), 1, 8, rapid.ID).Draw(t, "kinds")
	names = append(names, "start")
	last := rapid.IntRange(0, boxes-1).Draw(t, "boxes")
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{
			What: rapid.SampledFrom(names).Draw(t, "what"), Box: rapid.IntRange(0, last).Draw(t, "box"),
			Other: rapid.IntRange(0, 7).Draw(t, "variant"), Lost: rapid.IntRange(0, 3).Draw(t, "lost") == 3,
			Pause: time.Duration(rapid.SampledFrom([]int{0, 0, 1, 3, 10, 40}).Draw(t, "pause")) * time.Millisecond,
		}
	}), 1, most).Draw(t, "steps")
}

// play lets all happen, and then waits for the truth.
func (h *history) play(all []step) {
	h.Helper()
	for _, s := range all {
		steps[s.What](h, h.boxes[s.Box], s)
		if s.Pause > 0 {
			<-time.After(s.Pause)
		}
	}
	h.returns()
}

// playAll draws histories until the time is over.
func playAll(t *testing.T, length time.Duration, most int, start func(t *testing.T, resync time.Duration) *history) {
	t.Helper()
	over, played := time.Now().Add(length), 0
	rapid.Check(t, func(rt *rapid.T) {
		if played > 0 && time.Now().After(over) && !t.Failed() {
			return
		}
		all := aHistory(rt, most)
		resync := time.Duration(rapid.SampledFrom([]int{20, 20, 150}).Draw(rt, "resync")) * time.Millisecond
		played++
		// A subtest, so that each history has its engine and cleans up after itself.
		if !t.Run("history", func(t *testing.T) { start(t, resync).play(all) }) {
			rt.Fatalf("history of %d steps: %v", len(all), all)
		}
	})
	t.Logf("%d histories in %s", played, length)
}

// length is how long to go on.
func length(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv(soakTime)
	if text == "" {
		return shortTime
	}
	seconds, err := strconv.Atoi(text)
	if err != nil || seconds <= 0 {
		t.Fatalf("%s=%q: give a number of seconds", soakTime, text)
	}
	return time.Duration(seconds) * time.Second
}

// TestAnyHistoryEndsInTheTruth: whatever happens to containers, events, connections, the engine, the
// agent and the registry, in the end what is registered is what the engine's containers are (F1, F5). At
// no time is a container registered before it answered, and none that was told to stop is ready again
// (P1). What one container leaves, its address too, is not taken for the next (F2).
func TestAnyHistoryEndsInTheTruth(t *testing.T) {
	playAll(t, length(t), 40, func(t *testing.T, resync time.Duration) *history {
		t.Helper()
		m := &memory{}
		h := newHistory(t, m, resync)
		h.faulty, h.stored = m, m.all
		return h
	})
}

// TestAnyHistoryReachesEtcd is the same with a real etcd, which is slower: what is registered is read
// from its keys.
func TestAnyHistoryReachesEtcd(t *testing.T) {
	e := newEtcd(t)
	n := 0
	playAll(t, length(t)/2, 25, func(t *testing.T, resync time.Duration) *history {
		t.Helper()
		n++
		prefix := fmt.Sprintf("/history%d", n)
		h := newHistory(t, e.registry(prefix), resync)
		h.stored = func(ctx context.Context) ([]service.Instance, error) { return e.instances(ctx, prefix) }
		return h
	})
}
