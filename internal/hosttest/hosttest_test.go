package hosttest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/sidekick-proxy/sidekick/internal/enginetest"
	"github.com/sidekick-proxy/sidekick/internal/hosttest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("HOSTTEST_OWNER"); dir != "" {
		own(dir)
	}
	goleak.VerifyTestMain(m)
}

// own is a process that dies without closing its network: it makes a host with a container, says so
// and waits for its end.
func own(dir string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n, err := hosttest.Open(ctx, dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	h, err := n.Host(ctx, "h1")
	if err == nil {
		err = h.Command(context.Background(), "sleep", "infinity").Start()
	}
	if err == nil {
		os.Setenv("DOCKER_HOST", h.DockerHost())
		err = startProbe(ctx, os.Getenv("HOSTTEST_PROBE"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err, n.Close())
		os.Exit(1)
	}
	fmt.Println("up")
	select {}
}

func startProbe(ctx context.Context, probe string) error {
	engine, err := enginetest.Open(ctx, "probe")
	if err != nil {
		return err
	}
	defer engine.Close()
	if err := engine.BuildImage(ctx, "probe", probe, "8000"); err != nil {
		return err
	}
	_, err = engine.Start(ctx, enginetest.Spec{
		Image: "probe", Name: "probe", Restart: "always", Publish: map[string]string{"8000/tcp": "0.0.0.0:80"},
	})
	return err
}

// limits gives a test its time, or leaves it out.
func limits(t *testing.T) context.Context {
	t.Helper()
	if strings.Contains(" "+os.Getenv("TEST_WITHOUT")+" ", " docker ") {
		t.Skip("left out on demand: docker")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// shortDir is the path of a directory that is removed after the test.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sk-") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func open(ctx context.Context, t *testing.T, dir string) *hosttest.Network {
	t.Helper()
	n, err := hosttest.Open(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return n
}

// hosts makes hosts, all at once.
func hosts(ctx context.Context, t *testing.T, n *hosttest.Network, names ...string) []*hosttest.Host {
	t.Helper()
	made, errs := make([]*hosttest.Host, len(names)), make(chan error)
	for i, name := range names {
		go func() {
			h, err := n.Host(ctx, name)
			made[i] = h
			errs <- err
		}()
	}
	for range names {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	return made
}

// build makes the static program of the containers.
func build(t *testing.T) string {
	t.Helper()
	path := filepath.Join(shortDir(t), "probe")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", path, "./testdata/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build probe: %v\n%s", err, out)
	}
	return path
}

// get asks a server; each time anew, so that nothing outlives a host or a cut.
func get(ctx context.Context, url string) (string, error) {
	return getBy(ctx, new(net.Dialer).DialContext, url)
}

func getBy(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), url string) (string, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}, Timeout: 2 * time.Second}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}

// eventually asks for something until there is no error, and returns the answer.
func eventually(ctx context.Context, t *testing.T, ask func() (string, error)) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		answer, err := ask()
		if err == nil {
			return answer
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

// answer is what a server says as soon as it does.
func answer(ctx context.Context, t *testing.T, url string) string {
	t.Helper()
	return eventually(ctx, t, func() (string, error) { return get(ctx, url) })
}

// output is what a program says on a host.
func output(ctx context.Context, t *testing.T, h *hosttest.Host, name string, args ...string) string {
	t.Helper()
	out, err := h.Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v on %s: %v: %s", name, args, h.Name, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestHostsReachEachOther(t *testing.T) {
	ctx, probe := limits(t), build(t)
	n := open(ctx, t, shortDir(t))
	made := hosts(ctx, t, n, "h1", "h2")
	h1, h2 := made[0], made[1]
	for _, h := range made {
		t.Setenv("DOCKER_HOST", h.DockerHost())
		if err := startProbe(ctx, probe); err != nil {
			t.Fatal(err)
		}
	}
	url := "http://" + h1.Addr.String() + "/"
	want := answer(ctx, t, url)
	if got := output(ctx, t, h2, probe, url); got != want {
		t.Errorf("from host to host: got %q, want %q", got, want)
	}
	if got := answer(ctx, t, "http://"+h2.Addr.String()+"/get?"+url); got != want {
		t.Errorf("from a container of the other host: got %q, want %q", got, want)
	}
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RemoteAddr) })}
	listener, err := net.Listen("tcp", net.JoinHostPort(n.Addr.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(listener)
	defer server.Close()
	if got, want := output(ctx, t, h1, probe, "http://"+listener.Addr().String()), h1.Addr.String()+":"; !strings.HasPrefix(got, want) {
		t.Errorf("from a host to this process: seen as %q, want %s…", got, want)
	}
}

func TestHostIsLikeAMachine(t *testing.T) {
	ctx := limits(t)
	h := hosts(ctx, t, open(ctx, t, shortDir(t)), "alpha")[0]
	if got, want := output(ctx, t, h, "uname", "-n"), "alpha"; got != want {
		t.Errorf("host name: got %q, want %q", got, want)
	}
	if got := output(ctx, t, h, "ls", "/sys/class/net"); !cmp.Equal(strings.Fields(got), []string{"docker0", "eth0", "lo"}) {
		t.Errorf("devices: got %q, want docker0, eth0 and lo", got)
	}
	if got, want := output(ctx, t, h, "ip", "route", "get", "198.51.100.1"), " src "+h.Addr.String()+" "; !strings.Contains(got, want) {
		t.Errorf("default route: got %q, want %q in it", got, want)
	}
	output(ctx, t, h, "test", "-S", "/run/docker.sock")
	output(ctx, t, h, "test", "-S", "/var/run/docker.sock")
	out, err := h.Command(ctx, build(t), "http://198.51.100.1/").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "unreachable") {
		t.Errorf("way out: got %q (%v), want that the network is unreachable", out, err)
	}
	if err := h.StartEngine(ctx); err == nil || !strings.Contains(err.Error(), "it runs already") {
		t.Errorf("second engine: got %v, want that one runs already", err)
	}
}

