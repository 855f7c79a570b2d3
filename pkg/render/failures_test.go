package render_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
	"github.com/sidekick-proxy/sidekick/templates"
)

// The tests here let servers fail behind a real HAProxy that the driver runs with the built-in
// template's text.

const serverEnv = "SIDEKICK_TEST_SERVER"

// TestMain is also the program of a server that a test can kill: this one, started anew.
func TestMain(m *testing.M) {
	if what := os.Getenv(serverEnv); what != "" { // a setting of the tests
		addr, name, _ := strings.Cut(what, " ")
		fmt.Fprintln(os.Stderr, http.ListenAndServe(addr, answer(http.StatusOK, name))) // a test's server
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func answer(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Whoami", text) // by which a load counts
		w.WriteHeader(status)
		io.WriteString(w, text) // the client counts
	}
}

// process starts a web server in a process of its own. kill ends it at once, at the latest with the
// test.
func process(t haproxytest.T, addr, name string) (kill func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe") // killed below
	cmd.Env, cmd.Stderr = append(os.Environ(), serverEnv+"="+addr+" "+name), os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() { cmd.Process.Kill(); cmd.Wait() }) // it was killed
	t.Cleanup(kill)
	haproxytest.Until(t, name+" to answer", func() bool {
		body, err := haproxytest.Get(addr)
		return err == nil && body == name
	})
	return kill
}

// site is a HAProxy that serves catalogs.
type site struct {
	haproxytest.T
	addr, socket string
	settings     render.Settings
	renderer     *render.Renderer
	input        render.Input // but for the catalog
	driver       *haproxy.Driver
}

// newSite runs a HAProxy that serves nothing yet; set is that of --set, of which the files about servers are
// there.
func newSite(t haproxytest.T, check render.ProxyCheck, set map[string]string) *site {
	t.Helper()
	dir := haproxytest.Dir(t)
	s := &site{T: t, addr: haproxytest.Address(t, "127.83.12.1"), socket: filepath.Join(dir, "r.sock")}
	s.settings = render.Settings{
		Node: "here", HTTPListen: s.addr, Stats: haproxytest.Address(t, "127.83.12.2"), RuntimeSocket: s.socket, ProxyCheck: check, Set: set,
	}
	s.template(templates.HAProxy)
	s.input.ServerCA, s.input.ServerCert = serverFile(t, set["server-ca"]), serverFile(t, set["server-cert"])
	var err error
	s.driver, err = haproxy.NewDriver(haproxy.Config{
		Bin: t.Bin, Path: filepath.Join(dir, "haproxy.cfg"), MasterSocket: filepath.Join(dir, "m.sock"), RuntimeSocket: s.socket,
		Managed: true, StopGrace: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.run()
	return s
}

// serverFile reads a file about servers, if there is to be one.
func serverFile(t haproxytest.T, path string) (f render.ServerFile) {
	t.Helper()
	if path == "" {
		return f
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return render.ServerFile{Text: string(text)}
}

// template is by what catalogs are rendered from now on.
func (s *site) template(text string) {
	s.Helper()
	var err error
	if s.renderer, err = render.New("built-in", text, s.settings); err != nil {
		s.Fatal(err)
	}
}

// run runs the driver until the test ends.
func (s *site) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.driver.Run(ctx, make(chan render.Files)) }()
	s.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			s.Errorf("driver: %v", err)
		}
	})
}

// anyHost is an instance's value that leads all requests to its service.
const anyHost = `"options":{"default":"true"}`

// serve puts a service with these servers into force; rest is more of each one's value.
func (s *site) serve(rest string, servers ...string) haproxy.Result {
	s.Helper()
	items := map[string]string{}
	for _, addr := range servers {
		items[instanceKey(addr)] = instance(addr, rest)
	}
	return s.put(items)
}

// instanceKey is under what the server at addr is registered, and instance as what.
func instanceKey(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return "instances/n/" + port
}

func instance(addr, rest string) string {
	host, port, _ := net.SplitHostPort(addr)
	return fmt.Sprintf(`{"service":"web","address":%q,"port":%s,%s}`, host, port, rest)
}

// put puts a catalog of these keys and values into force.
func (s *site) put(items map[string]string) haproxy.Result {
	s.Helper()
	f := service.File{Items: map[string]json.RawMessage{}}
	for key, value := range items {
		f.Items["/p/v1/"+key] = json.RawMessage(value)
	}
	in := s.input
	in.Catalog = f.Catalog()
	files, _, err := s.renderer.Render(in)
	if err != nil {
		s.Fatal(err)
	}
	return inForce(s.T, s.driver, files)
}

// inForce waits until the files are in force.
func inForce(t haproxytest.T, driver *haproxy.Driver, files render.Files) (result haproxy.Result) {
	t.Helper()
	haproxytest.Until(t, "the text to be in force", func() bool {
		var err error
		result, err = driver.Apply(t.Context(), files)
		if _, refused := errors.AsType[*haproxy.Refused](err); refused {
			t.Fatalf("%v\n%s", err, files[0].Text())
		}
		return err == nil
	})
	return result
}

