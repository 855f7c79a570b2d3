package haproxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	restartMin  = 100 * time.Millisecond
	restartMax  = 5 * time.Second
	ranWell     = 10 * time.Second // after this long a crash is a new story
	killAfter   = 2 * time.Second
	vacateLimit = 5 * time.Second
)

// Supervisor runs HAProxy as a child for managed mode: master and workers in a process group of
// their own, started again with back-off when they end. It leaves no process behind, whichever of
// them dies, this one included.
type Supervisor struct {
	cfg    Config
	alerts alertRing
	ended  func(error) // is told how each child ended; may be nil
}

// NewSupervisor returns a supervisor that starts nothing before Run.
func NewSupervisor(cfg Config) *Supervisor {
	cfg.Managed = true
	return &Supervisor{cfg: cfg.withDefaults()}
}

// Run keeps HAProxy running until ctx is cancelled; then it lets it finish its requests for a bounded
// time and returns ctx's error. It returns at once with another error if a HAProxy that is not ours
// answers at the master socket.
func (s *Supervisor) Run(ctx context.Context) error {
	lock, err := s.hold(ctx)
	if err != nil {
		return err
	}
	return s.run(ctx, lock)
}

// hold takes hold of the sockets: nobody else's HAProxy, nor the agent of one, uses them after that.
func (s *Supervisor) hold(ctx context.Context) (*os.File, error) {
	if err := s.cfg.validate(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(s.cfg.MasterSocket), 0o755); err != nil { //nolint:gosec // HAProxy runs as another user
		return nil, fmt.Errorf("directory of haproxy's sockets: %w", err)
	}
	return s.vacant(ctx)
}

// run is Run with the sockets in hold, which it gives up at its end.
func (s *Supervisor) run(ctx context.Context, lock *os.File) error {
	defer lock.Close() // it was only locked
	adoptOrphans()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// The kernel sends a child its parent's death signal when the thread that forked it ends, so
		// this thread is kept for as long as there are children, and thrown away after that.
		runtime.LockOSThread()
		s.supervise(ctx)
	}()
	<-ended
	return ctx.Err()
}

// prSetChildSubreaper is Linux' number for it; the syscall package does not name it.
const prSetChildSubreaper = 36

// adoptOrphans makes workers whose master was killed children of this process, so that they can be
// waited for and leave no zombies.
func adoptOrphans() {
	syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0) //nolint:errcheck // init gets them then
}

// vacant waits until nobody uses the sockets, and takes a lock on them. The HAProxy of an agent that
// was killed a moment ago is about to go; another one is somebody else's.
func (s *Supervisor) vacant(ctx context.Context) (*os.File, error) {
	lock, err := os.OpenFile(s.cfg.MasterSocket+".lock", os.O_CREATE|os.O_RDONLY, 0o640) //nolint:gosec // for the agent's group
	if err != nil {
		return nil, fmt.Errorf("lock haproxy's sockets: %w", err)
	}
	limit, cancel := context.WithTimeout(ctx, vacateLimit)
	defer cancel()
	for {
		locked := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
		if locked && len(Answering(limit, s.cfg)) == 0 {
			return lock, nil
		}
		if pause(limit, pollEvery) == nil {
			continue
		}
		lock.Close() // nothing was written
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("another haproxy, or its agent, uses %s: stop it, or give this agent sockets and a --haproxy-config of its own; to drive a haproxy that runs, --haproxy external", s.cfg.MasterSocket)
	}
}

// supervise starts HAProxy again and again.
func (s *Supervisor) supervise(ctx context.Context) {
	backoff := restartMin
	for ctx.Err() == nil {
		began := time.Now()
		err := s.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > ranWell {
			backoff = restartMin
		}
		s.cfg.Log.WithError(err).WithField("again_in", backoff.String()).Warn("haproxy ended")
		if s.ended != nil {
			s.ended(err)
		}
		if s.cfg.Report != nil {
			s.cfg.Report(err)
		}
		if pause(ctx, backoff) != nil {
			return
		}
		backoff = min(2*backoff, restartMax)
	}
}

// once runs HAProxy until it ends or ctx does.
func (s *Supervisor) once(ctx context.Context) error {
	err := Prepare(ctx, s.cfg)
	if asRefused(err) != nil {
		s.cfg.Log.WithError(err).Warn("haproxy refuses the configuration on disk; starting with a minimal one")
	} else if err != nil {
		return err
	}
	began := time.Now()
	c, err := s.start()
	if err != nil {
		return fmt.Errorf("start haproxy: %w", err)
	}
	err = s.attend(ctx, c)
	c.end()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	err = fmt.Errorf("haproxy ended: %w", err)
	if words := strings.Join(s.alerts.since(c.mark), "; "); words != "" {
		err = fmt.Errorf("%w (%s)", err, words)
	}
	// HAProxy ends with 1 when it cannot start with its configuration, for instance because an
	// address is taken, which its check does not see.
	if c.cmd.ProcessState.ExitCode() == 1 && time.Since(began) < ranWell {
		if aside := setAside(s.cfg); aside != nil {
			return fmt.Errorf("%w; %w", err, aside)
		}
	}
	return err
}

