package hosts

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/sidekick-proxy/sidekick/internal/enginetest"
	"github.com/sidekick-proxy/sidekick/internal/hosttest"
	"github.com/sidekick-proxy/sidekick/internal/proctest"
)

const (
	// ttl is that of the agents. It is short, for the tests wait for its end, and long enough for leases to
	// be renewed when a member of etcd is gone and another one must be asked.
	ttl = 8 * time.Second
	// patience is how long a condition may take to come true on a busy machine.
	patience = time.Minute
	// image is that of the containers.
	image = "whoami"
)

// The services.
const (
	web  = "web"  // has instances on every host
	solo = "solo" // has instances on the second host only

	soloAt = "solo h2:" // is what each of these begins with
)

// cluster is three hosts with all that runs on them.
type cluster struct {
	*testing.T // the fault's that is the matter

	ctx   context.Context //nolint:containedctx // of the whole test
	dir   string
	hosts []*host
	etcd  *clientv3.Client
	round int // of etcds that were made

	down      []*host  // whose members of etcd were killed
	broken    bool     // a fault could not be gone through to its end
	forgotten string   // after which the entries of a host that was gone left, for the table
	rows      []string // of the table that the test writes
}

// host is one of them.
type host struct {
	*cluster
	*hosttest.Host

	containers           *enginetest.Engine
	engine               *client.Client          // to see what runs, whoever started it
	boxes, alone         []*enginetest.Container // instances of web, the oldest first, and of solo
	port                 int                     // that was published last
	member, proxy, agent *proctest.Process
}

// newCluster makes the hosts and starts everything on them.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	for _, what := range []string{"docker", "haproxy"} {
		if without(what) {
			t.Skip("left out on demand: " + what)
		}
	}
	c := &cluster{T: t, ctx: t.Context(), dir: programs.dir}
	network, err := hosttest.Open(c.ctx, filepath.Join(c.dir, "n"))
	c.check(err)
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	c.hosts = make([]*host, 3)
	var group errgroup.Group
	for i := range c.hosts {
		group.Go(func() error {
			made, err := network.Host(c.ctx, "h"+strconv.Itoa(i+1))
			c.hosts[i] = &host{cluster: c, Host: made, port: 8000}
			if err != nil {
				return err
			}
			return c.hosts[i].openEngine()
		})
	}
	c.check(group.Wait())
	t.Cleanup(c.end)
	c.startAll()
	return c
}

// openEngine connects to the host's engine and gives it an image of whoami.
func (h *host) openEngine() error {
	var err error
	h.containers, err = enginetest.OpenAt(h.ctx, h.DockerHost(), "hosts")
	if err != nil {
		return err
	}
	h.engine, err = client.New(client.WithHost(h.DockerHost()))
	if err != nil {
		return err
	}
	return h.containers.BuildImage(h.ctx, image, programs.whoami, "8000")
}

// startAll starts what runs on each host, and waits until every proxy has every instance.
func (c *cluster) startAll() {
	c.Helper()
	var endpoints []string
	for _, h := range c.hosts {
		endpoints = append(endpoints, h.client())
	}
	var err error
	c.etcd, err = clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: time.Second, Logger: zap.NewNop()})
	c.check(err)
	c.startEtcd()
	for _, h := range c.hosts {
		c.check(os.MkdirAll(h.path("run"), 0o755))
		h.startProxy()
		h.startAgent()
		h.boxes = append(h.boxes, h.run(web), h.run(web))
	}
	for range 2 {
		c.hosts[1].alone = append(c.hosts[1].alone, c.hosts[1].run(solo))
	}
	c.untilRight()
}

// kept is where the programs' logs go if the test fails.
const kept = results + "/hosts"

// end keeps what was said if the test failed, and ends what the network does not.
func (c *cluster) end() {
	if c.etcd != nil {
		c.etcd.Close()
	}
	for _, h := range c.hosts {
		h.switchOff()
		h.containers.Close()
		h.engine.Close()
	}
	if !c.Failed() {
		return
	}
	for _, h := range c.hosts {
		for _, program := range []string{"etcd", "haproxy", "agent"} {
			text, err := os.ReadFile(h.path(program + ".log"))
			c.check(err)
			c.check(os.MkdirAll(kept, 0o755))
			c.check(os.WriteFile(filepath.Join(kept, h.Name+"-"+program+".log"), text, 0o644))
		}
	}
	c.Logf("what the programs said is in %s", kept)
}

