package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestHAProxyKilled: HAProxy comes back with what it served, and follows again. While it is gone
// nobody answers; that is counted, and shown. F6, P6.
func TestHAProxyKilled(t *testing.T) {
	for _, registry := range []string{embedded, etcdURL} {
		t.Run(map[string]string{embedded: "managed", etcdURL: "external"}[registry], func(t *testing.T) {
			w := newWorld(t)
			w.startAll(registry)
			shop := app{service: "shop"}
			a := w.container(shop)
			w.answeredBy(shop, a)
			traffic := w.load(shop)
			w.flows(traffic, 50)

			w.killHAProxy()
			if w.external {
				<-w.proxy.Done() // as its container's restart policy does
				w.startProxy()
			}
			w.answeredBy(shop, a)
			b := w.container(shop)
			w.answeredBy(shop, a, b)
			w.inStep()
			after := traffic.Now()
			w.Logf("load: %s", traffic.Stop())

			traffic = w.load(shop)
			w.flows(traffic, 100)
			w.noneFailed(traffic)
			if after.OK == 0 {
				t.Error("nothing was answered")
			}
		})
	}
}

// TestEtcdStoppedAndStarted: what runs stays routed and staleness is shown; on its return the agent
// follows again. P3, F3.
func TestEtcdStoppedAndStarted(t *testing.T) {
	w := newWorld(t)
	w.startAll(etcdURL)
	shop := app{service: "shop"}
	a, b := w.container(shop), w.container(shop)
	w.answeredBy(shop, a, b)
	traffic := w.load(shop)

	w.check(w.etcd.End(patience))
	w.until("the agent shows that the registry is gone", func() error {
		stale, err := w.metric("sidekick_registry_staleness_seconds")
		if err != nil {
			return err
		}
		ok, _, err := w.stage("watch")
		if ok || stale < 3 {
			return errors.Join(fmt.Errorf("watch stage ok: %v, staleness %.1f s", ok, stale), err)
		}
		return nil
	})
	w.answeredBy(shop, a, b)
	w.flows(traffic, 200)

	w.startEtcd()
	c := w.container(shop)
	w.answeredBy(shop, a, b, c)
	w.inStep()
	w.noneFailed(traffic)
}

// TestEtcdStartedEmpty: a registry that has lost everything is filled again, and no request fails
// meanwhile. P3, F3.
func TestEtcdStartedEmpty(t *testing.T) {
	w := newWorld(t)
	w.startAll(etcdURL)
	shop := app{service: "shop"}
	a, b := w.container(shop), w.container(shop)
	w.answeredBy(shop, a, b)
	traffic := w.load(shop)
	w.flows(traffic, 50)

	w.check(w.etcd.End(patience))
	w.check(os.RemoveAll(w.path("etcd")))
	w.startEtcd()
	c := w.container(shop)
	w.answeredBy(shop, a, b, c)
	w.inStep()
	w.flows(traffic, 100)
	w.noneFailed(traffic)
}

// TestAgentKilledBesideHAProxy: with HAProxy in a container of its own, the agent's crash and
// restart touch no request, and what happened meanwhile is caught up with. P2, F1.
func TestAgentKilledBesideHAProxy(t *testing.T) {
	w := newWorld(t)
	w.startAll(etcdURL)
	shop := app{service: "shop"}
	a := w.container(shop)
	w.answeredBy(shop, a)
	traffic := w.load(shop)
	w.flows(traffic, 50)

	w.agent.Kill()
	w.agent = nil
	b := w.container(shop) // nobody sees it start
	w.flows(traffic, 50)
	w.startAgent()
	w.answeredBy(shop, a, b)

	// A clean restart, as at an upgrade.
	w.check(w.agent.End(patience))
	w.agent = nil
	w.answeredBy(shop, a, b)
	w.startAgent()
	c := w.container(shop)
	w.answeredBy(shop, a, b, c)
	w.inStep()
	w.noneFailed(traffic)
}

// TestAgentAwayForLongerThanItsLease: its host's own containers, which HAProxy served all the time, lose no
// request when it is back and the registry does not have them any more. P2.
func TestAgentAwayForLongerThanItsLease(t *testing.T) {
	w := newWorld(t)
	w.extra = append(w.extra, "--ttl", "5s")
	w.startAll(etcdURL)
	shop := app{service: "shop"}
	a := w.container(shop)
	w.answeredBy(shop, a)
	traffic := w.load(shop)
	w.flows(traffic, 50)
	w.until("the copy on disk has it", func() error {
		b, err := os.ReadFile(w.path("state/catalog.json"))
		if err == nil && !strings.Contains(string(b), a.ID[:12]) {
			err = errors.New("it has not")
		}
		return err
	})

	w.agent.Kill()
	w.agent = nil
	c := w.registryClient()
	w.until("the lease has ended", func() error {
		if keys := w.revisions(c, "/sidekick/v1/nodes/"); len(keys) > 0 {
			return fmt.Errorf("there is %v", keys)
		}
		return nil
	})
	w.flows(traffic, 50)
	w.startAgent()
	b := w.container(shop)
	w.answeredBy(shop, a, b)
	w.inStep()
	w.noneFailed(traffic)
}

// TestAgentKilledWithItsHAProxy: a managed HAProxy goes with its agent within a second, leaves no
// orphan that would answer with old routes, and is back after the restart.
func TestAgentKilledWithItsHAProxy(t *testing.T) {
	w := newWorld(t)
	w.startAll(embedded)
	shop := app{service: "shop"}
	a := w.container(shop)
	w.answeredBy(shop, a)

	killed := time.Now()
	w.agent.Kill()
	w.agent = nil
	w.until("HAProxy is gone", func() error { return none(w.haproxies()) })
	if took := time.Since(killed); took > time.Second {
		t.Errorf("HAProxy outlived its agent by %s, want at most 1s", took)
	}
	if got := w.ask(shop); got.err == nil {
		t.Errorf("somebody still answers: %+v", got)
	}

	w.startAgent()
	w.answeredBy(shop, a)
	b := w.container(shop)
	w.answeredBy(shop, a, b)
	w.inStep()
}

// TestAgentWithoutRegistry: an agent that starts while the registry does not answer serves the last
// good catalog from its disk. P4.
func TestAgentWithoutRegistry(t *testing.T) {
	w := newWorld(t)
	w.startEtcd()
	w.startAgent() // manages HAProxy, so that nothing serves while the agent is gone
	shop := app{service: "shop"}
	a := w.container(shop)
	w.answeredBy(shop, a)
	w.until("the catalog is on disk", func() error {
		text, err := os.ReadFile(w.path("state/catalog.json"))
		if err == nil && !containsAll(string(text), a.Short(), "shop") {
			err = fmt.Errorf("not yet: %s", text)
		}
		return err
	})
	w.check(w.agent.End(patience))
	w.agent = nil
	w.until("HAProxy is gone", func() error { return none(w.haproxies()) })
	w.check(w.etcd.End(patience))

	w.startAgent()
	w.answeredBy(shop, a)
	if got := w.get(w.adminAddr(), "/readyz", ""); got.ok() != nil || !containsAll(got.body, "cache") {
		t.Errorf("/readyz: got %+v, want 200 that says that the catalog is a cached one", got)
	}
	traffic := w.load(shop)
	w.flows(traffic, 50)

	w.startEtcd()
	b := w.container(shop)
	w.answeredBy(shop, a, b)
	w.inStep()
	w.noneFailed(traffic)
}
