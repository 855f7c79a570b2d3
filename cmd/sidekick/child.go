package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// exitError ends this process with a command's own exit code.
type exitError struct {
	error
	code int
}

func (e exitError) Unwrap() error { return e.error }

// child is a command that runs along with this one. nil is none.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // of its end; read only after that
}

// startChild starts a command, if one is given, with this process's input and output. ended is called
// when it has.
func startChild(command []string, ended func()) (*child, error) {
	if len(command) == 0 {
		return nil, nil //nolint:nilnil // none is what was asked for
	}
	c := &child{cmd: exec.Command(command[0], command[1:]...), done: make(chan struct{})} //nolint:noctx // it is told to end by a signal of its own, and waited for
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} // it does not outlive this process
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the thread ends that started the command, so this one stays.
		runtime.LockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			c.err = c.cmd.Wait()
			close(c.done)
			ended()
		}
	}()
	if err := <-started; err != nil {
		return nil, usageError{fmt.Errorf("%s cannot be run: %w", command[0], err)}
	}
	return c, nil
}

// end tells the command to end unless it has, waits for that, and returns an error with its exit code
// unless that is 0.
func (c *child) end() error {
	if c == nil {
		return nil
	}
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // fails when it has ended
	<-c.done
	exit, ok := errors.AsType[*exec.ExitError](c.err)
	switch {
	case c.err == nil:
		return nil
	case !ok:
		return fmt.Errorf("%s: %w", c.cmd.Path, c.err)
	}
	code := exit.ExitCode()
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		code = 128 + int(status.Signal()) // as shells say it
	}
	return exitError{fmt.Errorf("%s has ended: %w", c.cmd.Path, c.err), code}
}
