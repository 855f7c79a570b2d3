package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a program that the benchmark started and will end.
type process struct {
	cmd  *exec.Cmd
	log  bytes.Buffer
	done chan struct{}
}

func start(name string, args ...string) (*process, error) {
	return startWith(nil, nil, name, args...)
}

// startWith starts a program that reads and writes these files, where they are not nil.
func startWith(in, out *os.File, name string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	if in != nil {
		p.cmd.Stdin = in
	}
	if out != nil {
		p.cmd.Stdout = out
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	return p, nil
}

// stop ends the process and everything in its group.
func (p *process) stop() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// memory is what a process holds, in MB.
type memory struct {
	own     float64 // its data
	program float64 // the pages of the program itself, which processes of one image share
	peak    float64 // of both together
}

// memory reads what the process holds now.
func (p *process) memory() (memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return memory{}, err
	}
	var m memory
	fields := map[string]*float64{"RssAnon:": &m.own, "RssFile:": &m.program, "VmHWM:": &m.peak}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) > 1 && fields[words[0]] != nil {
			kb, _ := strconv.ParseFloat(words[1], 64)
			*fields[words[0]] = kb / 1024
		}
	}
	return m, nil
}

// until calls try, again and again, until it says yes or a minute is over.
func until(ctx context.Context, what string, p *process, try func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for !try() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within a minute; last output:\n%s", what, tail(p.log.String()))
		case <-p.done:
			return fmt.Errorf("%s: the process ended:\n%s", what, tail(p.log.String()))
		case <-time.After(200 * time.Microsecond):
		}
	}
	return nil
}

func tail(text string) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