// switchOff ends the programs of the host, at once.
func (h *host) switchOff() {
	for _, p := range []*proctest.Process{h.agent, h.proxy, h.member} {
		if p != nil {
			_ = syscall.Kill(-p.PID(), syscall.SIGKILL) // HAProxy's worker is in its master's group
			<-p.Done()
		}
	}
}

func (h *host) path(file string) string { return filepath.Join(h.dir, h.Name, file) }

// start starts a program on the host.
func (h *host) start(name, program string, args ...string) *proctest.Process {
	h.Helper()
	h.check(os.MkdirAll(h.path(""), 0o755))
	line := h.Command(h.ctx, program, args...).Args
	p, err := proctest.Start(name, h.path(name+".log"), line[0], line[1:]...)
	h.check(err)
	return p
}

func (h *host) haproxyFlags() []string {
	return []string{
		"--haproxy-bin", programs.haproxy, "--haproxy-config", h.path("run/haproxy.cfg"), "--haproxy-master-socket", h.path("run/m.sock"),
		"--haproxy-runtime-socket", h.runtimeSocket(), "--log-format", "text",
	}
}

func (h *host) runtimeSocket() string { return h.path("run/r.sock") }

// startProxy starts HAProxy as in a container of its own.
func (h *host) startProxy() {
	h.Helper()
	h.proxy = h.start("haproxy", programs.sidekick, append([]string{"haproxy"}, h.haproxyFlags()...)...)
}

// startAgent starts the agent as a user would: what it finds out by itself, it is not told.
func (h *host) startAgent() {
	h.Helper()
	var endpoints []string
	for _, other := range h.hosts {
		endpoints = append(endpoints, other.client())
	}
	h.agent = h.start("agent", programs.sidekick, append([]string{
		"run", "--registry", "etcd://" + strings.Join(endpoints, ","), "--ttl", ttl.String(), "--haproxy", "external",
		"--state-dir", h.path("state"),
	}, h.haproxyFlags()...)...)
}

// run starts a container of a service.
func (h *host) run(service string) *enginetest.Container {
	h.Helper()
	h.port++
	at := h.Addr.String() + ":" + strconv.Itoa(h.port)
	made, err := h.containers.Start(h.ctx, enginetest.Spec{
		Image: image, Restart: "always", Publish: map[string]string{"8000/tcp": at},
		Labels: map[string]string{"sidekick.service": service, "sidekick.host": hostOf(service)},
	})
	h.check(err)
	return made
}

// hostOf is the host name of a service.
func hostOf(service string) string { return service + ".example.test" }

// replace puts a new instance of web in the place of the oldest one on the host, and waits until the
// proxies have it, those of hosts that are away apart.
func (h *host) replace(away ...*host) {
	h.Helper()
	added := h.run(web)
	h.untilRight(away...)
	old := h.boxes[0]
	h.boxes = append(h.boxes[1:], added)
	h.check(old.Stop(h.ctx))
	h.check(old.Remove(h.ctx))
	h.untilRight(away...)
}

// others are the hosts beside these.
func (c *cluster) others(these ...*host) []*host {
	return slices.DeleteFunc(slices.Clone(c.hosts), func(h *host) bool { return slices.Contains(these, h) })
}

// until repeats a look until it finds no fault.
func (c *cluster) until(what string, look func() error) {
	c.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := look()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			c.Fatalf("waited %s for: %s: %v", patience, what, err)
		case <-c.ctx.Done():
			c.Fatalf("%s: %v", what, fmt.Errorf("%w: %w", context.Cause(c.ctx), err))
		}
	}
}

// hold lets a fault go on for some time: that nothing comes of it is what is to be seen.
func (c *cluster) hold(long time.Duration) {
	c.Helper()
	select {
	case <-time.After(long):
	case <-c.ctx.Done():
		c.Fatal(context.Cause(c.ctx))
	}
}

// check fails the test at once on an error.
func (c *cluster) check(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}
