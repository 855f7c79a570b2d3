package register

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// P7: a container with many ports that take connections and never answer holds nobody up, and its
// wish for a timeout is bounded.
func TestGateHangingContainerHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := openGate(t)
		g.net.set(a80, true)
		var set []service.Instance
		for k := range 200 {
			port := uint16(1000 + k)
			g.net.hang[fmt.Sprintf("10.0.0.1:%d", port)] = true
			set = append(set, with(fmt.Sprintf("h%03d", k), port, service.CheckTCP, func(i *service.Instance) {
				i.Container, i.Check.Timeout = "hostile", 480*time.Hour
			}))
		}
		g.in <- set
		time.Sleep(firstWait)
		g.want(t, "[]")
		g.in <- append(slices.Clip(set), with("web", 80, service.CheckTCP, func(i *service.Instance) { i.Container = "good" }))
		g.want(t, "[]", "[web:ready]")
		g.net.mu.Lock()
		if got, want := g.net.most, dialsPerLane+1; got > want {
			t.Errorf("%d connects at a time, want at most %d", got, want)
		}
		g.net.mu.Unlock()
		time.Sleep(longestTimeout)
		synctest.Wait()
		g.mu.Lock()
		defer g.mu.Unlock()
		failed := 0
		for _, r := range g.held {
			if strings.HasSuffix(r.Reason, ": no answer in time") {
				failed++
			}
		}
		if failed != dialsPerLane {
			t.Errorf("%d checks have ended after %v, want %d", failed, longestTimeout, dialsPerLane)
		}
	})
}

// A container that is moved to another network, or whose check changes, goes on serving until the
// new check has failed as often as it takes (P2).
func TestGateNewCheckKeepsTheVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := openGate(t)
		g.net.set(a80, true)
		moved := with("a", 80, service.CheckTCP)
		g.in <- []service.Instance{moved}
		g.want(t, "[a:ready]")
		elsewhere := *moved.Check
		elsewhere.Target = netip.MustParseAddrPort("10.9.0.1:80")
		moved.Check = &elsewhere
		g.in <- []service.Instance{moved}
		time.Sleep(9 * time.Second)
		g.want(t, "[a:ready]", "[a:ready]") // a change of the check is passed on
		time.Sleep(9 * time.Second)
		g.want(t, "[a:ready]", "[a:ready]", "[a:unhealthy]")
		back := *moved.Check
		back.Target = netip.MustParseAddrPort(a80)
		moved.Check = &back
		g.in <- []service.Instance{moved}
		time.Sleep(10 * time.Second)
		g.want(t, "[a:ready]", "[a:ready]", "[a:unhealthy]", "[a:unhealthy]", "[a:ready]")
	})
}

// What is not let through yet has to pass the check that it has now.
func TestGateNewCheckBeforeTheFirstPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := openGate(t)
		g.net.set(a80, true)
		a := with("a", 80, service.CheckDocker, health("starting")) // the port answers
		g.in <- []service.Instance{a}
		g.want(t, "[]")
		c := *a.Check
		c.Target, c.Health = netip.MustParseAddrPort("10.9.0.1:80"), healthy
		a.Check = &c
		g.in <- []service.Instance{a}
		time.Sleep(time.Minute)
		g.want(t, "[]")
	})
}

// A run that was told to stop is not ready again, whatever its source says later (P1).
func TestGateDrainIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := openGate(t)
		g.net.set(a80, true)
		a := with("a", 80, service.CheckTCP, started(1))
		for _, s := range []service.State{service.Ready, service.Draining, service.Ready} {
			state(s)(&a)
			g.in <- []service.Instance{a}
			synctest.Wait()
		}
		g.want(t, "[a:ready]", "[a:draining]")
		started(2)(&a)
		g.in <- []service.Instance{a}
		g.want(t, "[a:ready]", "[a:draining]", "[]", "[a:ready]")
	})
}

// Whatever a container answers, the reason is one short line that is the same each time.
func TestReasonsArePlainAndStable(t *testing.T) {
	tests := map[string]struct {
		answer string // to a request; none: the connection is reset
		want   string
	}{
		"words for the status": {"HTTP/1.1 500 \x1b[2J\x1b]0;owned\x07" + strings.Repeat("x", 20_000) + "\r\n\r\n", "check http:/up: the answer is 500, not 2xx or 3xx"},
		"a long head":          {"HTTP/1.1 200 " + strings.Repeat("x", 200_000) + "\r\n\r\n", "check http:/up of ADDRESS: what it answers is no HTTP, or has a head of more than 64 KiB"},
		"no HTTP":              {"\x1b[31mSSH-2.0\r\n\r\n", "check http:/up of ADDRESS: what it answers is no HTTP, or has a head of more than 64 KiB"},
		"nothing":              {"", "check http:/up of ADDRESS: connection closed without an answer"},
		"reset":                {"reset", "check http:/up of ADDRESS: connection reset"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			target := answerer(t, tt.answer)
			c := newChecker(nil)
			own, leave := c.lanes.join("x")
			defer leave()
			check := &service.Check{Kind: service.CheckHTTP, HTTPPath: "/up", Target: target, Timeout: 30 * time.Second}
			want := strings.ReplaceAll(tt.want, "ADDRESS", target.String())
			for range 3 {
				_, err := c.once(t.Context(), own, check, false)
				if err == nil || err.Error() != want {
					t.Errorf("got %.400v, want %s", err, want)
				}
			}
		})
	}
}

// answerer listens, and answers each request with that text.
func answerer(t *testing.T, text string) netip.AddrPort {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Errorf("take the connection: %v", err)
			return
		}
		if text == "reset" {
			_ = c.(*net.TCPConn).SetLinger(0)
		} else {
			_, _ = io.WriteString(c, text)
		}
		_ = c.Close()
	}))
	t.Cleanup(server.Close)
	return netip.MustParseAddrPort(server.Listener.Addr().String())
}

// Errors of the network name the local port, which is another one each time.
func TestCauseLeavesThePortOut(t *testing.T) {
	local := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 43210}
	for want, inner := range map[string]error{
		"connection refused": syscall.ECONNREFUSED, "connection reset": syscall.ECONNRESET,
		"no answer in time": context.DeadlineExceeded, "no route to host": syscall.EHOSTUNREACH,
	} {
		if got := cause(&net.OpError{Op: "read", Net: "tcp", Source: local, Err: inner}, "?"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func FuzzPlain(f *testing.F) {
	for _, text := range []string{"", "it does not listen", "\x1b[2J\u202e\xff\n", strings.Repeat("é", 400)} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := plain(text)
		if len(got) > longestReason {
			t.Errorf("%d bytes", len(got))
		}
		for _, r := range got {
			if !unicode.IsPrint(r) || r == unicode.ReplacementChar && !strings.ContainsRune(text, r) {
				t.Errorf("%q in %q", r, got)
			}
		}
	})
}

// The session is open while there is no set yet, so that what an earlier one has left stays (P3).
func TestPublisherOpensBeforeTheFirstSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{openErrs: 1}
		in, end := publish(t, &Publisher{Registry: m})
		time.Sleep(time.Minute)
		synctest.Wait()
		close(m.sessions[0].done) // lost: opened again, still nothing written
		time.Sleep(time.Minute)
		in <- Set{Instances: instances("a")}
		synctest.Wait()
		if err := end(); err != nil {
			t.Error(err)
		}
		if got, want := m.lines(), "open fails; open; close; open; set a; close"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
