package register

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// started gives an instance the start of its run.
func started(second int) func(*service.Instance) {
	return func(i *service.Instance) { i.Started = time.Date(2026, 11, 22, 10, 0, second, 5, time.UTC) }
}

// TestGateRemembers: what an agent has let through, the next one on the host goes on with: one check
// that fails at its start takes nothing away (P2), and what was told to stop is never ready again in
// the same run (P1).
func TestGateRemembers(t *testing.T) {
	tests := map[string]struct {
		before []service.Instance // published by the first agent, in this state; 80 listens
		after  []service.Instance // what the second finds; nothing listens
		listen bool               // unless this is set
		want   []string           // its sets in the first 9 s
	}{
		"one that does not answer just now": {
			before: []service.Instance{with("a", 80, service.CheckTCP, started(1))},
			after:  []service.Instance{with("a", 80, service.CheckTCP, started(1))},
			want:   []string{"[a:ready]"},
		},
		"a new run": {
			before: []service.Instance{with("a", 80, service.CheckTCP, started(1))},
			after:  []service.Instance{with("a", 80, service.CheckTCP, started(2))},
			want:   []string{"[]"},
		},
		"draining, and its source has forgotten": {
			before: []service.Instance{with("a", 80, service.CheckTCP, started(1), state(service.Draining))},
			after:  []service.Instance{with("a", 80, service.CheckTCP, started(1))},
			listen: true,
			want:   []string{"[a:draining]"},
		},
		"drained, and started anew": {
			before: []service.Instance{with("a", 80, service.CheckTCP, started(1), state(service.Draining))},
			after:  []service.Instance{with("a", 80, service.CheckTCP, started(2))},
			listen: true,
			want:   []string{"[a:ready]"},
		},
		"draining since the agent was away": {
			before: []service.Instance{with("a", 80, service.CheckTCP, started(1))},
			after:  []service.Instance{with("a", 80, service.CheckTCP, started(1), state(service.Draining))},
			want:   []string{"[a:draining]"},
		},
		"unhealthy": {
			before: []service.Instance{with("a", 80, service.CheckTCP, started(1), state(service.Unhealthy))},
			after:  []service.Instance{with("a", 80, service.CheckTCP, started(1))},
			want:   []string{"[a:unhealthy]"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "gate.json")
				remember(t, path, tt.before)
				g := &gated{net: newFakeNetwork(), in: make(chan []service.Instance)}
				g.net.set(a80, tt.listen)
				g.run(t, path)
				g.in <- tt.after
				time.Sleep(9 * time.Second)
				g.want(t, tt.want...)
			})
		})
	}
}

// remember runs a gate until it has let all through and they are in these states.
func remember(t *testing.T, path string, set []service.Instance) {
	t.Helper()
	g := &gated{net: newFakeNetwork(), in: make(chan []service.Instance)}
	g.net.set(a80, true)
	stop := g.run(t, path)
	passing := append([]service.Instance(nil), set...)
	for k := range passing {
		passing[k].State = service.Ready
	}
	g.in <- passing
	synctest.Wait()
	g.in <- set
	synctest.Wait()
	stop()
}

// What is dead leaves all the same, after as many failures as its check says.
func TestGateMemoryIsNoPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "gate.json")
		set := []service.Instance{with("a", 80, service.CheckTCP, started(1))}
		remember(t, path, set)
		g := &gated{net: newFakeNetwork(), in: make(chan []service.Instance)}
		g.run(t, path)
		g.in <- set
		time.Sleep(20 * time.Second)
		g.want(t, "[a:ready]", "[a:unhealthy]")
	})
}

// What an engine cannot describe just after a restart is still remembered when it can, also by the
// agent after the next; what never shows up is forgotten.
func TestGateRemembersTheAbsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "gate.json")
		a, b := with("a", 80, service.CheckTCP, started(1)), with("b", 80, service.CheckTCP, started(1))
		remember(t, path, []service.Instance{a, b})
		remember(t, path, []service.Instance{b})
		g := &gated{net: newFakeNetwork(), in: make(chan []service.Instance)}
		stop := g.run(t, path)
		g.in <- []service.Instance{b}
		g.want(t, "[b:ready]")
		g.in <- []service.Instance{a, b}
		g.want(t, "[b:ready]", "[a:ready b:ready]")
		stop()
		g = &gated{net: newFakeNetwork(), in: make(chan []service.Instance)}
		g.run(t, path)
		g.in <- []service.Instance{b}
		time.Sleep(forgetAfter + time.Second)
		g.in <- []service.Instance{}
		time.Sleep(notesPause)
		synctest.Wait()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := strings.TrimSpace(string(text)), "{}"; got != want {
			t.Errorf("after %v: got %s, want %s", forgetAfter, got, want)
		}
	})
}

// A memory that cannot be read is none, and one that cannot be written holds nothing up (P7).
func TestGateWithoutMemory(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"broken": `{"a":`, "null": "null", "other": `{"a":{"state":"nonsense"},"b":{}}`, "list": "[1]"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"broken", "null", "other", "list", "missing", "no/such/directory"} {
		t.Run(path, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &gated{net: newFakeNetwork(), in: make(chan []service.Instance)}
				g.run(t, filepath.Join(dir, path))
				g.in <- []service.Instance{with("a", 80, service.CheckTCP)}
				g.want(t, "[]")
				g.net.set(a80, true)
				time.Sleep(latest)
				g.want(t, "[]", "[a:ready]")
			})
		})
	}
}

// Many changes are written together, and the last one always.
func TestGateMemoryConflates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "gate.json")
		g := &gated{net: newFakeNetwork(), in: make(chan []service.Instance)}
		stop := g.run(t, path)
		for n := range 1000 {
			g.in <- []service.Instance{with(fmt.Sprint("i", n), 80, service.CheckNone)}
		}
		synctest.Wait()
		stop()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := strings.TrimSpace(string(text)), `{"i999":{"state":"ready"}}`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// What was let through at one address is not let through at another before it answers there, also if it moved
// while the agent was away.
func TestMemoryIsOfOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "gate.json")
		remember(t, path, []service.Instance{with("a", 80, service.CheckTCP, started(1))})
		g := &gated{net: newFakeNetwork(), in: make(chan []service.Instance)}
		g.run(t, path)
		moved := with("a", 80, service.CheckTCP, started(1), func(i *service.Instance) {
			i.Address = netip.MustParseAddr("172.18.0.9")
			c := *i.Check
			c.Target = netip.MustParseAddrPort("172.18.0.9:80")
			i.Check = &c
		})
		g.in <- []service.Instance{moved}
		time.Sleep(9 * time.Second)
		g.want(t, "[]")
	})
}

// Nothing is forgotten of a run that was told to stop, though its source does not show it for a moment.
func TestDrainedComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "gate.json")
		set := []service.Instance{with("a", 80, service.CheckTCP, started(1), state(service.Draining))}
		remember(t, path, set)
		g := &gated{net: newFakeNetwork(), in: make(chan []service.Instance)}
		g.net.set(a80, true)
		g.run(t, path)
		now := []service.Instance{with("a", 80, service.CheckTCP, started(1))}
		g.in <- now
		time.Sleep(time.Second)
		g.in <- []service.Instance{}
		time.Sleep(time.Second)
		g.in <- now
		time.Sleep(3 * time.Second)
		g.want(t, "[a:draining]", "[]")
	})
}
