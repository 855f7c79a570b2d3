package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/sidekick-proxy/sidekick/internal/newest"
	"github.com/sidekick-proxy/sidekick/internal/statedir"
	"github.com/sidekick-proxy/sidekick/pkg/admin"
	"github.com/sidekick-proxy/sidekick/pkg/ask"
	"github.com/sidekick-proxy/sidekick/pkg/catalog"
	"github.com/sidekick-proxy/sidekick/pkg/declared"
	"github.com/sidekick-proxy/sidekick/pkg/docker"
	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
	"github.com/sidekick-proxy/sidekick/pkg/register"
	"github.com/sidekick-proxy/sidekick/pkg/registry/etcd"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// linger is how long an agent that was told to stop goes on watching its containers: those that
// are stopped along with it, as when the host goes down, still leave the proxies in time.
const linger = 2 * time.Second

// handover is how long a new agent waits for an old one that is ending.
const handover = 15 * time.Second

// spread is over which the agents of a cluster spread what all would do the moment the registry is back.
const spread = 500 * time.Millisecond

func runCommand() *cobra.Command {
	s := newSettings()
	cmd := &cobra.Command{
		Use: "run", Short: "The agent", Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.load(environ()); err != nil {
				return err
			}
			if err := s.settleIn(cmd.Context()); err != nil {
				return err
			}
			saveMemory(environ())
			return s.runAgent(cmd.Context())
		},
	}
	s.offerAll(cmd)
	return cmd
}

func environ() []string { return os.Environ() }

// gcPercent is how much the heap may grow between two collections. Each change allocates little, so that more of
// them cost hardly any of the processor (make bench, part agent; docs/scale.md has the figures).
const gcPercent = 60

// saveMemory sets it, unless the environment has Go's own variable for that.
func saveMemory(environment []string) {
	if !slices.ContainsFunc(environment, func(v string) bool { return strings.HasPrefix(v, "GOGC=") }) {
		debug.SetGCPercent(gcPercent)
	}
}

// agent is what the two pipes of a running agent share.
type agent struct {
	*settings
	log     *logrus.Logger
	state   *admin.State
	dir     *statedir.Dir
	client  *clientv3.Client
	self    service.Node
	address netip.Addr                      // under which other hosts reach this one
	driver  *haproxy.Driver                 // nil with --haproxy off
	again   chan struct{}                   // asks for another look at the ports, and another text
	refusal atomic.Pointer[haproxy.Refused] // of the proxy, that the render stage has not explained yet
	ports   *ports                          // which this host's proxy can have
	passage passage                         // of snapshots to the proxy
	answer  *ask.Answerer                   // of what other hosts ask
	undrain chan string                     // instances of which it is to be forgotten that they were told to stop
}

// runAgent runs until stop is cancelled: then registrations are left as --exit-ttl says, and the
// rest ends.
func (s *settings) runAgent(stop context.Context) error {
	a, err := s.newAgent(stop)
	if err != nil {
		return err
	}
	defer a.dir.Close()
	life, end := context.WithCancel(context.WithoutCancel(stop))
	defer end()

	listener, err := s.listenAdmin(stop)
	if err != nil {
		return err
	}
	server, err := s.startEmbedded(stop, a.stageLog(admin.StageRegister))
	if err != nil {
		return err
	}
	if server != nil {
		defer server.Stop() //nolint:errcheck // the agent ends; etcd has logged what went wrong
	}
	if a.client, err = s.dialRegistry(a.stageLog(admin.StageRegister)); err != nil {
		return err
	}
	defer a.client.Close()

	a.announce()
	group, life := errgroup.WithContext(life)
	if server != nil {
		group.Go(func() error { return server.Run(life) })
	}
	if listener != nil {
		group.Go(func() error { return admin.Serve(life, listener, a.state) })
	}
	if s.registryInFile {
		group.Go(func() error { return a.followEndpoints(life) })
	}
	a.serve(life, group)
	if a.confdDir != "" {
		a.serveConfd(life, group)
	}
	group.Go(func() error { defer end(); return a.register(stop, life, group) })
	if err := group.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	a.log.Info("sidekick ends")
	return nil
}

