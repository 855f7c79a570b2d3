package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// oneHost follows deploy/one-host.md: it runs a box of the page, with the world's places in place of the
// page's.
func (w *world) oneHost(box string) {
	w.Helper()
	page, err := os.ReadFile("../deploy/one-host.md")
	w.check(err)
	_, rest, found := strings.Cut(string(page), "```sh\n# "+box+"\n")
	script, _, _ := strings.Cut(rest, "```")
	if !found {
		w.Fatalf("the page has no box %q", box)
	}
	script = strings.NewReplacer("/var/lib/sidekick", w.path("state"), "/var/backups", w.dir).Replace(script)
	if out, err := exec.CommandContext(w.ctx, "sh", "-ec", script).CombinedOutput(); err != nil {
		w.Fatalf("%s: %v\n%s\n%s", box, err, script, out)
	}
}

// TestSaveAndRestore: what people said of services comes back from a snapshot, what runs by itself.
func TestSaveAndRestore(t *testing.T) {
	leftOut(t, "etcdctl")
	w := newWorld(t)
	w.startProxy()
	w.startAgent()
	shop := app{service: "shop"}
	w.answeredBy(shop, w.container(shop))
	traffic := w.load(shop)
	override := func() string { return w.sidekick("services", "shop", "--admin", w.adminAddr()).stdout }
	weigh := func(weight string) {
		w.does("weight", "shop", weight, "--state-dir", w.path("state"))
		w.until("it has weight "+weight, func() error {
			if now := override(); !strings.Contains(now, " "+weight+" ") {
				return errors.New(now)
			}
			return nil
		})
	}
	weigh("42")
	w.oneHost("save")
	weigh("43")
	w.check(w.agent.End(patience))
	w.oneHost("restore, while the agent is stopped")
	w.startAgent()
	w.until("it has weight 42", func() error {
		if now := override(); !strings.Contains(now, " 42 ") {
			return errors.New(now)
		}
		return nil
	})
	w.inStep()
	w.noneFailed(traffic)
}

// TestFromOneHostToACluster follows deploy/one-host.md: an agent with an etcd of its own is pointed at
// another etcd, and back, under load. What it registers is there at once, and no request is lost.
func TestFromOneHostToACluster(t *testing.T) {
	w := newWorld(t)
	w.startProxy()
	w.startAgent()
	shop := app{service: "shop"}
	a, b := w.container(shop), w.container(shop)
	w.answeredBy(shop, a, b)
	w.does("weight", "shop", "50", "--state-dir", w.path("state"))
	traffic := w.load(shop)
	w.flows(traffic, 50)

	own := w.registry
	w.check(w.agent.End(patience))
	w.startEtcd()
	w.startAgent()
	w.registeredIn(2)
	w.oneHost("after the move")
	w.flows(traffic, 100)
	c := w.container(shop)
	w.answeredBy(shop, a, b, c)
	w.inStep()
	if keys := w.keysBelow("/sidekick/v1/overrides/"); len(keys) > 0 {
		t.Errorf("overrides %v were carried over; the page says that they are not", keys)
	}

	w.check(w.agent.End(patience))
	w.registry = own
	w.startAgent()
	w.flows(traffic, 100)
	d := w.container(shop)
	w.answeredBy(shop, a, b, c, d)
	w.inStep()
	w.noneFailed(traffic)
}

// registeredIn waits until the cluster's etcd has that many instances.
func (w *world) registeredIn(number int) {
	w.Helper()
	w.until(fmt.Sprintf("%d instances are registered", number), func() error {
		if keys := w.keysBelow("/sidekick/v1/instances/"); len(keys) != number {
			return fmt.Errorf("there are %v", keys)
		}
		return nil
	})
}

// keysBelow are the keys of the cluster's etcd that begin so.
func (w *world) keysBelow(prefix string) (keys []string) {
	w.Helper()
	answer, err := w.registryClient().Get(w.ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	w.check(err)
	for _, kv := range answer.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys
}

// TestEmbeddedEtcdKilled: the end of the agent's own etcd is an outage of the registry and no more, and it
// comes back by itself.
func TestEmbeddedEtcdKilled(t *testing.T) {
	w := newWorld(t)
	w.startAgent() // which has HAProxy as its child, too
	shop := app{service: "shop"}
	a := w.container(shop)
	w.answeredBy(shop, a)
	traffic := w.load(shop)
	w.flows(traffic, 50)
	for _, pid := range w.processes("embedded-etcd", w.path("state")) {
		w.check(syscall.Kill(pid, syscall.SIGKILL))
	}
	b := w.container(shop)
	w.answeredBy(shop, a, b)
	w.inStep()
	w.noneFailed(traffic)
	w.check(w.agent.End(patience))
	w.until("no etcd is left over", func() error { return none(w.processes("embedded-etcd", w.path("state"))) })
}

// processes are those with all these words in their command lines.
func (w *world) processes(words ...string) (pids []int) {
	w.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	w.check(err)
	for _, path := range found {
		line, _ := os.ReadFile(path) // it may have ended
		if slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(string(line), word) }) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		w.check(err)
		pids = append(pids, pid)
	}
	return pids
}
