package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/internal/proctest"
)

// nodeKey is the key of this world's node.
const nodeKey = "/sidekick/v1/nodes/here"

// registryClient reads and writes the registry by hand.
func (w *world) registryClient() *clientv3.Client {
	w.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{w.at(2379)}, DialTimeout: patience})
	w.check(err)
	w.Cleanup(func() { client.Close() })
	return client
}

// declaredShop is a world in which a services file declares a shop that is served.
func declaredShop(t *testing.T, settings ...string) (*world, app, *clientv3.Client) {
	t.Helper()
	leftOut(t, "haproxy")
	w := emptyWorld(t)
	w.extra = append([]string{"--docker", "off", "--services-dir", w.path("services")}, settings...)
	shop := app{service: "shop"}
	w.listens(9001, "one")
	w.declare("shop.yaml", w.item(shop, 9001))
	w.startAll(etcdURL)
	w.answeredByNames(shop, "one")
	return w, shop, w.registryClient()
}

// revisions are those at which the keys below a prefix were made and last written.
func (w *world) revisions(c *clientv3.Client, prefix string) (list []string) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	resp, err := c.Get(ctx, prefix, clientv3.WithPrefix())
	w.check(err)
	for _, kv := range resp.Kvs {
		list = append(list, fmt.Sprint(string(kv.Key), " made at ", kv.CreateRevision, ", written at ", kv.ModRevision))
	}
	return list
}

// agentSays waits until the agent's log has these words.
func (w *world) agentSays(words ...string) {
	w.Helper()
	w.until("the agent says "+strings.Join(words, " … "), func() error {
		if said := w.agent.Tail(200); !containsAll(said, words...) {
			return errors.New(said)
		}
		return nil
	})
}

// TestStoppedAgentComesBackFenced: an agent that stood still for longer than its lease lives, as in a
// paused machine, and whose node another one has taken meanwhile, writes nothing when it goes on and
// waits with a sentence, while its proxy serves; when the node is free it is a new session with all
// that it has. F13, F15, P9.
func TestStoppedAgentComesBackFenced(t *testing.T) {
	w, shop, client := declaredShop(t, "--ttl", "2s")

	w.agent.Signal(syscall.SIGSTOP)
	w.until("its lease is over", func() error {
		if left := w.revisions(client, "/sidekick/v1/"); len(left) > 0 {
			return fmt.Errorf("there are %v", left)
		}
		return nil
	})
	_, err := client.Put(w.ctx, nodeKey, `{"agent":"another","machine":"another","address":"192.0.2.9"}`)
	w.check(err)
	_, err = client.Put(w.ctx, "/sidekick/v1/instances/here/c1.shop.80", fmt.Sprintf(`{"service":"shop","address":%q,"port":9001,"hosts":[%q]}`, w.addr, shop.host()))
	w.check(err)
	before := w.revisions(client, "/sidekick/v1/")
	w.agent.Signal(syscall.SIGCONT)
	w.agentSays("registry session lost", "node name here is held by another agent (another at 192.0.2.9 on machine another)")
	w.answeredByNames(shop, "one") // by what the other one has registered
	if got := w.revisions(client, "/sidekick/v1/"); strings.Join(got, "\n") != strings.Join(before, "\n") {
		t.Errorf("it has changed the registry to\n%s\nwant it as it was:\n%s", got, before)
	}

	_, err = client.Delete(w.ctx, nodeKey)
	w.check(err)
	w.until("it has registered what it has, and nothing else", func() error {
		got := strings.Join(w.revisions(client, "/sidekick/v1/instances/here/"), "\n")
		if !strings.Contains(got, "/file.shop.") || strings.Contains(got, "/c1.shop.80") {
			return errors.New(got)
		}
		return nil
	})
	w.inStep()
}

