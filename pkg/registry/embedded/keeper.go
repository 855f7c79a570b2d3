package embedded

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// goodLife is how long a server has to live for its end to count as the first one.
	goodLife = time.Minute
	// firstPause and longestPause are the times before it is started again.
	firstPause, longestPause = time.Second, 30 * time.Second
	// stopLimit is how long a server may take to end.
	stopLimit = 10 * time.Second
)

// Keeper runs a server in a process of its own, and starts it again when it ends. So what etcd cannot go
// on after, a full disk or a damaged file, ends etcd and not the agent that serves the proxy: it ends its
// process at such things, and no recover helps.
type Keeper struct {
	// Command is the program, with arguments, that calls [Serve] with its standard input and output.
	Command []string
	// Name is what the program is called by, if that is not its path.
	Name string
	// Dir is the state directory that it works in.
	Dir string
	Log logrus.FieldLogger
	// Stderr takes what it logs, which is passed on as it is.
	Stderr io.Writer
	// Patience is how long Start waits for it.
	Patience time.Duration

	process *process // of which Start, Run and Stop know, one after the other
}

// Endpoint is the URL by which clients on this host reach the server.
func (k *Keeper) Endpoint() string { return "unix://" + socket(k.Dir) }

// Start starts the server, and returns when it serves, or with the reason when it never will: a [Refused].
// Of what may pass it is only told in the log; Run tries again.
func (k *Keeper) Start(ctx context.Context) error {
	patience, cancel := context.WithTimeout(ctx, k.Patience)
	defer cancel()
	err := k.begin(patience)
	switch {
	case errors.As(err, new(Refused)), ctx.Err() != nil:
		return err
	case errors.Is(err, context.DeadlineExceeded):
		k.Log.Warn("the embedded etcd takes its time to start: what was routed before is served until it is there")
	case err != nil:
		k.Log.WithError(err).Error("there is no registry: the embedded etcd did not start; it is tried again")
	}
	return nil
}

// Run starts the server again whenever it has ended, until ctx is done. The server itself goes on then.
func (k *Keeper) Run(ctx context.Context) error {
	pause, told := firstPause, ""
	for {
		lived, reason, err := k.process.wait(ctx)
		if err != nil {
			return err
		}
		if lived >= goodLife {
			pause, told = firstPause, ""
		}
		if why := reason.Error(); why != told { // each attempt may fail alike for days
			told = why
			k.Log.WithError(reason).WithField("again_in", pause.String()).Error("the embedded etcd ended: what is routed stays as it is until it is back")
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause = min(2*pause, longestPause)
		if err := k.begin(ctx); err == nil {
			k.Log.Info("the embedded etcd serves again")
		}
	}
}

// Stop ends the server, and returns when its data is on disk. Neither Start nor Run may be under way.
func (k *Keeper) Stop() error {
	if k.process == nil {
		return nil
	}
	return k.process.stop()
}

// begin starts a process and waits until it serves or has ended.
func (k *Keeper) begin(ctx context.Context) error {
	p, err := k.startProcess()
	k.process = p
	if err != nil {
		return err
	}
	select {
	case <-p.ready:
		return nil
	case <-p.ended:
		return p.reason
	case <-ctx.Done():
		return ctx.Err()
	}
}

// process is one run of the server. Its fields but the channels are read after ended is closed.
type process struct {
	dir    string
	cmd    *exec.Cmd
	stdin  io.Closer
	began  time.Time
	ready  chan struct{} // closed when it serves
	ended  chan struct{} // closed when it has ended
	reason error
}

// startProcess starts a run. The process it returns has ended if there is an error.
func (k *Keeper) startProcess() (*process, error) {
	p := &process{
		dir:   k.Dir,
		cmd:   exec.Command(k.Command[0], k.Command[1:]...), //nolint:noctx // it is told to end by its input, and waited for
		began: time.Now(), ready: make(chan struct{}), ended: make(chan struct{}),
	}
	p.cmd.Args[0] = cmp.Or(k.Name, p.cmd.Args[0])
	// A group of its own: a Ctrl-C on the terminal is for the agent, which needs its registry to the last.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	crash := &crashSieve{out: k.Stderr}
	p.cmd.Stderr = crash
	out, err := p.pipes()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		p.reason = fmt.Errorf("start the embedded etcd's process: %w", err)
		close(p.ended)
		return p, p.reason
	}
	go p.follow(out, crash)
	return p, nil
}

func (p *process) pipes() (out io.Reader, err error) {
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	return p.cmd.StdoutPipe()
}

// follow reads what the process says of itself, to its end.
func (p *process) follow(out io.Reader, crash *crashSieve) {
	lines := bufio.NewScanner(out)
	var said error
	for lines.Scan() {
		word, reason, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case wordReady:
			close(p.ready)
		case wordRefused:
			said = Refused{errors.New(reason)}
		case wordFailed:
			said = errors.New(reason)
		}
	}
	err := p.cmd.Wait()
	p.reason = p.why(said, crash.first, err)
	close(p.ended)
}

// why makes one reason of what the process said, what Go said for it as it crashed, and how it ended.
func (p *process) why(said error, crashed string, err error) error {
	switch {
	case said != nil:
		return said
	case crashed == "" && err == nil:
		return errors.New("it was stopped")
	case crashed == "":
		return fmt.Errorf("its process ended: %w", err)
	}
	err = fmt.Errorf("the embedded etcd crashed: %s; if it does so at each start, its data in %s is damaged: %s", crashed, data(p.dir), afresh)
	select {
	case <-p.ready:
		return err
	default:
		return Refused{err}
	}
}

// wait blocks until the process has ended, and says why and after what time, or returns ctx's error.
func (p *process) wait(ctx context.Context) (lived time.Duration, reason, err error) {
	select {
	case <-p.ended:
		return time.Since(p.began), p.reason, nil
	case <-ctx.Done():
		return 0, nil, ctx.Err()
	}
}

// stop tells the process to end, and ends it if it does not.
func (p *process) stop() error {
	if p.stdin != nil {
		_ = p.stdin.Close() // it is closed already when the process has ended
	}
	select {
	case <-p.ended:
		return nil
	case <-time.After(stopLimit):
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end the embedded etcd: %w", err)
	}
	<-p.ended
	return fmt.Errorf("the embedded etcd did not end within %v and was killed; it mends that at its next start", stopLimit)
}