// byRuntime is serve, for what needs no reload.
func (s *site) byRuntime(rest string, servers ...string) {
	s.Helper()
	if got := s.serve(rest, servers...); got.How != haproxy.HowRuntime {
		s.Fatalf("%v with %s came by %s (%s), want the runtime API", servers, rest, got.How, got.Reason)
	}
}

// stats are HAProxy's words about the server at addr, by their names.
func (s *site) stats(addr string) map[string]string {
	s.Helper()
	for _, row := range s.table() {
		if row["addr"] == addr {
			return row
		}
	}
	return nil
}

// table is what HAProxy tells of the service: of its backend and of each server, by names.
func (s *site) table() (rows []map[string]string) {
	s.Helper()
	conn, err := net.Dial("unix", s.socket) // on this machine
	if err != nil {
		s.Fatal(err)
	}
	defer conn.Close() // all was read
	fmt.Fprintln(conn, "show stat be_web 6 -1")
	lines := bufio.NewScanner(conn)
	lines.Scan()
	names := strings.Split(lines.Text(), ",")
	for lines.Scan() {
		row := map[string]string{}
		for i, word := range strings.Split(lines.Text(), ",") {
			row[names[min(i, len(names)-1)]] = word
		}
		rows = append(rows, row)
	}
	return rows
}

func (s *site) awaitStatus(addr, status string) {
	s.Helper()
	haproxytest.Until(s, addr+" to be "+status, func() bool { return s.stats(addr)["status"] == status })
}

// mustBeUp looks once: HAProxy shows a server that is to be checked yet as UP 1/3.
func (s *site) mustBeUp(addr, when string) {
	s.Helper()
	if got := s.stats(addr)["status"]; !strings.HasPrefix(got, "UP") {
		s.Errorf("%s %s is %q, want UP at once", when, addr, got)
	}
}

// eachCheck runs a test with HAProxy's own checks and without.
func eachCheck(t *testing.T, test func(t haproxytest.T, check render.ProxyCheck)) {
	t.Helper()
	haproxytest.Each(t, func(t haproxytest.T) {
		for _, check := range []render.ProxyCheck{render.ProxyCheckOn, render.ProxyCheckOff} {
			t.Run("checks "+string(check), func(sub *testing.T) { test(haproxytest.T{T: sub, Bin: t.Bin}, check) })
		}
	})
}

// kill -9 of one of two servers under load costs no GET. HAProxy's own checks take it out, and in
// again (P5).
func TestKilledServerCostsNothing(t *testing.T) {
	eachCheck(t, func(t haproxytest.T, check render.ProxyCheck) {
		mortal, other := haproxytest.Address(t, "127.83.12.3"), haproxytest.Address(t, "127.83.12.4")
		kill := process(t, mortal, "mortal")
		process(t, other, "other")
		s := newSite(t, check, nil)
		s.serve(anyHost, mortal, other)
		kept, fresh := haproxytest.Start(t, s.addr, 4, true), haproxytest.Start(t, s.addr, 4, false)
		more := func(name string) {
			answers := func() int { return min(kept.Sent()[name], fresh.Sent()[name]) }
			before := answers()
			haproxytest.Until(t, "more answers of "+name, func() bool { return answers() > before+50 })
		}
		more("mortal")
		kill()
		more("other")
		if check == render.ProxyCheckOn {
			s.awaitStatus(mortal, "DOWN")
			more("other")
		}
		process(t, mortal, "mortal")
		more("mortal")
		kept.MustLoseNothing(t)
		fresh.MustLoseNothing(t)
	})
}

// In mode tcp a connection that is refused goes to another server, and checks take out the one that
// refuses, until it does no more.
func TestDeadServerOfTCPCostsNothing(t *testing.T) {
	eachCheck(t, func(t haproxytest.T, check render.ProxyCheck) {
		dead, front := haproxytest.Address(t, "127.83.12.3"), haproxytest.Address(t, "127.83.12.1")
		s := newSite(t, check, nil)
		_, port, _ := net.SplitHostPort(front)
		s.serve(`"mode":"tcp","listen":`+port, dead, haproxytest.Server(t, "alive"))
		load := haproxytest.Start(t, front, 4, false)
		haproxytest.Until(t, "answers", func() bool { return load.Sent()["alive"] > 50 })
		if check == render.ProxyCheckOn {
			s.awaitStatus(dead, "DOWN")
			process(t, dead, "risen")
			haproxytest.Until(t, "answers of the one that rose", func() bool { return load.Sent()["risen"] > 50 })
		}
		load.MustLoseNothing(t)
	})
}

// What an application answers is its own affair: errors take no server out.
func TestErrorsOfApplicationsAreNoFailures(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		for _, status := range []int{http.StatusInternalServerError, http.StatusNotFound} {
			addr := serveOn(t, answer(status, ""))
			s := newSite(t, render.ProxyCheckOn, nil)
			s.serve(anyHost, addr)
			for range 100 {
				if got := send(t, s.addr, http.MethodGet, "x"); got != status {
					t.Fatalf("got %d, want %d", got, status)
				}
			}
			s.awaitStatus(addr, "UP")
			if all := s.stats(addr); all["chkdown"] != "0" || all["check_status"] != "L4OK" {
				t.Errorf("after errors %d: %v", status, all)
			}
		}
	})
}

