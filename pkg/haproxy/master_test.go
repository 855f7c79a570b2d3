package haproxy

import (
	"bufio"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

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
