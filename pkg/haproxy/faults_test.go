package haproxy

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// faulty is an external HAProxy, started again whenever it ends, with an agent and one server in force.
type faulty struct {
	*bench
	seen *reports
	kill func() // HAProxy
	one  string
}

func startFaulty(tb testing.TB, bin string) *faulty {
	tb.Helper()
	f := &faulty{bench: external(tb, bin), one: haproxytest.Server(tb, "one")}
	f.seen = f.reported()
	_, f.kill = f.restarted(tb)
	f.run(tb)
	f.send(tb, f.text("", "s1 "+f.one))
	haproxytest.Until(tb, "one to answer", answers(f.addr, "one"))
	f.untilInStep(tb)
	return f
}

// tells waits until State has an error with all these words.
func (f *faulty) tells(tb testing.TB, words ...string) {
	tb.Helper()
	var last string
	defer func() {
		if tb.Failed() {
			tb.Logf("the last error: %q", last)
		}
	}()
	haproxytest.Until(tb, fmt.Sprintf("an error with %q", words), func() bool {
		last = f.driver.State().LastError
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(last, w) })
	})
}

// well waits until State has no error and the stage was told so.
func (f *faulty) well(tb testing.TB) {
	tb.Helper()
	haproxytest.Until(tb, "all to be well", func() bool {
		s := f.driver.State()
		return s.Status == "in step" && s.LastError == "" && f.seen.well()
	})
}

// masterPid asks the master, which must answer.
func (f *faulty) masterPid(tb testing.TB) int {
	tb.Helper()
	var p processes
	haproxytest.Until(tb, "the master to answer", func() bool {
		var err error
		p, err = f.driver.master.processes(tb.Context())
		return err == nil && p.current() != 0
	})
	return p.master
}

// swapIn puts a socket that nobody serves in the place of another one.
func swapIn(path string) error {
	l, err := net.Listen("unix", path+".dead")
	if err != nil {
		return err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) //nolint:forcetypeassert // as listened
	return errors.Join(l.Close(), os.Rename(path+".dead", path))
}

// TestMasterIsDeaf: a master that does not answer is told of before a reload needs it; changes of servers
// go on, no text is half applied, no request is lost, and all converges when it is mended (P2, P6).
func TestMasterIsDeaf(t *testing.T) {
	haproxytest.Each(t, func(h haproxytest.T) {
		h.Parallel() // it waits most of the time
		signal := func(s syscall.Signal) func(*faulty, int) error {
			return func(_ *faulty, master int) error { return syscall.Kill(master, s) }
		}
		// A master that executes itself anew binds its socket anew.
		for name, fault := range map[string]struct {
			begin, mend func(f *faulty, master int) error
		}{
			"hangs":    {signal(syscall.SIGSTOP), signal(syscall.SIGCONT)},
			"removed":  {func(f *faulty, _ int) error { return os.Remove(f.cfg.MasterSocket) }, signal(syscall.SIGUSR2)},
			"replaced": {func(f *faulty, _ int) error { return swapIn(f.cfg.MasterSocket) }, signal(syscall.SIGUSR2)},
		} {
			h.Run(name, func(t *testing.T) {
				f := startFaulty(t, h.Bin)
				load := haproxytest.Start(t, f.addr, 2, false)
				master := f.masterPid(t)
				if err := fault.begin(f, master); err != nil {
					t.Fatal(err)
				}
				f.tells(t, f.cfg.MasterSocket, "nothing can be reloaded", "restart haproxy: stop it, then start it")
				haproxytest.Until(t, "the stage to be told so too", func() bool { return !f.seen.well() })
				f.send(t, f.text("", "s2 "+f.one))
				f.inStep(t, f.text("", "s2 "+f.one))
				f.tells(t, "nothing can be reloaded")
				f.send(t, f.text("    timeout http-request 9s\n", "s3 "+f.one))
				f.inStep(t, f.text("", "s3 "+f.one))
				f.accepted(t)
				if err := fault.mend(f, master); err != nil {
					t.Fatal(err)
				}
				f.well(t)
				f.inStep(t, f.text("    timeout http-request 9s\n", "s3 "+f.one))
				load.MustLoseNothing(t)
			})
		}
	})
}

