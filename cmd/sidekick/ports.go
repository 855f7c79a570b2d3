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
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// ports finds out which of the ports that services listen on cannot be had on this host, because
// another program has them or the template binds them itself. HAProxy must not be asked for such a
// port: a reload that fails to bind stops the old worker's listeners for seconds.
type ports struct {
	host string          // address on which services' ports are opened, "" for all
	held func() []uint16 // the ports that our HAProxy may be holding now, sorted

	denied  map[uint16]string // as of the last look, with the reasons
	granted []uint16          // as of the last look at the rendered text
	doubled map[uint16]bool   // of those, the ones that the template binds as well
}

// taken tries the ports that the catalog's services ask for and our HAProxy does not hold, and
// returns those that cannot be had, with the reason.
func (p *ports) taken(ctx context.Context, c *service.Catalog) map[uint16]string {
	p.denied = map[uint16]string{}
	if !p.asked(c) {
		return p.denied
	}
	held := p.held()
	for _, s := range c.Services {
		port := s.Spec.Listen
		switch {
		case port == 0 || p.denied[port] != "":
		case p.doubled[port]:
			p.denied[port] = fmt.Sprintf("port %d is one that the template binds itself", port)
		default:
			if _, ours := slices.BinarySearch(held, port); ours {
				continue
			}
			if err := probePort(ctx, p.host, port); err != nil {
				p.denied[port] = err.Error()
			}
		}
	}
	return p.denied
}

// asked tells whether any service asks for a port of its own.
func (p *ports) asked(c *service.Catalog) bool {
	return slices.ContainsFunc(c.Services, func(s *service.Service) bool { return s.Spec.Listen != 0 })
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

// probePort tells whether the port is free on that address of this host.
func probePort(ctx context.Context, host string, port uint16) error {
	err := listening.Try(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("port %d is in use by another program on this host", port)
	}
	return nil // not ours to judge: HAProxy may have rights that the agent lacks
}
