package docker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/client"
)

// stopGrace is how long an engine waits for a container that says nothing about it.
const stopGrace = 10 * time.Second

// Box is a container as those who stop it see it.
type Box struct {
	ID      string // of the engine, whole
	Short   string // as in the registry
	Name    string
	Running bool
	Grace   time.Duration // how long it may take after its stop signal; negative for ever
}

// Find looks a container up by its name, its id, or the beginning of that. Host is as in [Source.Host].
func Find(ctx context.Context, host, name string) (_ Box, err error) {
	c, err := dial(host)
	if err != nil {
		return Box{}, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	answer, err := c.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if cerrdefs.IsNotFound(err) {
		return Box{}, fmt.Errorf("container %q is not there: see `docker ps`", name)
	}
	if err != nil {
		return Box{}, fmt.Errorf("container %q: %w", name, err)
	}
	v := newView(&answer.Container)
	return Box{ID: answer.Container.ID, Short: v.id, Name: strings.TrimPrefix(answer.Container.Name, "/"), Running: v.running, Grace: v.grace}, nil
}

// Stop tells the engine to stop a container as `docker stop` does, and waits until it has. Grace is how
// long it may take then, in seconds; nil leaves that to the container.
func Stop(ctx context.Context, host, id string, grace *int) (err error) {
	c, err := dial(host)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	_, err = c.ContainerStop(ctx, id, client.ContainerStopOptions{Timeout: grace})
	if cerrdefs.IsPermissionDenied(err) {
		return fmt.Errorf("stop container %.12s: %w; a filter before the engine's socket must let POST /containers/%.12s/stop pass: run this where the socket is open, with --docker", id, err, id)
	}
	if err != nil {
		return fmt.Errorf("stop container %.12s: %w", id, err)
	}
	return nil
}
