package docker

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/sidekick-proxy/sidekick/pkg/convention"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// host is what must be known about this host to describe its containers to others.
type host struct {
	node, zone  string
	advertise   netip.Addr
	exposeAll   bool
	conventions []string // those that are on
}

// run is one run of a container, from a start to its end, as an inspection showed it.
type run struct {
	started   time.Time
	stop      int           // the signal by which it is told to stop
	grace     time.Duration // how long the engine lets it live after that, negative for ever
	endpoints []endpoint
	instances []service.Instance
	origins   []origin // of each instance
	rejected  []service.Rejection
	name      string   // of the container
	remarks   []string // what it says that is not acted on
	off       []string // conventions that are off, of which it carries marks
}

// origin is how an instance came to be what it is.
type origin struct {
	convention string
	address    string // the kind of its address
}

// mostServices is how many one container may declare, so that one that declares thousands costs the
// others nothing.
const mostServices = 32

// The labels by which compose tells what a container is.
const (
	composeProject = "com.docker.compose.project"
	composeService = "com.docker.compose.service"
)

// refusal is an error with the kind of its rejection.
type refusal struct {
	kind string
	error
}

// read describes a container's run; nil when it does not run.
func (h host) read(v *view) *run {
	if !v.running {
		return nil
	}
	asked := h.asked(v)
	r := &run{started: v.started, stop: v.stop, grace: v.grace, endpoints: v.endpoints, name: v.name, remarks: bounded(asked.Notes)}
	if !asked.Hidden {
		r.off = convention.Off(h.conventions, h.shown(v))
	}
	services := asked.Services
	if more := len(services) - mostServices; more > 0 {
		services = services[:mostServices]
		r.rejected = append(r.rejected, h.rejection(v, serviceName(v), fmt.Errorf(
			"container %s declares %d services: only the first %d are taken, in the order of their names; spread them over several containers",
			v.name, mostServices+more, mostServices)))
	}
	for _, s := range services {
		h.add(r, v, &s)
	}
	return r
}

// cut says that the engine ends the run, when it is told to stop it, before sessions on it need end; "" if not.
func (r *run) cut() string {
	longest := time.Duration(0)
	for _, i := range r.instances {
		if d, err := time.ParseDuration(i.Options["drain"]); err == nil {
			longest = max(longest, d)
		}
	}
	if r.grace < 0 || longest <= r.grace {
		return ""
	}
	return fmt.Sprintf("sidekick.drain gives sessions %s, and `docker stop` the container %s: use `sidekick stop`, or a longer --stop-timeout", longest, r.grace)
}

// add describes one service of the run, or says why it is left out.
func (h host) add(r *run, v *view, s *convention.Service) {
	i, where, err := h.instance(v, &s.Definition)
	if err == nil && slices.ContainsFunc(r.instances, func(other service.Instance) bool { return other.ID == i.ID }) {
		err = refusal{service.RejectedLabel, fmt.Errorf("container %s declares port %d of the service %s twice", v.name, i.Port, i.Service)}
	}
	if err != nil {
		r.rejected = append(r.rejected, h.rejection(v, cmp.Or(s.Service, serviceName(v)), err))
		return
	}
	r.instances = append(r.instances, i)
	r.origins = append(r.origins, origin{convention: s.From, address: where.kind})
}

// asked says what a container asks for.
func (h host) asked(v *view) convention.Reading {
	asked := convention.Read(h.conventions, h.shown(v))
	if len(asked.Services) == 0 && h.exposeAll && !asked.Hidden {
		asked.Services = []convention.Service{{Definition: service.Define(nil), From: "--expose all"}}
	}
	return asked
}

// shown is what the conventions see of a container.
func (h host) shown(v *view) *convention.Container {
	return &convention.Container{
		Image: v.image, Service: serviceName(v), Compose: composed(v) != "", Labels: v.labels, Env: v.env,
		Ports: v.ports, Published: convention.Ports{TCP: slices.Sorted(maps.Keys(v.published)), UDP: v.udp},
	}
}

// bounded makes of what a container says lines of bounded length and number.
func bounded(notes []string) []string {
	const most = 32
	var lines []string
	for _, n := range notes[:min(len(notes), most)] {
		lines = append(lines, printable(n))
	}
	return lines
}

