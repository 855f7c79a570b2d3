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