// newAgent takes hold of the state directory and finds out who and where the agent is.
func (s *settings) newAgent(ctx context.Context) (*agent, error) {
	if _, err := s.registryConfig(); err != nil {
		return nil, usageError{err}
	}
	advertise, err := s.advertised(ctx, kernelRoutes())
	if err != nil {
		return nil, err
	}
	dir, err := s.holdStateDir(ctx)
	if err != nil {
		return nil, err
	}
	id, err := dir.AgentID()
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	machine, boot := statedir.Machine()
	a := &agent{settings: s, log: s.newLogger(os.Stderr), dir: dir, address: advertise, again: make(chan struct{}, 1), undrain: make(chan string, 256)}
	a.self = service.Node{
		Name: s.node, Agent: id, Machine: machine, Boot: boot,
		Address: advertise.String(), Version: version, Started: time.Now().UTC().Truncate(time.Second),
	}
	stages := []admin.Stage{admin.StageDocker, admin.StageRegister, admin.StageWatch, admin.StageRender, admin.StageHAProxy}
	if s.docker == off {
		stages = stages[1:]
	}
	if s.haproxy == off {
		stages = stages[:len(stages)-1]
	}
	if s.confdDir != "" {
		stages = append(stages, admin.StageConfd)
	}
	a.state = admin.NewState(s.node, version, stages, a.proxyFacts, time.Now)
	a.state.SetCauses(etcd.Causes())
	if a.driver, err = a.newDriver(); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	a.ports = a.newPorts()
	return a, nil
}

// holdStateDir takes the state directory. One that is held is waited for: its holder may just be ending.
func (s *settings) holdStateDir(ctx context.Context) (*statedir.Dir, error) {
	return statedir.Wait(ctx, s.stateDir, handover, func(why error) {
		s.newLogger(os.Stderr).WithError(why).WithField("at_most", handover.String()).Warn("waiting for the state directory")
	})
}

func (s *settings) listenAdmin(ctx context.Context) (net.Listener, error) {
	if s.admin == off {
		return nil, nil //nolint:nilnil // no listener is what was asked for
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.admin)
	if err != nil {
		return nil, fmt.Errorf("--admin %s: %w; give a free address, or \"off\"", s.admin, err)
	}
	return listener, nil
}

func (a *agent) announce() {
	a.log.WithFields(logrus.Fields{
		"version": version, "node": a.node, "advertise": a.self.Address, "registry": a.registry,
		"prefix": a.prefix, "haproxy": a.haproxy, "admin": a.admin,
	}).Info("sidekick starts")
}

// register runs the first pipe, from this host's containers and services files to the registry. It returns after stop
// is cancelled and the registrations were left in good order; life must outlast it.
func (a *agent) register(stop, life context.Context, group *errgroup.Group) error {
	publish, back := make(chan register.Set), make(chan bool, 1)
	publisher := &register.Publisher{
		Registry: &etcd.Registry{
			Client: a.client, Prefix: a.prefix, Node: a.self, TTL: a.ttl, ExitTTL: a.exitTTL,
			Log: a.stageLog(admin.StageRegister), Report: a.state.Report(admin.StageRegister),
		},
		Log: a.stageLog(admin.StageRegister), Report: a.state.Report(admin.StageRegister), Linger: linger,
		Unwritten: a.state.SetRejected("publisher"),
		Back:      back, Spread: spread,
	}
	group.Go(func() error { etcd.Reconnects(life, a.client, back); return life.Err() })
	var parts []register.Part
	if a.docker != off {
		parts = append(parts, a.watchContainers(life, group))
	}
	if a.servicesDir != "" {
		parts = append(parts, a.watchServices(life, group))
	}
	group.Go(func() error { return register.Join(life, publish, parts...) })
	// Whatever ends the agent's life also ends the publisher.
	stop, cancel := context.WithCancel(stop)
	defer cancel()
	defer context.AfterFunc(life, cancel)()
	if err := publisher.Run(stop, publish); err != nil {
		a.log.WithError(err).Warn("registrations were not left in good order: they stay until their lease runs out")
	}
	return context.Canceled
}

