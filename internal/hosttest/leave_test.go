package hosttest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sidekick-proxy/sidekick/internal/hosttest"
)

func TestCloseLeavesNothing(t *testing.T) {
	ctx, probe := limits(t), build(t)
	dir := shortDir(t)
	n := open(ctx, t, dir)
	h := hosts(ctx, t, n, "h1")[0]
	t.Setenv("DOCKER_HOST", h.DockerHost())
	if err := startProbe(ctx, probe); err != nil {
		t.Fatal(err)
	}
	visitor := h.Command(ctx, "sleep", "infinity")
	if err := visitor.Start(); err != nil {
		t.Fatal(err)
	}
	made := find(t, dir)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := visitor.Wait(); err == nil {
		t.Error("a command on the host ended by itself, want that it was killed")
	}
	if got := made.left(t); len(got) > 0 {
		t.Errorf("left:\n%s", strings.Join(got, "\n"))
	}
	if err := n.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

func TestOpenRemovesWhatTheDeadLeft(t *testing.T) {
	ctx, probe := limits(t), build(t)
	alive := open(ctx, t, shortDir(t))
	dir := shortDir(t)
	owner := startOwner(ctx, t, dir, probe)
	made := find(t, dir)
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait()
	next := open(ctx, t, shortDir(t))
	// The kernel removes the processes and the link, in its own time.
	eventually(ctx, t, func() (string, error) {
		if got := made.left(t); len(got) > 0 {
			return "", errors.New("left:\n" + strings.Join(got, "\n"))
		}
		return "", nil
	})
	if alive.Addr == next.Addr {
		t.Errorf("two networks with one address, %s", next.Addr)
	}
	hosts(ctx, t, alive, "h1")
}

// startOwner starts a process that owns a network in dir, with a host, a container on it and a command.
func startOwner(ctx context.Context, t *testing.T, dir, probe string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "HOSTTEST_OWNER="+dir, "HOSTTEST_PROBE="+probe)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "up" {
		t.Fatalf("owner: got %q, want up (%v)", lines.Text(), cmd.Wait())
	}
	return cmd
}

func TestOpenAndHostRefuse(t *testing.T) {
	ctx := limits(t)
	full := shortDir(t)
	if err := os.WriteFile(filepath.Join(full, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := hosttest.Open(ctx, full)
	refused(t, "a directory that is not empty", err, "holds precious already")
	if _, err := os.Stat(filepath.Join(full, "precious")); err != nil {
		t.Errorf("the refused directory has lost its file: %v", err)
	}
	n := open(ctx, t, filepath.Join(shortDir(t), strings.Repeat("x", 60)))
	_, err = n.Host(ctx, "host-in-a-long-directory")
	refused(t, "a long path", err, "open the network in a shorter directory")
	_, err = n.Host(ctx, "../h1")
	refused(t, "a name that is a path", err, "small letters, digits and hyphens")
	hosts(ctx, t, n, "h1")
	_, err = n.Host(ctx, "h1")
	refused(t, "a second host of a name", err, "there is one already")
	t.Setenv("PATH", "/nowhere")
	_, err = hosttest.Open(ctx, shortDir(t))
	refused(t, "a machine without programs", err, "need dockerd, iptables, ip, nsenter, unshare, setpriv, mount: install")
}

func refused(t *testing.T, what string, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: got %v, want an error that says %q", what, err, want)
	}
}

// traces is what there is of a network, to look for afterwards. Another network may have its number
// by then, and things of the same names.
type traces struct {
	dir    string
	entry  string // in the list of networks
	port   int    // index of this process's port
	groups map[string]fs.FileInfo
}

func find(t *testing.T, dir string) traces {
	t.Helper()
	found := traces{dir: dir, groups: map[string]fs.FileInfo{}}
	for _, entry := range glob(t, "/run/sidekick-hosttest/[0-9]*") {
		if target, _ := os.Readlink(entry); target == dir {
			found.entry = entry
		}
	}
	number := filepath.Base(found.entry)
	port, err := net.InterfaceByName("sktest" + number)
	if err != nil {
		t.Fatal(err)
	}
	found.port = port.Index
	name := "sidekick-hosttest-" + number
	for _, root := range glob(t, "/sys/fs/cgroup/"+name, "/sys/fs/cgroup/*/"+name) {
		for _, path := range glob(t, root, root+"/h1", root+"/h1/*") {
			if info, err := os.Stat(path); err == nil && info.IsDir() {
				found.groups[path] = info
			}
		}
	}
	if len(found.groups) < 3 {
		t.Fatalf("control groups: got %v, want those of a network, a host and a container", found.groups)
	}
	if got := processes(t, dir); len(got) < 6 {
		t.Fatalf("processes: got %q, want holders, an engine with its helpers, a container and a command", got)
	}
	return found
}

// left is what is still there: processes (a namespace has at least one), mounts, control groups,
// the port, files.
func (tr traces) left(t *testing.T) []string {
	t.Helper()
	found := processes(t, tr.dir)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, tr.dir) {
			found = append(found, line)
		}
	}
	for path, before := range tr.groups {
		if after, err := os.Stat(path); err == nil && os.SameFile(before, after) {
			found = append(found, path)
		}
	}
	if port, err := net.InterfaceByIndex(tr.port); err == nil {
		found = append(found, port.Name)
	}
	if target, _ := os.Readlink(tr.entry); target == tr.dir {
		found = append(found, tr.entry)
	}
	if _, err := os.Lstat(tr.dir); !errors.Is(err, fs.ErrNotExist) {
		found = append(found, tr.dir)
	}
	return found
}

// processes are those with mounts in a network's directory, or with their output in it.
func processes(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	for _, p := range glob(t, "/proc/[0-9]*") {
		mounts, _ := os.ReadFile(p + "/mountinfo") // the process may end just now
		stdout, _ := os.Readlink(p + "/fd/1")
		if strings.Contains(string(mounts), dir+"/") || strings.Contains(stdout, dir+"/") {
			line, _ := os.ReadFile(p + "/cmdline")
			found = append(found, fmt.Sprintf("%s %q", p, line))
		}
	}
	return found
}

func glob(t *testing.T, patterns ...string) []string {
	t.Helper()
	var found []string
	for _, pattern := range patterns {
		more, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, more...)
	}
	return found
}
