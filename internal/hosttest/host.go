package hosttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"github.com/sidekick-proxy/sidekick/internal/proctest"
)

// Host is a test host. What starts and stops its engine must not be called concurrently.
type Host struct {
	Name string     // also its host name
	Addr netip.Addr // under which other hosts and this process reach it

	dir    string
	port   string // of the switch
	cgroup string
	hub    *space // the switch
	space  *space
	engine *proctest.Process
	client *http.Client
}

// Host makes a host and starts its engine. Hosts can be made concurrently.
func (n *Network) Host(ctx context.Context, name string) (*Host, error) {
	h, number, err := n.plan(name)
	if err != nil {
		return nil, fmt.Errorf("test host %q: %w", name, err)
	}
	if err := h.prepare(number); err != nil {
		return nil, fmt.Errorf("test host %s: %w", name, err)
	}
	h.space, err = openSpace(ctx, "host "+name, filepath.Join(h.dir, "host.log"), setUpHost, name, h.dir)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.hosts = append(n.hosts, h)
	n.mu.Unlock()
	if err := n.plug(ctx, h); err != nil {
		return nil, fmt.Errorf("test host %s: %w", name, err)
	}
	if err := h.StartEngine(ctx); err != nil {
		return nil, err
	}
	return h, nil
}

// plan takes the name and a number of its own for a new host.
func (n *Network) plan(name string) (*Host, int, error) {
	const longest = len("/run/docker.sock") // of the paths that must fit into a socket's address
	h := &Host{Name: name, hub: n.hub, dir: filepath.Join(n.dir, name), cgroup: "/" + n.cgroup() + "/" + name}
	if !regexp.MustCompile(`^[a-z][a-z0-9-]*$`).MatchString(name) || name == lockFile {
		return nil, 0, errors.New("a name has small letters, digits and hyphens, and begins with a letter")
	}
	if room := len(syscall.RawSockaddrUnix{}.Path) - 1; len(h.dir)+longest > room {
		return nil, 0, fmt.Errorf("%s is too long for a socket's path, which has %d characters at most: open the network in a shorter directory", h.dir+"/run/docker.sock", room)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.names[name] {
		return nil, 0, errors.New("there is one already")
	}
	n.names[name] = true
	number := len(n.names)
	h.Addr, h.port = n.addr(10+number), "host"+strconv.Itoa(number)
	return h, number, nil
}

// prepare makes the directories that the host has for its own, and those that they replace.
func (h *Host) prepare(number int) error {
	for _, dir := range []string{h.dir + "/run/lock", h.dir + "/docker", h.dir + "/etc", h.dir + "/cgroup", "/var/lib/docker", "/etc/docker"} {
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // containers look into /run
			return err
		}
	}
	h.client = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", h.socket())
		},
	}}
	settings, err := json.Marshal(map[string]any{
		// Each host's containers have addresses that no other host's have.
		"default-address-pools": []map[string]any{{"base": fmt.Sprintf("10.%d.0.0/16", 100+number), "size": 24}},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(h.dir+"/etc/daemon.json", settings, 0o600)
}

// plug connects the host with the switch. The default route leads to the switch and no further; an
// agent finds the host's own address by it.
func (n *Network) plug(ctx context.Context, h *Host) error {
	err := h.hub.ip(ctx,
		"link add "+h.port+" type veth peer name eth0 netns "+strconv.Itoa(h.space.first),
		"link set "+h.port+" master br0 up",
	)
	if err != nil {
		return err
	}
	return h.space.ip(ctx,
		"addr add "+h.Addr.String()+"/24 dev eth0",
		"link set eth0 up",
		"route add default via "+n.addr(1).String(),
	)
}

func (h *Host) socket() string { return h.dir + "/run/docker.sock" }

// DockerHost is the engine's address outside of the host, as in DOCKER_HOST. On the host it is the
// default one.
func (h *Host) DockerHost() string { return "unix://" + h.socket() }

// StartEngine starts the engine and waits until it answers.
func (h *Host) StartEngine(ctx context.Context, flags ...string) error {
	if h.engineRuns() {
		return fmt.Errorf("engine of %s: it runs already: stop it first", h.Name)
	}
	line := h.space.enterWholly(append([]string{"dockerd", "--cgroup-parent", h.cgroup}, flags...)...)
	engine, err := proctest.Start("engine of "+h.Name, h.dir+"/engine.log", line[0], line[1:]...)
	if err != nil {
		return err
	}
	h.engine = engine
	return until(ctx, "engine of "+h.Name+" does not answer", func(ctx context.Context) (bool, error) {
		if ended, err := engine.Ended(); ended {
			return false, fmt.Errorf("engine of %s: it ended: %w: %s", h.Name, err, engine.Tail(3))
		}
		return h.answers(ctx), nil
	})
}

func (h *Host) engineRuns() bool {
	if h.engine == nil {
		return false
	}
	ended, _ := h.engine.Ended()
	return !ended
}

// answers says whether the engine does.
func (h *Host) answers(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine/_ping", http.NoBody)
	if err != nil {
		return false
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// SignalEngine sends the engine a signal.
func (h *Host) SignalEngine(ctx context.Context, signal syscall.Signal) error {
	if !h.engineRuns() {
		return fmt.Errorf("engine of %s: it does not run: start it first", h.Name)
	}
	pid, err := h.pid("docker.pid")
	if err != nil {
		return fmt.Errorf("engine of %s: %w", h.Name, err)
	}
	return h.Kill(ctx, pid, signal)
}

// StopEngine sends the engine a signal and waits until it has ended. With SIGTERM, it stops all
// containers first, unless it was started with --live-restore; with SIGKILL, they go on running.
func (h *Host) StopEngine(ctx context.Context, signal syscall.Signal) error {
	if err := h.SignalEngine(ctx, signal); err != nil {
		return err
	}
	select {
	case <-h.engine.Done():
	case <-ctx.Done():
		return fmt.Errorf("engine of %s: it does not end: %w", h.Name, context.Cause(ctx))
	}
	// Its containerd ends with it, but some moments later. An engine that is started meanwhile takes
	// it for its own, and fails.
	pid, err := h.pid("docker/containerd/containerd.pid")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return until(ctx, "containerd of "+h.Name+" does not end", func(ctx context.Context) (bool, error) {
		return err == nil && h.Kill(ctx, pid, 0) != nil, err
	})
}

// pid reads a file in the host's /run that holds a process number.
func (h *Host) pid(file string) (int, error) {
	text, err := os.ReadFile(filepath.Join(h.dir, "run", file))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// EngineLog is the last lines of what the engine said.
func (h *Host) EngineLog(lines int) string { return h.engine.Tail(lines) }

// Kill sends a signal to a process of the host, by the number that it has there: the one that the
// engine tells.
func (h *Host) Kill(ctx context.Context, pid int, signal syscall.Signal) error {
	line := h.space.enterWholly("sh", "-c", "kill -"+strconv.Itoa(int(signal))+" "+strconv.Itoa(pid))
	if out, err := exec.CommandContext(ctx, line[0], line[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("signal process %d of %s: %w: %s", pid, h.Name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Cut takes the host's link down, at the switch: the host has its address and its routes still, but
// no packet gets through.
func (h *Host) Cut(ctx context.Context) error { return h.hub.ip(ctx, "link set "+h.port+" down") }

// Join takes the host's link up again; packets get through some moments later.
func (h *Host) Join(ctx context.Context) error { return h.hub.ip(ctx, "link set "+h.port+" up") }

// Command is a program to run on the host: with its network, host name, /run and engine, and with
// all other files of this machine. It starts in the root directory. It has a process number of this
// machine, so signals to the command's process reach the program. It is killed when this process
// ends, and when the network is closed.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	line := h.space.enter(append([]string{name}, args...)...)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// close ends all that runs on the host.
func (h *Host) close() {
	h.space.close()
	if h.engine != nil {
		<-h.engine.Done()
	}
}
