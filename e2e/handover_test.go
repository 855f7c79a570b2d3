package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/enginetest"
	"github.com/sidekick-proxy/sidekick/internal/hosttest"
	"github.com/sidekick-proxy/sidekick/internal/load"
)

// liveRestore makes an engine leave its containers running when it ends.
const liveRestore = "--live-restore"

// newHostWorld prepares a world on a host of its own, with an engine that can be ended underneath it.
func newHostWorld(t *testing.T, flags ...string) *world {
	t.Helper()
	leftOut(t, "docker", "haproxy")
	w := emptyWorld(t)
	network, err := hosttest.Open(w.ctx, filepath.Join(w.dir, "n"))
	w.check(err)
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	w.inside, err = network.Host(w.ctx, "one")
	w.check(err)
	t.Cleanup(w.end) // before the network's
	w.addr, w.host = w.inside.Addr.String(), w.inside.Addr.String()
	w.extra = append(w.extra, "--docker", "unix:///run/docker.sock")
	if len(flags) > 0 {
		w.check(w.inside.StopEngine(w.ctx, syscall.SIGTERM))
		w.check(w.inside.StartEngine(w.ctx, flags...))
	}
	engine, err := enginetest.OpenAt(w.ctx, w.inside.DockerHost(), w.run)
	w.check(err)
	w.engine = engine
	w.check(engine.BuildImage(w.ctx, programs.image, programs.whoami, "8000"))
	_, err = engine.Network(w.ctx, w.run)
	w.check(err)
	return w
}

// crash kills a container's process behind its engine's back.
func (w *world) crash(box *enginetest.Container, pid int) {
	w.Helper()
	if err := w.inside.Kill(w.ctx, pid, syscall.SIGKILL); err != nil {
		w.Fatalf("container %s: %v", box.Short(), err)
	}
}

// killEngine kills the host's engine at once.
func (w *world) killEngine() {
	w.Helper()
	w.check(w.inside.StopEngine(w.ctx, syscall.SIGKILL))
}

// TestEngineRestartEndsContainers: an engine without live-restore takes its containers along, and starts
// those again that are always restarted, with another address perhaps. Nothing of the others is left. F1.
func TestEngineRestartEndsContainers(t *testing.T) {
	w := newHostWorld(t)
	w.startAll(etcdURL)
	shop := app{service: "shop", grace: "0s"}
	always := shop
	always.restart = "always"
	w.container(shop) // takes the first address, which another gets afterwards
	back := w.container(always)
	w.container(app{service: "cart", grace: "0s"})
	w.until("all are listed", func() error { return w.lists(map[string]int{"shop": 2, "cart": 1}) })

	w.check(w.inside.StopEngine(w.ctx, syscall.SIGTERM))
	w.until("none is routed", func() error {
		if got := w.ask(shop); got.ok() == nil {
			return fmt.Errorf("%s answers", got.server)
		}
		return nil
	})
	w.check(w.inside.StartEngine(w.ctx))
	w.answeredBy(shop, back)
	w.until("one is listed", func() error { return w.lists(map[string]int{"shop": 1, "cart": 0}) })
	w.inStep()
}

// lists says how the numbers of instances differ from what the agent lists.
func (w *world) lists(want map[string]int) error {
	all, err := w.services()
	if err != nil {
		return err
	}
	got := map[string]int{}
	for _, s := range all {
		got[s.Name] = len(s.Instances)
	}
	for name, number := range want {
		if got[name] != number {
			return fmt.Errorf("%s has %d instances, want %d; all: %v", name, got[name], number, got)
		}
	}
	return nil
}

// handover is a host on which containers of several services take each other's published ports.
type handover struct {
	*world

	rng     *rand.Rand
	apps    []app
	stays   []*enginetest.Container // of each service one that nothing happens to
	free    []int                   // ports
	next    int                     // the last port that was a fresh one
	number  int                     // of containers so far
	running []moving
	traffic []*load.Run
	done    []string // what happened, and when
}

