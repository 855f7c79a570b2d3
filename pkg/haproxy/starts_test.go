package haproxy

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// restarted starts HAProxy as the runtime of its container does: again whenever it ended, and nothing of
// the former one is left. It returns how often that was and what ends the one that runs.
func (b *bench) restarted(tb testing.TB) (times func() int, kill func()) {
	tb.Helper()
	var n atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{})
	kills := make(chan struct{})
	once := func() {
		if err := Prepare(tb.Context(), b.cfg); err != nil && asRefused(err) == nil {
			tb.Errorf("prepare: %v", err)
		}
		args := ExecArgs(b.cfg)
		cmd := exec.Command(args[0], args[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			tb.Errorf("start: %v", err)
			return
		}
		n.Add(1)
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case <-ended:
			syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			return
		case <-kills:
		case <-stop:
		}
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
	}
	go func() {
		defer close(done)
		for {
			once()
			select {
			case <-stop:
				return
			case <-time.After(pollEvery):
			}
		}
	}()
	tb.Cleanup(func() {
		close(stop)
		<-done
	})
	return func() int { return int(n.Load()) }, func() { kills <- struct{}{} }
}

// unstartable is a statement that HAProxy's check accepts and its start does not survive.
func unstartable() string {
	if os.Geteuid() == 0 {
		return "    chroot /nonexistent\n"
	}
	return "    maxconn 1000000\n"
}

// ending gives a text a statement in its global section.
func ending(text, statement string) string {
	return strings.Replace(text, "global\n", "global\n"+statement, 1)
}

// TestExternalStartIsNotRepeatedForEver: what an external HAProxy does not start with is set aside as in
// managed mode, at once if an address is taken, and after a few starts if only the start shows it (P6).
func TestExternalStartIsNotRepeatedForEver(t *testing.T) {
	haproxytest.Each(t, func(h haproxytest.T) {
		taken, err := net.Listen("tcp", "127.0.0.41:0")
		if err != nil {
			h.Fatal(err)
		}
		defer taken.Close()
		tests := map[string]struct {
			text func(b *bench) string
			most int // starts
		}{
			"address taken": {func(b *bench) string {
				return strings.Replace(b.text("", "s1 127.0.0.1:9"), b.addr, taken.Addr().String(), 1)
			}, 1},
			"start fails": {func(b *bench) string { return ending(b.text("", "s1 127.0.0.1:9"), unstartable()) }, startsMost + 1},
		}
		for name, tt := range tests {
			h.Run(name, func(t *testing.T) {
				b := external(t, h.Bin)
				bad := tt.text(b)
				if err := os.WriteFile(b.cfg.Path, []byte(bad), 0o600); err != nil {
					t.Fatal(err)
				}
				times, _ := b.restarted(t)
				haproxytest.Until(t, "haproxy to run", func() bool { return Alive(t.Context(), b.cfg) == nil })
				if got, err := os.ReadFile(b.cfg.Path + ".refused"); err != nil || string(got) != bad {
					t.Errorf("set aside: got %q, %v, want %q", got, err, bad)
				}
				if got := times(); got > tt.most {
					t.Errorf("started %d times, want at most %d", got, tt.most)
				}
				b.run(t)
				b.send(t, b.text("", "s1 "+haproxytest.Server(t, "one")))
				haproxytest.Until(t, "one to answer", answers(b.addr, "one"))
			})
		}
	})
}

// TestGoodTextIsNotSetAside: a HAProxy that is restarted often with a text that it runs keeps it, if an
// agent is there to see it run or if there is time in between.
func TestGoodTextIsNotSetAside(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		times, kill := b.restarted(t)
		b.run(t)
		b.send(t, b.text("", "s1 "+haproxytest.Server(t, "one")))
		for i := range 2*startsMost + 2 {
			haproxytest.Until(t, "one to answer", answers(b.addr, "one"))
			b.untilInStep(t)
			haproxytest.Until(t, "the start to be forgotten", func() bool { return readStarts(b.cfg.Path).Count == 0 })
			if _, err := os.Stat(b.cfg.Path + ".refused"); err == nil {
				t.Fatalf("start %d: a good text was set aside", i)
			}
			n := times()
			kill()
			haproxytest.Until(t, "haproxy to be started again", func() bool { return times() > n && Alive(t.Context(), b.cfg) == nil })
		}
	})
}

