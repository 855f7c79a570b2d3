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

// runHelper is what this test's program does when it is started as a process of its own.
func runHelper(helper string) int {
	if dir, ok := strings.CutPrefix(helper, "apply:"); ok {
		return applyUntilKilled(dir)
	}
	dir := helper
	cfg := Config{
		Path: filepath.Join(dir, "haproxy.cfg"), MasterSocket: filepath.Join(dir, "m.sock"),
		RuntimeSocket: filepath.Join(dir, "r.sock"),
	}
	if err := NewSupervisor(cfg).Run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return 1
}

// TestKilledAgentTakesHAProxyAlong: master and worker end with an agent that was killed, so that no
// orphan takes a share of the traffic.
func TestKilledAgentTakesHAProxyAlong(t *testing.T) {
	cfg := configFor(t)
	agent := exec.Command(os.Args[0])
	agent.Env = append(os.Environ(), "SIDEKICK_TEST_HELPER="+filepath.Dir(cfg.Path))
	agent.Stderr = os.Stderr
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
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
