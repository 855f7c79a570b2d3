package docker

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Plan is a container that need not exist yet, as far as it matters for its registration.
type Plan struct {
	Name, Image string
	Labels      map[string]string
	Env         []string // NAME=VALUE
	Ports       []PlannedPort
	NetworkMode string // "" or "bridge", "host", "none", "container:NAME"
	Networks    []PlannedNetwork
	HealthCheck bool
	StopSignal  string
}

// PlannedPort is a port that a container exposes, and where it is published.
type PlannedPort struct {
	Number    uint16
	Protocol  string // "tcp", "udp", "sctp"
	Published bool
	HostIP    netip.Addr // invalid for all addresses of the host
	HostPort  uint16     // 0 for one that the engine chooses
}

// PlannedNetwork is a network that a container is connected to.
type PlannedNetwork struct{ Name, Driver string }

// Outlook is what a Source makes of a container.
type Outlook struct {
	Prospects []Prospect
	Rejected  []service.Rejection
	Remarks   []string // what the container asks for that is not acted on
	Off       []string // conventions that are off, of which it carries marks
}

// Prospect is an instance as it would be registered. Of addresses and ports that an engine would
// choose it holds some that stand for them.
type Prospect struct {
	service.Instance
	Inside     uint16 // the port inside of the container
	Reached    string // "published", "host", "container", or "node" if only this host reaches it
	Convention string // that made it
}

// standIn is the first of the ports that stand for those that an engine chooses.
const standIn = 32768

// Describe says what the source would make of a container: by the same steps as of one that runs.
func (s *Source) Describe(p *Plan) Outlook {
	h, c := s.describer(), p.inspection()
	v := newView(&c)
	drivers := map[string]string{}
	for _, n := range p.Networks {
		drivers[n.Name] = n.Driver
	}
	for k, e := range v.endpoints {
		v.endpoints[k].driver = drivers[e.network]
	}
	r := h.read(&v)
	o := Outlook{Rejected: r.rejected, Remarks: r.remarks, Off: r.off}
	for k, i := range r.instances {
		o.Prospects = append(o.Prospects, Prospect{
			Instance: i, Inside: i.Check.Target.Port(), Reached: r.origins[k].address, Convention: r.origins[k].convention,
		})
	}
	return o
}

// inspection is what an engine would show of the container, were it running.
func (p *Plan) inspection() container.InspectResponse {
	id := sha256.Sum256([]byte(p.Name)) // as long as an engine's, and another for another name
	c := container.InspectResponse{
		ID: hex.EncodeToString(id[:]), Name: "/" + p.Name,
		State:      &container.State{Running: true, StartedAt: time.Unix(0, 0).UTC().Format(time.RFC3339)},
		HostConfig: &container.HostConfig{NetworkMode: container.NetworkMode(p.NetworkMode)},
		Config: &container.Config{
			Image: p.Image, Labels: p.Labels, Env: p.Env, StopSignal: p.StopSignal, ExposedPorts: network.PortSet{},
		},
		NetworkSettings: &container.NetworkSettings{Ports: network.PortMap{}, Networks: map[string]*network.EndpointSettings{}},
	}
	if p.HealthCheck {
		c.State.Health = &container.Health{Status: container.Starting}
	}
	for k, planned := range p.Ports {
		port, err := network.ParsePort(strconv.Itoa(int(planned.Number)) + "/" + planned.Protocol)
		if err != nil {
			continue // not reached: a number and a protocol are a port
		}
		c.Config.ExposedPorts[port] = struct{}{}
		if planned.Published && !c.HostConfig.NetworkMode.IsHost() {
			c.NetworkSettings.Ports[port] = append(c.NetworkSettings.Ports[port], planned.binding(k))
		}
	}
	for k, n := range p.Networks {
		c.NetworkSettings.Networks[n.Name] = &network.EndpointSettings{
			NetworkID: n.Name, IPAddress: netip.AddrFrom4([4]byte{192, 0, 2, byte(k%250 + 2)}), // of documentation
		}
	}
	return c
}

func (p *PlannedPort) binding(at int) network.PortBinding {
	port := p.HostPort
	if port == 0 {
		port = uint16(standIn + at%(1<<15))
	}
	return network.PortBinding{HostIP: p.HostIP, HostPort: strconv.Itoa(int(port))}
}

// TurnOn says how to turn on a convention that is off.
func TurnOn(on []string, name string) string {
	return "--conventions " + strings.Join(append(slices.Clone(on), name), ",") + " turns it on"
}
