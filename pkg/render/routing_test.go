package render

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The tests here start the real HAProxy at addresses of their own; a port that the kernel has just
// given out and that is free again is as good as reserved there.
const proxyAddress = "127.83.11.7"

// freePort returns a port that nobody listens on at the address.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", proxyAddress+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// startEcho starts a server that answers with its name and the path that it saw.
func startEcho(t *testing.T, name string) int {
	t.Helper()
	l, err := net.Listen("tcp", proxyAddress+":0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", name, r.URL.RequestURI())
	})}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-ended })
	return l.Addr().(*net.TCPAddr).Port
}

// startProxy runs HAProxy on the files until the test ends and waits until it answers at addr.
func startProxy(t *testing.T, files Files, addr string) {
	t.Helper()
	startProgram(t, "haproxy", files, addr)
}

// startProgram does so with one of the HAProxys there are.
func startProgram(t *testing.T, bin string, files Files, addr string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, bin, "-db", "-f", writeFiles(t, files))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cancel(); <-ended })
	patience := time.After(30 * time.Second)
	for {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("haproxy: %v\n%s\n%s", err, output.String(), numbered(files[0].Text()))
		case <-patience:
			t.Fatalf("haproxy does not listen on %s", addr)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// get sends one request and returns status and body.
func get(t *testing.T, addr, host, target string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", target, host)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("%s%s: %v", host, target, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSpace(string(body)))
}

func TestRoutingByTheRealProxy(t *testing.T) {
	needHAProxy(t)
	http, stats, own, tcp := freePort(t), freePort(t), freePort(t), freePort(t)
	items := map[string]string{}
	for name, rest := range map[string]string{
		"root":    `"hosts":["a.test"]`,
		"api":     `"hosts":["a.test"],"path":"/api","options":{"path.strip":"true"}`,
		"v1":      `"hosts":["a.test"],"path":"/api/v1"`,
		"wild":    `"hosts":["*.b.test"]`,
		"deep":    `"hosts":["*.c.b.test"]`,
		"exact":   `"hosts":["x.b.test"],"path":"/only"`,
		"rest":    `"options":{"default":"true"}`,
		"help":    `"path":"/help","options":{"default":"true"}`,
		"own":     fmt.Sprintf(`"listen":%d`, own),
		"raw":     fmt.Sprintf(`"mode":"tcp","listen":%d`, tcp),
		"stopped": `"hosts":["stopped.test"],"state":"draining"`,
		"foreign": `"hosts":["foreign.test"],"scope":"node"`,
	} {
		items["instances/n/"+name] = fmt.Sprintf(`{"service":%q,"address":%q,"port":%d,%s}`, name, proxyAddress, startEcho(t, name), rest)
	}
	at := func(port int) string { return fmt.Sprintf("%s:%d", proxyAddress, port) }
	s := Settings{Node: "here", HTTPListen: at(http), Stats: at(stats)}
	files, _, err := builtin(t, s).Render(Input{Catalog: mustCatalog(t, items)})
	if err != nil {
		t.Fatal(err)
	}
	startProxy(t, files, at(http))
	tests := []struct {
		port         int
		host, target string
		want         string
	}{
		{http, "a.test", "/", "200 root /"},
		{http, "A.TEST:8080", "/x?y=1", "200 root /x?y=1"},
		{http, "a.test.", "/", "200 root /"},
		{http, "a.test", "/apix", "200 root /apix"},
		{http, "a.test", "/api", "200 api /"},
		{http, "a.test", "/api?x=1", "200 api /?x=1"},
		{http, "a.test", "/api/", "200 api /"},
		{http, "a.test", "/api/x?y=/api", "200 api /x?y=/api"},
		{http, "a.test", "/api/api/z", "200 api /api/z"},
		{http, "a.test", "/api/v1", "200 v1 /api/v1"},
		{http, "a.test", "/api/v1/x", "200 v1 /api/v1/x"},
		{http, "a.test", "/api/v10", "200 api /v10"},
		{http, "a.test", "http://a.test/api/v1", "200 v1 /api/v1"},
		{http, "y.b.test", "/", "200 wild /"},
		{http, "y.z.b.test", "/", "200 wild /"},
		{http, "1.2.3.4.5.6.7.b.test", "/", "200 wild /"},
		{http, "z.c.b.test", "/", "200 deep /"},
		{http, "c.b.test", "/", "200 wild /"},
		{http, "x.b.test", "/only/this", "200 exact /only/this"},
		{http, "x.b.test", "/other", "200 wild /other"},
		{http, "b.test", "/", "200 rest /"},
		{http, "q.test", "/help/me", "200 help /help/me"},
		{http, "q.test", "/helpme", "200 rest /helpme"},
		{http, "[::1]:80", "/", "200 rest /"},
		{http, "foreign.test", "/", "503 <html><body><h1>503 Service Unavailable</h1>\nNo server is available to handle this request.\n</body></html>"},
		{http, "stopped.test", "/", "503 <html><body><h1>503 Service Unavailable</h1>\nNo server is available to handle this request.\n</body></html>"},
		{own, "whatever", "/x", "200 own /x"},
		{tcp, "whatever", "/x", "200 raw /x"},
		{stats, "x", "/healthz", "200 ok"},
	}
	for _, test := range tests {
		if got := get(t, at(test.port), test.host, test.target); got != test.want {
			t.Errorf("%s %s: got %q, want %q", test.host, test.target, got, test.want)
		}
	}
	if got := get(t, at(stats), "x", "/metrics"); !strings.Contains(got, `haproxy_backend_status{proxy="be_wild"`) {
		t.Errorf("metrics: %.300s", got)
	}
}

func TestNoServiceAnswers503(t *testing.T) {
	needHAProxy(t)
	http, stats := freePort(t), freePort(t)
	s := Settings{Node: "here", HTTPListen: fmt.Sprintf("%s:%d", proxyAddress, http), Stats: fmt.Sprintf("%s:%d", proxyAddress, stats)}
	files, _, err := builtin(t, s).Render(Input{Catalog: mustCatalog(t, nil)})
	if err != nil {
		t.Fatal(err)
	}
	startProxy(t, files, s.HTTPListen)
	if got := get(t, s.HTTPListen, "a.test", "/"); got != "503 no such service" {
		t.Errorf("got %q", got)
	}
}
