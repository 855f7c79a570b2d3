package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit in which the kernel tells of the time that ended children took.
const tick = 10 * time.Millisecond

// cpu is the processor time that a process and its children took so far, those that ended and were
// waited for included. Unlike the time on the clock it means much on a busy machine, too.
func cpu(pid int) time.Duration {
	total := ownCPU(pid) + endedCPU(pid)
	for _, child := range children(pid) {
		total += cpu(child)
	}
	return total
}

// ownCPU is what the threads of a process took.
func ownCPU(pid int) time.Duration {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0
	}
	var total time.Duration
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if words := strings.Fields(string(text)); err == nil && len(words) > 0 {
			ns, _ := strconv.ParseInt(words[0], 10, 64)
			total += time.Duration(ns)
		}
	}
	return total
}

// endedCPU is what children took that are gone.
func endedCPU(pid int) time.Duration {
	f := stat(pid)
	if len(f) < 15 {
		return 0
	}
	user, _ := strconv.Atoi(f[13])
	system, _ := strconv.Atoi(f[14])
	return time.Duration(user+system) * tick
}

// children are the processes whose parent this one is.
func children(pid int) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []int
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if f := stat(child); len(f) > 1 && f[1] == strconv.Itoa(pid) {
			found = append(found, child)
		}
	}
	return found
}

// stat are the words about a process behind its name, which may hold blanks: the state, the parent, ….
func stat(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
}

// cost is what something took of processors, and by the clock.
type cost struct{ cpu, clock time.Duration }

// spent is what HAProxy's processes spent on something, up to the end of a worker that it replaced,
// which the clock does not wait for.
func (p *proxy) spent(ctx context.Context, do func() error) (cost, error) {
	pid := p.process.cmd.Process.Pid
	before, began := cpu(pid), time.Now()
	if err := do(); err != nil {
		return cost{}, err
	}
	clock := time.Since(began)
	if err := p.settled(ctx); err != nil {
		return cost{}, err
	}
	return cost{cpu(pid) - before, clock}, nil
}

// spentWithUs is spent and what this program took meanwhile, with its checks.
func (p *proxy) spentWithUs(ctx context.Context, do func() error) (cost, error) {
	var ours time.Duration
	c, err := p.spent(ctx, func() error {
		self := os.Getpid()
		before := ownCPU(self) + endedCPU(self)
		err := do()
		ours = ownCPU(self) + endedCPU(self) - before
		return err
	})
	c.cpu += ours
	return c, err
}
