package haproxy

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// reports is what the haproxy stage was told.
type reports struct {
	mu  sync.Mutex
	all []error
}

func (r *reports) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, err)
}

func (r *reports) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.all)
}

// since tells whether an error with these words was reported behind the first n.
func (r *reports) since(n int, words string) func() bool {
	return func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return slices.ContainsFunc(r.all[n:], func(err error) bool {
			return err != nil && strings.Contains(err.Error(), words)
		})
	}
}

// well tells whether the last report was a success.
func (r *reports) well() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.all) > 0 && r.all[len(r.all)-1] == nil
}

func (b *bench) reported() *reports {
	r := &reports{}
	b.cfg.Report = r.add
	return r
}

func portOf(tb testing.TB, addr string) uint16 {
	tb.Helper()
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		tb.Fatal(err)
	}
	return a.Port()
}

func (b *bench) holds(tb testing.TB, addr string) func() bool {
	tb.Helper()
	port := portOf(tb, addr)
	return func() bool { return slices.Contains(b.driver.Held(), port) }
}

func (b *bench) untilInStep(tb testing.TB) {
	tb.Helper()
	haproxytest.Until(tb, "the driver to be in step", func() bool { return b.driver.State().Status == "in step" })
}

func not(ok func() bool) func() bool { return func() bool { return !ok() } }

// takeover listens where another program was a moment ago.
func takeover(addr string) (net.Listener, bool) {
	for deadline := time.Now().Add(50 * time.Millisecond); time.Now().Before(deadline); {
		if l, err := net.Listen("tcp", addr); err == nil {
			return l, true
		}
	}
	return nil, false
}

// TestPortOfTheFileIsTaken: a managed HAProxy whose file on disk asks for a port that another program
// has comes up with what is wanted once that does without it; the cause is told in HAProxy's words.
func TestPortOfTheFileIsTaken(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		taken, err := net.Listen("tcp", "127.0.0.33:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		cfg := configFor(t, t.Bin)
		cfg.Managed = true
		b := &bench{cfg: cfg, addr: haproxytest.Address(t, "127.0.0.34")}
		seen := b.reported()
		one := "s1 " + haproxytest.Server(t, "one")
		bad := b.text("    bind "+taken.Addr().String()+"\n", one)
		if err := os.WriteFile(cfg.Path, []byte(strings.Replace(bad, "    default_backend be_web\n    bind", "    bind", 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		b.run(t)
		b.send(t, bad)
		haproxytest.Until(t, "haproxy's words", seen.since(0, "cannot bind socket"))
		haproxytest.Until(t, "the port not to be held", not(b.holds(t, taken.Addr().String())))
		haproxytest.Until(t, "the wanted text to be refused", seen.since(0, "is taken by another program"))
		b.send(t, b.text("", one))
		haproxytest.Until(t, "one to answer", answers(b.addr, "one"))
		b.untilInStep(t)
		if !seen.well() || !b.holds(t, b.addr)() {
			t.Errorf("in step: reported %v, held %v", seen.all, b.driver.Held())
		}
	})
}

// TestPortIsTakenAtACrash: the same after a crash of a HAProxy that held the port.
func TestPortIsTakenAtACrash(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := &bench{cfg: configFor(t, t.Bin), addr: haproxytest.Address(t, "127.0.0.35")}
		b.cfg.Managed = true
		seen := b.reported()
		b.run(t)
		one := "s1 " + haproxytest.Server(t, "one")
		b.send(t, b.text("", one))
		b.untilInStep(t)
		if !b.holds(t, b.addr)() {
			t.Errorf("held: %v, want the port of %s", b.driver.Held(), b.addr)
		}
		before := seen.count()
		var other net.Listener
		haproxytest.Until(t, "another program to have the port", func() bool {
			if p, err := b.driver.master.processes(t.Context()); err == nil {
				syscall.Kill(p.master, syscall.SIGKILL)
			}
			l, ok := takeover(b.addr)
			other = l
			return ok
		})
		defer other.Close()
		haproxytest.Until(t, "haproxy's words", seen.since(before, "cannot bind socket"))
		haproxytest.Until(t, "the port not to be held", not(b.holds(t, b.addr)))
		elsewhere := *b
		elsewhere.addr = haproxytest.Address(t, "127.0.0.35")
		elsewhere.send(t, elsewhere.text("", one))
		haproxytest.Until(t, "one to answer", answers(elsewhere.addr, "one"))
		b.untilInStep(t)
		b.accepted(t)
	})
}