// TestMasterExecutesItself: a master that is told to execute itself anew, as at an upgrade, is no fault.
func TestMasterExecutesItself(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		t.Parallel() // it waits most of the time
		f := startFaulty(t, t.Bin)
		load := haproxytest.Start(t, f.addr, 2, false)
		for range 3 {
			before, master := f.worker(t), f.masterPid(t)
			if err := syscall.Kill(master, syscall.SIGUSR2); err != nil {
				t.Fatal(err)
			}
			haproxytest.Until(t, "the driver to know the new worker", func() bool {
				if f.driver.acquire(t.Context()) != nil {
					return false
				}
				defer f.driver.release()
				return f.driver.worker != before && f.driver.running != nil
			})
		}
		f.well(t)
		if f.seen.since(0, "cannot be reloaded")() || f.seen.since(0, "nothing can be reloaded")() {
			t.Errorf("a false alarm: %v", f.seen.all)
		}
		load.MustLoseNothing(t)
	})
}

// TestRuntimeSocketIsLost: a worker without its socket serves on; since no reload brings that back, none is
// made, the mend is named, and after it all converges (P2, P6).
func TestRuntimeSocketIsLost(t *testing.T) {
	haproxytest.Each(t, func(h haproxytest.T) {
		for name, begin := range map[string]func(f *faulty) error{
			"removed":  func(f *faulty) error { return os.Remove(f.cfg.RuntimeSocket) },
			"replaced": func(f *faulty) error { return swapIn(f.cfg.RuntimeSocket) },
		} {
			h.Run(name, func(t *testing.T) {
				f := startFaulty(t, h.Bin)
				load := haproxytest.Start(t, f.addr, 2, false)
				before, err := f.driver.master.processes(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if err := begin(f); err != nil {
					t.Fatal(err)
				}
				f.send(t, f.text("    timeout http-request 9s\n", "s2 "+f.one))
				f.tells(t, f.cfg.RuntimeSocket, "removed or replaced", "restart haproxy: stop it, then start it")
				after, err := f.driver.master.processes(t.Context())
				if err != nil || after.reloads != before.reloads {
					t.Errorf("reloads: got %d, %v, want %d as before", after.reloads, err, before.reloads)
				}
				load.MustLoseNothing(t)
				f.kill()
				f.well(t)
				f.inStep(t, f.text("", "s2 "+f.one))
			})
		}
	})
}

// TestWorkerHangs: commands that a stopped worker does not answer are given up and do not pile up, the agent
// can be stopped meanwhile, and all converges when it goes on (P6).
func TestWorkerHangs(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		t.Parallel() // it waits most of the time
		f := startFaulty(t, t.Bin)
		worker := f.worker(t).Pid
		defer syscall.Kill(worker, syscall.SIGCONT)
		halt(t, worker)
		f.send(t, f.text("", "s2 "+f.one))
		f.tells(t, f.cfg.RuntimeSocket, "does not answer in time", "restart it")
		if n, most := unixSockets(t), len(haproxytest.Programs(t.T)); n > most {
			t.Errorf("%d connections to HAProxy at once, want at most one to each of %d", n, most)
		}
		if err := f.stop(); err == nil {
			t.Error("the driver ended without a reason")
		}
		f.run(t)
		f.send(t, f.text("    timeout http-request 9s\n", "s3 "+f.one))
		if err := syscall.Kill(worker, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		f.well(t)
		f.inStep(t, f.text("", "s3 "+f.one))
	})
}

// halt stops a process, and returns when all its threads stand still: until then it may answer once more.
func halt(tb testing.TB, pid int) {
	tb.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		tb.Fatal(err)
	}
	haproxytest.Until(tb, fmt.Sprintf("process %d to stand still", pid), func() bool {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		return len(threads) > 0 && !slices.ContainsFunc(threads, func(path string) bool {
			text, err := os.ReadFile(path)
			return err != nil || !strings.Contains(string(text), ") T ")
		})
	})
}

// unixSockets counts those that this process has open.
func unixSockets(tb testing.TB) (n int) {
	tb.Helper()
	table, err := os.ReadFile("/proc/self/net/unix")
	descriptors, globErr := filepath.Glob("/proc/self/fd/*")
	if err := errors.Join(err, globErr); err != nil {
		tb.Fatal(err)
	}
	ours := map[string]bool{}
	for _, d := range descriptors {
		if target, err := os.Readlink(d); err == nil {
			ours[target] = true
		}
	}
	for row := range strings.Lines(string(table)) {
		if f := strings.Fields(row); len(f) >= 7 && ours["socket:["+f[6]+"]"] {
			n++
		}
	}
	return n
}

