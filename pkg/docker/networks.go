package docker

import (
	"context"
	"fmt"
	"sync"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/client"
)

// networks knows the drivers of an engine's networks, which inspections of containers do not tell.
// A network never changes its driver, so each is asked for once.
type networks struct {
	engine *client.Client

	mu      sync.Mutex
	drivers map[string]string // by network id
}

// fill sets the driver of each endpoint of the container. A network that the engine does not show,
// as when only a part of its API may be used, counts as a bridge: the careful guess.
func (n *networks) fill(ctx context.Context, v *view) error {
	for k := range v.endpoints {
		driver, err := n.driver(ctx, v.endpoints[k])
		if err != nil {
			return err
		}
		v.endpoints[k].driver = driver
	}
	return nil
}

func (n *networks) driver(ctx context.Context, e endpoint) (string, error) {
	const bridge = "bridge"
	if e.network == bridge || e.id == "" {
		return bridge, nil
	}
	n.mu.Lock()
	known, ok := n.drivers[e.id]
	n.mu.Unlock()
	if ok {
		return known, nil
	}
	res, err := n.engine.NetworkInspect(ctx, e.id, client.NetworkInspectOptions{})
	switch {
	case cerrdefs.IsNotFound(err), cerrdefs.IsPermissionDenied(err), cerrdefs.IsUnauthorized(err), cerrdefs.IsNotImplemented(err):
		return bridge, nil
	case err != nil:
		return "", fmt.Errorf("inspect network %s: %w", e.network, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.drivers[e.id] = res.Network.Driver
	return res.Network.Driver, nil
}
