package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"syscall"

	"github.com/sidekick-proxy/sidekick/internal/listening"
	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// ports finds out which of the ports that services and HTTPS need cannot be had on this host, because
// another program has them or the template binds them itself. HAProxy must not be asked for such a
// port: a reload that fails to bind stops the old worker's listeners for seconds.
type ports struct {
	host  string          // address on which services' ports are opened, "" for all
	https string          // --https-listen, "" for none
	ours  bool            // HAProxy is a child of the agent, and has no other rights
	held  func() []uint16 // the ports that our HAProxy may be holding now, sorted

	denied  map[uint16]string // as of the last look, with the reasons
	granted []uint16          // as of the last look at the rendered text
	doubled map[uint16]bool   // of those, the ones that the template binds as well
}

// taken tries the ports that are asked for and our HAProxy does not hold, and returns those that
// cannot be had, with the reason.
func (p *ports) taken(ctx context.Context, in render.Input) map[uint16]string {
	p.denied = map[uint16]string{}
	asked := p.asked(in)
	if len(asked) == 0 {
		return p.denied
	}
	held := p.held()
	for port, host := range asked {
		if p.doubled[port] {
			p.denied[port] = fmt.Sprintf("port %d is one that the template binds itself", port)
			continue
		}
		if _, ours := slices.BinarySearch(held, port); ours {
			continue
		}
		if why := p.probe(ctx, host, port); why != "" {
			p.denied[port] = why
		}
	}
	return p.denied
}

// asked are the ports that are asked for, each with its address: by services for themselves, and the one
// for HTTPS if there is what could be served there.
func (p *ports) asked(in render.Input) map[uint16]string {
	asked := map[uint16]string{}
	https := len(in.Certificates) > 0
	for _, s := range in.Catalog.Services {
		if s.Spec.Listen != 0 {
			asked[s.Spec.Listen] = p.host
		}
		https = https || render.PassesThrough(s)
	}
	if host, text, err := net.SplitHostPort(p.https); err == nil && https {
		port, _ := strconv.ParseUint(text, 10, 16) // validate has refused a bad one
		asked[uint16(port)] = host
	}
	return asked
}

// conflict looks for granted ports that the text binds more than once, and tells whether there are
// new ones: then the text must be made again without them.
func (p *ports) conflict(files render.Files, m *render.Model) bool {
	var granted []uint16
	for _, s := range m.Services {
		if s.Listen != 0 {
			granted = append(granted, s.Listen)
		}
	}
	if slices.Equal(granted, p.granted) {
		return false
	}
	p.granted = granted
	count := map[uint16]int{}
	for _, port := range haproxy.Bound(files[0].Text()) {
		count[port]++
	}
	found := false
	for _, port := range granted {
		if count[port] > 1 {
			p.doubled[port], found = true, true
		}
	}
	return found
}

// forget is called when the template has changed, and may bind other ports.
func (p *ports) forget() {
	p.granted = nil
	p.doubled = map[uint16]bool{}
}

// probe says why HAProxy cannot have the port on that address of this host, or "".
func (p *ports) probe(ctx context.Context, host string, port uint16) string {
	err := listening.Try(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Sprintf("port %d is in use by another program on this host", port)
	case errors.Is(err, syscall.EACCES) && p.ours:
		return fmt.Sprintf("port %d is one that this user may not have: start the agent with the right to bind low ports (NET_BIND_SERVICE), or choose another", port)
	}
	return "" // not ours to judge: HAProxy may have rights that the agent lacks
}
