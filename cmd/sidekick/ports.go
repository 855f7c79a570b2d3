package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"

	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// ports knows which of the ports that services listen on this host cannot give them, because
// another program has them. HAProxy must not be asked for such a port: a reload that fails to bind
// stops the old worker's listeners for seconds.
type ports struct {
	host   string          // address on which services' ports are opened, "" for all
	ours   map[uint16]bool // held by our HAProxy
	denied map[uint16]string
}

// newPorts starts from what the configuration on disk binds: an agent that restarts finds its
// HAProxy holding those.
func newPorts(config, host string) *ports {
	p := &ports{host: host, ours: map[uint16]bool{}}
	text, err := os.ReadFile(config)
	if err != nil {
		return p // no file, nothing held
	}
	for _, port := range haproxy.Bound(string(text)) {
		p.ours[port] = true
	}
	return p
}

// taken tries the ports that the catalog's services ask for and our HAProxy does not hold, and
// returns those that cannot be had, with the reason.
func (p *ports) taken(ctx context.Context, c *service.Catalog) map[uint16]string {
	p.denied = map[uint16]string{}
	for _, s := range c.Services {
		port := s.Spec.Listen
		if port == 0 || p.ours[port] || p.denied[port] != "" {
			continue
		}
		if err := probePort(ctx, p.host, port); err != nil {
			p.denied[port] = err.Error()
		}
	}
	return p.denied
}

func (p *ports) anyTaken() bool { return len(p.denied) > 0 }

// granted notes which ports the rendered text gives to HAProxy.
func (p *ports) granted(m *render.Model) {
	clear(p.ours)
	for _, s := range m.Services {
		if s.Listen != 0 {
			p.ours[s.Listen] = true
		}
	}
}

// probePort tells whether the port is free on that address of this host.
func probePort(ctx context.Context, host string, port uint16) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("port %d is in use by another program on this host", port)
	}
	if err == nil {
		listener.Close()
	}
	return nil // not ours to judge: HAProxy may have rights that the agent lacks
}
