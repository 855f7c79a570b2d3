package render_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
	"github.com/sidekick-proxy/sidekick/templates"
)

// policySite is a site of several services, asked by clients with addresses and headers of their own.
type policySite struct {
	*site
	stats string
	log   *accessLog
}

// clientA and clientB are two clients; what forwards for others is at proxyA.
const (
	clientA = "127.83.13.1"
	clientB = "127.83.13.2"
	proxyA  = "127.83.14.1"
)

func newPolicySite(t haproxytest.T, set map[string]string) *policySite {
	t.Helper()
	dir := haproxytest.Dir(t)
	s := &policySite{
		site:  &site{T: t, addr: haproxytest.Address(t, "127.83.12.1"), socket: filepath.Join(dir, "r.sock")},
		stats: haproxytest.Address(t, "127.83.12.2"), log: &accessLog{},
	}
	var err error
	s.renderer, err = render.New("built-in", templates.HAProxy, render.Settings{
		Node: "here", HTTPListen: s.addr, Stats: s.stats, RuntimeSocket: s.socket, ProxyCheck: render.ProxyCheckOff, Set: set,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.driver, err = haproxy.NewDriver(haproxy.Config{
		Bin: t.Bin, Path: filepath.Join(dir, "haproxy.cfg"), MasterSocket: filepath.Join(dir, "m.sock"), RuntimeSocket: s.socket,
		Managed: true, StopGrace: 100 * time.Millisecond, Access: s.log,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.run()
	return s
}

// items are instances and overrides: the rest of a key below the prefix, and its value.
type items map[string]string

// web is an instance of a service that leads to addr; rest is more of its value.
func web(name, addr, rest string) string {
	host, port, _ := net.SplitHostPort(addr)
	return fmt.Sprintf(`{"service":%q,"address":%q,"port":%s,"hosts":["%s.test"]%s}`, name, host, port, name, rest)
}

// put puts a catalog and what goes with it into force, and says what of services is not as they ask.
func (s *policySite) put(all items, in render.Input) (haproxy.Result, map[string]string) {
	s.Helper()
	f := service.File{Items: map[string]json.RawMessage{}}
	for key, value := range all {
		f.Items["/p/v1/"+key] = json.RawMessage(value)
	}
	in.Catalog = f.Catalog()
	for _, r := range in.Catalog.Rejected {
		s.Fatalf("%s: %s", r.Name, r.Reason)
	}
	files, model, err := s.renderer.Render(in)
	if err != nil {
		s.Fatal(err)
	}
	result := inForce(s.T, s.driver, files)
	why := map[string]string{}
	for _, m := range model.Services {
		why[m.Name] = m.Why
	}
	return result, why
}

// wantRuntime wants that a step needed no reload (P11).
func (s *policySite) wantRuntime(what string, got haproxy.Result) {
	s.Helper()
	if got.How != haproxy.HowRuntime {
		s.Errorf("%s came by %s (%s), want the runtime API", what, got.How, got.Reason)
	}
}

// reply is what a client got.
type reply struct {
	status int
	header http.Header
	body   string
}

// seen is what the server saw of a request that it echoed.
func (r reply) seen(tb testing.TB) http.Header {
	tb.Helper()
	h := http.Header{}
	if err := json.Unmarshal([]byte(r.body), &h); err != nil || r.status != http.StatusOK {
		tb.Fatalf("got %d %q, want an echo", r.status, r.body)
	}
	return h
}

// ask sends a GET from an address, on a connection of its own. headers are "Name: value".
func (s *policySite) ask(from, addr, url string, headers ...string) reply {
	s.Helper()
	host, path, _ := strings.Cut(url, "/")
	r, err := http.NewRequestWithContext(s.Context(), http.MethodGet, "http://"+addr+"/"+path, http.NoBody)
	if err != nil {
		s.Fatal(err)
	}
	r.Host = host
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	client := &http.Client{Timeout: haproxytest.Patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: dialer.DialContext}}
	resp, err := client.Do(r)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(body)}
}

// echo answers with the headers that it saw, among them Host and the path.
func echo(w http.ResponseWriter, r *http.Request) {
	h := r.Header.Clone()
	h.Set("Host", r.Host)
	h.Set("Path", r.URL.RequestURI())
	w.Header().Set("Server", "echo")
	w.Header().Set("X-Powered-By", "tests")
	w.Header().Set("X-Request-ID", "the server's own")
	json.NewEncoder(w).Encode(h) // the client counts
}

// accessLog holds the lines that HAProxy logged.
type accessLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *accessLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// lines are the whole ones so far.
func (l *accessLog) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(l.text.String(), "\n")
	return lines[:len(lines)-1]
}
