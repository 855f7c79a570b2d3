package haproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

func TestMain(m *testing.M) {
	if helper := os.Getenv("SIDEKICK_TEST_HELPER"); helper != "" {
		os.Exit(runHelper(helper))
	}
	goleak.VerifyTestMain(m)
}

// bench is a driver with its HAProxy, and what the texts of a test are made of.
type bench struct {
	cfg    Config
	driver *Driver
	in     chan render.Files
	addr   string // of the frontend
	ahead  int    // how many sets may be sent that the driver has not taken
	stop   func() error
}

func configFor(tb testing.TB, bin string) Config {
	tb.Helper()
	return configIn(haproxytest.Dir(tb), bin)
}

func configIn(dir, bin string) Config {
	return Config{
		Bin: bin, Path: filepath.Join(dir, "haproxy.cfg"),
		MasterSocket: filepath.Join(dir, "m.sock"), RuntimeSocket: filepath.Join(dir, "r.sock"),
		StopGrace: 200 * time.Millisecond,
	}
}

// managed starts a driver with a HAProxy of its own.
func managed(tb testing.TB, bin string) *bench {
	tb.Helper()
	cfg := configFor(tb, bin)
	cfg.Managed = true
	b := &bench{cfg: cfg, addr: haproxytest.Address(tb, "127.0.0.11")}
	b.run(tb)
	return b
}

// run starts the driver's loop.
func (b *bench) run(tb testing.TB) {
	tb.Helper()
	d, err := NewDriver(b.cfg)
	if err != nil {
		tb.Fatal(err)
	}
	b.driver, b.in = d, make(chan render.Files, b.ahead)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, b.in) }()
	stopped := false
	b.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	tb.Cleanup(func() {
		if err := b.stop(); err != nil && !errors.Is(err, context.Canceled) {
			tb.Errorf("run: %v", err)
		}
	})
}

// text is a configuration with one frontend and one backend of these server lines.
func (b *bench) text(extra string, servers ...string) string {
	return b.withOptions("", extra, servers...)
}

func (b *bench) withOptions(options, extra string, servers ...string) string {
	var s strings.Builder
	fmt.Fprintf(&s, `global
    stats socket %s mode 660 level admin
    hard-stop-after 20s
defaults web
    mode http
    option idle-close-on-response
    option redispatch 1
    retries 3
    timeout connect 2s
    timeout client 10s
    timeout server 10s
frontend fe from web
    bind %s
    default_backend be_web
%sbackend be_web from web
    balance roundrobin
%s`, b.cfg.RuntimeSocket, b.addr, extra, options)
	for _, line := range servers {
		fmt.Fprintf(&s, "    server %s\n", line)
	}
	return s.String()
}

func files(text string) render.Files {
	return render.Files{{Blocks: []render.Block{render.NewBlock("", text)}}}
}

// apply applies a text by a direct call, waiting for a HAProxy that is being started.
func (b *bench) apply(tb testing.TB, text string) Result {
	tb.Helper()
	return b.applyFiles(tb, files(text))
}

func (b *bench) applyFiles(tb testing.TB, want render.Files) Result {
	tb.Helper()
	var res Result
	haproxytest.Until(tb, "the text to be applied", func() bool {
		var err error
		res, err = b.driver.Apply(tb.Context(), want)
		if asRefused(err) != nil {
			tb.Fatalf("apply: %v", err)
		}
		return err == nil
	})
	return res
}

// worker asks the running HAProxy who it is.
func (b *bench) worker(tb testing.TB) Worker {
	tb.Helper()
	i, err := b.driver.api.info(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return i.worker
}

// accepted fails the test if HAProxy does not accept the file on disk (P6, F8).
func (b *bench) accepted(tb testing.TB) {
	tb.Helper()
	if err := check(tb.Context(), b.cfg.Bin, b.cfg.Path, b.cfg.Path); err != nil {
		tb.Errorf("the file on disk: %v", err)
	}
}

func answers(addr, want string) func() bool {
	return func() bool {
		got, err := haproxytest.Get(addr)
		return err == nil && got == want
	}
}

func TestManagedFirstTextAndEqualText(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managed(t, t.Bin)
		web := haproxytest.Server(t, "one")
		text := b.text("", "s1 "+web)
		res := b.apply(t, text)
		if res.How != HowReload || res.Reason.Kind != ReasonStart || !strings.Contains(res.Reason.Detail, "haproxy has just started") {
			t.Errorf("first apply: got %+v, want a reload for the start", res)
		}
		if got, err := haproxytest.Get(b.addr); got != "one" {
			t.Errorf("got %q, %v, want one", got, err)
		}
		// P11: equal texts cost nothing, also if only comments and blanks differ.
		before := b.worker(t)
		for _, same := range []string{text, "# a remark\n" + strings.ReplaceAll(text, "    ", "\t")} {
			if res := b.apply(t, same); res.How != HowNone || res.Commands != 0 {
				t.Errorf("equal text: got %+v, want nothing done", res)
			}
		}
		if got := b.worker(t); got != before {
			t.Errorf("worker: got %v, want the same %v", got, before)
		}
		b.accepted(t)
	})
}

