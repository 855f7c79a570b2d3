package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sidekick-proxy/sidekick/internal/proctest"
)

// listens answers every request at a port with a name until the test ends.
func (w *world) listens(port int, name string) net.Listener {
	w.Helper()
	listener, err := net.Listen("tcp", w.at(port))
	w.check(err)
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.Header().Set("X-Whoami", name) })}
	go server.Serve(listener)
	w.Cleanup(func() { server.Close() })
	return listener
}

// declare writes a services file, as a careful editor does.
func (w *world) declare(file string, lines ...string) {
	w.Helper()
	w.check(os.MkdirAll(w.path("services"), 0o755))
	w.check(os.WriteFile(w.path("services/.new"), []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	w.check(os.Rename(w.path("services/.new"), filepath.Join(w.path("services"), file)))
}

func (w *world) item(a app, port int) string {
	return fmt.Sprintf("- service: %s\n  host: %s\n  address: %s\n  check.interval: 500ms\n  check.fall: 1", a.service, a.host(), w.at(port))
}

// TestServicesDir: what a services file declares is served like a container, although the engine does
// not answer: what breaks in the files, and a restart of the agent in between, takes nothing away.
// P2, P3, P7.
func TestServicesDir(t *testing.T) {
	leftOut(t, "haproxy")
	w := emptyWorld(t)
	w.extra = []string{"--docker", "unix://" + w.path("no-engine.sock"), "--services-dir", w.path("services")}
	w.startAll(etcdURL) // there is no such directory yet
	shop, wiki := app{service: "shop"}, app{service: "wiki"}
	w.listens(9001, "one")
	two := w.listens(9002, "two")
	w.declare("shop.yaml", w.item(shop, 9001), w.item(shop, 9002))
	w.answeredByNames(shop, "one", "two")
	traffic := w.load(shop)
	w.flows(traffic, 50)

	w.declare("shop.yaml", "- service: [")
	w.declare("wiki.yaml", w.item(wiki, 9001), w.item(wiki, 9002)+"\n  wieght: 5")
	w.answeredByNames(wiki, "one")
	w.until("people are told what is wrong", func() error {
		text := w.get(w.adminAddr(), "/api/v1/services", "").body
		if !containsAll(text, "shop.yaml:1:12: this is no YAML", "its last good content stays in force", `wiki.yaml:11:3: \"wieght\" is unknown: did you mean weight?`) {
			return errors.New(text)
		}
		return nil
	})
	w.check(w.agent.End(patience))
	w.agent = nil
	w.startAgent()
	w.flows(traffic, 50)
	w.answeredByNames(shop, "one", "two")
	w.answeredByNames(wiki, "one")
	w.noneFailed(traffic)

	w.check(two.Close()) // it fails its check
	w.answeredByNames(shop, "one")
	w.declare("shop.yaml", "# nothing, on purpose")
	w.answeredByNames(shop)
	w.check(os.Remove(w.path("services/wiki.yaml")))
	w.answeredByNames(wiki)
}

// TestRegisterCommand: one instance for as long as a command runs, whatever the agent beside it does.
// F15, P2.
func TestRegisterCommand(t *testing.T) {
	leftOut(t, "haproxy")
	w := emptyWorld(t)
	w.extra = []string{"--docker", "off"}
	w.startAll(etcdURL)
	shop := app{service: "shop"}
	register := func(name string, port int, more ...string) *proctest.Process {
		w.Helper()
		args := []string{
			"register", "shop", w.at(port), "--registry", w.registry, "--node", "here", "--host", shop.host(),
			"--label", "check.interval=500ms", "--label", "check.fall=1", "--ttl", "5s",
		}
		return w.start(name, append(args, more...)...)
	}
	w.listens(9001, "one")
	one := register("one", 9001)
	w.answeredByNames(shop, "one")
	two := register("two", 9002, "--", programs.whoami, "--address", w.addr, "--port", "9002", "--name", "two")
	w.answeredByNames(shop, "one", "two")
	traffic := w.load(shop)
	w.flows(traffic, 50)

	w.agent.Kill()
	w.agent = nil
	w.startAgent()
	w.flows(traffic, 50)
	w.check(w.agent.End(patience))
	w.agent = nil
	w.startAgent()
	w.flows(traffic, 50)
	w.answeredByNames(shop, "one", "two")
	w.noneFailed(traffic)

	w.check(two.End(patience))
	w.answeredByNames(shop, "one")
	if said := two.Tail(100); !containsAll(said, "shop "+w.at(9002)+": registered as /sidekick/v1/instances/here/cli.shop.", ": removed") {
		t.Errorf("the command said\n%s\nwant what it registered, and that it removed it", said)
	}
	rival := register("rival", 9001, "--weight", "7")
	w.until("the second of one instance waits with a sentence", func() error {
		if said := rival.Tail(100); !containsAll(said, "is held by another `sidekick register` of the same service and address") {
			return errors.New(said)
		}
		return nil
	})
	one.Kill() // its lease runs out
	w.until("the second has its turn", func() error {
		if said := rival.Tail(100); !containsAll(said, ": registered as ") {
			return errors.New(said)
		}
		return nil
	})
	w.answeredByNames(shop, "one")
	w.check(rival.End(patience))
	w.answeredByNames(shop)
}
