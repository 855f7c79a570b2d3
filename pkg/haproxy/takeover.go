package haproxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// ExposesListeners tells whether a HAProxy with that configuration hands its listening sockets over at
// the runtime socket. Without that another one can only bind beside it, and the connections that wait
// for the former are reset when it stops.
func ExposesListeners(configuration, runtimeSocket string) bool {
	return slices.ContainsFunc(globals(render.Files{{Blocks: []render.Block{render.NewBlock("", configuration)}}}), func(l line) bool {
		i := slices.Index(l.words, "expose-fd")
		return word(l, 0) == "stats" && word(l, 1) == "socket" && i > 0 && word(l, i+1) == "listeners" &&
			(!l.plain || strings.TrimPrefix(word(l, 2), "unix@") == runtimeSocket) // only HAProxy reads the others
	})
}

// seat tells a master's socket apart from the one that another master bound in its place. The zero
// value is no socket.
type seat struct {
	device, inode uint64
	bound         int64 // nanoseconds since the epoch
}

// seat looks at the master's socket; that costs far less than asking.
func (m masterCLI) seat() seat {
	info, err := os.Stat(m.path)
	if err != nil {
		return seat{}
	}
	s := seat{bound: info.ModTime().UnixNano()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		s.device, s.inode = uint64(stat.Dev), stat.Ino //nolint:unconvert // of 32 bits on some systems
	}
	return s
}

// errTwo says that the worker at the runtime socket is not the master's.
var errTwo = errors.New("two haproxys answer")

// verifyRounds is how often the worker is asked: of two that share a socket, either may answer.
const verifyRounds = 8

// verify makes sure that the worker that answers at the runtime socket is the master's. A HAProxy that
// takes over another one's sockets shares them until that one is stopped, while the master's socket is
// its own at once: commands would go to one and reloads to the other.
func (d *Driver) verify(ctx context.Context, answering Worker) error {
	now := d.master.seat()
	if now == d.seat && answering == d.worker {
		return nil
	}
	mine, err := d.master.worker(ctx)
	switch {
	case err != nil && unserved(err) && time.Since(time.Unix(0, now.bound)) > startGrace:
		d.seat = now // no master is left, and none is being started
		return nil
	case err != nil:
		return &silence{cause: err}
	}
	for range verifyRounds {
		if answering != mine {
			return fmt.Errorf("%w, an old one (process %d) at %s and a new one (process %d) at %s: stop the old one (kill -USR1 %[2]d, or stop its container or service)",
				errTwo, answering.Pid, d.cfg.RuntimeSocket, mine.Pid, d.cfg.MasterSocket)
		}
		i, err := d.api.info(ctx)
		if err != nil {
			return err
		}
		answering = i.worker
	}
	d.seat = now
	return nil
}
