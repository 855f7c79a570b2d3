// Package haproxytest holds what tests with a real HAProxy share: the program itself, short
// directories for its sockets, web servers behind it and a load that retries nothing.
package haproxytest

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/load"
)

// Patience is how long a test waits for what must happen; on a busy machine that takes a while.
const Patience = 30 * time.Second

// T is a test with one of the HAProxys there are.
type T struct {
	*testing.T
	Bin string // HAProxy's program
}

// Each runs a test once with every HAProxy, as a subtest with the name of its version: with the one
// on the PATH, and with those that TEST_HAPROXY names, paths separated by colons. Without the first
// the test fails, unless TEST_WITHOUT names haproxy: then it is skipped.
func Each(t *testing.T, test func(t T)) {
	t.Helper()
	for _, bin := range Programs(t) {
		out, err := exec.Command(bin, "-v").Output() //nolint:noctx // prints a line
		words := strings.Fields(string(out))
		if err != nil || len(words) < 3 {
			t.Fatalf("%s -v, from TEST_HAPROXY or the PATH: %q, %v", bin, out, err)
		}
		release := strings.SplitN(words[2], ".", 3) // HAProxy version 3.0.11-…
		t.Run(strings.Join(release[:2], "."), func(t *testing.T) { test(T{t, bin}) })
	}
}

// Programs are the paths of all HAProxys that [Each] runs tests with.
func Programs(tb testing.TB) []string {
	tb.Helper()
	first, err := exec.LookPath("haproxy")
	switch {
	case err == nil:
	case strings.Contains(os.Getenv("TEST_WITHOUT"), "haproxy"): //nolint:forbidigo // a setting of the tests
		tb.Skip("left out: no haproxy here")
	default:
		tb.Fatalf("haproxy is needed: install it, or set TEST_WITHOUT=haproxy to leave this out (%v)", err)
	}
	return append([]string{first}, filepath.SplitList(os.Getenv("TEST_HAPROXY"))...) //nolint:forbidigo // a setting of the tests
}

// Dir returns a fresh directory whose name is short enough for sockets.
func Dir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "hp") //nolint:usetesting // tb.TempDir is too long for a socket
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) }) // the machine's temporary directory
	return dir
}

// Address returns a free address of the host; an address of its own keeps two HAProxys from sharing
// a port without a word.
func Address(tb testing.TB, host string) string {
	tb.Helper()
	l, err := net.Listen("tcp", host+":0") //nolint:noctx // closed at once
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close() // nothing was accepted
	return l.Addr().String()
}

// Server starts a web server that answers its name and returns its address.
func Server(tb testing.TB, name string) string {
	tb.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Whoami", name)
		io.WriteString(w, name) // the client counts
	}))
	tb.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// Get asks once and returns the body, or an error for everything but 200.
func Get(addr string) (string, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	resp, err := client.Get("http://" + addr + "/") //nolint:noctx // bounded by the client
	if err != nil {
		return "", err
	}
	defer resp.Body.Close() // read to its end
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", resp.Status)
	}
	return string(body), err
}

// Until waits for a condition.
func Until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			tb.Fatalf("waited %s in vain for: %s", Patience, what)
		}
	}
}

// Load is a steady stream of GETs, each of which counts: nothing is tried again.
type Load struct{ run *load.Run }

// Start sends requests to addr from a number of clients, over kept connections or not.
func Start(tb testing.TB, addr string, clients int, keepAlive bool) *Load {
	tb.Helper()
	l := &Load{load.Start(tb.Context(), load.Options{
		Target: addr, Workers: clients, Pause: time.Millisecond,
		Kinds: []load.Kind{{Method: http.MethodGet, KeepAlive: keepAlive}},
	})}
	tb.Cleanup(func() { l.run.Stop() })
	return l
}

// Sent is how many requests each server has answered so far, by its name.
func (l *Load) Sent() map[string]int { return l.run.Now().Servers }

// MustLoseNothing ends the load and fails the test if a request failed or none was sent.
func (l *Load) MustLoseNothing(tb testing.TB) {
	tb.Helper()
	if report := l.run.Stop(); report.Failed > 0 || report.Sent == 0 {
		tb.Errorf("want no failure of many: %s", report)
	}
}
