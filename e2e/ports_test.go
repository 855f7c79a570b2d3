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
			const port = 29000
			other := w.occupy(port)
			w.startAll(registry)
			shop := app{service: "shop", labels: map[string]string{"sidekick.listen": strconv.Itoa(port)}}
			w.answeredBy(shop, w.container(shop))
			w.until("the service says why it lacks its port", func() error { return w.says("shop", "in use by another program") })

			w.check(other.Close())
			w.until("the free port is the service's", func() error { return w.get(w.at(port), "/", "any").ok() })

			// HAProxy ends, and another program is quicker.
			w.killHAProxy()
			other = w.occupy(port)
			for w.external && w.get(w.httpAddr(), "/", shop.host()).ok() != nil {
				<-w.proxy.Done() // it cannot start until the agent has written a file without the port
				w.startProxy()
				w.until("HAProxy serves or ends", func() error {
					if ended, _ := w.proxy.Ended(); ended {
						return nil
					}
					return w.get(w.httpAddr(), "/", shop.host()).ok()
				})
			}
			w.until("the rest is served", func() error { return w.ask(shop).ok() })
			w.until("the service says why it lacks its port", func() error { return w.says("shop", "in use by another program") })

			w.check(other.Close())
			w.until("the free port is the service's again", func() error { return w.get(w.at(port), "/", "any").ok() })
			w.inStep()
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
