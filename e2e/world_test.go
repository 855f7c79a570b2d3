package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/enginetest"
	"github.com/sidekick-proxy/sidekick/internal/hosttest"
	"github.com/sidekick-proxy/sidekick/internal/load"
	"github.com/sidekick-proxy/sidekick/internal/proctest"
)

// worlds counts the worlds of this run, so that each has an address of its own.
var worlds atomic.Int32

// elsewhere is an address that is no host's.
const elsewhere = "192.0.2.1"

// world is one host as a test sees it.
type world struct {
	*testing.T
	ctx    context.Context //nolint:containedctx // of the test
	dir    string          // short, since sockets have short names
	addr   string          // where everything listens: loopback
	host   string          // this host's address in the network of the test's containers
	run    string
	bin    string             // HAProxy's program
	engine *enginetest.Engine // nil in a world without containers

	agent, etcd, proxy *proctest.Process
	external           bool           // HAProxy is a process of its own
	registry           string         // "embedded" or a URL
	extra              []string       // more settings of the agent
	inside             *hosttest.Host // where programs run; nil for this machine itself
}

// Who holds the registry and HAProxy.
const (
	embedded = "embedded"
	etcdURL  = "etcd"
)

// newWorld prepares a world, in which nothing runs yet.
func newWorld(t *testing.T) *world {
	t.Helper()
	leftOut(t, "docker", "haproxy")
	w := emptyWorld(t)
	engine, err := enginetest.Open(w.ctx, w.run)
	w.check(err)
	w.engine = engine
	w.check(engine.Alone(w.ctx))
	gateway, err := engine.Network(w.ctx, w.run)
	w.check(err)
	w.host = gateway.String()
	return w
}

// emptyWorld prepares a world without an engine.
func emptyWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp(programs.dir, "w") //nolint:usetesting // t.TempDir() is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	n := int(worlds.Add(1))
	w := &world{
		T: t, ctx: t.Context(), dir: dir, registry: embedded, bin: "haproxy",
		addr: fmt.Sprintf("127.%d.%d.%d", 64+os.Getpid()%64, os.Getpid()/64%250, n),
		run:  runName("w" + strconv.Itoa(n)),
		host: elsewhere,
	}
	t.Cleanup(w.end)
	return w
}

// end shows what was said if the test failed, and removes everything. It may be called again.
func (w *world) end() {
	if w.Failed() {
		for _, p := range []*proctest.Process{w.agent, w.proxy, w.etcd} {
			if p != nil {
				w.Logf("last words of %s:\n%s", p.Name, p.Tail(40))
			}
		}
	}
	if w.agent != nil {
		w.agent.Signal(syscall.SIGTERM) // it takes its time, in which the containers go
	}
	if w.engine != nil {
		w.sweep()
		w.engine = nil
	}
	for _, p := range []*proctest.Process{w.agent, w.proxy, w.etcd} {
		if p != nil {
			if err := p.End(30 * time.Second); err != nil {
				w.Error(err)
			}
		}
	}
	w.agent = nil // its end is no surprise
	w.until("no HAProxy is left over", func() error { return none(w.haproxies()) })
}

// sweep removes what the test made in the engine.
func (w *world) sweep() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := w.engine.Sweep(ctx); err != nil {
		w.Error(err)
	}
	w.engine.Close()
}

func none(pids []int) error {
	if len(pids) > 0 {
		return fmt.Errorf("processes %v", pids)
	}
	return nil
}

func (w *world) at(port int) string      { return w.addr + ":" + strconv.Itoa(port) }
func (w *world) httpAddr() string        { return w.at(8080) }
func (w *world) adminAddr() string       { return w.at(7070) }
func (w *world) path(file string) string { return filepath.Join(w.dir, file) }
func (w *world) config() string          { return w.path("run/haproxy.cfg") }
func (w *world) masterSocket() string    { return w.path("run/m.sock") }
func (w *world) runtimeSocket() string   { return w.path("run/r.sock") }
func (w *world) haproxyFlags() []string {
	return []string{
		"--haproxy-bin", w.bin, "--haproxy-config", w.config(), "--haproxy-master-socket", w.masterSocket(),
		"--haproxy-runtime-socket", w.runtimeSocket(),
	}
}

func (w *world) start(name string, args ...string) *proctest.Process {
	w.Helper()
	line := append([]string{programs.sidekick}, args...)
	if w.inside != nil {
		line = w.inside.Command(w.ctx, line[0], line[1:]...).Args
	}
	p, err := proctest.Start(name, w.path(name+".log"), line[0], line[1:]...)
	if err != nil {
		w.Fatal(err)
	}
	return p
}