// TestClonedHostWaits: a machine that was cloned with its state directory is another machine under the
// same name: it waits with a sentence and writes nothing, and its proxy serves. P9, F15.
func TestClonedHostWaits(t *testing.T) {
	w, shop, client := declaredShop(t)
	before := w.revisions(client, "/sidekick/v1/")

	clone := emptyWorld(t)
	clone.registry, clone.extra = w.registry, []string{"--docker", "off"}
	if out, err := exec.CommandContext(w.ctx, "cp", "-a", w.path("state"), clone.path("state")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	clone.startAsMachine("0123456789abcdef0123456789abcdef")
	clone.agentSays("node name here is held by another agent")
	clone.answeredByNames(shop, "one")
	if got := w.revisions(client, "/sidekick/v1/"); strings.Join(got, "\n") != strings.Join(before, "\n") {
		t.Errorf("the clone has changed the registry to\n%s\nwant it as it was:\n%s", got, before)
	}
	w.inStep()
}

// startAsMachine starts the agent where /etc/machine-id is another one.
func (w *world) startAsMachine(id string) {
	w.Helper()
	w.check(os.WriteFile(w.path("machine-id"), []byte(id+"\n"), 0o600))
	script := `mount --bind "$1" /etc/machine-id && shift && exec "$@"`
	args := append([]string{"--mount", "sh", "-c", script, "sh", w.path("machine-id"), programs.sidekick}, w.agentArgs()...)
	agent, err := proctest.Start("agent", w.path("agent.log"), "unshare", args...)
	w.check(err)
	w.agent = agent
	w.until("the agent is ready", func() error { return w.get(w.adminAddr(), "/readyz", "").ok() })
}

// TestCleanEndParts: an agent that is told to end goes on for 2 s, in which it still takes up what
// changes on its host, and leaves its registrations under a lease that is not renewed; the next one
// takes them over, and nobody has seen them go. P2, P9.
func TestCleanEndParts(t *testing.T) {
	w, shop, client := declaredShop(t, "--ttl", "4s", "--exit-ttl", "40s")
	wiki := app{service: "wiki"}
	traffic := w.load(shop)
	w.flows(traffic, 20)

	told := time.Now()
	w.agent.Signal(syscall.SIGTERM)
	w.declare("wiki.yaml", w.item(wiki, 9001))
	agent := w.agent
	w.agent = nil // its end is no surprise, and a second signal would end it at once
	w.until("the agent has ended", func() error {
		if ended, _ := agent.Ended(); !ended {
			return errors.New("it runs")
		}
		return nil
	})
	if took := time.Since(told); took < 2*time.Second {
		t.Errorf("it ended after %v, want 2 s of attention", took)
	}
	left := w.revisions(client, "/sidekick/v1/")
	if text := strings.Join(left, "\n"); !containsAll(text, nodeKey, "/file.shop.", "/file.wiki.") {
		t.Errorf("it has left\n%s\nwant its node, and both services", text)
	}
	resp, err := client.Get(w.ctx, nodeKey)
	w.check(err)
	lease, err := client.TimeToLive(w.ctx, clientv3.LeaseID(resp.Kvs[0].Lease))
	w.check(err)
	if lease.GrantedTTL != 40 {
		t.Errorf("it has left a lease of %d s, want 40", lease.GrantedTTL)
	}

	w.startAgent()
	w.flows(traffic, 20)
	w.answeredByNames(wiki, "one")
	for n, now := range w.revisions(client, "/sidekick/v1/instances/") {
		made, _, _ := strings.Cut(left[n], ",")
		if !strings.HasPrefix(now, made) {
			t.Errorf("a key has gone in between: before %s, now %s", left[n], now)
		}
	}
	w.inStep()
	w.noneFailed(traffic)
}

// TestShortPauseIsNotSeen: an agent that stood still for less than its lease lives goes on as if
// nothing had been: no key has gone, and none was written. F13, P10.
func TestShortPauseIsNotSeen(t *testing.T) {
	w, _, client := declaredShop(t, "--ttl", "6s")
	before := w.revisions(client, "/sidekick/v1/")
	lease := func() int64 {
		resp, err := client.Get(w.ctx, nodeKey)
		w.check(err)
		left, err := client.TimeToLive(w.ctx, clientv3.LeaseID(resp.Kvs[0].Lease))
		w.check(err)
		return left.TTL
	}
	w.until("its lease is fresh", func() error { return within(lease(), 5, 6) })
	w.agent.Signal(syscall.SIGSTOP)
	w.until("its lease is half over", func() error { return within(lease(), 0, 3) })
	w.agent.Signal(syscall.SIGCONT)
	w.until("its lease is renewed", func() error { return within(lease(), 5, 6) })
	if got := w.revisions(client, "/sidekick/v1/"); strings.Join(got, "\n") != strings.Join(before, "\n") {
		t.Errorf("got\n%s\nwant the registry as it was:\n%s", got, before)
	}
	w.inStep()
}

func within(got, low, high int64) error {
	if got < low || got > high {
		return fmt.Errorf("%v left", time.Duration(got)*time.Second)
	}
	return nil
}