// instance describes one service of a container, or says why it cannot be one.
func (h host) instance(v *view, d *service.Definition) (service.Instance, place, error) {
	none, where := service.Instance{}, place{}
	if d.Err != nil {
		return none, where, refusal{service.RejectedLabel, d.Err}
	}
	port, err := v.port(d.Port)
	if err != nil {
		return none, where, refusal{service.RejectedLabel, err}
	}
	where, err = h.place(v, d, port)
	if err != nil {
		return none, where, refusal{service.RejectedAddress, err}
	}
	check, err := v.check(d, where.target)
	if err != nil {
		return none, where, refusal{service.RejectedLabel, err}
	}
	name := cmp.Or(d.Service, serviceName(v))
	i := service.Instance{
		Node: h.node, ID: v.id + "." + name + "." + strconv.Itoa(int(port)), Service: name,
		Address: where.at.Addr(), Port: where.at.Port(), State: service.Ready, Weight: d.Weight,
		Mode: d.Mode, Hosts: d.Hosts, Path: d.Path, Listen: d.Listen, Scope: where.scope,
		Container: v.id, Name: v.name, Zone: h.zone, Started: v.started,
		Options: orNil(d.Options), Tags: d.Tags, Meta: orNil(d.Meta), Check: check,
	}
	if v.paused {
		i.State = service.Unhealthy
	}
	// What cannot be written would keep the registry from taking all the others, so it is left out
	// here, alone.
	if _, err := i.Encode(); err != nil {
		return none, where, refusal{service.RejectedLabel, err}
	}
	return i, where, nil
}

// orNil makes an empty map none, as it is after a way through the registry.
func orNil(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	return m
}

// serviceName is the name of a service whose labels give it none.
func serviceName(v *view) string {
	if name := composed(v); name != "" {
		return name
	}
	return service.DeriveName(v.name)
}

// composed is the name of the service by which compose made the container, "" if it did not.
func composed(v *view) string {
	project, name := v.labels[composeProject], v.labels[composeService]
	if project == "" || name == "" {
		return ""
	}
	return service.DeriveName(project + "-" + name)
}

// port is the port inside of the container: the one asked for, else the only one there is.
func (v *view) port(wanted uint16) (uint16, error) {
	tcp, udp := v.ports.TCP, v.ports.UDP
	switch {
	case wanted != 0 && slices.Contains(udp, wanted) && !slices.Contains(tcp, wanted):
		return 0, fmt.Errorf("port %d of container %s is one of UDP: HAProxy carries TCP; if it takes TCP as well, expose %d/tcp", wanted, v.name, wanted)
	case wanted != 0:
		return wanted, nil
	case len(tcp) == 1:
		return tcp[0], nil
	case len(tcp) == 0 && len(udp) > 0:
		return 0, fmt.Errorf("container %s exposes only UDP ports (%s): HAProxy carries TCP; expose a TCP port, or say which one it listens on with the label sidekick.port", v.name, convention.PrintPorts(udp))
	case len(tcp) == 0:
		return 0, fmt.Errorf("container %s exposes no TCP port: say which one it listens on with the label sidekick.port", v.name)
	}
	return 0, fmt.Errorf("container %s has several TCP ports (%s): say which one with the label sidekick.port", v.name, convention.PrintPorts(tcp))
}

// check says how the gate finds out whether the instance serves.
func (v *view) check(d *service.Definition, target netip.AddrPort) (*service.Check, error) {
	c := d.NewCheck(target)
	c.Health = v.health
	switch {
	case d.Check == "" && v.health != "":
		c.Kind = service.CheckDocker
	case c.Kind == service.CheckDocker && v.health == "":
		return nil, fmt.Errorf("container %s has no HEALTHCHECK, which the label sidekick.check=docker relies on: give its image one, or use tcp or http:/path", v.name)
	}
	return c, nil
}

// rejection reports a service of a container that is left out.
func (h host) rejection(v *view, name string, err error) service.Rejection {
	kind := service.RejectedLabel
	if r := (refusal{}); errors.As(err, &r) {
		kind = r.kind
	}
	return service.Rejection{Kind: kind, Service: name, Node: h.node, ID: v.id, Name: v.name, Reason: oneLine(err)}
}

// oneLine writes joined errors as one sentence.
func oneLine(err error) string { return printable(strings.ReplaceAll(err.Error(), "\n", "; ")) }

// printable is text on one line, of bounded length, without what a terminal would obey.
func printable(text string) string {
	const most = 1000
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// compareIDs orders instances as they are sent.
func compareIDs(a, b service.Instance) int { return cmp.Compare(a.ID, b.ID) }

// sortedIDs lists the keys of a map in a fixed order.
func sortedIDs[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
