package enginetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

// Spec is a container to start.
type Spec struct {
	Image      string
	Name       string // chosen by the engine if empty
	Cmd        []string
	Labels     map[string]string
	Env        map[string]string
	Network    string            // the default bridge if empty
	Publish    map[string]string // container port such as "8000/tcp" to host address and port such as "127.0.0.1:0"
	Expose     []string          // ports such as "8000/tcp", beside those of the image
	Health     *Health
	StopSignal string
	Restart    string // restart policy: "", "always", "on-failure"
}

// Health is a HEALTHCHECK that runs a command in the container.
type Health struct {
	Cmd      []string
	Interval time.Duration
	Timeout  time.Duration
	Retries  int
}

// Container is a container that was started.
type Container struct {
	ID   string
	Name string
	api  *client.Client
}

// Short is the short id, which is also the container's host name.
func (c *Container) Short() string { return c.ID[:12] }

// Start creates and starts a container. One that does not start is removed.
func (e *Engine) Start(ctx context.Context, spec Spec) (*Container, error) {
	options, err := e.options(spec)
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", spec.Name, err)
	}
	made, err := e.api.ContainerCreate(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", spec.Name, err)
	}
	_, err = e.api.ContainerStart(ctx, made.ID, client.ContainerStartOptions{})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start container %s: %w", spec.Name, err), e.remove(ctx, made.ID))
	}
	return &Container{ID: made.ID, Name: spec.Name, api: e.api}, nil
}

func (e *Engine) options(spec Spec) (client.ContainerCreateOptions, error) {
	labels := e.labels()
	maps.Copy(labels, spec.Labels)
	exposed, bindings, err := ports(spec)
	if err != nil {
		return client.ContainerCreateOptions{}, err
	}
	env := make([]string, 0, len(spec.Env))
	for _, name := range slices.Sorted(maps.Keys(spec.Env)) {
		env = append(env, name+"="+spec.Env[name])
	}
	options := client.ContainerCreateOptions{
		Name: spec.Name,
		Config: &container.Config{
			Image: spec.Image, Cmd: spec.Cmd, Labels: labels, Env: env, ExposedPorts: exposed, StopSignal: spec.StopSignal,
		},
		HostConfig: &container.HostConfig{
			NetworkMode:   container.NetworkMode(spec.Network),
			PortBindings:  bindings,
			RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyMode(spec.Restart)},
		},
	}
	if h := spec.Health; h != nil {
		options.Config.Healthcheck = &container.HealthConfig{
			Test: append([]string{"CMD"}, h.Cmd...), Interval: h.Interval, Timeout: h.Timeout, Retries: h.Retries,
		}
	}
	return options, nil
}

func ports(spec Spec) (network.PortSet, network.PortMap, error) {
	exposed, bindings := network.PortSet{}, network.PortMap{}
	for _, text := range spec.Expose {
		port, err := network.ParsePort(text)
		if err != nil {
			return nil, nil, err
		}
		exposed[port] = struct{}{}
	}
	for text, host := range spec.Publish {
		port, err := network.ParsePort(text)
		if err != nil {
			return nil, nil, err
		}
		addr, err := netip.ParseAddrPort(host)
		if err != nil {
			return nil, nil, fmt.Errorf("publish %s: %w", text, err)
		}
		exposed[port] = struct{}{}
		bindings[port] = []network.PortBinding{{HostIP: addr.Addr(), HostPort: strconv.Itoa(int(addr.Port()))}}
	}
	return exposed, bindings, nil
}

// Stop sends the stop signal and waits for the end, as docker stop does. A container that has not
// ended in 30 s is killed.
func (c *Container) Stop(ctx context.Context) error {
	seconds := 30
	_, err := c.api.ContainerStop(ctx, c.ID, client.ContainerStopOptions{Timeout: &seconds})
	return c.named("stop", err)
}

// Restart stops the container and starts it again, as docker restart does.
func (c *Container) Restart(ctx context.Context) error {
	seconds := 30
	_, err := c.api.ContainerRestart(ctx, c.ID, client.ContainerRestartOptions{Timeout: &seconds})
	return c.named("restart", err)
}

// Kill sends a signal, SIGKILL if it is empty, as docker kill does.
func (c *Container) Kill(ctx context.Context, signal string) error {
	_, err := c.api.ContainerKill(ctx, c.ID, client.ContainerKillOptions{Signal: signal})
	return c.named("kill", err)
}

// Crash kills the container's process behind the engine's back. It works only where the engine's
// processes are this machine's, and needs root.
func (c *Container) Crash(ctx context.Context) error {
	pid, err := c.PID(ctx)
	if err != nil {
		return err
	}
	return c.named("crash", syscall.Kill(pid, syscall.SIGKILL))
}

// PID is the number of the container's process, where the engine runs.
func (c *Container) PID(ctx context.Context) (int, error) {
	found, err := c.api.ContainerInspect(ctx, c.ID, client.ContainerInspectOptions{})
	if err != nil {
		return 0, c.named("inspect", err)
	}
	if found.Container.State == nil || found.Container.State.Pid <= 0 {
		return 0, c.named("find the process of", errors.New("it does not run"))
	}
	return found.Container.State.Pid, nil
}

// Killed is when the engine told of the last signal to the container, by its own clock. It is asked
// from its memory, which is short.
func (c *Container) Killed(ctx context.Context) (time.Time, error) {
	var last time.Time
	stream := c.api.Events(ctx, client.EventsListOptions{
		Since: "0", Until: strconv.FormatInt(time.Now().Unix()+1, 10),
		Filters: make(client.Filters).Add("container", c.ID).Add("event", "kill"),
	})
	for {
		select {
		case e := <-stream.Messages:
			last = time.Unix(0, e.TimeNano)
		case err := <-stream.Err:
			if last.IsZero() {
				return last, c.named("ask for signals to", errors.Join(err, errors.New("none is remembered")))
			}
			return last, nil
		}
	}
}

// Remove removes the container, running or not, as docker rm -f does.
func (c *Container) Remove(ctx context.Context) error {
	_, err := c.api.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	return c.named("remove", err)
}

// Address is the container's own address in the network of that name, "bridge" for the default one.
func (c *Container) Address(ctx context.Context, networkName string) (netip.Addr, error) {
	found, err := c.api.ContainerInspect(ctx, c.ID, client.ContainerInspectOptions{})
	if err != nil {
		return netip.Addr{}, c.named("inspect", err)
	}
	endpoint := found.Container.NetworkSettings.Networks[networkName]
	if endpoint == nil || !endpoint.IPAddress.IsValid() {
		return netip.Addr{}, c.named("inspect", fmt.Errorf("no address in network %s", networkName))
	}
	return endpoint.IPAddress, nil
}

func (c *Container) named(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s container %s: %w", what, c.Short(), err)
}

func (e *Engine) remove(ctx context.Context, id string) error {
	_, err := e.api.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	// A container may be on its way out already.
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	return nil
}
