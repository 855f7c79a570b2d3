package compose

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// Project is a compose file.
type Project struct {
	Name     string
	Services []Service // sorted by name
	Notes    []string  // what of the file is not read
}

// Service is a service of a compose file.
type Service struct {
	Name, Image, ContainerName string
	Labels                     map[string]string
	Environment                []string // NAME=VALUE, sorted
	Ports                      []Port
	NetworkMode                string
	Networks                   []Network // sorted by name
	HealthCheck                HealthCheck
	StopSignal                 string
	StopGrace                  time.Duration // from its stop signal to its end by force
	Replicas                   int
	Notes                      []string // what of it is not read
	Err                        error    // all that is wrong with it
}

// HealthCheck is what a file says of a container's HEALTHCHECK.
type HealthCheck int

// The kinds of HealthCheck.
const (
	HealthCheckOfImage HealthCheck = iota // nothing: there is one if the image has one
	HealthCheckGiven
	HealthCheckOff
)

// Port is one that a container exposes or publishes.
type Port struct {
	Number    uint16
	Protocol  string // "tcp", "udp"
	Published bool
	HostIP    netip.Addr // invalid for all addresses
	HostPort  uint16     // 0 for one that the engine chooses
}

// Network is one that a container is connected to, by the engine's name for it.
type Network struct{ Name, Driver string }

// The labels that compose gives its containers.
const (
	projectLabel = "com.docker.compose.project"
	serviceLabel = "com.docker.compose.service"
)

// engineGrace is what engines take where nothing is said.
const engineGrace = 10 * time.Second

// Parse reads a compose file. Path is where it is: a project without a name is called after its
// directory. Lookup gives the variables that the file may use. It fails only for a text of which no
// service can be read.
func Parse(text []byte, path string, lookup func(name string) (string, bool)) (*Project, error) {
	var file map[string]any
	if err := yaml.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("not YAML: %w", err)
	}
	services, ok := file["services"].(map[string]any)
	if !ok || len(services) == 0 {
		return nil, errors.New("no services: want a compose file, with a map under \"services\"")
	}
	values := &variables{lookup: lookup}
	name, err := projectName(file["name"], path, values)
	if err != nil {
		return nil, err
	}
	p := &Project{Name: name}
	if _, ok := file["include"]; ok {
		p.Notes = append(p.Notes, "include is not read: validate those files by themselves")
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(path), ".env")); err == nil {
		p.Notes = append(p.Notes, ".env beside the file is not read: export its variables")
	}
	networks, err := values.expand(file["networks"])
	if err != nil {
		return nil, fmt.Errorf("networks: %w", err)
	}
	for _, key := range slices.Sorted(maps.Keys(services)) {
		p.Services = append(p.Services, readService(p.Name, key, services[key], networks, lookup))
	}
	return p, nil
}

// projectName is that of COMPOSE_PROJECT_NAME, else of the file, else of its directory.
func projectName(given any, path string, values *variables) (string, error) {
	if name, ok := values.lookup("COMPOSE_PROJECT_NAME"); ok && name != "" {
		return name, nil
	}
	if given != nil {
		expanded, err := values.expand(given)
		if err != nil {
			return "", fmt.Errorf("name: %w", err)
		}
		return scalar(expanded), nil
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	name := strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return -1
	}, strings.ToLower(filepath.Base(dir)))
	return strings.TrimLeft(name, "-_"), nil
}

