package haproxy

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// TestStartWithRefusedFile: whatever HAProxy cannot start with, by its check or by an address that is
// taken, is set aside; HAProxy runs and the wanted text is applied.
func TestStartWithRefusedFile(t *testing.T) {
	haproxytest.Each(t, func(h haproxytest.T) {
		taken, err := net.Listen("tcp", "127.0.0.31:0")
		if err != nil {
			h.Fatal(err)
		}
		defer taken.Close()
		for name, text := range map[string]func(b *bench) string{
			"broken":        func(*bench) string { return "nonsense\n" },
			"address taken": func(b *bench) string { return b.text("    bind "+taken.Addr().String()+"\n", "s1 127.0.0.1:9") },
		} {
			h.Run(name, func(t *testing.T) {
				cfg := configFor(t, h.Bin)
				cfg.Managed = true
				b := &bench{cfg: cfg, addr: haproxytest.Address(t, "127.0.0.32")}
				bad := strings.Replace(text(b), "frontend fe from web\n    bind "+b.addr+"\n    bind", "frontend fe from web\n    bind", 1)
				bad = strings.Replace(bad, "    bind "+b.addr+"\n    default_backend be_web\n    bind", "    default_backend be_web\n    bind", 1)
				if err := os.WriteFile(cfg.Path, []byte(bad), 0o600); err != nil {
					t.Fatal(err)
				}
				b.run(t)
				b.apply(t, b.text("", "s1 "+haproxytest.Server(t, "one")))
				haproxytest.Until(t, "one to answer", answers(b.addr, "one"))
				if got, err := os.ReadFile(cfg.Path + ".refused"); err != nil || string(got) != bad {
					t.Errorf("set aside: got %q, %v, want %q", got, err, bad)
				}
				b.accepted(t)
			})
		}
	})
}

// TestStopLeavesNothing: after a clean end no process of HAProxy is left, and the next start replaces
// the sockets it left behind.
func TestStopLeavesNothing(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managed(t, t.Bin)
		text := b.text("", "s1 "+haproxytest.Server(t, "one"))
		for range 2 {
			b.apply(t, text)
			var p processes
			haproxytest.Until(t, "the master to answer", func() bool {
				var err error
				p, err = b.driver.master.processes(t.Context())
				return err == nil
			})
			if err := b.stop(); !errors.Is(err, context.Canceled) {
				t.Errorf("run: got %v, want %v", err, context.Canceled)
			}
			if err := syscall.Kill(-p.master, 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("processes are left: %v", err)
			}
			b.run(t)
			haproxytest.Until(t, "the next start to serve the text on disk", answers(b.addr, "one"))
		}
	})
}

// TestSecondDriverRefuses: a managed driver does not start over a HAProxy that is not its own, nor touches it,
// although it has a text for it.
func TestSecondDriverRefuses(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		t.Parallel() // it waits most of the time
		b := managed(t, t.Bin)
		b.apply(t, b.text("", "s1 127.0.0.1:9"))
		second, err := NewDriver(b.cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), haproxytest.Patience)
		defer cancel()
		before, in := b.worker(t), make(chan render.Files, 1)
		in <- files(b.text("    timeout http-request 9s\n", "s2 127.0.0.1:10"))
		err = second.Run(ctx, in)
		if err == nil || !strings.Contains(err.Error(), b.cfg.MasterSocket) {
			t.Errorf("got %v, want an error that names the socket", err)
		}
		if got := b.worker(t); got != before {
			t.Errorf("worker: got %v, want the same %v", got, before)
		}
	})
}

// TestOldWorkersAreCounted: a worker that still has a stream is counted until that ends (P8).
func TestOldWorkersAreCounted(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managed(t, t.Bin)
		slow, release := slowServer(t)
		b.apply(t, b.text("", "s1 "+slow))
		got := make(chan error, 1)
		go func() {
			_, err := haproxytest.Get(b.addr)
			got <- err
		}()
		<-release.started
		b.apply(t, b.text("    timeout http-request 9s\n", "s1 "+slow))
		haproxytest.Until(t, "an old worker to be counted", func() bool { return b.driver.State().OldWorkers == 1 })
		close(release.end)
		if err := <-got; err != nil {
			t.Errorf("the stream over the reload: %v", err)
		}
		haproxytest.Until(t, "the old worker to be gone", func() bool { return b.driver.State().OldWorkers == 0 })
	})
}

func TestConfigFaultsAreAllReported(t *testing.T) {
	_, err := NewDriver(Config{Path: "haproxy.cfg", MasterSocket: "/a b", RuntimeSocket: "/" + strings.Repeat("x", 100)})
	for _, want := range []string{`"haproxy.cfg"`, `"/a b"`, "longer than 90 bytes"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to contain %s", err, want)
		}
	}
}

func TestAlerts(t *testing.T) {
	out := "[NOTICE]   (1) : haproxy version is 2.6\n" +
		"[ALERT]    (1) : config : parsing [/x/haproxy.cfg:3] : unknown keyword 'balanse' in 'backend' section\n" +
		"[ALERT]    (1) : config : Error(s) found in configuration file : /x/haproxy.cfg\n" +
		"[ALERT]    (1) : config : Fatal errors found in configuration.\n"
	if got := alertsOf(out); len(got) != 1 || got[0] != "parsing [/x/haproxy.cfg:3] : unknown keyword 'balanse' in 'backend' section" {
		t.Errorf("got %q", got)
	}
}

// TestAccessLinesPassAsTheyAre: lines about requests are for programs, and none of ours to wrap.
func TestAccessLinesPassAsTheyAre(t *testing.T) {
	log, seen := logtest.NewNullLogger()
	var access strings.Builder
	s := &Supervisor{cfg: Config{Log: log, Access: &access}}
	about := []string{
		`{"time":"2026-11-28T09:50:35.549Z","client":"127.0.0.1"}`,
		`127.0.0.1:59746 [28/Nov/2026:09:50:35.549] fe_http be_web/a 0/0/0/1/1 200 389 - - ---- 1/1/0/0/0 0/0 "GET / HTTP/1.1" id`,
		`fd00::1:59746 [28/Nov/2026:09:50:35.549] fe_https/1: SSL handshake failure`,
	}
	for _, line := range about {
		s.line(line)
	}
	s.line("Server be_web/a is DOWN, reason: Layer4 timeout.")
	if got, want := access.String(), strings.Join(about, "\n")+"\n"; got != want || len(seen.AllEntries()) != 1 {
		t.Errorf("passed %q and logged %d lines, want %q and one", got, len(seen.AllEntries()), want)
	}
}

// TestAlertsOfServersEndNothing: that a backend has no server is passed on, and is never the reason why HAProxy ended.
func TestAlertsOfServersEndNothing(t *testing.T) {
	log, seen := logtest.NewNullLogger()
	s := &Supervisor{cfg: Config{Log: log}}
	mark := s.alerts.mark()
	s.line("[ALERT]    (24) : (CLI : )backend 'be_web' has no server available!")
	s.line("[ALERT]    (24) : Starting frontend fe_http: cannot bind socket")
	if got := s.alerts.since(mark); len(got) != 1 || !strings.Contains(got[0], "cannot bind") {
		t.Errorf("got %q, want the second line alone", got)
	}
	if n := len(seen.AllEntries()); n != 2 {
		t.Errorf("logged %d lines, want both", n)
	}
}
