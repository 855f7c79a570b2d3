package register

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// TestDamper: how long one that has turned so often has to pass before it is let through again, and
// what quiet time takes off (F9).
func TestDamper(t *testing.T) {
	tests := []struct {
		turns int
		quiet time.Duration
		want  time.Duration
	}{
		{0, 0, 0},
		{1, 0, 0},
		{freeTurns, 0, 0},
		{freeTurns + 1, 0, time.Second},
		{freeTurns + 2, 0, 2 * time.Second},
		{freeTurns + 5, 0, 16 * time.Second},
		{mostTurns, 0, longestHold},
		{1000, 0, longestHold},
		{1000, quietTime - time.Second, longestHold},
		{1000, quietTime, 2 * time.Second},
		{1000, 2 * quietTime, 0},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%d turns, %v ago", tt.turns, tt.quiet), func(t *testing.T) {
			d, now := &damper{}, time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
			for range tt.turns {
				d.observe(true, now)
				d.observe(false, now)
			}
			now = now.Add(tt.quiet)
			d.observe(true, now)
			if got := d.until().Sub(now); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// TestDamperLaws: whatever an instance does, it is let through at once at first, at most so often in
// any ten minutes, and at the latest when it has passed for the longest time (F9, P8).
func TestDamperLaws(t *testing.T) {
	const window, most = 10 * time.Minute, mostTurns + 10 + 1
	rapid.Check(t, func(t *rapid.T) {
		d, now := &damper{}, time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
		var through []time.Time
		open := false
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			passing := rapid.Bool().Draw(t, "passing")
			d.observe(passing, now)
			next := now.Add(time.Duration(rapid.IntRange(1, 200_000).Draw(t, "milliseconds")) * time.Millisecond)
			until := d.until()
			switch {
			case !passing:
				open = false
			case len(through) == 0 && until.After(now):
				t.Fatalf("the first success is held back until %v", until.Sub(now))
			case until.Sub(d.up) > longestHold:
				t.Fatalf("held back for %v, more than %v", until.Sub(d.up), longestHold)
			case !open && !until.After(next):
				open = true
				through = append(through, maxTime(now, until))
			}
			now = next
		}
		for n := range through {
			if n >= most && through[n].Sub(through[n-most]) < window {
				t.Fatalf("let through %d times in %v, want at most %d in %v", most+1, through[n].Sub(through[n-most]), most, window)
			}
		}
	})
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// TestGateHoldsBackWhatTurns: one that turns again and again stays unhealthy for longer each time,
// visibly, and disturbs no other; after a quiet time it is as any other (F9, P7).
func TestGateHoldsBackWhatTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := openGate(t)
		g.net.set(a80, true)
		g.net.set("10.0.0.1:81", true)
		a, b := with("a", 80, service.CheckTCP), with("b", 81, service.CheckTCP)
		a.Check.Rise, a.Check.Fall = 1, 1
		a.Check.Interval = time.Second
		g.in <- []service.Instance{a, b}
		begin := time.Now()
		for time.Since(begin) < 10*time.Minute {
			g.net.set(a80, false)
			time.Sleep(2 * time.Second)
			g.net.set(a80, true)
			time.Sleep(3 * time.Second)
		}
		synctest.Wait()
		g.mu.Lock()
		ready := 0
		for _, set := range g.sets {
			if !strings.Contains(set, "b:ready") {
				t.Errorf("the other instance was disturbed: %s", set)
			}
			if strings.Contains(set, "a:ready") {
				ready++
			}
		}
		last := g.sets[len(g.sets)-1]
		g.mu.Unlock()
		if ready > mostTurns {
			t.Errorf("let through %d times in 10 minutes, want at most %d", ready, mostTurns)
		}
		if last != "[a:unhealthy b:ready]" {
			t.Errorf("at last got %s, want a unhealthy", last)
		}
		g.wantHeld(t, "a: it passes now, but has turned ")
		time.Sleep(longestHold)
		synctest.Wait()
		g.wantHeld(t, "")
		time.Sleep(3 * quietTime)
		g.net.set(a80, false)
		time.Sleep(2 * time.Second)
		g.net.set(a80, true)
		time.Sleep(2 * time.Second)
		g.wantHeld(t, "")
	})
}

// TestGateHoldsBackCrashLoops: a container that is started again and again costs the registry a
// bounded number of writes, and the reason says so; the one beside it costs nothing (F9, P8, P10).
func TestGateHoldsBackCrashLoops(t *testing.T) {
	for _, alive := range []time.Duration{50 * time.Millisecond, 900 * time.Millisecond, 5 * time.Second, 40 * time.Second} {
		t.Run(alive.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := openGate(t)
				g.net.set(a80, true)
				g.net.set("10.0.0.1:81", true)
				b := with("b", 81, service.CheckTCP, started(0))
				begin, n := time.Now(), 0
				for time.Since(begin) < time.Hour {
					n++
					g.in <- []service.Instance{with("a", 80, service.CheckTCP, started(n)), b}
					time.Sleep(alive)
					g.in <- []service.Instance{b}
					time.Sleep(300 * time.Millisecond)
				}
				g.in <- []service.Instance{with("a", 80, service.CheckTCP, started(n+1)), b}
				synctest.Wait()
				g.mu.Lock()
				sets := len(g.sets)
				g.mu.Unlock()
				if most := 1 + 2*(mostTurns+2); sets > most {
					t.Errorf("%d sets for %d runs in an hour, want at most %d", sets, n, most)
				}
				g.wantHeld(t, fmt.Sprintf("a: not let through: it passes now, but has turned %d times since ", n))
				time.Sleep(longestHold)
				synctest.Wait()
				g.mu.Lock()
				last := g.sets[len(g.sets)-1]
				g.mu.Unlock()
				if last != "[a:ready b:ready]" {
					t.Errorf("when it stays up, got %s, want it let through", last)
				}
			})
		})
	}
}

