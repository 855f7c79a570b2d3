package haproxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"testing"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// holdingServer takes requests, tells of each that it came in, and holds it until the end.
func holdingServer(tb testing.TB) (addr string, came, end chan struct{}) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	came, end = make(chan struct{}, 100), make(chan struct{})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.Read(make([]byte, 1))
				came <- struct{}{}
				<-end
			}()
		}
	}()
	return l.Addr().String(), came, end
}

// hold sends a request to a holding server by way of HAProxy, and returns when it is there. The end of the test is
// its end.
func (b *bench) hold(tb testing.TB, came <-chan struct{}) {
	tb.Helper()
	c, err := net.Dial("tcp", b.addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-came
}

// TestOldWorkersMemory: what old workers hold is known while they hold it (P8, F10).
func TestOldWorkersMemory(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		t.Parallel() // it waits most of the time
		b := managed(t, t.Bin)
		addr, came, end := holdingServer(t)
		b.apply(t, b.text("", "s1 "+addr))
		if got := b.driver.State().OldWorkersMemory; got != 0 {
			t.Errorf("memory without old workers: got %d, want 0", got)
		}
		const reloads, each = 3, 4
		for i := range reloads {
			for range each {
				b.hold(t, came)
			}
			b.apply(t, b.text(changed(i), "s1 "+addr))
		}
		const buffer = 16 << 10 // each connection has one at least
		haproxytest.Until(t, "the old workers and their memory to be known", func() bool {
			s := b.driver.State()
			return s.OldWorkers == reloads && s.OldWorkersMemory > reloads*buffer
		})
		if got := b.driver.State().OldWorkersMemory; got > 1<<30 {
			t.Errorf("memory of old workers: got %d bytes, which they do not have", got)
		}
		close(end)
		haproxytest.Until(t, "the old workers and their memory to be gone", func() bool {
			s := b.driver.State()
			return s.OldWorkers == 0 && s.OldWorkersMemory == 0
		})
	})
}

// TestMemoryOfEndedWorkers: a worker that ended since it was listed does not hide the others for long:
// most often the master says that it is gone, sometimes 3.0 says nothing.
func TestMemoryOfEndedWorkers(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managed(t, t.Bin)
		b.apply(t, b.text(""))
		const gone = 1 << 30 // more than Linux gives
		workers := []int{gone, b.worker(t).Pid}
		haproxytest.Until(t, "the memory of the worker that is there", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), memoryLimit)
			defer cancel()
			got, err := b.driver.master.memory(ctx, workers)
			return err == nil && got > 0
		})
	})
}

// TestHungOldWorkerHoldsNothingUp: the loop goes on while an old worker is asked for its memory. Here it
// answers only when the loop has gone on (P8).
func TestHungOldWorkerHoldsNothingUp(t *testing.T) {
	path := filepath.Join(haproxytest.Dir(t), "master.sock")
	socket, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	goneOn := make(chan struct{})
	defer close(goneOn)
	go func() {
		for {
			c, err := socket.Accept()
			if err != nil {
				return
			}
			io.ReadAll(c)
			<-goneOn
			io.WriteString(c, "Name: HAProxy\nPoolAlloc_bytes: 77\n")
			c.Close()
		}
	}()
	l := &loop{Driver: &Driver{master: masterCLI{path}}, asking: make(chan struct{}, 1)}
	haproxytest.Until(t, "the memory to be known", func() bool {
		l.countOld(t.Context(), processes{workers: []process{{pid: 1}, {pid: 2, reloads: 1}}})
		select {
		case goneOn <- struct{}{}:
		default: // nobody has asked yet
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.view.OldWorkers == 1 && l.view.OldWorkersMemory == 77
	})
	l.asking <- struct{}{} // the end is waited for
}

// TestBoundlessOldWorkers: whoever does not bound old workers in age and in number is told once which line
// is missing (F10).
func TestBoundlessOldWorkers(t *testing.T) {
	const age, number = `"hard-stop-after 10m"`, `"mworker-max-reloads 20"`
	for global, want := range map[string]string{
		"hard-stop-after 10m": number, "mworker-max-reloads 5": age, "maxconn 7": age + " and " + number,
		"# hard-stop-after 10m": age + " and " + number, "hard-stop-after 1h\n    mworker-max-reloads 3": "",
	} {
		log, hook := logtest.NewNullLogger()
		d := &Driver{cfg: Config{Log: log}}
		for range 3 {
			d.warnOfBoundless(files("global\n    " + global + "\n"))
		}
		var got []string
		for _, e := range hook.AllEntries() {
			got = append(got, fmt.Sprint(e.Level, " ", e.Data["lines"]))
		}
		if want != "" && !slices.Equal(got, []string{"warning " + want}) || want == "" && len(got) > 0 {
			t.Errorf("%s: got %q, want one warning with %q", global, got, want)
		}
	}
}
