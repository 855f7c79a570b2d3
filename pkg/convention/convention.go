package convention

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// The conventions, by their names in --conventions.
const (
	Sidekick    = "sidekick"
	Registrator = "registrator"
	NginxProxy  = "nginx-proxy"
	DockerCloud = "dockercloud"
)

// Names lists all conventions.
func Names() []string { return []string{Sidekick, Registrator, NginxProxy, DockerCloud} }

// Parse reads a comma list of names, of which the order is kept: it decides between two conventions
// that say the same of one port.
func Parse(list string) ([]string, error) {
	var names []string
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		if !slices.Contains(Names(), name) {
			return nil, fmt.Errorf("%.40q is no convention: known are %s", name, strings.Join(Names(), ", "))
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// Container is what a container shows to the conventions.
type Container struct {
	Image     string
	Service   string // name of its service if nothing gives it another
	Compose   bool   // that name is from its compose file
	Labels    map[string]string
	Env       []string // NAME=VALUE
	Ports     Ports    // exposed or published
	Published Ports
}

// Ports are ports of a container, each list sorted.
type Ports struct{ TCP, UDP []uint16 }

// Service is a service that a container asks for.
type Service struct {
	service.Definition
	From string // the convention
}

// Reading is all that a container says.
type Reading struct {
	Services []Service
	Notes    []string // what was read but is not acted on, a sentence each
	Hidden   bool     // sidekick.enable=false
}

// wish is a service as another program's marks ask for it, not yet checked.
type wish struct {
	from     string
	settings []service.Setting
	place    place
}

// place is what no two services of a container have in common.
type place struct {
	service string
	port    uint16
}

// Read tells what a container asks for in the conventions that are on. Services of its own labels
// come first, then those of the others in their order; of two conventions that make the same service
// of one port, the first that can be registered counts.
func Read(on []string, c *Container) Reading {
	own, enabled := service.ParseLabels(c.Labels)
	if enabled != nil && !*enabled {
		return Reading{Hidden: true}
	}
	var notes notes
	wishes := wishesOf(on, c, &notes)
	var services []Service
	if slices.Contains(on, Sidekick) {
		own, wishes = override(own, wishes, c)
		for _, d := range own {
			services = append(services, Service{d, Sidekick})
		}
	}
	for _, w := range wishes {
		services = append(services, Service{service.Define(w.settings), w.from})
	}
	return Reading{Services: fold(services, c), Notes: notes}
}

// wishesOf are the services that other programs' marks ask for.
func wishesOf(on []string, c *Container, n *notes) []wish {
	marks := marksOf(on, c)
	if len(marks) == 0 {
		return nil
	}
	var wishes []wish
	for _, name := range on {
		if name == NginxProxy && slices.Contains(on, DockerCloud) && marks.urls() {
			continue // they are meant for the other
		}
		for _, settings := range read(name, c, marks, n) {
			d := service.Define(settings)
			wishes = append(wishes, wish{name, settings, c.place(&d)})
		}
	}
	return wishes
}

// read asks one convention other than our own.
func read(name string, c *Container, m marks, n *notes) [][]service.Setting {
	switch name {
	case Registrator:
		return registrator(c, m, n)
	case NginxProxy:
		return nginxProxy(c, m, n)
	case DockerCloud:
		return dockerCloud(c, m, n)
	}
	return nil
}

// override adds the own labels to the wishes that they are about, and returns the own definitions
// that are left: services by themselves.
func override(own []service.Definition, wishes []wish, c *Container) ([]service.Definition, []wish) {
	wishes = slices.DeleteFunc(wishes, func(w wish) bool {
		return service.Disabled(service.Settings(c.Labels, w.place.service))
	})
	var alone []service.Definition
	for _, d := range own {
		matched := matching(&d, wishes)
		if len(matched) == 0 {
			alone = append(alone, d)
			continue
		}
		settings := service.Settings(c.Labels, d.Key)
		for _, at := range matched {
			wishes[at].settings = append(wishes[at].settings, settings...)
		}
	}
	return alone, wishes
}

// matching finds the wishes that own labels are about. Plain ones are about all of the container's
// services: on their port, if they name one; of their name, if there is more than one. Those of a
// service among several are about the one of that name.
func matching(own *service.Definition, wishes []wish) []int {
	var onPort, named []int
	for at, w := range wishes {
		if own.Port != 0 && own.Port != w.place.port {
			continue
		}
		onPort = append(onPort, at)
		if own.Service == w.place.service {
			named = append(named, at)
		}
	}
	if own.Key != "" || own.Service != "" && len(onPort) > 1 {
		return named
	}
	return onPort
}

// fold leaves of the services that several conventions make of one place the first without fault,
// else the first. What one convention says twice stays: that is a fault to be told.
func fold(services []Service, c *Container) []Service {
	at := map[place]int{}
	var kept []Service
	for _, s := range services {
		p := c.place(&s.Definition)
		first, known := at[p]
		switch {
		case !known:
			at[p] = len(kept)
			kept = append(kept, s)
		case kept[first].From == s.From:
			kept = append(kept, s)
		case kept[first].Err != nil && s.Err == nil:
			kept[first] = s
		}
	}
	return kept
}

// place is where a definition is registered; the port is 0 if that is still open.
func (c *Container) place(d *service.Definition) place {
	p := place{cmp.Or(d.Service, c.Service), d.Port}
	if p.port == 0 && len(c.Ports.TCP) == 1 {
		p.port = c.Ports.TCP[0]
	}
	return p
}