func TestCutAndJoin(t *testing.T) {
	ctx, probe := limits(t), build(t)
	made := hosts(ctx, t, open(ctx, t, shortDir(t)), "h1", "h2")
	h1, h2 := made[0], made[1]
	t.Setenv("DOCKER_HOST", h1.DockerHost())
	if err := startProbe(ctx, probe); err != nil {
		t.Fatal(err)
	}
	url := "http://" + h1.Addr.String() + "/"
	want := answer(ctx, t, url)
	if err := h1.Cut(ctx); err != nil {
		t.Fatal(err)
	}
	if got, err := get(ctx, url); err == nil {
		t.Errorf("cut off, but this process gets %q", got)
	}
	if out, err := h2.Command(ctx, probe, url).CombinedOutput(); err == nil {
		t.Errorf("cut off, but another host gets %q", out)
	}
	if got := output(ctx, t, h1, probe, url); got != want {
		t.Errorf("within the host: got %q, want %q", got, want)
	}
	if got, err := getBy(ctx, h1.Dial, url); got != want {
		t.Errorf("dialled within the host: got %q (%v), want %q", got, err, want)
	}
	if got, err := getBy(ctx, h2.Dial, url); err == nil {
		t.Errorf("cut off, but dialled from another host it says %q", got)
	}
	if err := h1.Join(ctx); err != nil {
		t.Fatal(err)
	}
	if got := answer(ctx, t, url); got != want {
		t.Errorf("joined again: got %q, want %q", got, want)
	}
	eventually(ctx, t, func() (string, error) {
		out, err := h2.Command(ctx, probe, url).CombinedOutput()
		return string(out), err
	})
}