// TestPortIsTakenWhileExternalIsDown: an external HAProxy that cannot start any more because its port
// is taken starts with the next wanted text that does without.
func TestPortIsTakenWhileExternalIsDown(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		t.Parallel() // it waits most of the time
		b := external(t, t.Bin)
		seen := b.reported()
		kill := b.start(t)
		b.run(t)
		one := "s1 " + haproxytest.Server(t, "one")
		b.send(t, b.text("", one))
		haproxytest.Until(t, "one to answer", answers(b.addr, "one"))
		b.untilInStep(t)
		before := seen.count()
		kill()
		var other net.Listener
		haproxytest.Until(t, "another program to have the port", func() bool {
			l, ok := takeover(b.addr)
			other = l
			return ok
		})
		defer other.Close()
		haproxytest.Until(t, "the cause to be told", seen.since(before, "is taken by another program"))
		if b.holds(t, b.addr)() {
			t.Errorf("held: %v, want none of a haproxy that is gone", b.driver.Held())
		}
		elsewhere := *b
		elsewhere.addr = haproxytest.Address(t, "127.0.0.22")
		want := elsewhere.text("", one)
		elsewhere.send(t, want)
		haproxytest.Until(t, "the wanted text to be on disk", func() bool {
			got, err := os.ReadFile(b.cfg.Path)
			return err == nil && string(got) == want
		})
		elsewhere.accepted(t)
		elsewhere.start(t)
		haproxytest.Until(t, "one to answer", answers(elsewhere.addr, "one"))
		b.untilInStep(t)
		haproxytest.Until(t, "the success to be told", seen.well)
	})
}

// TestCrashingTextIsReplaced: a managed HAProxy that crashes again and again with what is on disk is
// started with the next wanted text, after a while; each crash is told.
func TestCrashingTextIsReplaced(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		t.Parallel() // it waits most of the time
		b := &bench{cfg: configFor(t, t.Bin), addr: haproxytest.Address(t, "127.0.0.37")}
		b.cfg.Managed = true
		bin := filepath.Join(t.TempDir(), "haproxy")
		script := "#!/bin/sh\ncase \"$*\" in -W*) grep -q crashes " + b.cfg.Path + " && exit 139;; esac\nexec " + b.cfg.Bin + " \"$@\"\n"
		if err := os.WriteFile(bin, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		b.cfg.Bin = bin
		one := "s1 " + haproxytest.Server(t, "one")
		if err := os.WriteFile(b.cfg.Path, []byte("# crashes\n"+b.text("", one)), 0o600); err != nil {
			t.Fatal(err)
		}
		seen := b.reported()
		b.run(t)
		b.send(t, b.text("", one, "s2 127.0.0.1:9 disabled"))
		haproxytest.Until(t, "the crash to be told", seen.since(0, "exit status 139"))
		haproxytest.Until(t, "the attempts to tell it", seen.since(0, "haproxy does not answer"))
		haproxytest.Until(t, "one to answer", answers(b.addr, "one"))
		b.untilInStep(t)
		b.accepted(t)
	})
}