// child is one started HAProxy.
type child struct {
	cmd    *exec.Cmd
	exited chan error
	output *os.File
	read   chan struct{}
	mark   int // of the alerts before its start
}

// start forks HAProxy as the leader of a process group.
func (s *Supervisor) start() (*child, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	args := ExecArgs(s.cfg)
	cmd := exec.Command(args[0], args[1:]...) //nolint:noctx // it is stopped by signals
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	c := &child{cmd: cmd, exited: make(chan error, 1), output: r, read: make(chan struct{}), mark: s.alerts.mark()}
	err = cmd.Start()
	w.Close() // the child has its own
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	go func() { c.exited <- cmd.Wait() }()
	go func() {
		defer close(c.read)
		s.listen(r)
	}()
	s.cfg.Log.WithField("pid", cmd.Process.Pid).Info("haproxy started")
	return c, nil
}

// attend waits until HAProxy ends by itself, or stops it when ctx is done.
func (s *Supervisor) attend(ctx context.Context, c *child) error {
	select {
	case err := <-c.exited:
		return orEnded(err)
	case <-ctx.Done():
	}
	for _, step := range []struct {
		signal syscall.Signal
		limit  time.Duration
	}{{syscall.SIGUSR1, s.cfg.StopGrace}, {syscall.SIGTERM, killAfter}} {
		c.cmd.Process.Signal(step.signal) //nolint:errcheck // gone is fine
		limit := time.NewTimer(step.limit)
		select {
		case err := <-c.exited:
			limit.Stop()
			return orEnded(err)
		case <-limit.C:
		}
	}
	syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) //nolint:errcheck // gone is fine
	return <-c.exited
}

// orEnded gives an exit without an error a name.
func orEnded(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// end kills and buries what is left of the process group: workers live on when their master is
// killed, and would take a share of the traffic with an old configuration.
func (c *child) end() {
	bury(c.cmd.Process.Pid)
	c.output.SetReadDeadline(time.Now().Add(time.Second)) //nolint:errcheck // then the reader waits for the end
	<-c.read
	c.output.Close() // read to its end
}

// bury ends what is left of a process group whose leader was waited for, and leaves no zombie of it.
func bury(group int) {
	deadline := time.NewTimer(vacateLimit)
	defer deadline.Stop()
	for {
		err := syscall.Kill(-group, syscall.SIGKILL)
		for {
			pid, _ := syscall.Wait4(-group, nil, syscall.WNOHANG, nil) // none left is fine
			if pid <= 0 {
				break
			}
		}
		if errors.Is(err, syscall.ESRCH) {
			break
		}
		tick := time.NewTimer(pollEvery)
		select {
		case <-tick.C:
			continue
		case <-deadline.C: // only zombies that are not ours to bury
			tick.Stop()
		}
		break
	}
}

// listen passes on what HAProxy prints.
func (s *Supervisor) listen(r io.Reader) {
	lines := bufio.NewReader(r)
	for {
		text, err := lines.ReadString('\n')
		if text = strings.TrimSpace(text); text != "" {
			s.line(text)
		}
		if err != nil {
			return
		}
	}
}

// aboutRequest begins HAProxy's lines about requests and connections: the client and the time, or a JSON object.
var aboutRequest = regexp.MustCompile(`^(?:\{"time":"|\S+:\d+ \[\d\d/[A-Z][a-z]{2}/\d{4}:)`)

func (s *Supervisor) line(text string) {
	if aboutRequest.MatchString(text) {
		fmt.Fprintln(s.cfg.Access, text) // who does not read it does not stop HAProxy
		return
	}
	log := s.cfg.Log.WithField("line", text)
	level := logrus.InfoLevel
	switch {
	case strings.Contains(text, asker): // see learn
		level = logrus.DebugLevel
	case strings.HasPrefix(text, "[ALERT]"):
		level = logrus.WarnLevel
		if !strings.HasSuffix(text, "has no server available!") { // which is no reason to end, nor to refuse a reload
			s.alerts.add(text)
		}
	case strings.HasPrefix(text, "[NOTICE]"), strings.HasPrefix(text, "[WARNING]"), isProxyNotice(text):
		level = logrus.DebugLevel
	}
	switch level {
	case logrus.WarnLevel:
		log.Warn("haproxy says")
	case logrus.DebugLevel:
		log.Debug("haproxy says")
	default:
		log.Info("haproxy says")
	}
}

// isProxyNotice tells the lines that HAProxy prints at each reload, one for every proxy.
func isProxyNotice(text string) bool {
	return strings.HasPrefix(text, "Proxy ") && (strings.Contains(text, " stopped (") || strings.Contains(text, " started"))
}

// alertRing holds the last alerts, for the reason of a failed reload.
type alertRing struct {
	mu    sync.Mutex
	lines []string
	total int
}

const keptAlerts = 50

func (r *alertRing) add(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total++
	r.lines = append(r.lines, text)
	r.lines = r.lines[max(0, len(r.lines)-keptAlerts):]
}

// mark is a moment for since.
func (r *alertRing) mark() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total
}

// since are the alerts after a mark, as far as they are kept.
func (r *alertRing) since(mark int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(r.total-mark, len(r.lines))
	return alertsOf(strings.Join(r.lines[len(r.lines)-n:], "\n"))
}