// TestEngineRestarts: a container that has the directory /run, as the agent's has, finds the new
// engine's socket in it.
func TestEngineRestarts(t *testing.T) {
	ctx, probe := limits(t), build(t)
	h := hosts(ctx, t, open(ctx, t, shortDir(t)), "h1")[0]
	t.Setenv("DOCKER_HOST", h.DockerHost())
	if err := startProbe(ctx, probe); err != nil {
		t.Fatal(err)
	}
	watcher := "http://" + h.Addr.String() + ":8001"
	runWithRun(ctx, t, h)
	wantEngine(ctx, t, watcher)
	stopAndStart(ctx, t, h, watcher)
	killAndStart(ctx, t, h, watcher)
	before := answer(ctx, t, watcher+"/")
	crash(ctx, t, h, "watcher")
	eventually(ctx, t, func() (string, error) {
		got, err := get(ctx, watcher+"/")
		if got == before {
			return "", fmt.Errorf("killed, but the container still answers %q", got)
		}
		return got, err
	})
}

func wantEngine(ctx context.Context, t *testing.T, watcher string) {
	t.Helper()
	if got := answer(ctx, t, watcher+"/engine"); got != "OK" {
		t.Errorf("engine seen from a container: got %q, want OK", got)
	}
}

// stopAndStart ends the engine in good order: the container ends and starts with it.
func stopAndStart(ctx context.Context, t *testing.T, h *hosttest.Host, watcher string) {
	t.Helper()
	before := answer(ctx, t, watcher+"/")
	if err := h.StopEngine(ctx, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got, err := get(ctx, watcher+"/"); err == nil {
		t.Errorf("the engine has ended and left a container running: it answers %q", got)
	}
	if err := h.StartEngine(ctx, "--live-restore"); err != nil {
		t.Fatal(err)
	}
	if got := answer(ctx, t, watcher+"/"); got == before {
		t.Error("the container was not started again")
	}
	wantEngine(ctx, t, watcher)
}

// killAndStart ends the engine in a crash: the container runs on.
func killAndStart(ctx context.Context, t *testing.T, h *hosttest.Host, watcher string) {
	t.Helper()
	before := answer(ctx, t, watcher+"/")
	if err := h.StopEngine(ctx, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := h.StopEngine(ctx, syscall.SIGKILL); err == nil || !strings.Contains(err.Error(), "it does not run") {
		t.Errorf("killed twice: got %v, want that it does not run", err)
	}
	if got, err := get(ctx, watcher+"/engine"); err == nil || !strings.Contains(got, "refused") {
		t.Errorf("killed engine seen from a container: got %q (%v), want a connection refused", got, err)
	}
	if err := h.StartEngine(ctx, "--live-restore"); err != nil {
		t.Fatal(err)
	}
	wantEngine(ctx, t, watcher)
	if got := answer(ctx, t, watcher+"/"); got != before {
		t.Errorf("the container: got %q, want the same as before the crash, %q", got, before)
	}
}

// runWithRun starts a probe on port 8001 that has the host's /run.
func runWithRun(ctx context.Context, t *testing.T, h *hosttest.Host) {
	t.Helper()
	call(ctx, t, h, "POST", "/containers/create?name=watcher", `{"Image": "probe", "HostConfig": {
		"Binds": ["/run:/run"], "RestartPolicy": {"Name": "always"}, "PortBindings": {"8000/tcp": [{"HostPort": "8001"}]}}}`)
	call(ctx, t, h, "POST", "/containers/watcher/start", "")
}

// crash kills a container's process by the number that the engine tells.
func crash(ctx context.Context, t *testing.T, h *hosttest.Host, name string) {
	t.Helper()
	var found struct{ State struct{ Pid int } }
	if err := json.Unmarshal(call(ctx, t, h, "GET", "/containers/"+name+"/json", ""), &found); err != nil {
		t.Fatal(err)
	}
	if err := h.Kill(ctx, found.State.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// call asks a host's engine for something.
func call(ctx context.Context, t *testing.T, h *hosttest.Host, method, path, body string) []byte {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(h.DockerHost(), "unix://"))
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://engine"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		t.Fatalf("%s %s: %s: %s (%v)", method, path, resp.Status, text, err)
	}
	return bytes.TrimSpace(text)
}