// TestHeldOfASilentHAProxy: it may be starting with the file on disk, for a short while.
func TestHeldOfASilentHAProxy(t *testing.T) {
	cfg := configFor(t, "haproxy")
	b := &bench{cfg: cfg, addr: "127.0.0.36:8000-8003"}
	seen := b.reported()
	d, err := NewDriver(b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if got := d.Held(); got != nil {
		t.Errorf("without a file: got %v, want none", got)
	}
	if err := os.WriteFile(cfg.Path, []byte(b.text("")), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := d.Held(), []uint16{8000, 8001, 8002, 8003}; !slices.Equal(got, want) {
		t.Errorf("at the start: got %v, want %v", got, want)
	}
	gone := func() error { return d.silent(syscall.ENOENT, syscall.ENOENT) }
	d.publish(Result{}, 0, gone())
	if state := d.State(); seen.count() != 0 || state.LastError != "" || state.Differences == 0 {
		t.Errorf("at the start: reported %v, state %+v, want no error and not in step", seen.all, state)
	}
	d.here.since = time.Now().Add(-startGrace)
	d.publish(Result{}, 0, gone())
	if got := d.Held(); got != nil || seen.count() != 1 {
		t.Errorf("too late: held %v, reported %v, want none and an error", got, seen.all)
	}
	d.answered(Worker{Pid: 7})
	if got := len(d.Held()); got != 4 {
		t.Errorf("an unknown worker: %d ports held, want those on disk", got)
	}
	d.inForce(files("listen x\n    bind :9000,127.0.0.1:9001\n"), nil)
	former := d.mayHold(files("listen x\n    bind :9002\n"))
	if got, want := d.Held(), []uint16{9000, 9001, 9002}; !slices.Equal(got, want) {
		t.Errorf("while a text is loaded: got %v, want %v", got, want)
	}
	d.holds(former)
	d.childEnded(os.ErrProcessDone)
	if got := len(d.Held()); got != 4 {
		t.Errorf("lost: %d ports held, want those on disk", got)
	}
	if err := gone(); !strings.Contains(err.Error(), os.ErrProcessDone.Error()) || d.starting(err) {
		t.Errorf("lost: got %v, want it to tell how it ended, at once", err)
	}
}

func TestBindAddresses(t *testing.T) {
	for word, want := range map[string]string{
		":80": "0.0.0.0:80", "*:80": "0.0.0.0:80", "ipv6@:80": "[::]:80", "tcp6@*:80": "[::]:80",
		"127.0.0.1:80": "127.0.0.1:80", "[::1]:80": "[::1]:80", "tcp4@127.0.0.1:80": "127.0.0.1:80",
		"127.0.0.1:80-82": "127.0.0.1:80 127.0.0.1:81 127.0.0.1:82", ":80,:90": "0.0.0.0:80 0.0.0.0:90",
		"host:80": "", "unix@/x:80": "", "/x": "", ":0": "", ":82-80": "", ":65535-65535": "0.0.0.0:65535",
		":x": "", ":70000": "", "quic4@:443": "", "fd@3": "",
	} {
		var got []string
		for _, a := range binds(files("frontend x\n\tbind " + word + " ssl\n    bindings 1\n")) {
			got = append(got, a.String())
		}
		if joined := strings.Join(got, " "); joined != want {
			t.Errorf("bind %s: got %q, want %q", word, joined, want)
		}
	}
}

// TestListenersFollowTheText: the addresses of a text are the same whether it is read as a whole or
// from what is known of another one, whichever lines came, went or moved.
func TestListenersFollowTheText(t *testing.T) {
	line := rapid.SampledFrom([]string{
		"frontend f", " bind :80", "\tbind 127.0.0.1:81-83,:90", " bindings 1", "# bind :84", " bind \"$ANY\"", " server s 10.0.0.1:80",
		" .if 1", ".endif", "backend binder", "",
	})
	text := rapid.Custom(func(t *rapid.T) render.Files {
		f := render.File{}
		for _, lines := range rapid.SliceOfN(rapid.SliceOfN(line, 0, 4), 0, 8).Draw(t, "blocks") {
			f.Blocks = append(f.Blocks, render.NewBlock("", strings.Join(append(lines, ""), "\n")))
		}
		return render.Files{f}
	})
	rapid.Check(t, func(t *rapid.T) {
		var d Driver
		d.here.answering = true
		for _, files := range rapid.SliceOfN(text, 1, 6).Draw(t, "texts") {
			d.holds([]render.Files{files})
			if got, want := d.Held(), portsOf(files[0].Text()); !slices.Equal(got, want) {
				t.Fatalf("got %v, want %v of\n%s", got, want, files[0].Text())
			}
		}
	})
}

// portsOf reads a whole text, line by line.
func portsOf(text string) []uint16 {
	depth := 0
	var ports []uint16
	for raw := range strings.Lines(text) {
		l := splitLine(raw)
		switch word(l, 0) {
		case ".if":
			depth++
		case ".endif":
			depth--
		}
		for _, a := range bindAddresses(l) {
			if depth == 0 {
				ports = append(ports, a.Port())
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// TestTidy: what a killed agent left is removed; what somebody writes now, or is not ours, stays.
func TestTidy(t *testing.T) {
	dir := t.TempDir()
	s := store{path: filepath.Join(dir, "haproxy.cfg")}
	own := store{path: s.path, work: t.TempDir()}
	if _, err := own.stage(files("")); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * tempAge)
	for _, name := range []string{".haproxy.cfg.123", ".applied.json.9", ".haproxy.cfg.swp", ".haproxy.cfg.refused.1", "haproxy.cfg"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, ".haproxy.cfg.456"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.tidy(), own.tidy()); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(own.work); err != nil || len(left) > 0 {
		t.Errorf("candidates left: %v, %v", left, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if want := []string{".haproxy.cfg.456", ".haproxy.cfg.swp", "haproxy.cfg"}; !slices.Equal(got, want) {
		t.Errorf("left: %v, want %v", got, want)
	}
}

// TestSetAsideLeavesAFile: at no time there is no configuration (P6).
func TestSetAsideLeavesAFile(t *testing.T) {
	cfg := configFor(t, "haproxy")
	if err := writeMinimal(cfg); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	missing := make(chan error, 1)
	go func() {
		defer close(missing)
		for {
			select {
			case <-done:
				return
			default:
			}
			if _, err := os.Stat(cfg.Path); err != nil {
				missing <- err
				return
			}
		}
	}()
	for range 100 {
		if err := setAside(cfg); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	if err := <-missing; err != nil {
		t.Error(err)
	}
}
