package e2e

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/internal/load"
	"github.com/sidekick-proxy/sidekick/internal/proctest"
)

// hosts is a host with containers, a second one with a proxy alone, and an etcd that both share.
type hosts struct {
	*world
	second *world
	keys   *clientv3.Client
}

func newHosts(t *testing.T) *hosts {
	t.Helper()
	w := newWorld(t)
	w.startAll(etcdURL)
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{w.at(2379)}, DialTimeout: patience})
	w.check(err)
	t.Cleanup(func() { client.Close() })
	h := &hosts{world: w, keys: client}
	h.second = w.beside("second")
	return h
}

// loads begins a load on the app through both proxies.
func (h *hosts) loads(a app) []*load.Run {
	h.Helper()
	runs := []*load.Run{h.load(a), h.second.load(a)}
	for _, run := range runs {
		h.flows(run, 50)
	}
	return runs
}

// overrides are the keys of all overrides, and the leases that they are under.
func (h *hosts) overrides() (keys []string, leased bool) {
	h.Helper()
	resp, err := h.keys.Get(h.ctx, "/sidekick/v1/overrides/", clientv3.WithPrefix())
	h.check(err)
	leased = true
	for _, kv := range resp.Kvs {
		keys, leased = append(keys, string(kv.Key)), leased && kv.Lease != 0
	}
	return keys, leased
}

// TestStopLosesNothing: containers whose application ends at its stop signal at once are stopped one after
// another, each replaced by a new one, through two proxies: no request of any method is lost, nothing reaches
// a container after it, and no override is left. P1, P2, F11.
func TestStopLosesNothing(t *testing.T) {
	h := newHosts(t)
	hasty := app{service: "hasty", grace: "0s", publish: true}
	old := h.container(hasty)
	next := h.container(hasty)
	h.answeredBy(hasty, old, next)
	h.second.answeredBy(hasty, old, next)
	runs := h.loads(hasty)
	for range 3 {
		h.does("stop", old.Short())
		for _, run := range runs {
			h.avoided(run, old.Short())
		}
		old, next = next, h.container(hasty)
		h.answeredBy(hasty, old, next)
		h.second.answeredBy(hasty, old, next)
	}
	for _, run := range runs {
		h.noneFailed(run)
	}
	if keys, _ := h.overrides(); len(keys) > 0 {
		t.Errorf("overrides are left: %v", keys)
	}
	h.inStep()
}

// slow sends a request that takes a while, and returns when its container has it. wait tells how it ended.
func (h *hosts) slow(a app, box interface{ Short() string }, takes string) (wait func() answer) {
	h.Helper()
	got := make(chan answer, 1)
	go func() { got <- h.get(h.httpAddr(), "/?wait="+takes, a.host()) }()
	h.until("the slow request is under way", func() error {
		out, err := h.runtime("show stat be_" + a.service + " 4 -1")
		if err == nil && !strings.Contains(out, box.Short()[:8]) {
			err = errors.New("no such server")
		}
		for row := range strings.Lines(out) {
			if f := strings.Split(row, ","); len(f) > 4 && strings.Contains(f[1], box.Short()[:8]) && f[4] == "1" {
				return nil
			}
		}
		return errors.Join(err, errors.New("not yet"))
	})
	return func() answer { return <-got }
}

func (w *world) runtime(command string) (string, error) {
	return (&site{world: w}).tell("run/r.sock", command)
}

// TestStopOutlivesTheAgent: the agent is killed while a stop waits for a request that takes long, and that an
// old worker of HAProxy has; it is answered all the same, and the stop goes on with the next agent. P1, P2.
func TestStopOutlivesTheAgent(t *testing.T) {
	h := newHosts(t)
	one := app{service: "one", grace: "0s", publish: true}
	box := h.container(one)
	h.answeredBy(one, box)
	wait := h.slow(one, box, "6s")
	other := app{service: "other", publish: true}
	h.answeredBy(other, h.container(other)) // by a reload
	stop, err := proctest.Start("stop", h.path("stop.log"), programs.sidekick, "stop", box.Short(), "--registry", h.registry, "--node", "here")
	h.check(err)
	h.until("the instance is in maintenance", func() error {
		i, err := h.instance("one", box)
		if err == nil && i.State != "maint" {
			err = fmt.Errorf("%+v", i)
		}
		return err
	})
	if keys, leased := h.overrides(); len(keys) != 1 || !leased {
		t.Errorf("overrides %v, under leases: %v; want one that ends by itself", keys, leased)
	}
	agent := h.agent
	h.agent = nil
	agent.Kill()
	<-agent.Done()
	h.startAgent()
	if got := wait(); got.ok() != nil || got.server != box.Short() {
		t.Errorf("the slow request: %+v, want it answered", got)
	}
	select {
	case <-stop.Done():
	case <-time.After(patience):
		t.Fatalf("the stop does not end:\n%s", stop.Tail(40))
	}
	if _, err := stop.Ended(); err != nil {
		t.Errorf("the stop failed: %v\n%s", err, stop.Tail(40))
	}
	h.gone("one", box)
	if keys, _ := h.overrides(); len(keys) > 0 {
		t.Errorf("overrides are left: %v", keys)
	}
}