// startEtcd starts an etcd of its own, or starts it again over the same data.
func (w *world) startEtcd() {
	w.Helper()
	w.registry = "etcd://" + w.at(2379)
	w.etcd = w.start("etcd", "etcd", "--state-dir", w.path("etcd"), "--listen", w.at(2379), "--allow-anyone", "--log-format", "text")
}

// startProxy starts HAProxy as in a container of its own.
func (w *world) startProxy() {
	w.Helper()
	w.external = true
	w.proxy = w.start("haproxy", append([]string{"haproxy"}, w.haproxyFlags()...)...)
}

// agentArgs is the agent's command line.
func (w *world) agentArgs() []string {
	mode := "managed"
	if w.external {
		mode = "external"
	}
	return slices.Concat([]string{
		"run", "--registry", w.registry, "--advertise", w.host, "--node", "here", "--state-dir", w.path("state"),
		"--haproxy", mode, "--http-listen", w.httpAddr(), "--stats-listen", w.at(8405), "--admin", w.adminAddr(), "--log-format", "text",
	}, w.haproxyFlags(), w.extra)
}

// startAgent starts the agent, and waits until a configuration is in force.
func (w *world) startAgent() {
	w.Helper()
	w.agent = w.start("agent", w.agentArgs()...)
	w.until("the agent is ready", func() error { return w.get(w.adminAddr(), "/readyz", "").ok() })
}

// startAll starts what a user has: with "embedded" one process that holds all, with "etcd" an etcd,
// an external HAProxy and the agent.
func (w *world) startAll(registry string) {
	w.Helper()
	if registry == etcdURL {
		w.startEtcd()
		w.startProxy()
	}
	w.startAgent()
}

// app is a whoami that is to be started.
type app struct {
	service string
	grace   string // what it does after its stop signal: "1s" accepts on, "0s" exits at once
	delay   string // before it listens
	publish bool
	port    int               // published there; any if publish is set
	says    string            // what it calls itself, instead of its short id
	restart string            // restart policy
	labels  map[string]string // more of them
	name    string
}

func (a app) host() string { return a.service + ".example.test" }

// run starts a container of the app.
func (w *world) container(a app) *enginetest.Container {
	w.Helper()
	labels := map[string]string{"sidekick.service": a.service, "sidekick.host": a.host()}
	if a.service == "" {
		labels = map[string]string{}
	}
	maps.Copy(labels, a.labels)
	env := map[string]string{}
	for variable, value := range map[string]string{"GRACE": a.grace, "DELAY": a.delay, "NAME": a.says} {
		if value != "" {
			env[variable] = value
		}
	}
	spec := enginetest.Spec{Image: programs.image, Name: a.name, Network: w.run, Labels: labels, Env: env, Restart: a.restart}
	if a.publish || a.port > 0 {
		spec.Publish = map[string]string{"8000/tcp": w.host + ":" + strconv.Itoa(a.port)}
	}
	box, err := w.engine.Start(w.ctx, spec)
	if err != nil {
		w.Fatal(err)
	}
	return box
}

// load begins a steady load on the app: GET and POST, keep-alive and not, two workers each. The
// test's end is also its end.
func (w *world) load(a app) *load.Run {
	w.Helper()
	run := load.Start(w.ctx, load.Options{Target: w.httpAddr(), Host: a.host(), Workers: workersPerKind, Pause: 5 * time.Millisecond})
	w.Cleanup(func() { run.Stop() })
	return run
}

const workersPerKind = 2

// flows waits until the load has seen that many more answers, so that a fault has had its chance.
func (w *world) flows(run *load.Run, answers int) {
	w.Helper()
	from := run.Now().OK
	w.until(fmt.Sprintf("%d more answers", answers), func() error {
		if now := run.Now(); now.OK-from < answers {
			return fmt.Errorf("%d so far: %s", now.OK-from, now)
		}
		return nil
	})
}

// noneFailed ends the load and asserts that not one request failed.
func (w *world) noneFailed(run *load.Run) load.Report {
	w.Helper()
	report := run.Stop()
	w.Logf("load: %s", report)
	if report.Failed > 0 || report.Sent == 0 {
		w.Errorf("%d of %d requests failed, want 0 of many", report.Failed, report.Sent)
	}
	return report
}

// haproxies are the processes that run HAProxy with this world's configuration.
func (w *world) haproxies() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		w.Fatal(err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue
		}
		words := strings.Split(string(cmdline), "\x00")
		if strings.HasPrefix(filepath.Base(words[0]), "haproxy") && strings.Contains(string(cmdline), w.config()) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// killHAProxy kills every HAProxy process of this world, as the end of its container does.
func (w *world) killHAProxy() {
	w.Helper()
	pids := w.haproxies()
	if len(pids) == 0 {
		w.Fatal("no HAProxy runs")
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may go along with its master
	}
}

// check fails the test at once on an error.
func (w *world) check(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}
