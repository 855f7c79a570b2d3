package haproxy

import (
	"context"
	"fmt"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// Check judges a set of files as a driver with that runtime socket would, by HAProxy's program and in
// a directory of their own, without touching what is in force. A text that is not accepted gives an
// error that wraps *Refused.
func Check(ctx context.Context, bin, runtimeSocket string, files render.Files) error {
	candidate, err := store{path: "haproxy.cfg"}.stage(files)
	if err != nil {
		return err
	}
	defer candidate.discard() //nolint:errcheck // a directory of temporary files
	if err := candidate.check(ctx, bin, checkLimit); err != nil {
		return err
	}
	return drivable(files, runtimeSocket, false)
}

// Bound lists the ports of the literal TCP addresses that a configuration listens on.
func Bound(configuration string) []uint16 {
	var ports []uint16
	for _, a := range binds(render.Files{{Blocks: []render.Block{render.NewBlock("", configuration)}}}) {
		ports = append(ports, a.Port())
	}
	return ports
}

// Answering returns those of c's two sockets at which a HAProxy answers. If there is one, a second HAProxy
// would share its ports, and nobody would notice. Only the one at the runtime socket hands over what it
// listens on. A master that executes itself anew does not answer for a moment, but then its worker does.
func Answering(ctx context.Context, c Config) (sockets []string) {
	if _, err := (masterCLI{c.MasterSocket}).processes(ctx); err == nil {
		sockets = append(sockets, c.MasterSocket)
	}
	if _, err := (runtimeAPI{c.RuntimeSocket}).info(ctx); err == nil {
		sockets = append(sockets, c.RuntimeSocket)
	}
	return sockets
}

// Alive returns an error, with the mend, unless both the master and a worker answer: a worker that has
// lost its master serves on, but can never be reloaded.
func Alive(ctx context.Context, c Config) error {
	_, masterErr := (masterCLI{c.MasterSocket}).processes(ctx)
	_, workerErr := (runtimeAPI{c.RuntimeSocket}).info(ctx)
	switch {
	case masterErr != nil && workerErr != nil:
		return fmt.Errorf("haproxy does not answer (%w; %w): start it, for instance with sidekick haproxy", masterErr, workerErr)
	case masterErr != nil:
		return fmt.Errorf("haproxy's master does not answer (%w), though its worker does: restart haproxy, or start another with sidekick haproxy --take-over and then stop this one", masterErr)
	case workerErr != nil:
		return fmt.Errorf("haproxy's worker does not answer (%w), though its master does: restart haproxy (stop it, then start it)", workerErr)
	}
	return nil
}