func TestRefusedTextLeavesTheOldOne(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := &bench{cfg: configFor(t, t.Bin), addr: haproxytest.Address(t, "127.0.0.11")}
		b.cfg.Managed, b.cfg.WorkDir = true, t.TempDir()
		b.run(t)
		text := b.text("", "s1 "+haproxytest.Server(t, "one"))
		b.apply(t, text)
		before := b.worker(t)
		taken, err := net.Listen("tcp", "127.0.0.12:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		load := haproxytest.Start(t, b.addr, 2, false)
		tests := map[string]struct{ text, stage, words string }{
			"broken":           {text + "    frobnicate roundrobin\n", StageCheck, "unknown keyword 'frobnicate'"},
			"address taken":    {b.text("    bind "+taken.Addr().String()+"\n", "s1 127.0.0.1:1"), StageProbe, taken.Addr().String()},
			"in a range":       {b.text("    bind "+taken.Addr().String()+"-"+strconv.Itoa(int(portOf(t, taken.Addr().String())))+"\n", "s1 127.0.0.1:1"), StageProbe, taken.Addr().String()},
			"socket forgotten": {strings.ReplaceAll(text, "stats socket", "# stats socket"), StageText, "stats socket " + b.cfg.RuntimeSocket},
		}
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				_, err := b.driver.Apply(t.Context(), files(tt.text))
				refused := asRefused(err)
				if refused == nil || refused.Stage != tt.stage || !strings.Contains(err.Error(), tt.words) {
					t.Errorf("got %v, want a refusal at %q with %q", err, tt.stage, tt.words)
				}
				if strings.Contains(err.Error(), candidatePrefix) {
					t.Errorf("%v names the candidate, which is gone", err)
				}
				if tt.stage == StageCheck {
					b.keepsRefused(t, tt.text, err)
				}
				if got := b.worker(t); got != before {
					t.Errorf("worker: got %v, want the same %v", got, before)
				}
				b.accepted(t)
			})
		}
		load.MustLoseNothing(t)
		left, err := filepath.Glob(filepath.Join(b.cfg.WorkDir, candidatePrefix+"*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
}

// keepsRefused fails the test unless HAProxy's words are about a file with the refused text, which goes
// when there is none.
func (b *bench) keepsRefused(tb testing.TB, text string, refused error) {
	tb.Helper()
	path := filepath.Join(b.cfg.WorkDir, refusedName)
	if got, err := os.ReadFile(path); string(got) != text {
		tb.Errorf("%s: got %q, %v, want the refused text", path, got, err)
	}
	if words := refused.Error(); !strings.Contains(words, path+":") || strings.Contains(words, b.cfg.Path) {
		tb.Errorf("%q speaks of another file than %s", words, path)
	}
	if s := b.driver.State(); !strings.Contains(s.Status, "changes of servers go on") {
		tb.Errorf("status: got %q, want what goes on", s.Status)
	}
	good, err := os.ReadFile(b.cfg.Path)
	if err != nil {
		tb.Fatal(err)
	}
	b.apply(tb, string(good))
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		tb.Errorf("%s with all in step: got %v, want none", path, err)
	}
}

// TestReloadFailureRollsBack makes HAProxy itself refuse at the reload what its check accepted: the
// address is taken and the probe does not see it (F8).
func TestReloadFailureRollsBack(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managed(t, t.Bin)
		text := b.text("", "s1 "+haproxytest.Server(t, "one"))
		b.apply(t, text)
		before := b.worker(t)
		taken, err := net.Listen("tcp", "127.0.0.13:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		c := files(strings.Replace(text, "    default_backend", "    bind "+taken.Addr().String()+"\n    default_backend", 1))
		b.driver.cfg.Managed = false // no probe
		_, err = b.driver.Apply(t.Context(), c)
		refused := asRefused(err)
		if refused == nil || refused.Stage != StageReload || !strings.Contains(err.Error(), "cannot bind socket") {
			t.Fatalf("got %v, want HAProxy's words about the address", err)
		}
		if port := uint16(taken.Addr().(*net.TCPAddr).Port); !slices.Equal(refused.Unbound(), []uint16{port}) {
			t.Errorf("ports that it could not have: got %v, want %d", refused.Unbound(), port)
		}
		if got, err := os.ReadFile(b.cfg.Path); string(got) != text {
			t.Errorf("on disk: got %s, %v, want the former text", got, err)
		}
		haproxytest.Until(t, "the old worker to serve", answers(b.addr, "one"))
		if got := b.worker(t); got != before {
			t.Errorf("worker: got %v, want the same %v", got, before)
		}
		if res := b.apply(t, b.text("", "s1 "+haproxytest.Server(t, "two"), "s2 "+haproxytest.Server(t, "two"))); res.How != HowReload {
			t.Errorf("after it: got %+v, want a reload", res)
		}
	})
}

