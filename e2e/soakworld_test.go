package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/internal/proctest"
	"github.com/sidekick-proxy/sidekick/templates"
)

// soak is a world in which faults and changes are drawn by lot. What steps do to one process or file
// takes its lock.
type soak struct {
	*world

	bins   []string // every HAProxy there is, the one of this test first
	keeper *keeper  // of an external HAProxy, else nil
	client *clientv3.Client
	log    soakLog
	points *killPoints
	played int

	watched func()       // ends the looking for what must never be
	ends    atomic.Int64 // of HAProxy in this round, by somebody else

	agentLock, etcdLock, templateLock sync.Mutex
	socketLock                        map[string]*sync.Mutex // by path

	known        lots // what the plan knows of catalog and template
	edited       bool // somebody else changed HAProxy's servers in this round
	waitForAudit bool // and nothing but an audit will find it
}

// newSoak prepares a world with an etcd, endpoints that answer, and no container.
func newSoak(t *testing.T, bin string, external bool) *soak {
	t.Helper()
	w := emptyWorld(t)
	w.bin, w.external = bin, external
	s := &soak{world: w, bins: []string{bin}, known: newLots(w.addr)}
	s.socketLock = map[string]*sync.Mutex{w.masterSocket(): {}, w.runtimeSocket(): {}}
	for _, other := range haproxytest.Programs(t) {
		if other != bin {
			s.bins = append(s.bins, other)
		}
	}
	w.extra = []string{
		"--docker", "off", "--keep-empty", "0", "--reload-interval", "100ms", "--ttl", "5s", "--template", w.path("template"),
	}
	w.check(os.MkdirAll(filepath.Dir(w.config()), 0o755))
	s.points = newKillPoints(s)
	for port := firstEndpoint; port < firstEndpoint+endpoints; port++ {
		s.listens(port, "")
	}
	s.listens(takenPort, "")
	return s
}

// startAll starts what a host has, with an empty catalog.
func (s *soak) startAll() {
	s.Helper()
	s.check(os.WriteFile(s.path("template"), []byte(templates.HAProxy), 0o600))
	s.startEtcd()
	s.client = s.registryClient()
	if s.external {
		s.keeper = &keeper{world: s.world, bin: s.bin, quit: make(chan struct{}), ended: make(chan struct{})}
		go s.keeper.run()
		s.Cleanup(s.keeper.stop)
	}
	s.check(s.startAgentAgain())
	s.watched = s.watch()
	s.Cleanup(s.watched)
}

// watch looks all the time for what must never be, until it is told that the time is over.
func (s *soak) watch() (end func()) {
	ctx, cancel := context.WithCancel(s.ctx)
	var running sync.WaitGroup
	running.Go(func() { s.points.follow(ctx) })
	if !s.external {
		running.Go(func() {
			for ctx.Err() == nil {
				if found := s.portShared(); found != "" {
					s.points.wrong(errors.New(found))
				}
				wait(ctx, 20*time.Millisecond)
			}
		})
	}
	return sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
}

// startAgentAgain starts the agent, and waits for nothing. Its owner holds the agent's lock. It may not
// look past permissions, so that a socket can be closed to it.
func (s *soak) startAgentAgain() error {
	args := append([]string{"--inh-caps", noOverride, "--bounding-set", noOverride, programs.sidekick}, s.agentArgs()...)
	p, err := proctest.Start("agent", s.path("agent.log"), "setpriv", args...)
	if err != nil {
		return err
	}
	s.agent = p
	return nil
}

// noOverride is what takes the rights from root to open what is closed to it.
const noOverride = "-dac_override,-dac_read_search"

// killAgent kills the agent, notes what it leaves on disk, and starts it again after a while.
func (s *soak) killAgent(ctx context.Context, away time.Duration) error {
	s.agentLock.Lock()
	defer s.agentLock.Unlock()
	if ended, how := s.agent.Ended(); ended {
		s.points.wrong(fmt.Errorf("the agent ended by itself: %w", how))
	}
	s.agent.Kill()
	err := s.points.take()
	wait(ctx, away)
	return errors.Join(err, s.startAgentAgain())
}

// mend ends every fault that a step may have left, and writes nothing to the registry.
func (s *soak) mend() error {
	errs := []error{s.mendTemplate(), s.etcdAnswers()}
	if s.keeper != nil {
		if s.known.foreign {
			s.keeper.signal(syscall.SIGTERM, 0, s.bin)
		}
		errs = append(errs, s.keeper.runs(s.known.tookOver))
	}
	if s.edited && !s.waitForAudit {
		errs = append(errs, s.killAgent(s.ctx, 0)) // the next one looks at every server
	}
	return errors.Join(errs...)
}

// etcdAnswers waits until the registry does.
func (s *soak) etcdAnswers() error {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	for {
		one, end := context.WithTimeout(ctx, 3*time.Second)
		_, err := s.client.Get(one, "/")
		end()
		if err == nil {
			return nil
		}
		if wait(ctx, 50*time.Millisecond); ctx.Err() != nil {
			return fmt.Errorf("etcd does not answer: %w", err)
		}
	}
}

// tell fails the test with all that happened in this round.
func (s *soak) tell(err error) {
	s.Helper()
	agent, proxy := s.agent.Tail(60), ""
	if s.keeper != nil {
		proxy = s.keeper.tail(40)
	}
	s.Fatalf("seed %d: %v\n\nplayed again, with all rounds before it, by: %s=%d go test ./e2e -run '^%s$'\n\nwhat happened:\n%s\n\nthe agent's last words:\n%s\n\nhaproxy's last words:\n%s",
		s.log.seed, err, soakSeed, s.log.first, s.Name(), s.log.text(), agent, proxy)
}

