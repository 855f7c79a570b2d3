// Package proctest runs other programs for the end-to-end tests and the demo: each with its output
// in a file, and none that outlives the program that started it.
package proctest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Process is a program that was started.
type Process struct {
	Name string
	log  string
	pid  int
	done chan struct{}
	err  error // how it ended; read it after done is closed
}

// Start runs a program, with its output appended to the file log. The program does not see the
// SIDEKICK_* variables of this process, which may be a developer's own settings. If this process
// dies, the program gets SIGTERM.
func Start(name, log, program string, args ...string) (*Process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	cmd := exec.Command(program, args...) //nolint:noctx // ended by End and Kill, and by this process's death
	cmd.Stdout, cmd.Stderr, cmd.Env = out, out, Environ()
	// A group of its own, so that a Ctrl-C on the terminal does not reach it: who started it says
	// when and in what order things end.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	p := &Process{Name: name, log: log, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the thread ends that started the program, so this one stays.
		runtime.LockOSThread()
		defer out.Close()
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// Environ is this process's environment without the SIDEKICK_* variables.
func Environ() []string {
	var env []string
	for _, entry := range os.Environ() { //nolint:forbidigo // handed on
		if !strings.HasPrefix(entry, "SIDEKICK_") {
			env = append(env, entry)
		}
	}
	return env
}

// PID is the process's number.
func (p *Process) PID() int { return p.pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Ended says whether the process has ended, and how.
func (p *Process) Ended() (bool, error) {
	select {
	case <-p.done:
		return true, p.err
	default:
		return false, nil
	}
}

// Signal sends a signal; a process that has ended gets none.
func (p *Process) Signal(signal syscall.Signal) {
	if ended, _ := p.Ended(); !ended {
		_ = syscall.Kill(p.pid, signal) // it may end just now
	}
}

// Kill ends the process at once, as a crash does.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// End asks the process to end and waits for it; after the patience it is killed, which is an error.
func (p *Process) End(patience time.Duration) error {
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
		p.Kill()
		return errors.New(p.Name + " had to be killed: it did not end in " + patience.String() + " after SIGTERM")
	}
}

// Tail is the last lines of the program's output.
func (p *Process) Tail(lines int) string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