// A server that comes by the runtime API is in service at once and checked like one of the file; so is
// one that returns from maintenance (P11).
func TestServerThatComesIsCheckedLikeOthers(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		first, second := haproxytest.Address(t, "127.83.12.3"), haproxytest.Address(t, "127.83.12.4")
		process(t, first, "first")
		kill := process(t, second, "second")
		s := newSite(t, render.ProxyCheckOn, nil)
		s.serve(anyHost, first)
		s.byRuntime(anyHost, first, second)
		s.mustBeUp(second, "added")
		s.awaitStatus(first, "UP")
		s.awaitStatus(second, "UP")
		a, b := s.stats(first), s.stats(second)
		for _, word := range []string{"check_status", "check_rise", "check_fall", "check_health", "weight"} {
			if a[word] != b[word] || a[word] == "" {
				t.Errorf("%s: %q for the server of the file, %q for the other", word, a[word], b[word])
			}
		}
		kill()
		load := haproxytest.Start(t, s.addr, 2, true)
		s.awaitStatus(second, "DOWN")
		load.MustLoseNothing(t)
		s.byRuntime(anyHost+`,"state":"draining"`, first, second)
		s.awaitStatus(second, "MAINT")
		process(t, second, "second")
		s.byRuntime(anyHost, first, second)
		s.mustBeUp(second, "after maintenance")
		s.awaitStatus(second, "UP")
	})
}

// serveOn starts a web server of this process.
func serveOn(t haproxytest.T, handler http.Handler) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.83.12.5:0") // on this machine
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	ended := make(chan struct{})
	go func() { defer close(ended); server.Serve(l) }() // ends with Close
	t.Cleanup(func() { server.Close(); <-ended })
	return l.Addr().String()
}

// mute reads requests and closes the connection without an answer.
type mute struct {
	mu   sync.Mutex
	seen map[string]int // by X-Id
}

func (m *mute) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	io.ReadAll(r.Body) // what counts is that it came
	m.mu.Lock()
	m.seen[r.Header.Get("X-Id")]++
	m.mu.Unlock()
	panic(http.ErrAbortHandler)
}

// times is how often a request came.
func (m *mute) times(id string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen[id]
}

// send sends one request, repeats nothing, and returns the status of the answer.
func send(t haproxytest.T, addr, method, id string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+"/", strings.NewReader("a body"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Id", id)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: haproxytest.Patience}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close() // nothing is of interest in it
	return resp.StatusCode
}

// What was delivered but not answered is repeated on another server only if its method is safe, or if
// sidekick.retry allows POST; else it has reached exactly one server, and 502 says so (P2).
func TestUnansweredRequests(t *testing.T) {
	tests := []struct {
		options     string
		again, once []string
	}{
		{anyHost, []string{"GET", "HEAD", "OPTIONS"}, []string{"POST", "PUT", "PATCH", "DELETE"}},
		{`"options":{"default":"true","retry":"post"}`, []string{"GET", "POST"}, []string{"PUT", "PATCH", "DELETE"}},
	}
	eachCheck(t, func(t haproxytest.T, check render.ProxyCheck) {
		for _, test := range tests {
			silent := &mute{seen: map[string]int{}}
			s := newSite(t, check, nil)
			s.serve(test.options, haproxytest.Server(t, "good"), serveOn(t, silent))
			for _, method := range slices.Concat(test.again, test.once) {
				repeated := slices.Contains(test.again, method)
				if reached := s.sendToSilent(silent, method, repeated); reached == 0 {
					t.Errorf("%s %s: none reached the silent server, so nothing was proven", test.options, method)
				}
			}
		}
	})
}

// sendToSilent sends some requests of a method and returns how many reached the silent server.
func (s *site) sendToSilent(silent *mute, method string, repeated bool) (reached int) {
	s.Helper()
	for i := range 8 {
		id := fmt.Sprint(method, i)
		status := send(s.T, s.addr, method, id)
		times, want := silent.times(id), http.StatusOK
		if times > 0 && !repeated {
			want = http.StatusBadGateway
		}
		if status != want || times > 1 {
			s.Errorf("%s: status %d after %d silences, want %d after one at most", id, status, times, want)
		}
		reached += times
	}
	return reached
}

// What was not delivered goes to another server, whatever its method (P2).
func TestRefusedConnectionsGoElsewhere(t *testing.T) {
	eachCheck(t, func(t haproxytest.T, check render.ProxyCheck) {
		s := newSite(t, check, nil)
		s.serve(anyHost, haproxytest.Address(t, "127.83.12.3"), haproxytest.Server(t, "good"))
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
			for i := range 4 {
				if got := send(t, s.addr, method, strconv.Itoa(i)); got != http.StatusOK {
					t.Errorf("%s: %d, want 200 from the server that lives", method, got)
				}
			}
		}
	})
}