// TestRestartedWithoutAnAgent: a text that HAProxy was seen to run stays, however often it is stopped and
// started while no agent is there to see it; one that nobody saw is still counted (P6).
func TestRestartedWithoutAnAgent(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		end := b.start(t)
		b.run(t)
		one := haproxytest.Server(t, "one")
		b.apply(t, b.text("", "s1 "+one))
		b.apply(t, b.text("", "s2 "+one)) // by commands: the file follows
		if err := b.stop(); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		for range startsMost + 2 {
			end()
			end = b.start(t) // it fails if a text is refused
			haproxytest.Until(t, "one to answer", answers(b.addr, "one"))
		}
		end()
		other := ending(b.text("", "s1 "+one), "    maxconn 77\n")
		if err := os.WriteFile(b.cfg.Path, []byte(other), 0o600); err != nil {
			t.Fatal(err)
		}
		for i := range startsMost + 1 {
			if err := Prepare(t.Context(), b.cfg); (asRefused(err) != nil) != (i == startsMost) {
				t.Errorf("start %d with another text: %v", i+1, err)
			}
		}
	})
}

// TestStartsAreCounted: only starts with one text, soon after each other, add up; the minimal text and
// what lies in the way of the note never stop a start.
func TestStartsAreCounted(t *testing.T) {
	cfg := configFor(t, "haproxy")
	start := func(text string) error { return cfg.survivable(t.Context(), files(text)) }
	for i, step := range []struct {
		text    string
		refused bool
	}{{"a", false}, {"a", false}, {"b", false}, {"a", false}, {"a", false}, {"a", true}, {"a", false}} {
		if err := start(step.text); (asRefused(err) != nil) != step.refused {
			t.Errorf("%d: start with %q: got %v, want it refused: %v", i, step.text, err, step.refused)
		}
	}
	for range 2 * startsMost {
		if err := start(MinimalConfig(cfg)); err != nil {
			t.Errorf("the minimal text: %v", err)
		}
	}
	if err := start("b"); err != nil {
		t.Fatal(err)
	}
	long := starts{Text: readStarts(cfg.Path).Text, Count: 100, Last: time.Now().Add(-startsApart)}
	for name, text := range map[string]string{"long ago": jsonOf(t, long), "garbage": "{", "empty": ""} {
		if err := os.WriteFile(startsName(cfg.Path), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := start("b"); err != nil || readStarts(cfg.Path).Count != 1 {
			t.Errorf("%s: got %v and %+v, want a first start", name, err, readStarts(cfg.Path))
		}
	}
	if err := os.Remove(startsName(cfg.Path)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(startsName(cfg.Path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := start("a"); err != nil {
		t.Errorf("without a note: %v", err)
	}
}

// TestDeadlyTextIsNotRepeated: a text that ends HAProxy when it is loaded is tried twice and then left
// alone, over HAProxy's restarts as well; the last good one serves, its servers follow what is wanted, and
// another text is taken at once (P6, P7, P8).
func TestDeadlyTextIsNotRepeated(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("left out: only root's HAProxy gets so far as to end at a chroot")
	}
	haproxytest.Each(t, func(h haproxytest.T) {
		h.Parallel() // it waits most of the time
		for _, mode := range []string{"external", "managed"} {
			h.Run(mode, func(t *testing.T) { deadlyText(t, h.Bin, mode == "managed") })
		}
	})
}

func deadlyText(t *testing.T, bin string, managed bool) {
	t.Helper()
	b := external(t, bin)
	seen := b.reported()
	if b.cfg.Managed = managed; !managed {
		b.restarted(t)
	}
	b.run(t)
	one, two := haproxytest.Server(t, "one"), haproxytest.Server(t, "two")
	b.send(t, b.text("", "s1 "+one))
	haproxytest.Until(t, "one to answer", answers(b.addr, "one"))
	b.untilInStep(t)

	deadly := func(server string) string { return ending(b.text("", server), unstartable()) }
	b.send(t, deadly("s1 "+one))
	haproxytest.Until(t, "the cause to be told", seen.since(0, "haproxy ended while it loaded the configuration"))
	haproxytest.Until(t, "the good text to serve again", answers(b.addr, "one"))
	refused := func(b *bench) (n int, until time.Time) {
		if err := b.driver.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer b.driver.release()
		return b.driver.refusal.deaths, b.driver.refusal.until
	}
	haproxytest.Until(t, "the second try", func() bool { n, _ := refused(b); return n == 2 })
	if _, until := refused(b); time.Until(until) < retryKiller/2 {
		t.Errorf("tried again at %s, want much later", until)
	}
	haproxytest.Until(t, "the good text to serve after it", answers(b.addr, "one"))
	before := b.worker(t)
	b.send(t, deadly("s2 "+two))
	haproxytest.Until(t, "two to answer", answers(b.addr, "two"))
	if after := b.worker(t); after != before {
		t.Errorf("worker: got %v, want the same %v", after, before)
	}
	b.accepted(t)
	b.send(t, b.text("    timeout http-request 9s\n", "s1 "+one))
	haproxytest.Until(t, "one to answer at last", answers(b.addr, "one"))
	b.untilInStep(t)
	haproxytest.Until(t, "the success to be told", seen.well)
}

func jsonOf(tb testing.TB, v starts) string {
	tb.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}
