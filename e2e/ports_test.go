package e2e

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
)

// TestPortOfAnotherProgram: a service's own port that another program has is left out on this host,
// with the reason; everything else is served, also when that program took the port while HAProxy was
// down. Once it is free, the service has it. P7.
func TestPortOfAnotherProgram(t *testing.T) {
	for _, registry := range []string{embedded, etcdURL} {
		t.Run(map[string]string{embedded: "managed", etcdURL: "external"}[registry], func(t *testing.T) {
			w := newWorld(t)
			const port = 900 // another agent on this engine, with the default --listen-ports, lets it be
			w.extra = []string{"--listen-ports", "900-900"}
			other := w.occupy(port)
			w.startAll(registry)
			shop := app{service: "shop", labels: map[string]string{"sidekick.listen": strconv.Itoa(port)}}
			w.answeredBy(shop, w.container(shop))
			w.until("the service says why it lacks its port", func() error { return w.says("shop", "in use by another program") })

			w.check(other.Close())
			w.until("the free port is the service's", func() error { return w.get(w.at(port), "/", "any").ok() })

			// While HAProxy is down, another program takes the port.
			w.downHAProxy()
			other = w.occupy(port)
			w.upHAProxy(shop)
			w.until("the rest is served", func() error { return w.ask(shop).ok() })
			w.until("the service says why it lacks its port", func() error { return w.says("shop", "in use by another program") })

			w.check(other.Close())
			w.until("the free port is the service's again", func() error { return w.get(w.at(port), "/", "any").ok() })
			w.inStep()
		})
	}
}

// downHAProxy ends HAProxy, and in managed mode the agent, which would start it again.
func (w *world) downHAProxy() {
	w.Helper()
	if w.external {
		w.killHAProxy()
		<-w.proxy.Done()
	} else {
		w.agent.Kill()
		w.agent = nil
	}
	w.until("HAProxy is gone", func() error { return none(w.haproxies()) })
}

// upHAProxy starts again what downHAProxy has ended. An external HAProxy whose file names a port that
// it cannot have ends; it is started until the agent has written another file.
func (w *world) upHAProxy(a app) {
	w.Helper()
	if !w.external {
		w.startAgent()
		return
	}
	for served := false; !served; {
		w.startProxy()
		w.until("HAProxy serves or ends", func() error {
			if ended, _ := w.proxy.Ended(); ended {
				return nil
			}
			err := w.ask(a).ok()
			served = err == nil
			return err
		})
	}
}

// occupy listens on a port of the world's address, as another program would.
func (w *world) occupy(port int) net.Listener {
	w.Helper()
	var listener net.Listener
	w.until(fmt.Sprintf("port %d can be taken", port), func() (err error) {
		listener, err = new(net.ListenConfig).Listen(w.ctx, "tcp", w.at(port))
		return err
	})
	w.Cleanup(func() { listener.Close() })
	return listener
}

// says waits for a word in what is said about a service as a whole.
func (w *world) says(name, word string) error {
	list, err := w.services()
	if err != nil {
		return err
	}
	for _, s := range list {
		if s.Name == name && strings.Contains(s.Why, word) {
			return nil
		}
	}
	return fmt.Errorf("%s says nothing of %q", name, word)
}
