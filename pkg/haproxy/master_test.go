package haproxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// fakeMaster answers at a master socket.
type fakeMaster struct {
	mu      sync.Mutex
	pid     int
	reloads int
	failed  int
	asked   int // for reloads
	onAsked func(m *fakeMaster)
}

func (m *fakeMaster) answer(statement string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if statement == "reload" {
		m.asked++
		m.onAsked(m)
		return ""
	}
	return fmt.Sprintf("#<PID> <type> <reloads> <uptime> <version>\n%d master %d [failed: %d] 0d 2.6\n# workers\n%d worker 0 0d 2.6\n",
		m.pid, m.reloads, m.failed, 100+m.reloads)
}

func (m *fakeMaster) serve(tb testing.TB) masterCLI {
	tb.Helper()
	path := filepath.Join(haproxytest.Dir(tb), "m.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		tb.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			statement, _ := bufio.NewReader(conn).ReadString('\n')
			fmt.Fprint(conn, m.answer(strings.TrimSpace(statement)))
			conn.Close()
		}
	}()
	tb.Cleanup(func() {
		l.Close()
		<-done
	})
	return masterCLI{path}
}

// TestLostReloadIsRepeated: 2.6 loses a reload that comes at a bad moment, also after a failed one.
func TestLostReloadIsRepeated(t *testing.T) {
	for _, failed := range []int{0, 2} {
		m := &fakeMaster{pid: 7, reloads: 3, failed: failed, onAsked: func(m *fakeMaster) {
			if m.asked > 1 {
				m.reloads, m.failed = m.reloads+1, 0
			}
		}}
		worker, _, err := m.serve(t).reload(t.Context())
		if err != nil || worker != 104 || m.asked != 2 {
			t.Errorf("after %d failures: worker %d, %v, asked %d times, want 104 at the second time", failed, worker, err, m.asked)
		}
	}
}

// TestReloadOfAnotherMaster: a HAProxy that was started anew meanwhile is not waited for. In a container
// it has the same number again.
func TestReloadOfAnotherMaster(t *testing.T) {
	for _, pid := range []int{8, 7} {
		m := &fakeMaster{pid: 7, reloads: 3, onAsked: func(m *fakeMaster) { m.pid, m.reloads = pid, 0 }}
		if _, _, err := m.serve(t).reload(t.Context()); err == nil || !strings.Contains(err.Error(), errOtherMaster.Error()) {
			t.Errorf("number %d: got %v, want %v", pid, err, errOtherMaster)
		}
	}
}

// TestUnheardReloadIsNoDeath: a HAProxy that goes on as before was not ended by a reload of which it does not
// know; one that was started anew was (P6, P8).
func TestUnheardReloadIsNoDeath(t *testing.T) {
	for name, tt := range map[string]struct {
		then func(m *fakeMaster, master, worker string) error
		want bool
	}{
		"the time is over before it is asked":       {then: func(*fakeMaster, string, string) error { return nil }},
		"it loads":                                  {then: func(m *fakeMaster, _, _ string) error { m.reloads++; return nil }},
		"its master does not listen while it loads": {then: func(_ *fakeMaster, master, _ string) error { return os.Remove(master) }},
		"nobody is left": {then: func(_ *fakeMaster, master, worker string) error {
			return errors.Join(os.Remove(master), os.Remove(worker))
		}, want: true},
		"another process": {then: func(m *fakeMaster, _, _ string) error { m.pid++; return nil }, want: true},
		"the same number in a new container": {then: func(_ *fakeMaster, master, _ string) error {
			return os.Chtimes(master, time.Time{}, time.Now().Add(time.Second)) // as if bound anew
		}, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			m, worker := &fakeMaster{pid: 1}, &fakeMaster{pid: 2}
			d := &Driver{master: m.serve(t), api: runtimeAPI{worker.serve(t).path}}
			former, err := d.master.processes(t.Context())
			former.seat = d.master.seat()
			m.mu.Lock()
			plant(t, err, tt.then(m, d.master.path, d.api.path))
			m.mu.Unlock()
			ctx, cancel := context.WithTimeout(t.Context(), 0)
			defer cancel()
			if got := d.died(ctx, former, ctx.Err()); got != tt.want {
				t.Errorf("died: %v, want %v", got, tt.want)
			}
		})
	}
}