// did notes what happened.
func (h *handover) did(format string, args ...any) {
	h.done = append(h.done, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// moving is a container that comes and goes.
type moving struct {
	box  *enginetest.Container
	app  int
	port int
	name string
}

// handoverTime is how long containers come and go before a change; make soak goes on for SOAKTIME.
func handoverTime(t *testing.T) time.Duration {
	t.Helper()
	if os.Getenv(soakTime) == "" {
		return 30 * time.Second
	}
	return soakLength(t)
}

// TestPortsHandedOnUnderLoad: containers of three services start, stop, are killed and crash, and each
// leaves its published port to one of another service; agent, engine and containers are killed at random.
// Not one answer comes from another service (F2), no GET fails while another instance lives (F11), and in
// the end what runs is what is registered is what HAProxy has. Once the agent is dead, its entries leave
// with its lease. P1, P5, P6, F1, F13.
func TestPortsHandedOnUnderLoad(t *testing.T) {
	seed := soakFirst(t)
	w := newHostWorld(t, liveRestore)
	w.extra = append(w.extra, "--ttl", "5s")
	w.startAll(etcdURL)
	h := &handover{world: w, rng: rand.New(rand.NewPCG(seed, 0)), free: []int{9001, 9002, 9003}, next: 9100}
	for _, name := range []string{"shop", "cart", "pay"} {
		a := app{service: name, says: name + "-stays"} // at its own address: an engine that restarts cuts published ports off
		h.apps = append(h.apps, a)
		h.stays = append(h.stays, w.container(a))
	}
	for _, a := range h.apps {
		w.until(a.service+" is served", func() error { return w.ask(a).ok() })
		h.traffic = append(h.traffic, load.Start(w.ctx, load.Options{
			Target: w.httpAddr(), Host: a.host(), Pause: 5 * time.Millisecond, Kinds: []load.Kind{{Method: "GET", KeepAlive: true}, {Method: "GET"}},
		}))
	}
	t.Cleanup(func() {
		for _, run := range h.traffic {
			run.Stop()
		}
		if t.Failed() {
			t.Logf("%s=%d draws the same acts; the last ones:\n%s", soakSeed, seed, strings.Join(h.done[max(0, len(h.done)-200):], "\n"))
		}
	})
	acts := 0
	for over := time.Now().Add(handoverTime(t)); time.Now().Before(over); acts++ {
		h.act(acts)
	}
	h.settled()
	for n, run := range h.traffic {
		h.only(h.apps[n], w.noneFailed(run))
	}
	t.Logf("%d acts from seed %d", acts, seed)
	h.leavesWithItsLease(5 * time.Second)
}

// act lets one thing happen. Each tenth is the end of the agent, each tenth that of the engine: ports
// that were left meanwhile are handed on once it is back and has caught up, for who is dead sees nothing.
func (h *handover) act(number int) {
	h.Helper()
	switch {
	case number%10 == 4:
		h.withoutAgent()
	case number%10 == 9:
		h.withoutEngine()
	case len(h.free) > 0 && len(h.running) < 6 && (len(h.running) == 0 || h.rng.IntN(2) == 0):
		h.begin(h.takePort())
	default:
		h.finish(h.rng.IntN(len(h.running)))
	}
}

// takePort takes the port that was left last.
func (h *handover) takePort() int {
	port := h.free[len(h.free)-1]
	h.free = h.free[:len(h.free)-1]
	return port
}

// begin starts a container of a random service at a port.
func (h *handover) begin(port int) {
	h.Helper()
	n := h.rng.IntN(len(h.apps))
	a := h.apps[n]
	h.number++
	a.port, a.says, a.grace = port, a.service+"-"+strconv.Itoa(h.number), []string{"1s", "0s"}[h.rng.IntN(2)]
	h.running = append(h.running, moving{h.container(a), n, port, a.says})
	h.did("%s started at %d", a.says, port)
}

// finish ends a container in one of the ways that there are; its port is free then.
func (h *handover) finish(n int) {
	h.Helper()
	m, how := h.running[n], h.rng.IntN(4)
	h.did("%s at %d: %s", m.name, m.port, []string{"stop", "kill", "crash", "restart"}[how])
	switch how {
	case 0:
		h.check(m.box.Stop(h.ctx))
	case 1:
		h.check(m.box.Kill(h.ctx, ""))
	case 2:
		h.crash(m.box, h.pid(m))
	case 3:
		h.check(m.box.Restart(h.ctx)) // and goes on
		return
	}
	h.check(m.box.Remove(h.ctx)) // so that its port is free for certain
	h.left(n)
	h.did("%s is gone", m.name)
}

func (h *handover) pid(m moving) int {
	h.Helper()
	pid, err := m.box.PID(h.ctx)
	h.check(err)
	return pid
}

func (h *handover) left(n int) {
	h.free = append(h.free, h.running[n].port)
	h.running = slices.Delete(h.running, n, n+1)
}

// withoutAgent kills the agent, lets a container come at a port that nobody had, and one crash.
func (h *handover) withoutAgent() {
	h.Helper()
	h.did("agent killed")
	h.agent.Kill()
	h.agent = nil
	h.begin(h.fresh())
	if h.rng.IntN(2) == 0 {
		h.crashOne()
	}
	h.startAgent()
	h.settled()
}

// withoutEngine kills the engine, and lets a container's process crash before it is back. Published ports
// are cut off while it starts, so each service has one of them at most: HAProxy tries a request at another
// server than the last, not at one that it has not tried. The port of who crashed is not handed on at once: no engine took it away at the crash, so
// HAProxy may be about to connect to it, for as long as timeout.connect says.
func (h *handover) withoutEngine() {
	h.Helper()
	h.thin(1)
	var victim *moving
	pid := 0
	if len(h.running) > 0 {
		one := h.running[h.rng.IntN(len(h.running))]
		victim, pid = &one, h.pid(one)
	}
	h.did("engine killed")
	h.killEngine()
	if victim != nil {
		h.crash(victim.box, pid)
	}
	h.check(h.inside.StartEngine(h.ctx, liveRestore))
	if victim != nil {
		h.crashed(*victim)
		h.free[len(h.free)-1] = h.fresh()
	}
	h.settled()
}

// thin ends containers until no service has more than that many beside the one that stays.
func (h *handover) thin(most int) {
	h.Helper()
	for n := range h.apps {
		for {
			of := slices.DeleteFunc(slices.Clone(h.running), func(m moving) bool { return m.app != n })
			if len(of) <= most {
				break
			}
			h.finish(h.index(of[0]))
		}
	}
}

// fresh is a port that nobody ever had.
func (h *handover) fresh() int {
	h.next++
	return h.next
}

func (h *handover) crashOne() {
	h.Helper()
	m := h.running[h.rng.IntN(len(h.running))]
	h.crash(m.box, h.pid(m))
	h.crashed(m)
}

// crashed waits until the engine knows that a container has ended, and removes it.
func (h *handover) crashed(m moving) {
	h.Helper()
	h.until("the engine knows the end of "+m.name, func() error {
		if _, err := m.box.PID(h.ctx); err == nil {
			return errors.New("it runs")
		}
		return nil
	})
	h.check(m.box.Remove(h.ctx))
	h.left(h.index(m))
}

func (h *handover) index(m moving) int {
	return slices.IndexFunc(h.running, func(other moving) bool { return other.name == m.name })
}

// settled waits until what runs is what is registered, is what HAProxy has, is who answers.
func (h *handover) settled() {
	h.Helper()
	for n, a := range h.apps {
		want := []string{h.stays[n].Short()}
		for _, m := range h.running {
			if m.app == n {
				want = append(want, m.box.Short())
			}
		}
		slices.Sort(want)
		h.until(fmt.Sprintf("%s is %v", a.service, want), func() error { return h.routes(a.service, want) })
	}
	h.inStep()
	h.did("all is settled")
}

// routes says how the routed containers of a service differ from these.
func (h *handover) routes(service string, want []string) error {
	all, err := h.services()
	if err != nil {
		return err
	}
	var got []string
	for _, s := range all {
		for _, i := range s.Instances {
			if s.Name == service {
				name, _, _ := strings.Cut(i.ID, ".")
				got = append(got, name)
				if !i.Routed {
					return fmt.Errorf("%s is not routed: %s", i.ID, i.Why)
				}
			}
		}
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		return fmt.Errorf("got %v", got)
	}
	return nil
}

// only asserts that nobody but the service's own containers answered.
func (h *handover) only(a app, report load.Report) {
	h.Helper()
	for name, answers := range report.Servers {
		if !strings.HasPrefix(name, a.service+"-") {
			h.Errorf("%d answers to %s came from %s", answers, a.service, name)
		}
	}
}

// leavesWithItsLease kills the agent and waits until the registry holds nothing of its host.
func (h *handover) leavesWithItsLease(ttl time.Duration) {
	h.Helper()
	h.agent.Kill()
	h.agent = nil
	began := time.Now()
	h.until("nothing is registered", func() error {
		out, err := h.inside.Command(h.ctx, programs.sidekick, "services", "--direct", "--registry", h.registry, "-o", "json").Output()
		if err == nil && strings.Contains(string(out), `"here"`) {
			err = fmt.Errorf("got %s", out)
		}
		return err
	})
	if took := time.Since(began); took > ttl+5*time.Second {
		h.Errorf("a dead agent's entries stayed for %s, want %s at most", took, ttl+5*time.Second)
	}
}
