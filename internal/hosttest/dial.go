package hosttest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// Dial connects to a TCP address as a program on the host does, whose link may be cut: a socket stays in
// the network in which it was made, whoever uses it.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		// Never unlocked: the thread, whose network is the host's from now on, ends with this goroutine.
		runtime.LockOSThread()
		conn, err := h.dial(ctx, network, address)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// dial moves this thread into the host's network.
func (h *Host) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ns, err := os.Open("/proc/" + strconv.Itoa(h.space.first) + "/ns/net")
	if err != nil {
		return nil, fmt.Errorf("network of %s: %w", h.Name, err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter the network of %s: %w", h.Name, errors.Join(err, context.Cause(ctx)))
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}