// TestStopWithoutAnswers: an agent that does not answer is named, and the container stopped when the time
// is up; one that is interrupted stops nothing, and takes its override back; what is not registered is
// just stopped; and what is not there is said.
func TestStopWithoutAnswers(t *testing.T) {
	h := newHosts(t)
	one := app{service: "one", publish: true}
	box, other := h.container(one), h.container(app{})
	h.answeredBy(one, box)
	wait := h.slow(one, box, "3s")
	stop := exec.CommandContext(h.ctx, programs.sidekick, "stop", box.Short(), "--registry", h.registry, "--node", "here")
	stop.Env = proctest.Environ()
	h.check(stop.Start())
	h.until("the override is there", func() error {
		if keys, _ := h.overrides(); len(keys) == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	h.check(stop.Process.Signal(syscall.SIGINT))
	if err := stop.Wait(); err == nil {
		t.Error("an interrupted stop ended well")
	}
	if keys, _ := h.overrides(); len(keys) > 0 {
		t.Errorf("an interrupted stop leaves %v", keys)
	}
	wait()
	h.answeredBy(one, box)

	h.second.agent.Kill()
	<-h.second.agent.Done()
	h.second.agent = nil
	h.fails("no answer from second", "stop", box.Short(), "--timeout", "2s")
	h.gone("one", box)
	h.does("stop", other.Short(), "--time", "1")
	h.fails("is not there", "stop", "nobody-"+runName("x"))
	h.second.startAgent()
}

// TestUndrainAfterAStopSignal: a container that was told to stop and goes on is out of service, until somebody
// says that it goes on: then also for the next agent, though the engine remembers the signal. The next signal
// counts again. P1.
func TestUndrainAfterAStopSignal(t *testing.T) {
	w := newWorld(t)
	w.startAll(etcdURL)
	stays := app{service: "stays", grace: "10m"}
	box := w.container(stays)
	w.answeredBy(stays, box)
	w.check(box.Kill(w.ctx, "SIGTERM"))
	state := func(want string) {
		t.Helper()
		w.until("the container is "+want, func() error {
			i, err := w.instance("stays", box)
			if err == nil && i.State != want {
				err = fmt.Errorf("%+v", i)
			}
			return err
		})
	}
	state("draining")
	i, err := w.instance("stays", box)
	w.check(err)
	w.does("undrain", "stays/here/"+i.ID)
	w.answeredBy(stays, box)

	w.check(w.agent.End(patience))
	w.agent = nil
	w.startAgent()
	w.answeredBy(stays, box)
	state("ready")
	w.check(box.Kill(w.ctx, "SIGTERM"))
	state("draining")
	w.agent.Kill()
	<-w.agent.Done()
	w.agent = nil
	w.startAgent()
	state("draining")
}

// TestStopThroughTheFilter: where the engine's socket lets nobody stop a container, nothing stays out of
// service, and the mend is said.
func TestStopThroughTheFilter(t *testing.T) {
	w := newWorld(t)
	f := newFilter(w)
	w.startAll(etcdURL)
	one := app{service: "one"}
	box := w.container(one)
	w.answeredBy(one, box)
	w.fails("run this where the socket is open, with --docker", "stop", box.Short(), "--docker", "unix://"+f.socket)
	w.answeredBy(one, box)
}

// TestStopThroughTheFilterThatAllowsIt: with ALLOW_STOP, what the filter lets through is all that a stop
// needs. P1, P2.
func TestStopThroughTheFilterThatAllowsIt(t *testing.T) {
	w := newWorld(t)
	f := newFilter(w, "ALLOW_STOP=yes")
	w.startAll(etcdURL)
	one := app{service: "one"}
	box, stays := w.container(one), w.container(one)
	w.answeredBy(one, box, stays)
	w.does("stop", box.Short(), "--time", "5", "--docker", "unix://"+f.socket)
	w.answeredBy(one, stays)
	w.gone("one", box)
}
