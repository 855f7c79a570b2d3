package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.etcd.io/etcd/server/v3/storage/wal"
)

// Words by which a server in a process of its own tells its keeper how it does, each at the beginning of
// a line. What follows the last two is the reason.
const (
	wordReady   = "ready"
	wordRefused = "refused"
	wordFailed  = "failed"
)

// logSegment is what a file of the log of writes takes of the disk, used or not, and there are two at
// least. The server's own 64 MB are for bigger things than one host's registrations.
const logSegment = 8 << 20

// Serve is the life of a process that a [Keeper] started: it runs a server until in ends, which it also
// does when the keeper's process dies, and tells on out how it does.
func Serve(ctx context.Context, cfg Config, in io.Reader, out io.Writer) error {
	wal.SegmentSizeBytes = logSegment
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, in) // any end is the end
		cancel()
	}()
	err := serve(ctx, cfg, out)
	if err == nil || errors.Is(err, context.Canceled) {
		return nil
	}
	word := wordFailed
	if errors.As(err, new(Refused)) {
		word = wordRefused
	}
	fmt.Fprintln(out, word, strings.Join(strings.Fields(err.Error()), " "))
	return err
}

func serve(ctx context.Context, cfg Config, out io.Writer) error {
	server, err := Start(ctx, cfg)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, wordReady)
	if err := server.Wait(ctx); ctx.Err() == nil {
		return errors.Join(err, server.Stop())
	}
	return server.Stop()
}