// standIn puts a program before HAProxy that does what the file beside it says: "hang" at a check.
func (b *bench) standIn(tb testing.TB) (order func(what string)) {
	tb.Helper()
	dir := tb.TempDir()
	said := filepath.Join(dir, "order")
	script := "#!/bin/sh\n[ \"$1\" = -c ] && grep -q hang " + said + " && sleep 600\nexec " + b.cfg.Bin + " \"$@\"\n"
	order = func(what string) {
		if err := os.WriteFile(said, []byte(what), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	order("")
	b.cfg.Bin = filepath.Join(dir, "haproxy")
	if err := os.WriteFile(b.cfg.Bin, []byte(script), 0o700); err != nil {
		tb.Fatal(err)
	}
	return order
}

// TestCheckHangs: a check that does not end is given up and refuses the text for a while; changes of
// servers go on (P7).
func TestCheckHangs(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managedLater(t)
		order := b.standIn(t)
		b.cfg.checkLimit = pipeLimit
		b.run(t)
		one := haproxytest.Server(t, "one")
		b.apply(t, b.text("", "s1 "+one))
		load := haproxytest.Start(t, b.addr, 2, false)
		order("hang")
		_, err := b.driver.Apply(t.Context(), files(b.text("    timeout http-request 9s\n", "s1 "+one)))
		if refused := asRefused(err); refused == nil || refused.Stage != StageCheck || !strings.Contains(err.Error(), b.cfg.Bin) {
			t.Errorf("got %v, want a refusal that names the program", err)
		}
		for i := range 5 {
			server := fmt.Sprintf("s1 %s weight %d", one, i+2)
			if _, err := b.driver.Apply(t.Context(), files(b.text("    timeout http-request 9s\n", server))); asRefused(err) == nil {
				t.Errorf("got %v, want the refusal again", err)
			}
			b.inStep(t, b.text("", server))
		}
		order("")
		if res := b.apply(t, b.text("    timeout http-request 8s\n", "s1 "+one)); res.How != HowReload {
			t.Errorf("mended: got %+v, want a reload", res)
		}
		load.MustLoseNothing(t)
	})
}

func managedLater(t haproxytest.T) *bench {
	cfg := configFor(t, t.Bin)
	cfg.Managed = true
	return &bench{cfg: cfg, addr: haproxytest.Address(t, "127.0.0.42")}
}

// TestProgramIsGone: without HAProxy's program nothing is reloaded; servers change, and what is wanted is in
// force when the program is back.
func TestProgramIsGone(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managedLater(t)
		b.standIn(t)
		b.run(t)
		one, two := haproxytest.Server(t, "one"), haproxytest.Server(t, "two")
		b.send(t, b.text("", "s1 "+one))
		haproxytest.Until(t, "one to answer", answers(b.addr, "one"))
		b.untilInStep(t)
		if err := os.Rename(b.cfg.Bin, b.cfg.Bin+".away"); err != nil {
			t.Fatal(err)
		}
		want := b.text("    timeout http-request 9s\n", "s2 "+two)
		b.send(t, want)
		haproxytest.Until(t, "two to answer", answers(b.addr, "two"))
		haproxytest.Until(t, "the cause to be told", func() bool {
			last := b.driver.State().LastError
			return strings.Contains(last, b.cfg.Bin) && strings.Contains(last, "no such file")
		})
		if err := os.Rename(b.cfg.Bin+".away", b.cfg.Bin); err != nil {
			t.Fatal(err)
		}
		haproxytest.Until(t, "the wanted text to be in force", func() bool { return b.driver.State().Hash == textHash(files(want)) })
		b.untilInStep(t)
	})
}

// TestGarbageInTheNote: a note of what is applied that says nothing costs one reload.
func TestGarbageInTheNote(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		f := startFaulty(t, t.Bin)
		if err := f.stop(); err == nil {
			t.Error("the driver ended without a reason")
		}
		if err := os.WriteFile(f.driver.store.note(), []byte("\x00{garbage"), 0o600); err != nil {
			t.Fatal(err)
		}
		load := haproxytest.Start(t, f.addr, 2, false)
		f.run(t)
		f.send(t, f.text("", "s1 "+f.one, "s2 "+f.one))
		f.well(t)
		if got := f.driver.State().Reloads; got[ReasonStart] != 1 {
			t.Errorf("reloads: got %v, want one because what runs is not known", got)
		}
		f.inStep(t, f.text("", "s1 "+f.one, "s2 "+f.one))
		load.MustLoseNothing(t)
	})
}
