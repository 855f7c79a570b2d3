package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sidekick-proxy/sidekick/internal/compose"
	"github.com/sidekick-proxy/sidekick/pkg/admin"
	"github.com/sidekick-proxy/sidekick/pkg/docker"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// What becomes of a service of a compose file.
const (
	verdictRegistered = "registered"
	verdictRefused    = "refused"
	verdictNone       = "none" // it asks for nothing
)

// portOfImage stands for the port that an image exposes, which a compose file does not tell.
const portOfImage = 1

// exampleAddress stands for this host's own: it decides only whether a port that is published for
// some address is published for others.
var exampleAddress = netip.AddrFrom4([4]byte{192, 0, 2, 1})

var onlyBridge = []docker.PlannedNetwork{{Name: "bridge", Driver: "bridge"}}

// verdict is what becomes of a service of a compose file: one for each that it registers.
type verdict struct {
	File       string   `json:"file"`
	Service    string   `json:"service"`
	State      string   `json:"state"`
	Name       string   `json:"name,omitempty"`
	Port       uint16   `json:"port,omitempty"` // 0 for the one that the image exposes
	Hosts      []string `json:"hosts,omitempty"`
	Path       string   `json:"path,omitempty"`
	Default    bool     `json:"default,omitempty"`
	Listen     uint16   `json:"listen,omitempty"`
	Mode       string   `json:"mode,omitempty"`
	Check      string   `json:"check,omitempty"`
	Address    string   `json:"address,omitempty"`
	Convention string   `json:"convention,omitempty"`
	Replicas   int      `json:"replicas"`
	Why        string   `json:"why,omitempty"`
	Notes      []string `json:"notes,omitempty"`

	id string // of the instance
}

// validateFiles judges compose files, prints what becomes of their services, and fails if something
// is refused.
func (s *settings) validateFiles(cmd *cobra.Command, files []string, output string) error {
	all := []verdict{}
	var refused []error
	for _, file := range files {
		verdicts, notes, err := s.validateFile(file)
		if err != nil {
			refused = append(refused, err)
			continue
		}
		for _, v := range verdicts {
			if v.State == verdictRefused {
				refused = append(refused, fmt.Errorf("%s: service %s: %s", file, v.Service, v.Why))
			}
		}
		all = append(all, verdicts...)
		if output == "" {
			writeVerdicts(cmd.OutOrStdout(), file, verdicts, notes)
		}
	}
	if output == "json" {
		if err := printJSON(cmd.OutOrStdout(), all); err != nil {
			return err
		}
	}
	if len(refused) > 0 {
		return refusedError{errors.Join(refused...)}
	}
	return nil
}

// validateFile judges the services of one file, alone and beside each other.
func (s *settings) validateFile(file string) ([]verdict, []string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, usageError{err}
	}
	project, err := compose.Parse(text, file, os.LookupEnv)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	var verdicts []verdict
	var prospects []docker.Prospect
	for _, of := range project.Services {
		outlook := s.describe(project, &of)
		prospects = append(prospects, outlook.Prospects...)
		verdicts = append(verdicts, s.judge(file, &of, &outlook)...)
	}
	model, err := s.modelOf(prospects)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	for i := range verdicts {
		verdicts[i].Why = cmp.Or(verdicts[i].Why, whyNotReached(model, &verdicts[i]))
	}
	return verdicts, project.Notes, nil
}

// describe says what the agent would make of a container of the service.
func (s *settings) describe(project *compose.Project, of *compose.Service) docker.Outlook {
	if of.Err != nil {
		return docker.Outlook{Rejected: []service.Rejection{{Reason: oneLine(of.Err.Error())}}}
	}
	source := &docker.Source{
		Node: s.node, Zone: s.zone, Advertise: exampleAddress, ExposeAll: s.expose == "all", Conventions: s.conventionsOn(),
	}
	if a, err := netip.ParseAddr(s.advertise); err == nil {
		source.Advertise = a
	}
	return source.Describe(planOf(project, of))
}

// planOf is the service's first container, as compose would make it.
func planOf(project *compose.Project, of *compose.Service) *docker.Plan {
	p := &docker.Plan{
		Name:  cmp.Or(of.ContainerName, project.Name+"-"+of.Name+"-1"),
		Image: of.Image, Labels: of.Labels, Env: of.Environment, NetworkMode: of.NetworkMode, StopSignal: of.StopSignal,
		HealthCheck: of.HealthCheck == compose.HealthCheckGiven || of.HealthCheck == compose.HealthCheckOfImage && reliesOnHealthCheck(of),
	}
	for _, port := range of.Ports {
		p.Ports = append(p.Ports, docker.PlannedPort(port))
	}
	if len(p.Ports) == 0 {
		p.Ports = []docker.PlannedPort{{Number: portOfImage, Protocol: "tcp"}}
	}
	switch other, ofService := strings.CutPrefix(of.NetworkMode, "service:"); {
	case ofService:
		p.NetworkMode = "container:" + other
	case of.NetworkMode == "":
		for _, n := range of.Networks {
			p.Networks = append(p.Networks, docker.PlannedNetwork(n))
		}
	case of.NetworkMode == "bridge":
		p.Networks = onlyBridge
	}
	return p
}

// reliesOnHealthCheck tells whether a label wants the HEALTHCHECK that only the image can have.
func reliesOnHealthCheck(of *compose.Service) bool {
	for name, text := range of.Labels {
		if text == string(service.CheckDocker) && strings.HasPrefix(name, "sidekick.") && strings.HasSuffix(name, ".check") {
			return true
		}
	}
	return false
}

