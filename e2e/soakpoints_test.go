package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// killPoints are moments at which the agent was killed, or stopped for a moment: what is on disk then is
// what the next start of HAProxy would find. Each set of files is checked once.
type killPoints struct {
	soak  *soak
	queue chan string // directories with copies to check

	mu     sync.Mutex
	seen   map[[sha256.Size]byte]bool
	count  int // points taken
	judged int // different sets of files that HAProxy was asked about
	found  []error
}

func newKillPoints(s *soak) *killPoints {
	return &killPoints{soak: s, queue: make(chan string, 1000), seen: map[[sha256.Size]byte]bool{}}
}

// wrong notes what must never be.
func (k *killPoints) wrong(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	first, _, _ := strings.Cut(err.Error(), "\n")
	k.soak.log.add("WRONG: %s", first)
	if len(k.found) < 3 {
		k.found = append(k.found, err)
	}
}

// fault is what must never be and was.
func (k *killPoints) fault() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return errors.Join(k.found...)
}

func (k *killPoints) taken() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.count
}

func (k *killPoints) different() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.judged
}

// follow stops the agent again and again for as long as a copy takes, and has the copies checked, those
// that are left when ctx ends as well.
func (k *killPoints) follow(ctx context.Context) {
	var checking sync.WaitGroup
	defer checking.Wait()
	defer func() { k.queue <- "" }()
	checking.Go(func() {
		for dir := range k.queue {
			if dir == "" {
				return // that was the last
			}
			k.judge(context.WithoutCancel(ctx), dir)
		}
	})
	for ctx.Err() == nil {
		wait(ctx, rand.N(60*time.Millisecond))
		if err := k.stopped(); err != nil && ctx.Err() == nil {
			k.wrong(err)
		}
	}
}

// stopped takes a point without killing, unless the agent is being killed anyway.
func (k *killPoints) stopped() error {
	if !k.soak.agentLock.TryLock() {
		return nil
	}
	defer k.soak.agentLock.Unlock()
	agent := k.soak.agent
	agent.Signal(syscall.SIGSTOP)
	defer agent.Signal(syscall.SIGCONT)
	for !halted(agent.PID()) {
		if ended, _ := agent.Ended(); ended {
			return nil // the next who looks tells it
		}
	}
	return k.take()
}

// halted tells whether every thread of a process has stopped.
func halted(pid int) bool {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(stats) == 0 {
		return false
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		_, state, _ := strings.Cut(string(text), ") ")
		if err == nil && !strings.HasPrefix(state, "T") {
			return false
		}
	}
	return true
}

// take copies the files that HAProxy reads, if they were not seen before, while nobody writes them.
func (k *killPoints) take() error {
	live := filepath.Dir(k.soak.config())
	if _, err := os.Stat(k.soak.config()); errors.Is(err, os.ErrNotExist) {
		return nil // before the first
	}
	if _, err := os.Stat(k.soak.config() + ".refused"); err == nil {
		// Somebody who ends HAProxy after each of its starts, before an agent has seen it run, is like a text that does.
		if k.soak.ends.Load() < 2 {
			k.wrong(errors.New("a configuration on disk was refused at a start of haproxy and set aside (F8)"))
		}
		return os.Remove(k.soak.config() + ".refused")
	}
	dir, err := os.MkdirTemp(k.soak.dir, "point")
	if err != nil {
		return err
	}
	sum, err := copyFiles(live, dir)
	if err != nil {
		return err
	}
	k.mu.Lock()
	k.count++
	again := k.seen[sum]
	k.seen[sum] = true
	k.mu.Unlock()
	if again {
		return os.RemoveAll(dir)
	}
	k.queue <- dir
	return nil
}

// copyFiles copies plain files and links, but none that an atomic write has not finished, and returns
// what tells sets of them apart.
func copyFiles(from, to string) (sum [sha256.Size]byte, err error) {
	all := sha256.New()
	err = filepath.WalkDir(from, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(from, path) // it is below
		target := filepath.Join(to, name)
		switch {
		case entry.IsDir():
			return os.MkdirAll(target, 0o755)
		case entry.Type()&os.ModeSymlink != 0:
			link, err := os.Readlink(path)
			fmt.Fprintf(all, "%s -> %s\n", name, link)
			return errors.Join(err, os.Symlink(link, target))
		case !entry.Type().IsRegular() || strings.HasPrefix(entry.Name(), "."):
			return nil
		}
		text, err := os.ReadFile(path)
		fmt.Fprintf(all, "%s %d\n%s", name, len(text), text)
		return errors.Join(err, os.WriteFile(target, text, 0o600))
	})
	return [sha256.Size]byte(all.Sum(nil)), err
}

// judge has HAProxy check a copy, and removes it.
func (k *killPoints) judge(ctx context.Context, dir string) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	k.mu.Lock()
	k.judged++
	k.mu.Unlock()
	if err := accepted(ctx, k.soak.bin, filepath.Join(dir, filepath.Base(k.soak.config()))); err != nil {
		k.wrong(fmt.Errorf("the agent could have been killed here (P6): %w", err))
		return
	}
	if err := os.RemoveAll(dir); err != nil {
		k.wrong(err)
	}
}

// accepted has HAProxy check a file; an alert is a refusal.
func accepted(ctx context.Context, bin, path string) error {
	cmd := exec.CommandContext(ctx, bin, "-c", "-f", path)
	cmd.Dir = filepath.Dir(path)
	out, err := cmd.CombinedOutput()
	if err == nil && !bytes.Contains(out, []byte("[ALERT]")) {
		return nil
	}
	text, readErr := os.ReadFile(path)
	return fmt.Errorf("haproxy refuses %s: %w\n%s\nthe file:\n%s", path, errors.Join(err, readErr), out, text)
}

// portShared tells whether two HAProxys, each with its master, listen at the HTTP port of this world.
func (s *soak) portShared() string {
	sockets := s.listeners()
	if len(sockets) < 2 {
		return ""
	}
	masters := map[int][]int{}
	for _, pid := range s.pids() {
		group, err := syscall.Getpgid(pid)
		if err == nil && holdsAny(pid, sockets) {
			masters[group] = append(masters[group], pid)
		}
	}
	if len(masters) < 2 {
		return ""
	}
	return fmt.Sprintf("two haproxys listen at %s: processes %v by their group (fact 12)", s.httpAddr(), masters)
}

// listeners are the sockets that listen at the HTTP port, by their inodes.
func (s *soak) listeners() map[string]bool {
	f, err := os.Open("/proc/net/tcp")
	if err != nil {
		return nil
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return nil
	}
	want := hexAddress(s.addr, 8080)
	found := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 9 && f[1] == want && f[3] == "0A" {
			found["socket:["+f[9]+"]"] = true
		}
	}
	return found
}

// hexAddress is an IPv4 address as /proc writes it on this kind of machine.
func hexAddress(addr string, port int) string {
	var b [4]byte
	fmt.Sscanf(addr, "%d.%d.%d.%d", &b[0], &b[1], &b[2], &b[3])
	return fmt.Sprintf("%02X%02X%02X%02X:%04X", b[3], b[2], b[1], b[0], port)
}

// holdsAny tells whether a process holds one of these sockets.
func holdsAny(pid int, sockets map[string]bool) bool {
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && sockets[to] {
			return true
		}
	}
	return false
}