// TestReloadsUnderLoad: a reload loses no request (P2, F11), neither with kept connections.
func TestReloadsUnderLoad(t *testing.T) {
	haproxytest.Each(t, func(h haproxytest.T) {
		h.Parallel() // it waits most of the time
		for _, keepAlive := range []bool{false, true} {
			h.Run(fmt.Sprintf("keep-alive %v", keepAlive), func(t *testing.T) {
				b := managed(t, h.Bin)
				web := haproxytest.Server(t, "one")
				b.apply(t, b.text("", "s1 "+web))
				load := haproxytest.Start(t, b.addr, 4, keepAlive)
				for i := range 30 {
					text := b.text(fmt.Sprintf("    http-response set-header X-Turn %d\n", i), "s1 "+web)
					if res := b.apply(t, text); res.How != HowReload || res.Reason.Kind != ReasonSection {
						t.Fatalf("turn %d: got %+v, want a reload", i, res)
					}
				}
				load.MustLoseNothing(t)
				if got := b.driver.State().Reloads[ReasonSection]; got != 30 {
					t.Errorf("counted %d reloads, want 30", got)
				}
			})
		}
	})
}

// TestRuntimeChangesUnderLoad: endpoints come, go, rest and change weight without a reload and
// without a lost request (P2, P11).
func TestRuntimeChangesUnderLoad(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managed(t, t.Bin)
		one, two := haproxytest.Server(t, "one"), haproxytest.Server(t, "two")
		b.apply(t, b.text("", "s1 "+one))
		before := b.worker(t)
		load := haproxytest.Start(t, b.addr, 4, true)
		for i := range 20 {
			for _, servers := range [][]string{
				{"s1 " + one, "s2 " + two + " weight 10"},
				{"s1 " + one + " disabled", "s2 " + two + " weight 20"},
				{"s2 " + two + " weight 20"},
				{"s2 " + two, "s1 " + one + " weight 3"},
				{"s1 " + one},
			} {
				if res := b.apply(t, b.text("", servers...)); res.How != HowRuntime || res.Commands == 0 {
					t.Fatalf("turn %d %v: got %+v, want runtime commands", i, servers, res)
				}
			}
		}
		load.MustLoseNothing(t)
		if got := b.worker(t); got != before {
			t.Errorf("worker: got %v, want the same %v", got, before)
		}
		if sent := load.Sent(); sent["one"] == 0 || sent["two"] == 0 {
			t.Errorf("answered: %v, want some by both", sent)
		}
		want := b.text("", "s1 "+one)
		haproxytest.Until(t, "the file to follow", func() bool {
			got, err := os.ReadFile(b.cfg.Path)
			return err == nil && string(got) == want
		})
		b.accepted(t)
		b.inStep(t, want)
	})
}

// inStep fails unless the running servers are those of the text (P6, F12).
func (b *bench) inStep(tb testing.TB, text string) {
	tb.Helper()
	haproxytest.Until(tb, "running to equal wanted", func() bool {
		live, err := b.driver.api.servers(tb.Context(), b.worker(tb))
		if err != nil {
			return false
		}
		m := compare(text, live, Capabilities{}, nil)
		return len(m.what) == 0
	})
}

// TestRemovedServerKeepsItsStream: a server with a stream in flight leaves the balance at once and
// is deleted when the stream ends; meanwhile other changes go on, and it may come back.
func TestRemovedServerKeepsItsStream(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managed(t, t.Bin)
		one := haproxytest.Server(t, "one")
		slow, release := slowServer(t)
		b.apply(t, b.text("", "s1 "+slow))
		got := make(chan string, 1)
		go func() {
			body, err := haproxytest.Get(b.addr)
			got <- fmt.Sprint(body, err)
		}()
		<-release.started
		if res := b.apply(t, b.text("", "s2 "+one)); res.How != HowRuntime {
			t.Fatalf("got %+v, want runtime", res)
		}
		if err := b.driver.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		n := len(b.driver.leaving)
		b.driver.release()
		if n != 1 {
			t.Errorf("waiting for deletion: %d, want 1", n)
		}
		if body, err := haproxytest.Get(b.addr); body != "one" {
			t.Errorf("got %q, %v, want one", body, err)
		}
		for _, servers := range [][]string{{"s2 " + one, "s1 " + slow + " weight 7"}, {"s2 " + one}} {
			if res := b.apply(t, b.text("", servers...)); res.How != HowRuntime {
				t.Fatalf("%v: got %+v, want runtime", servers, res)
			}
		}
		close(release.end)
		if body := <-got; body != "slow<nil>" {
			t.Errorf("the stream got %q, want slow", body)
		}
		b.inStep(t, b.text("", "s2 "+one))
	})
}