// judge makes verdicts of what the agent would make of a service.
func (s *settings) judge(file string, of *compose.Service, o *docker.Outlook) []verdict {
	base := verdict{File: file, Service: of.Name, State: verdictNone, Replicas: of.Replicas, Notes: slices.Concat(of.Notes, o.Remarks)}
	for _, name := range o.Off {
		base.Notes = append(base.Notes, fmt.Sprintf("it carries marks of %s, which is off: %s", name, docker.TurnOn(s.conventionsOn(), name)))
	}
	var all []verdict
	for _, p := range o.Prospects {
		all = append(all, registered(base, of, &p))
		base.Notes = nil // once for each service
	}
	for _, r := range o.Rejected {
		v := base
		v.State, v.Name, v.Why = verdictRefused, r.Service, r.Reason
		all = append(all, v)
		base.Notes = nil
	}
	if len(all) > 0 {
		return all
	}
	base.Why = "no sidekick.* label, and no mark of a convention that is on: " + strings.Join(s.conventionsOn(), ", ")
	if of.Labels["sidekick.enable"] == "false" {
		base.Why = "sidekick.enable=false"
	}
	return []verdict{base}
}

// registered is the verdict on one instance.
func registered(v verdict, of *compose.Service, p *docker.Prospect) verdict {
	v.State, v.Name, v.Port, v.id = verdictRegistered, p.Service, p.Inside, p.ID
	v.Hosts, v.Path, v.Default, v.Listen, v.Mode = p.Hosts, p.Path, p.Options["default"] == "true", p.Listen, string(p.Mode)
	v.Address, v.Convention = p.Reached, p.Convention
	v.Check = string(p.Check.Kind)
	if p.Check.Kind == service.CheckHTTP {
		v.Check += ":" + p.Check.HTTPPath
	}
	if p.Check.Kind == service.CheckTCP && p.Options["check"] == "" && of.HealthCheck == compose.HealthCheckOfImage {
		v.Check = "image or tcp"
	}
	if v.Port == portOfImage {
		v.Port = 0
	}
	v.Notes = append(v.Notes, advice(of, p)...)
	return v
}

// advice is what is to be said of an instance that is registered.
func advice(of *compose.Service, p *docker.Prospect) []string {
	var notes []string
	add := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	if p.Inside == portOfImage {
		add("the file names no port: the image's is taken if it exposes exactly one for TCP; sidekick.port says which one")
	}
	if of.Replicas > 1 && p.Reached == "published" && fixedPort(of, p.Inside) {
		add("%d containers cannot publish port %d at one port of a host: name the container's port only, as in %q", of.Replicas, p.Inside, strconv.Itoa(int(p.Inside)))
	}
	drain, err := time.ParseDuration(p.Options["drain"])
	if err == nil && drain > of.StopGrace {
		add("a plain docker stop ends sessions after stop_grace_period (%s), whatever sidekick.drain (%s) says: make that longer", of.StopGrace, drain)
	}
	return notes
}

// fixedPort tells whether the port is published at ports of the host that the file names.
func fixedPort(of *compose.Service, inside uint16) bool {
	return slices.ContainsFunc(of.Ports, func(p compose.Port) bool { return p.Number == inside && p.Published && p.HostPort != 0 })
}

// whyNotReached is what keeps requests from a service that is registered.
func whyNotReached(m *render.Model, v *verdict) string {
	if v.State != verdictRegistered {
		return ""
	}
	for _, s := range m.Services {
		if s.Name != v.Name {
			continue
		}
		for _, i := range s.Instances {
			if i.ID == v.id && i.Why != "" {
				return i.Why
			}
		}
		return s.Why
	}
	return ""
}

// writeVerdicts prints a table of a file's services, and below it what is to be said of them.
func writeVerdicts(out io.Writer, file string, verdicts []verdict, notes []string) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s\n", file)
	fmt.Fprintln(w, "SERVICE\tSTATE\tREGISTERED AS\tPORT\tROUTE\tMODE\tCHECK\tADDRESS\tBY\tWHY NOT REACHED")
	for _, v := range verdicts {
		fmt.Fprintf(w, "%s\n", strings.Join(v.cells(), "\t"))
	}
	_ = w.Flush()
	for _, n := range notes {
		fmt.Fprintf(out, "note: %s\n", n)
	}
	for _, v := range verdicts {
		for _, n := range v.Notes {
			fmt.Fprintf(out, "note: service %s: %s\n", v.Service, n)
		}
	}
}

// cells are the verdict's columns.
func (v *verdict) cells() []string {
	const none = "-"
	service := v.Service
	if v.Replicas != 1 {
		service += " ×" + strconv.Itoa(v.Replicas)
	}
	cells := []string{service, v.State, cmp.Or(v.Name, none), none, none, none, none, none, none, cmp.Or(v.Why, none)}
	switch v.State {
	case verdictNone:
		return cells
	case verdictRefused:
		cells[len(cells)-1] = "see the error"
		return cells
	}
	port := "image's"
	if v.Port != 0 {
		port = strconv.Itoa(int(v.Port))
	}
	reached := cmp.Or(map[string]string{"node": "container, this host only"}[v.Address], v.Address)
	way := route(admin.Service{Hosts: v.Hosts, Path: v.Path, Default: v.Default, Listen: v.Listen, Mode: v.Mode})
	copy(cells[3:], []string{port, way, v.Mode, v.Check, reached, v.Convention})
	return cells
}
