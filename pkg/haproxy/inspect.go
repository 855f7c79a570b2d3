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
	if err := candidate.check(ctx, bin); err != nil {
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

// Answers tells whether a HAProxy answers at the master's or the worker's socket of c. A second one
// beside it would share its ports, and nobody would notice.
func Answers(ctx context.Context, c Config) bool { return NewSupervisor(c).answered(ctx) }

// Alive returns an error unless both the master and a worker answer: a worker that has lost its master
// serves on, but can never be reloaded.
func Alive(ctx context.Context, c Config) error {
	if _, err := (masterCLI{c.MasterSocket}).processes(ctx); err != nil {
		return fmt.Errorf("haproxy's master does not answer: %w", err)
	}
	if _, err := (runtimeAPI{c.RuntimeSocket}).info(ctx); err != nil {
		return fmt.Errorf("haproxy's worker does not answer: %w", err)
	}
	return nil
}