// readService reads one service. What is faulty is left out, and told in its Err.
func readService(project, name string, raw, networks any, lookup func(string) (string, bool)) Service {
	s := Service{Name: name, Replicas: 1, Labels: map[string]string{}}
	values := &variables{lookup: lookup}
	expanded, err := values.expand(raw)
	if err != nil {
		s.Err = err
		return s
	}
	fields, ok := expanded.(map[string]any)
	if !ok {
		s.Err = errors.New("want a map of its settings")
		return s
	}
	s.Notes = append(notRead(fields), values.notes()...)
	// An image that compose builds is called after project and service.
	s.Image, s.ContainerName = scalarOr(fields["image"], project+"-"+name), scalar(fields["container_name"])
	s.NetworkMode, s.StopSignal = scalar(fields["network_mode"]), scalar(fields["stop_signal"])
	s.HealthCheck = healthCheck(fields["healthcheck"])
	labels, errLabels := pairs(fields["labels"], nil)
	maps.Copy(s.Labels, labels)
	s.Labels[projectLabel], s.Labels[serviceLabel] = project, name
	environment, errEnvironment := pairs(fields["environment"], lookup)
	for _, key := range slices.Sorted(maps.Keys(environment)) {
		s.Environment = append(s.Environment, key+"="+environment[key])
	}
	ports, errPorts := readPorts(fields)
	s.Ports = ports
	s.Networks = readNetworks(project, fields["networks"], networks)
	var errReplicas, errGrace error
	s.Replicas, errReplicas = replicas(fields)
	s.StopGrace, errGrace = stopGrace(fields["stop_grace_period"])
	s.Err = errors.Join(within("labels", errLabels), within("environment", errEnvironment), errPorts, errReplicas, errGrace)
	return s
}

func within(field string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", field, err)
}

// notRead lists what could change how the service is registered, and is not read.
func notRead(fields map[string]any) []string {
	var notes []string
	for _, n := range []struct{ field, mend string }{
		{"extends", "what it takes over from there is missing here"},
		{"env_file", "marks in it are missing here"},
		{"label_file", "labels in it are missing here"},
	} {
		if fields[n.field] != nil {
			notes = append(notes, n.field+" is not read: "+n.mend)
		}
	}
	if deploy, _ := fields["deploy"].(map[string]any); deploy["labels"] != nil {
		notes = append(notes, "deploy.labels are not on the containers: write what is for Sidekick under labels")
	}
	return notes
}

// healthCheck reads what the file says of the container's check.
func healthCheck(value any) HealthCheck {
	check, _ := value.(map[string]any)
	test := scalar(check["test"])
	if list, ok := check["test"].([]any); ok && len(list) > 0 {
		test = scalar(list[0])
	}
	disabled, _ := check["disable"].(bool)
	switch {
	case disabled || test == "NONE":
		return HealthCheckOff
	case test != "":
		return HealthCheckGiven
	}
	return HealthCheckOfImage
}

// stopGrace is how long the container may take to stop.
func stopGrace(value any) (time.Duration, error) {
	if value == nil {
		return engineGrace, nil
	}
	d, err := time.ParseDuration(scalar(value))
	if err != nil || d < 0 {
		return engineGrace, fmt.Errorf("stop_grace_period: %.40q is no duration such as 10s or 1m30s", scalar(value))
	}
	return d, nil
}

// replicas is how many containers the service has.
func replicas(fields map[string]any) (int, error) {
	deploy, _ := fields["deploy"].(map[string]any)
	for _, given := range []struct {
		field string
		value any
	}{{"deploy.replicas", deploy["replicas"]}, {"scale", fields["scale"]}} {
		if given.value == nil {
			continue
		}
		n, err := number(given.value, 0, 100_000)
		if err != nil {
			return 1, fmt.Errorf("%s: %w", given.field, err)
		}
		return n, nil
	}
	return 1, nil
}

// readNetworks lists the networks of a service: those it names, else the project's own.
func readNetworks(project string, named, declared any) []Network {
	var keys []string
	switch named := named.(type) {
	case map[string]any:
		keys = slices.Sorted(maps.Keys(named))
	case []any:
		for _, key := range named {
			keys = append(keys, scalar(key))
		}
	}
	if len(keys) == 0 {
		keys = []string{"default"}
	}
	of, _ := declared.(map[string]any)
	var networks []Network
	for _, key := range keys {
		networks = append(networks, readNetwork(project, key, of[key]))
	}
	slices.SortFunc(networks, func(a, b Network) int { return strings.Compare(a.Name, b.Name) })
	return networks
}

func readNetwork(project, key string, declared any) Network {
	fields, _ := declared.(map[string]any)
	n := Network{Name: scalar(fields["name"]), Driver: scalar(fields["driver"])}
	external, _ := fields["external"].(bool)
	switch {
	case n.Name != "":
	case external:
		n.Name = key
	default:
		n.Name = project + "_" + key
	}
	if n.Driver == "" {
		n.Driver = "bridge"
	}
	return n
}
