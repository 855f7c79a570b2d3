package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// listener is the program in the container: it listens, and goes on for a second after its stop
// signal.
const listener = `package main

import (
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGQUIT)
	l, err := net.Listen("tcp", ":8080")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	<-stop
	time.Sleep(time.Second)
}
`

// realEngine connects to the engine of this machine. Without one the test fails, unless
// TEST_WITHOUT says that this is known.
func realEngine(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.New(client.FromEnv)
	if err == nil {
		_, err = c.Ping(t.Context(), client.PingOptions{})
	}
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	if strings.Contains(os.Getenv("TEST_WITHOUT"), "docker") {
		t.Skipf("no Docker engine: %v", err)
	}
	t.Fatalf("no Docker engine: %v (TEST_WITHOUT=docker leaves this test out)", err)
	return nil
}

// buildImage makes an image of the listener on nothing, and removes it after the test.
func buildImage(t *testing.T, c *client.Client, name string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(listener), 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", "app", "main.go")
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	app, err := os.ReadFile(filepath.Join(dir, "app"))
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	add := func(name string, mode int64, content []byte) {
		err := errors.Join(w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content))}), discard(w.Write(content)))
		if err != nil {
			t.Fatal(err)
		}
	}
	add("app", 0o755, app)
	add("Dockerfile", 0o644, []byte("FROM scratch\nCOPY app /app\nEXPOSE 8080\nSTOPSIGNAL SIGQUIT\nENTRYPOINT [\"/app\"]\n"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	res, err := c.ImageBuild(t.Context(), &archive, client.ImageBuildOptions{Tags: []string{name}, Remove: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	t.Cleanup(func() {
		_, _ = c.ImageRemove(context.Background(), name, client.ImageRemoveOptions{Force: true, PruneChildren: true})
	})
	lines := json.NewDecoder(res.Body)
	for {
		var line struct{ Error string }
		if err := lines.Decode(&line); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		if line.Error != "" {
			t.Fatal(line.Error)
		}
	}
}

func discard(_ int, err error) error { return err }

// makeNetwork makes a bridge that goes with the test, and returns the host's address in it.
func makeNetwork(t *testing.T, c *client.Client, name string) netip.Addr {
	t.Helper()
	made, err := c.NetworkCreate(t.Context(), name, client.NetworkCreateOptions{Driver: "bridge"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = c.NetworkRemove(context.Background(), made.ID, client.NetworkRemoveOptions{}) })
	shown, err := c.NetworkInspect(t.Context(), made.ID, client.NetworkInspectOptions{})
	if err != nil || len(shown.Network.IPAM.Config) == 0 {
		t.Fatalf("network %s: %v", name, err)
	}
	return shown.Network.IPAM.Config[0].Gateway
}

// runContainer starts a container in the network of that name; it goes with the test.
func runContainer(t *testing.T, c *client.Client, image, name string, change ...func(*client.ContainerCreateOptions)) string {
	t.Helper()
	options := client.ContainerCreateOptions{
		Name:       name,
		Config:     &container.Config{Image: image, Labels: map[string]string{"sidekick.service": name, "sidekick.weight": "7"}},
		HostConfig: &container.HostConfig{NetworkMode: container.NetworkMode(name), PortBindings: network.PortMap{}},
	}
	for _, f := range change {
		f(&options)
	}
	created, err := c.ContainerCreate(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = c.ContainerRemove(context.Background(), created.ID, client.ContainerRemoveOptions{Force: true})
	})
	if _, err := c.ContainerStart(t.Context(), created.ID, client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	return created.ID
}

// watchReal watches the engine for the container of that name, and returns what waits until its
// instance, nil if there is none, is as wanted.
func watchReal(t *testing.T, name string) func(what string, met func(*service.Instance) bool) service.Instance {
	t.Helper()
	sets := make(chan []service.Instance)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	log := logrus.New()
	log.SetOutput(io.Discard)
	s := &Source{Node: "h1", Advertise: netip.MustParseAddr("10.0.0.1"), Log: log}
	go func() { done <- s.Run(ctx, sets) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return func(what string, met func(*service.Instance) bool) service.Instance {
		t.Helper()
		after := time.After(deadline)
		for {
			select {
			case set := <-sets:
				var found *service.Instance
				for k := range set {
					if set[k].Name == name {
						found = &set[k]
					}
				}
				switch {
				case !met(found):
				case found == nil:
					return service.Instance{}
				default:
					return *found
				}
			case <-after:
				t.Fatalf("%s: did not come about", what)
			}
		}
	}
}

// TestRealEngine leads one container from start to end, twice, on a real engine. Other containers
// of this machine are looked past.
func TestRealEngine(t *testing.T) {
	c := realEngine(t)
	name := fmt.Sprintf("sidekick-test-docker-%d", os.Getpid())
	buildImage(t, c, name)
	wait := watchReal(t, name)
	state := func(want service.State) func(*service.Instance) bool {
		return func(i *service.Instance) bool { return i != nil && i.State == want }
	}
	wait("a first set", func(i *service.Instance) bool { return i == nil })
	makeNetwork(t, c, name)
	id := runContainer(t, c, name, name)
	i := wait("start", state(service.Ready))
	if i.Service != name || i.Weight != 7 || i.Port != 8080 || i.Scope != service.ScopeNode || i.Container != id[:12] || i.Started.IsZero() {
		t.Errorf("got %+v", i)
	}
	first := i.Started
	if _, err := c.ContainerKill(t.Context(), id, client.ContainerKillOptions{Signal: "SIGQUIT"}); err != nil {
		t.Fatal(err)
	}
	wait("kill with the stop signal", state(service.Draining))
	wait("end", func(i *service.Instance) bool {
		if i != nil && i.State != service.Draining {
			t.Errorf("after kill: got state %s", i.State)
		}
		return i == nil
	})
	if _, err := c.ContainerStart(t.Context(), id, client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	if i := wait("second start", state(service.Ready)); !i.Started.After(first) {
		t.Errorf("second run started %v, the first %v", i.Started, first)
	}
	if _, err := c.ContainerPause(t.Context(), id, client.ContainerPauseOptions{}); err != nil {
		t.Fatal(err)
	}
	wait("pause", state(service.Unhealthy))
	if _, err := c.ContainerRemove(t.Context(), id, client.ContainerRemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	wait("removal", func(i *service.Instance) bool { return i == nil })
}

// TestRealEngineAddresses: a container is reached where it is published, if that is on one address of
// the host only, and by the network that it names from when it is connected until it is not (F1).
func TestRealEngineAddresses(t *testing.T) {
	c := realEngine(t)
	name := fmt.Sprintf("sidekick-test-addresses-%d", os.Getpid())
	other := name + "-other"
	buildImage(t, c, name)
	gateway := makeNetwork(t, c, name)
	makeNetwork(t, c, other)
	port := network.MustParsePort("8080/tcp")
	publish := func(o *client.ContainerCreateOptions) {
		o.HostConfig.PortBindings[port] = []network.PortBinding{{HostIP: gateway}, {HostIP: netip.MustParseAddr("127.0.0.1")}}
	}
	t.Run("published on one address", func(t *testing.T) {
		wait := watchReal(t, name)
		runContainer(t, c, name, name, publish)
		i := wait("start", func(i *service.Instance) bool { return i != nil })
		if i.Address != gateway || i.Port == 8080 || i.Scope != "" {
			t.Errorf("got %s, scope %q, want an ephemeral port of %s", i.Endpoint(), i.Scope, gateway)
		}
	})
	t.Run("a named network", func(t *testing.T) {
		wait := watchReal(t, name)
		id := runContainer(t, c, name, name, publish, func(o *client.ContainerCreateOptions) { o.Config.Labels["sidekick.network"] = other })
		if _, err := c.NetworkConnect(t.Context(), other, client.NetworkConnectOptions{Container: id}); err != nil {
			t.Fatal(err)
		}
		i := wait("connected", func(i *service.Instance) bool { return i != nil })
		shown, err := c.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if want := shown.Container.NetworkSettings.Networks[other].IPAddress; i.Address != want || i.Scope != service.ScopeNode {
			t.Errorf("got %s, scope %q, want %s", i.Endpoint(), i.Scope, want)
		}
		if _, err := c.NetworkDisconnect(t.Context(), other, client.NetworkDisconnectOptions{Container: id}); err != nil {
			t.Fatal(err)
		}
		wait("disconnected", func(i *service.Instance) bool { return i == nil })
	})
}

// TestRealEngineTakesRanges: an engine shows a range of exposed ports as it got it; the container is
// read all the same (P7).
func TestRealEngineTakesRanges(t *testing.T) {
	c := realEngine(t)
	name := fmt.Sprintf("sidekick-test-ranges-%d", os.Getpid())
	buildImage(t, c, name)
	socket, unix := strings.CutPrefix(c.DaemonHost(), "unix://")
	if !unix {
		t.Skip("the engine has no Unix socket")
	}
	direct := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	body := fmt.Sprintf(`{"Image":%q,"ExposedPorts":{"8000-8002/tcp":{}},"Labels":{"sidekick.port":"8001"}}`, name)
	answer, err := direct.Post("http://engine/v1.41/containers/create?name="+name, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	t.Cleanup(func() {
		_, _ = c.ContainerRemove(context.Background(), name, client.ContainerRemoveOptions{Force: true})
	})
	wait := watchReal(t, name)
	if _, err := c.ContainerStart(t.Context(), name, client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	if i := wait("start", func(i *service.Instance) bool { return i != nil }); i.Port != 8001 {
		t.Errorf("got port %d, want 8001", i.Port)
	}
}
