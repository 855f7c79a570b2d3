package haproxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// latch lets a test hold an answer back.
type latch struct {
	started, end chan struct{}
}

// slowServer answers "slow" when the test says so.
func slowServer(tb testing.TB) (addr string, l latch) {
	tb.Helper()
	l = latch{started: make(chan struct{}), end: make(chan struct{})}
	var once sync.Once
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		once.Do(func() { close(l.started) })
		<-l.end
		w.Header().Set("Connection", "close") // an idle connection would put the deletion off
		io.WriteString(w, "slow")
	}))
	tb.Cleanup(s.Close)
	return s.Listener.Addr().String(), l
}

// helper is an agent as a process of its own: this test's program, started anew to do one thing with
// the HAProxy of cfg, as another user perhaps.
func helper(tb testing.TB, does string, cfg Config, as *syscall.SysProcAttr) *exec.Cmd {
	tb.Helper()
	agent := exec.Command("/proc/self/exe") // also where the other user may not look
	agent.SysProcAttr = as
	agent.Env = append(os.Environ(), "SIDEKICK_TEST_HELPER="+strings.Join([]string{does, cfg.Bin, filepath.Dir(cfg.Path)}, ":"))
	agent.Stderr = os.Stderr
	if err := agent.Start(); err != nil {
		tb.Fatal(err)
	}
	return agent
}

// runHelper is what that process does.
func runHelper(helper string) int {
	words := strings.SplitN(helper, ":", 3)
	cfg := configIn(words[2], words[1])
	var err error
	switch words[0] {
	case "apply":
		err = applyUntilKilled(cfg)
	case "apply each":
		err = applyEach(cfg)
	case "haproxy":
		err = becomeHAProxy(cfg)
	default:
		err = NewSupervisor(cfg).Run(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestKilledAgentTakesHAProxyAlong: master and worker end with an agent that was killed, so that no
// orphan takes a share of the traffic.
func TestKilledAgentTakesHAProxyAlong(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		t.Parallel() // it waits most of the time
		cfg := configFor(t, t.Bin)
		agent := helper(t, "supervise", cfg, nil)
		var p processes
		haproxytest.Until(t, "haproxy to run", func() bool {
			var err error
			p, err = masterCLI{cfg.MasterSocket}.processes(t.Context())
			return err == nil && p.current() != 0
		})
		// A second one refuses while the first lives.
		ctx, cancel := context.WithTimeout(t.Context(), haproxytest.Patience)
		defer cancel()
		if err := NewSupervisor(cfg).Run(ctx); err == nil || ctx.Err() != nil {
			t.Errorf("a second supervisor on the same socket: got %v, want a refusal", err)
		}
		if err := agent.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		agent.Wait()
		for _, pid := range []int{p.master, p.current()} {
			haproxytest.Until(t, fmt.Sprintf("process %d to end", pid), func() bool { return !alive(pid) })
		}
	})
}

// alive tells whether a process runs; one that waits to be buried does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	var id int
	var name, state string
	fmt.Sscanf(string(stat), "%d %s %s", &id, &name, &state)
	return state != "Z"
}

// TestFirstProcessOfAContainer: as process 1 the agent has one HAProxy, whichever process of that is killed,
// leaves no zombie, and takes all along when it ends.
func TestFirstProcessOfAContainer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("left out: only root can make a pid namespace")
	}
	haproxytest.Each(t, func(t haproxytest.T) {
		b := &bench{cfg: configFor(t, t.Bin), addr: haproxytest.Address(t, "127.0.0.43")}
		slow, release := slowServer(t)
		finish := sync.OnceFunc(func() { close(release.end) })
		t.Cleanup(finish)
		if err := os.WriteFile(b.cfg.Path, []byte(b.text("", "s1 "+slow)), 0o600); err != nil {
			t.Fatal(err)
		}
		agent := helper(t, "supervise", b.cfg, &syscall.SysProcAttr{Setpgid: true, Cloneflags: syscall.CLONE_NEWPID})
		t.Cleanup(func() { agent.Process.Kill() })
		got := make(chan error, 1)
		for i, name := range []string{"master", "worker", "master", "worker"} {
			var there []member
			haproxytest.Until(t, "one agent, one master and one worker, and no zombie", func() bool {
				there = members(agent.Process.Pid)
				return len(there) == 3 && there[1].parent == there[0].pid && there[2].parent == there[1].pid && Alive(t.Context(), b.cfg) == nil
			})
			victim := there[1]
			if name == "worker" {
				victim = there[2]
			}
			if i == 2 { // with an old worker that still has something to do
				go func() {
					_, err := haproxytest.Get(b.addr)
					got <- err
				}()
				haproxytest.Until(t, "the slow request to be under way", func() bool {
					select {
					case <-release.started:
						return true
					default:
						return false
					}
				})
				if _, _, err := (masterCLI{b.cfg.MasterSocket}).reload(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := syscall.Kill(victim.pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			haproxytest.Until(t, name+" to be gone", func() bool {
				return !slices.ContainsFunc(members(agent.Process.Pid), func(m member) bool { return m.pid == victim.pid })
			})
		}
		agent.Process.Kill()
		agent.Wait()
		finish()
		<-got // cut by the kill
		haproxytest.Until(t, "nobody to answer", func() bool { return Alive(t.Context(), b.cfg) != nil })
	})
}

// member is a process of a pid namespace.
type member struct {
	pid, parent int
}

// members are the processes of the namespace of its first one, zombies too, in the order of their numbers.
func members(first int) (all []member) {
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", first))
	if err != nil {
		return nil
	}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // a good pattern
	for _, path := range stats {
		var m member
		var name, state string
		stat, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		fmt.Sscanf(string(stat), "%d %s %s %d", &m.pid, &name, &state, &m.parent)
		space, err := os.Readlink(filepath.Join(filepath.Dir(path), "ns/pid"))
		if err == nil && space == namespace || state == "Z" && m.parent == first {
			all = append(all, m)
		}
	}
	slices.SortFunc(all, func(a, b member) int { return a.pid - b.pid })
	return all
}