// watchContainers runs the stages from Docker through the gate.
func (a *agent) watchContainers(life context.Context, group *errgroup.Group) register.Part {
	source := &docker.Source{
		Host: a.docker, Node: a.node, Zone: a.zone, Advertise: a.address, ExposeAll: a.expose == "all",
		Conventions: a.conventionsOn(),
		Log:         a.stageLog(admin.StageDocker), Report: a.state.Report(admin.StageDocker), Rejected: a.state.SetRejected("docker"),
	}
	return a.gate(life, group, service.FromContainer, source, a.dir.Path("published.json"))
}

// watchServices runs the stages from the services files through the gate.
func (a *agent) watchServices(life context.Context, group *errgroup.Group) register.Part {
	source := &declared.Source{
		Dir: a.servicesDir, Host: declared.Host{Node: a.node, Zone: a.zone}, Memory: a.dir.Path("declared.json"),
		Log: a.stageLog(admin.StageRegister), Rejected: a.state.SetRejected("files"),
	}
	return a.gate(life, group, service.FromFile, source, a.dir.Path("published-files.json"))
}

// gate runs a source and the gate behind it. Each source has one of its own, so that the first set of
// one does not wait for another.
func (a *agent) gate(life context.Context, group *errgroup.Group, origin service.Origin, source register.Source, memory string) register.Part {
	candidates, passed := make(chan []service.Instance), make(chan []service.Instance)
	gate := &register.Gate{Log: a.stageLog(admin.StageRegister), Held: a.state.SetRejected("gate of " + string(origin)), Memory: memory}
	if origin == service.FromContainer {
		gate.Undrain = a.undrain
	}
	group.Go(func() error { return source.Run(life, candidates) })
	group.Go(func() error { return gate.Run(life, candidates, passed) })
	return register.Part{Origin: origin, In: passed}
}

// serve runs the second pipe, from the registry to HAProxy.
func (a *agent) serve(life context.Context, group *errgroup.Group) {
	a.answer = a.newAnswerer()
	watched := make(chan *service.Catalog)
	snapshots := make(chan *catalog.Snapshot)
	rendered, wanted := make(chan render.Files), make(chan render.Files)
	watcher := &etcd.Watcher{
		Client: a.client, Prefix: a.prefix, Log: a.stageLog(admin.StageWatch), Report: a.state.Report(admin.StageWatch),
		Back: a.spreadReloads,
	}
	view := &catalog.View{
		Settle: a.settle, SettleMax: a.settleMax, KeepEmpty: a.keepEmpty, MaxCacheAge: a.maxCacheAge,
		CachePath: a.dir.Path("catalog.json"), Source: a.prefix, Log: a.stageLog(admin.StageWatch),
		Report: a.state.ReportCopy, Confirmed: func() time.Time { return a.state.LastSuccess(admin.StageWatch) },
		KeepStale: a.keepStale, TTL: a.ttl, Node: a.node, Boot: a.self.Boot,
		Seen: func(s catalog.Seen) { a.answer.See(s.Catalog, s.Number) },
	}
	stage := &renderStage{settings: a.settings, log: a.stageLog(admin.StageRender), state: a.state, ports: a.ports, again: a.again, refusal: &a.refusal, passage: &a.passage, memory: a.dir.Path("quarantine.json")}
	if a.driver != nil {
		stage.judge = a.driver.Judge
	}
	group.Go(func() error { return watcher.Run(life, watched) })
	group.Go(func() error { return view.Run(life, watched, snapshots) })
	group.Go(func() error { return stage.run(life, group, snapshots, rendered) })
	group.Go(func() error { return newest.Run(life, rendered, wanted) })
	group.Go(func() error { return a.answer.Run(life) })
	a.serveHAProxy(life, group, wanted)
}

// newPorts returns what finds out which ports services can have on this host.
func (a *agent) newPorts() *ports {
	host, _, _ := net.SplitHostPort(a.httpListen) // validate has refused a bad one
	p := &ports{host: host, https: a.renderSettings().HTTPSListen, ours: a.haproxy == haproxyManaged, held: func() []uint16 { return nil }}
	p.forget()
	if a.driver != nil {
		p.held = a.driver.Held
	}
	return p
}

func (a *agent) stageLog(stage admin.Stage) logrus.FieldLogger {
	return a.log.WithField("stage", string(stage))
}

// send sends one value, or gives up with ctx.
func send[T any](ctx context.Context, out chan<- T, v T) error {
	select {
	case out <- v:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
