package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sidekick-proxy/sidekick/internal/enginetest"
	"github.com/sidekick-proxy/sidekick/internal/load"
)

// TestLifeOfContainersUnderLoad: containers come and go, of which each goes on accepting for a
// second after its stop signal, and not one request fails. P2, F11.
func TestLifeOfContainersUnderLoad(t *testing.T) {
	for _, registry := range []string{embedded, etcdURL} {
		t.Run(registry, func(t *testing.T) {
			w := newWorld(t)
			w.startAll(registry)
			shop := app{service: "shop"}
			a := w.container(shop)
			w.answeredBy(shop, a)
			traffic := w.load(shop)

			b, c := w.container(shop), w.container(app{service: "shop", publish: true})
			w.answeredBy(shop, a, b, c)

			w.check(a.Stop(w.ctx))
			w.gone("shop", a)
			w.answeredBy(shop, b, c)

			w.check(b.Restart(w.ctx))
			w.answeredBy(shop, b, c)

			// Every instance is replaced.
			d, e := w.container(shop), w.container(shop)
			w.answeredBy(shop, b, c, d, e)
			w.check(errors.Join(b.Stop(w.ctx), c.Stop(w.ctx)))
			w.answeredBy(shop, d, e)
			w.flows(traffic, 100)
			w.noneFailed(traffic)
			w.inStep()
		})
	}
}

// TestApplicationsThatEndAtOnce: what was never delivered goes elsewhere; what was delivered and not
// answered is repeated if that is safe; the rest is lost, and is at most what was under way. P2, F1.
func TestApplicationsThatEndAtOnce(t *testing.T) {
	w := newWorld(t)
	w.startAll(etcdURL)
	hasty := app{service: "hasty", grace: "0s"}
	stays := w.container(hasty)
	for _, end := range []string{"docker stop", "docker kill", "kill -9 of the process"} {
		goes := w.container(hasty)
		w.answeredBy(hasty, stays, goes)
		traffic := w.load(hasty)
		w.flows(traffic, 50)
		switch end {
		case "docker stop":
			w.check(goes.Stop(w.ctx))
		case "docker kill":
			w.check(goes.Kill(w.ctx, ""))
		default:
			w.check(goes.Crash(w.ctx))
		}
		w.gone("hasty", goes)
		w.answeredBy(hasty, stays)
		w.flows(traffic, 50)
		boundedLoss(w, end, traffic.Stop())
	}
}

// boundedLoss asserts what an instance's sudden end may cost: of each worker the one request that
// was delivered to it, and only of a kind that must not be repeated.
func boundedLoss(w *world, end string, report load.Report) {
	w.Helper()
	w.Logf("%s: %s", end, report)
	posts := 0
	for kind, counts := range report.Kinds {
		if kind.Method == "GET" && counts.Failed > 0 {
			w.Errorf("%s: %d of %d requests (%s) failed, want 0: they are safe to repeat", end, counts.Failed, counts.Sent, kind)
		}
		if kind.Method == "POST" {
			posts += counts.Failed
		}
	}
	if most := 2 * workersPerKind; posts > most {
		w.Errorf("%s: %d POSTs failed, want at most the %d that were under way", end, posts, most)
	}
}

// TestCrashLoopIsHeldBack: a container that its engine starts again after each crash is routed at once
// after the first ones, then held back for longer each time, with the reason, and routed when it stays
// up. P8, F9.
func TestCrashLoopIsHeldBack(t *testing.T) {
	w := newWorld(t)
	w.startAll(etcdURL)
	shop := app{service: "shop"}
	box, err := w.engine.Start(w.ctx, enginetest.Spec{
		Image: programs.image, Network: w.run, Restart: "always",
		Labels: map[string]string{"sidekick.service": shop.service, "sidekick.host": shop.host()},
	})
	w.check(err)
	for n := range 4 {
		w.until("this run is let through", func() error {
			if got := strings.Count(w.agent.Tail(1000), "instance is let through"); got <= n {
				return fmt.Errorf("%d were", got)
			}
			return nil
		})
		w.answeredBy(shop, box)
		w.check(box.Crash(w.ctx))
	}
	for turns := 4; turns < 7; turns++ {
		word := fmt.Sprintf("has turned %d times since ", turns)
		w.until("it is held back because it "+word, func() error {
			i, err := w.instance(shop.service, box)
			if err == nil && !strings.Contains(i.Why, word) {
				err = fmt.Errorf("%s: %s", i.State, i.Why)
			}
			return err
		})
		if turns < 6 {
			w.check(box.Crash(w.ctx))
		}
	}
	w.answeredBy(shop, box)
	w.inStep()
}