// TestDrainComment: how long the sessions of a removed server may go on is what its own line says.
func TestDrainComment(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managed(t, t.Bin)
		one := haproxytest.Server(t, "one")
		short, ends := slowServer(t)
		long, goesOn := slowServer(t)
		b.apply(t, b.text("", "s1 "+short+" # drain 500ms"))
		answer := func() chan error {
			done := make(chan error, 1)
			go func() {
				_, err := haproxytest.Get(b.addr)
				done <- err
			}()
			return done
		}
		first := answer()
		<-ends.started
		b.apply(t, b.text("", "s2 "+long+" # drain 1h"))
		second := answer()
		<-goesOn.started
		if res := b.apply(t, b.text("", "s3 "+one)); res.How != HowRuntime {
			t.Fatalf("got %+v, want runtime", res)
		}
		if err := <-first; err == nil {
			t.Error("the session of the server with the short limit ended well, want it cut")
		}
		close(ends.end)
		close(goesOn.end)
		if err := <-second; err != nil {
			t.Errorf("the session of the server with the long limit: got %v", err)
		}
	})
}

func TestDrainOf(t *testing.T) {
	for line, want := range map[string]time.Duration{
		"server s 1.2.3.4:80 # drain 2m": 2 * time.Minute, "server s 1.2.3.4:80 #drain 500": 500 * time.Millisecond,
		"server s 1.2.3.4:80 # drain 1d": 24 * time.Hour, "server s 1.2.3.4:80": 0, `server s 1.2.3.4:80 sni "str(# drain 5s`: 0, "server s 1.2.3.4:80 # drain 0s": 1, "server s 1.2.3.4:80 # drain soon": 0,
		"server s 1.2.3.4:80 # drain 2m or so": 0, "server s 1.2.3.4:80 # drain 99999999999999h": 0,
	} {
		if got := readServer(splitLine(line), nil, "").drain; got != want {
			t.Errorf("%q: got %s, want %s", line, got, want)
		}
	}
}

// TestRefusedTextDoesNotHoldUpServers: while a text cannot be loaded, its changes of servers are
// made all the same (P7).
func TestRefusedTextDoesNotHoldUpServers(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managed(t, t.Bin)
		one, two := haproxytest.Server(t, "one"), haproxytest.Server(t, "two")
		b.apply(t, b.text("", "s1 "+one))
		broken := "    nonsense\n"
		_, err := b.driver.Apply(t.Context(), files(b.text(broken, "s2 "+two)))
		if asRefused(err) == nil {
			t.Fatalf("got %v, want a refusal", err)
		}
		if got, err := haproxytest.Get(b.addr); got != "two" {
			t.Errorf("got %q, %v, want two", got, err)
		}
		haproxytest.Until(t, "the file to follow", func() bool {
			got, err := os.ReadFile(b.cfg.Path)
			return err == nil && string(got) == b.text("", "s2 "+two)
		})
		b.accepted(t)
	})
}

// TestKilledProcessesComeBack: whichever process is killed, HAProxy is back with the text in force,
// and nothing of the old one is left (P6, F10).
func TestKilledProcessesComeBack(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managed(t, t.Bin)
		one := haproxytest.Server(t, "one")
		b.apply(t, b.text("", "s1 "+one, "s2 "+one+" disabled"))
		for _, victim := range []string{"worker", "master"} {
			t.Run(victim, func(t *testing.T) {
				var p processes
				haproxytest.Until(t, "the master to answer", func() bool {
					var err error
					p, err = b.driver.master.processes(t.Context())
					return err == nil
				})
				pid := p.master
				if victim == "worker" {
					pid = p.current()
				}
				old := b.worker(t)
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				haproxytest.Until(t, "another worker to serve", func() bool {
					i, err := b.driver.api.info(t.Context())
					return err == nil && i.worker != old && answers(b.addr, "one")()
				})
				if err := syscall.Kill(-p.master, 0); !errors.Is(err, syscall.ESRCH) {
					t.Errorf("of the killed haproxy's processes some are left: %v", err)
				}
				b.inStep(t, b.text("", "s1 "+one, "s2 "+one+" disabled"))
				b.apply(t, b.text("", "s1 "+one, "s2 "+one+" disabled"))
			})
		}
	})
}
