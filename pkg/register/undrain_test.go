package register

import (
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// toldAt makes an instance one that was told to stop at that second, or at an unknown time.
func toldAt(second int) func(*service.Instance) {
	return func(i *service.Instance) {
		i.State = service.Draining
		if second > 0 {
			i.Told = time.Date(2026, 11, 22, 10, 0, second, 0, time.UTC)
		}
	}
}

// TestUndrain: an instance that went on after its stop signal is ready again once that is asked for, also for
// the next agent, and also if its engine still remembers that signal. A later signal counts. P1.
func TestUndrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "gate.json")
		one := func(change ...func(*service.Instance)) []service.Instance {
			return []service.Instance{with("a", 80, service.CheckTCP, append(change, started(1))...)}
		}
		agent := func() (*gated, func()) {
			g := &gated{net: newFakeNetwork(), in: make(chan []service.Instance), undrain: make(chan string)}
			g.net.set(a80, true)
			return g, g.run(t, path)
		}
		g, stop := agent()
		g.in <- one()
		g.want(t, "[a:ready]")
		g.undrain <- "nobody"
		g.in <- one(toldAt(5))
		g.want(t, "[a:ready]", "[a:draining]")
		g.undrain <- "a"
		g.want(t, "[a:ready]", "[a:draining]", "[a:ready]")
		g.in <- one(toldAt(5))
		g.want(t, "[a:ready]", "[a:draining]", "[a:ready]")
		stop()

		g, stop = agent() // whose engine tells of the signal again
		g.in <- one(toldAt(5))
		g.want(t, "[a:ready]")
		g.in <- one(toldAt(6))
		g.want(t, "[a:ready]", "[a:draining]")
		stop()

		g, stop = agent() // whose engine has forgotten the signal
		g.in <- one()
		g.want(t, "[a:draining]")
		g.undrain <- "a"
		g.want(t, "[a:draining]", "[a:ready]")
		g.in <- one(toldAt(0)) // a signal of an unknown time is taken for that one
		g.want(t, "[a:draining]", "[a:ready]")
		stop()
	})
}
