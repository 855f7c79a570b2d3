package docker

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/moby/moby/client"
)

// SocketOf returns the path of the Unix socket by which an engine is reached, or "" if it is reached
// otherwise. Host is as in [Source.Host].
func SocketOf(host string) (string, error) {
	c, err := dial(host)
	if err != nil {
		return "", err
	}
	path, unix := strings.CutPrefix(c.DaemonHost(), "unix://")
	if !unix {
		path = ""
	}
	return path, c.Close()
}

// NetworkMode asks the engine for the network of one of its containers: "host" if it is its host's,
// else the mode as `docker run --network` takes it.
func NetworkMode(ctx context.Context, host, container string) (_ string, err error) {
	c, err := dial(host)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	shown, err := inspect(ctx, c, container)
	if err != nil {
		return "", fmt.Errorf("network of container %.12s: %w", container, err)
	}
	if shown.HostConfig == nil {
		return "", fmt.Errorf("network of container %.12s: the engine does not tell", container)
	}
	return string(shown.HostConfig.NetworkMode), nil
}

// dial prepares a client for the engine; nothing is sent yet.
func dial(host string) (*client.Client, error) {
	options := []client.Opt{client.FromEnv}
	if host != "" {
		options = append(options, client.WithHost(host))
	}
	c, err := client.New(options...)
	if err != nil {
		return nil, fmt.Errorf("docker engine: %w: check --docker and the DOCKER_ variables", err)
	}
	return c, nil
}