// What is no flapping is not held back for a moment: a first start, a redeployment under a new id, a
// restart, also one by hand that drains first (P1, P2).
func TestGateDoesNotHoldBackRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := openGate(t)
		g.net.set(a80, true)
		for n := range 50 { // redeployed again and again
			g.in <- []service.Instance{with(fmt.Sprint("a", n), 80, service.CheckTCP, started(n))}
			synctest.Wait()
			g.wantHeld(t, "")
		}
		for n := range freeTurns { // restarted
			g.in <- []service.Instance{with("b", 80, service.CheckTCP, started(n), state(service.Draining))}
			g.in <- []service.Instance{}
			g.in <- []service.Instance{with("b", 80, service.CheckTCP, started(n+1))}
			synctest.Wait()
			g.wantHeld(t, "")
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		if last := g.sets[len(g.sets)-1]; last != "[b:ready]" {
			t.Errorf("at last got %s, want b let through", last)
		}
	})
}

// TestGateLaws: whatever happens to one instance, the gate lets it through at once at its first
// success, writes a bounded number of times, disturbs no other, and has it let through in the end if
// it stays up (F9, P1, P8).
func TestGateLaws(t *testing.T) {
	acts := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) act {
		return act{rapid.SampledFrom([]string{"up", "down", "start", "die"}).Draw(t, "what"), rapid.IntRange(0, 3_000).Draw(t, "ms")}
	}), 1, 40)
	rapid.Check(t, func(rt *rapid.T) {
		plan := slices.Repeat(acts.Draw(rt, "acts"), rapid.IntRange(1, 20).Draw(rt, "rounds"))
		wrong := ""
		synctest.Test(t, func(t *testing.T) { wrong = playActs(t, plan) })
		if wrong != "" {
			rt.Fatalf("%s", wrong)
		}
	})
}

// act is something that happens to the instance a, and the time after it.
type act struct {
	what string
	ms   int
}

// playActs lets a plan happen to the instance a beside an instance b, and says which law is broken.
func playActs(t *testing.T, plan []act) string {
	t.Helper()
	g := openGate(t)
	g.net.set("10.0.0.1:81", true)
	b := with("b", 81, service.CheckTCP, started(0))
	a := func(n int) service.Instance {
		i := with("a", 80, service.CheckTCP, started(n))
		i.Check.Interval, i.Check.Rise, i.Check.Fall = time.Second, 1, 1
		return i
	}
	begin, run := time.Now(), 0
	g.in <- []service.Instance{b}
	for _, act := range plan {
		passed := g.everReady()
		switch act.what {
		case "up", "down":
			g.net.set(a80, act.what == "up")
		case "start":
			run++
			g.in <- []service.Instance{a(run), b}
		case "die":
			g.in <- []service.Instance{b}
		}
		time.Sleep(time.Duration(act.ms) * time.Millisecond)
		synctest.Wait()
		g.net.mu.Lock()
		_, open := g.net.open[a80]
		g.net.mu.Unlock()
		if last := g.lastSet(); act.what == "start" && open && !passed && !strings.Contains(last, "a:ready") {
			return "the first success is held back: " + last
		}
	}
	spent := time.Since(begin)
	g.mu.Lock()
	ready, before := 0, false
	for _, set := range g.sets {
		now := strings.Contains(set, "a:ready")
		if now && !before {
			ready++
		}
		before = now
		if !strings.Contains(set, "b:ready") {
			g.mu.Unlock()
			return "the other instance was disturbed: " + set
		}
	}
	g.mu.Unlock()
	if most := mostTurns + 1 + int(spent/longestHold) + freeTurns*int(spent/quietTime); ready > most {
		return fmt.Sprintf("let through %d times in %v, want at most %d", ready, spent, most)
	}
	g.net.set(a80, true)
	g.in <- []service.Instance{a(run + 1), b}
	time.Sleep(longestHold + 2*time.Second)
	synctest.Wait()
	if last := g.lastSet(); last != "[a:ready b:ready]" {
		return "when it stays up, it is not let through: " + last
	}
	return ""
}

// everReady tells whether a was ever let through.
func (g *gated) everReady() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.sets, func(set string) bool { return strings.Contains(set, "a:ready") })
}

func (g *gated) lastSet() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sets[len(g.sets)-1]
}