// soakLog is what happened in a round, and when.
type soakLog struct {
	mu    sync.Mutex
	first uint64 // of the first round
	seed  uint64
	began time.Time
	lines []string
}

func (l *soakLog) begin(seed uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seed, l.began, l.lines = seed, time.Now(), nil
}

func (l *soakLog) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := time.Now()
	l.lines = append(l.lines, fmt.Sprintf("%s %7.3f  ", at.UTC().Format("15:04:05.000"), at.Sub(l.began).Seconds())+fmt.Sprintf(format, args...))
}

func (l *soakLog) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// keeper starts HAProxy again whenever it ends, as a container runtime does: what is left of its
// processes goes before that, after a moment in which a worker may live on without its master.
type keeper struct {
	*world

	mu     sync.Mutex
	bin    string
	linger time.Duration
	now    *proctest.Process
	next   *proctest.Process // runs already, and is to be kept when the one of now ends
	quit   chan struct{}
	ended  chan struct{}
}

func (k *keeper) run() {
	defer close(k.ended)
	for {
		p, err := k.startOne()
		if err != nil {
			k.Error(err)
			return
		}
		select {
		case <-p.Done():
		case <-k.quit: // nothing takes over any more
			for _, one := range []*proctest.Process{p, k.now} {
				one.Kill()
				_ = syscall.Kill(-one.PID(), syscall.SIGKILL) // none is left
			}
			return
		}
		k.mu.Lock()
		linger := k.linger
		k.linger = 0
		k.mu.Unlock()
		wait(k.ctx, linger)
		_ = syscall.Kill(-p.PID(), syscall.SIGKILL) // none is left
		wait(k.ctx, 20*time.Millisecond)            // a program that cannot start is not tried all the time
	}
}

func (k *keeper) startOne() (p *proctest.Process, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.next != nil {
		p, k.next = k.next, nil
		return p, nil
	}
	k.now, err = k.exec()
	return k.now, err
}

// exec starts the program that becomes HAProxy.
func (k *keeper) exec(more ...string) (*proctest.Process, error) {
	flags := append(slices.Clone(k.haproxyFlags()), "--haproxy-bin", k.bin) // the last one holds
	args := slices.Concat([]string{"haproxy"}, flags, more)
	return proctest.Start("haproxy", k.path("haproxy.log"), programs.sidekick, args...)
}

// stop ends HAProxy for good.
func (k *keeper) stop() {
	close(k.quit)
	<-k.ended
}

// signal sends HAProxy's master a signal; its worker may live on for a while if that kills it. Another
// program may be the next one to start.
func (k *keeper) signal(signal syscall.Signal, linger time.Duration, bin string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.linger = linger
	if bin != "" {
		k.bin = bin
	}
	if k.now != nil {
		k.now.Signal(signal)
	}
}

// takeOver starts another HAProxy that goes on with the sockets of the one that runs, and stops that one
// after a while. As any upgrade does, it first asks whether one runs: two that start at once do not see
// each other.
func (k *keeper) takeOver(ctx context.Context, beside time.Duration, bin string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.answers(ctx); err != nil {
		return err
	}
	old, before := k.now, k.bin
	k.bin = bin
	p, err := k.exec("--take-over")
	if err != nil {
		k.bin = before
		return err
	}
	wait(ctx, beside)
	if ended, _ := p.Ended(); ended { // and has perhaps left the first without its master's socket
		k.bin = before
		old.Signal(syscall.SIGTERM)
		return errors.New("the second haproxy has ended")
	}
	k.now, k.next = p, p
	old.Signal(syscall.SIGUSR1)
	select { // it is killed in the end, like a container that does not stop
	case <-old.Done():
	case <-time.After(time.Second):
		_ = syscall.Kill(-old.PID(), syscall.SIGKILL) // it may end just now
	}
	return nil
}

// ailing is how long HAProxy may not answer until its health check has it restarted.
const ailing = 10 * time.Second

// runs waits until HAProxy answers at both sockets. One that was reloaded just while another one took over
// has bound the master's socket again: then nobody listens there when it has stopped, and only a restart
// helps, as a failing health check brings about.
func (k *keeper) runs(tookOver bool) error {
	ctx, cancel := context.WithTimeout(k.ctx, patience)
	defer cancel()
	for began := time.Now(); ; {
		err := k.answers(ctx)
		if err == nil {
			return nil
		}
		if tookOver && time.Since(began) > ailing {
			k.Logf("haproxy is restarted by its health check: %v", err)
			k.signal(syscall.SIGTERM, 0, "")
			tookOver = false
		}
		if wait(ctx, 50*time.Millisecond); ctx.Err() != nil {
			return fmt.Errorf("haproxy does not answer: %w", err)
		}
	}
}

// answers asks at both sockets.
func (k *keeper) answers(ctx context.Context) error {
	_, err := askSocket(ctx, k.masterSocket(), "show proc")
	if err == nil {
		_, err = askSocket(ctx, k.runtimeSocket(), "show info")
	}
	return err
}

func (k *keeper) tail(lines int) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now.Tail(lines)
}

// pids are the processes of running HAProxys of this world, checks left out.
func (s *soak) pids() []int {
	return slices.DeleteFunc(s.haproxies(), func(pid int) bool {
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return err != nil || !strings.Contains(string(cmdline), "\x00-W\x00")
	})
}
