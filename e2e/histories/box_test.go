package histories

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
)

const (
	boxes     = 10
	addresses = 6 // fewer than containers, so that they are handed on
	port      = 8000
)

// box is one container through all its runs.
type box struct {
	id, name   string
	labels     map[string]string
	stopSignal string
	number     string // of that signal
	health     string // Docker's word for its HEALTHCHECK, "" without one

	exists, running, paused, told bool
	started                       time.Time
	address                       netip.Addr
	listener                      net.Listener
}

// newBox makes up the container of that number: they differ in all that matters for a stop and a name.
func newBox(n int) *box {
	b := &box{
		id: strings.Repeat(fmt.Sprintf("%04x", n+1), 16), name: fmt.Sprintf("c%d", n), number: "15",
		labels: map[string]string{"sidekick.check.interval": "20ms", "sidekick.check.fall": "2"},
	}
	switch n {
	case 0, 1: // services named after their containers
	case 2:
		b.health = string(container.Starting)
	case 3:
		b.stopSignal, b.number = "SIGQUIT", "3"
	case 4:
		b.stopSignal, b.number = "SIGRTMIN+3", "37"
	}
	if n > 1 {
		b.labels["sidekick.service"] = fmt.Sprintf("s%d", n%2)
	}
	return b
}

func (b *box) run() run { return run{b.id[:12], b.started.UnixNano()} }

// service is the name under which it is registered.
func (b *box) service() string {
	if name := b.labels["sidekick.service"]; name != "" {
		return name
	}
	return b.name
}

// described is what the engine tells of it.
func (b *box) described() container.InspectResponse {
	c := container.InspectResponse{
		ID: b.id, Name: "/" + b.name, HostConfig: &container.HostConfig{NetworkMode: "bridge"},
		Config: &container.Config{Labels: b.labels, StopSignal: b.stopSignal, ExposedPorts: network.PortSet{
			network.MustParsePort(fmt.Sprintf("%d/tcp", port)): {},
		}},
		State: &container.State{Status: container.StateExited, StartedAt: b.started.Format(time.RFC3339Nano)},
	}
	if !b.running {
		return c
	}
	c.State.Status, c.State.Running, c.State.Paused = container.StateRunning, true, b.paused
	if b.health != "" {
		c.State.Health = &container.Health{Status: container.HealthStatus(b.health)}
	}
	c.NetworkSettings = &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{
		"bridge": {NetworkID: "b", IPAddress: b.address},
	}}
	return c
}

// address is one of this process's own, on loopback.
func address(n int) netip.Addr {
	pid := os.Getpid()
	return netip.AddrFrom4([4]byte{127, byte(128 + pid%64), byte(pid / 64), byte(1 + n)})
}

// listen makes the container's process listen.
func (b *box) listen() error {
	if b.listener != nil {
		return nil
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", netip.AddrPortFrom(b.address, port).String())
	if err != nil {
		return err
	}
	b.listener = l
	go accept(l)
	return nil
}

// accept takes connections and closes them, until the listener is closed.
func accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_ = c.Close()
	}
}

// silence ends what listens.
func (b *box) silence() {
	if b.listener != nil {
		_ = b.listener.Close()
		b.listener = nil
	}
}

// endings are the orders in which engines log the end of a container that is told to stop.
func endings(stopFirst bool) []events.Action {
	if stopFirst {
		return []events.Action{events.ActionStop, events.ActionDie}
	}
	return []events.Action{events.ActionDie, events.ActionStop}
}
