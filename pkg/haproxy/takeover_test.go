package haproxy

import (
	"maps"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

func TestExposesListeners(t *testing.T) {
	for text, want := range map[string]bool{
		"global\n stats socket /r.sock level admin expose-fd listeners\n":     true,
		"global\n stats socket 'unix@/r.sock' expose-fd listeners mode 660\n": true,
		"global\n stats socket \"$DIR/r.sock\" expose-fd listeners\n":         true,
		"global\n stats socket /r.sock level admin\n":                         false,
		"global\n stats socket /r.sock level admin # expose-fd listeners\n":   false,
		"global\n stats socket /other.sock expose-fd listeners\n":             false,
		"frontend x\n stats socket /r.sock expose-fd listeners\n":             false,
		"": false,
		MinimalConfig(Config{RuntimeSocket: "/r.sock"}): true,
	} {
		if got := ExposesListeners(text, "/r.sock"); got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}

// second starts a HAProxy that takes over from the one that runs, and returns its worker.
func (b *bench) second(tb testing.TB) Worker {
	tb.Helper()
	before := b.driver.master.seat()
	endsWith(tb, b.launch(tb, "-x", b.cfg.RuntimeSocket))
	var w Worker
	haproxytest.Until(tb, "the second haproxy to run", func() bool {
		var err error
		w, err = b.driver.master.worker(tb.Context())
		return err == nil && b.driver.master.seat() != before
	})
	return w
}

// untouched fails the test if that worker, whenever it is the one that answers, has other servers than s1.
func (b *bench) untouched(tb testing.TB, w Worker) {
	tb.Helper()
	for range 50 {
		live, err := b.driver.api.servers(tb.Context(), w)
		if err == nil && (len(live) != 1 || live[0].name != "s1") {
			tb.Errorf("while both ran: worker %v has the servers %v, want s1 alone", w, live)
			return
		}
	}
}

// TestTakeOver: while two HAProxys share the runtime socket, nothing is sent to either and no reload is
// made; afterwards the new one runs what is wanted, and no connection was lost.
func TestTakeOver(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		t.Parallel() // it waits most of the time
		for name, extra := range map[string]string{"servers": "", "structure": "    timeout http-request 9s\n"} {
			t.Run(name, func(sub *testing.T) { takeOver(sub, external(sub, t.Bin), extra) })
		}
	})
}

func takeOver(t *testing.T, b *bench, extra string) {
	t.Helper()
	one, two := haproxytest.Server(t, "one"), haproxytest.Server(t, "two")
	text := func(extra string, servers ...string) string {
		return strings.Replace(b.text(extra, servers...), "level admin", "level admin expose-fd listeners", 1)
	}
	stopOld := b.startOld(t)
	b.run(t)
	b.apply(t, text("", "s1 "+one))
	haproxytest.Until(t, "the first text to be in step", func() bool { return b.driver.State().Status == "in step" })
	former := b.worker(t)
	load := haproxytest.Start(t, b.addr, 2, false)
	now := b.second(t)
	before := b.driver.State()
	b.send(t, text(extra, "s1 "+one, "s2 "+two))
	wanted := textHash(files(text(extra, "s1 "+one, "s2 "+two)))
	haproxytest.Until(t, "the driver to see both, or only the new one", func() bool {
		s := b.driver.State()
		return strings.Contains(s.LastError, "two haproxys answer") || s.Hash == wanted
	})
	<-time.After(2 * lookEvery) // in which it looks and tries again
	b.untouched(t, former)
	if after := b.driver.State(); after.Hash != wanted { // else the old one never answered
		b.untouched(t, now)
		if after.RuntimeCommands != before.RuntimeCommands || !maps.Equal(after.Reloads, before.Reloads) {
			t.Errorf("while both ran: got %d commands and reloads %v, want %d and %v", after.RuntimeCommands, after.Reloads, before.RuntimeCommands, before.Reloads)
		}
	}
	stopOld()
	t.Cleanup(func() { t.Logf("state at the end: %+v", b.driver.State()) })
	haproxytest.Until(t, "two to answer", func() bool { return b.driver.State().Status == "in step" && load.Sent()["two"] > 0 })
	b.inStep(t, text(extra, "s1 "+one, "s2 "+two))
	p, err := b.driver.master.processes(t.Context())
	// The old one may answer once more between the look and the end of a reload, which is then repeated.
	if err != nil || p.reloads > 2 || b.worker(t).Pid != p.current() {
		t.Errorf("after it: got %+v, %v, want at most two reloads", p, err)
	}
	load.MustLoseNothing(t)
}

// startOld runs HAProxy and returns what ends it gracefully.
func (b *bench) startOld(tb testing.TB) (stop func()) {
	tb.Helper()
	if err := Prepare(tb.Context(), b.cfg); err != nil {
		tb.Fatal(err)
	}
	cmd := b.launch(tb)
	endsWith(tb, cmd)
	return func() {
		if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
			tb.Fatal(err)
		}
	}
}

// launch starts HAProxy as `sidekick haproxy` does, for its caller to end.
func (b *bench) launch(tb testing.TB, more ...string) *exec.Cmd {
	tb.Helper()
	args := append(ExecArgs(b.cfg), more...)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	return cmd
}

// endsWith ends a HAProxy and its workers with the test.
func endsWith(tb testing.TB, cmd *exec.Cmd) {
	tb.Helper()
	tb.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	})
}

// TestMasterSocketComesBack: a change that was made while the master's socket was away does not keep
// what is left to the background waiting when it is back, until the next change.
func TestMasterSocketComesBack(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t.T, t.Bin)
		b.start(t)
		b.run(t)
		one := haproxytest.Server(t, "one")
		b.apply(t, b.text("", "s1 "+one))
		away := b.cfg.MasterSocket + ".away"
		if err := os.Rename(b.cfg.MasterSocket, away); err != nil {
			t.Fatal(err)
		}
		b.send(t, b.text("", "s1 "+one, "s2 "+one))
		b.inStep(t, b.text("", "s1 "+one, "s2 "+one))
		if err := os.Rename(away, b.cfg.MasterSocket); err != nil {
			t.Fatal(err)
		}
		haproxytest.Until(t, "commands to be possible again", func() bool {
			if err := b.driver.acquire(t.Context()); err != nil {
				t.Fatal(err)
			}
			defer b.driver.release()
			return b.driver.send(t.Context(), nil) == nil
		})
		b.inStep(t, b.text("", "s1 "+one, "s2 "+one))
	})
}

// TestAlive: a worker without its master is not enough.
func TestAlive(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t.T, t.Bin)
		if err := Prepare(t.Context(), b.cfg); err != nil {
			t.Fatal(err)
		}
		cmd := b.launch(t)
		endsWith(t, cmd)
		haproxytest.Until(t, "both to answer", func() bool { return Alive(t.Context(), b.cfg) == nil })
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		haproxytest.Until(t, "the master's end to be seen", func() bool { return Alive(t.Context(), b.cfg) != nil })
	})
}
