package render

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Held is what becomes of a service that cannot be served as it asks: its text does not come about, or
// HAProxy refuses it.
type Held struct {
	Why string           // one sentence: what became of it, the cause, the mend
	As  *service.Service // what is served in its place: a definition that was accepted, with instances of now; nil for nothing
}

// Served are the services that are to be served: those of the catalog, but for what is held.
func (in Input) Served() []*service.Service {
	if len(in.Held) == 0 {
		return in.Catalog.Services
	}
	list := make([]*service.Service, 0, len(in.Catalog.Services))
	for _, s := range in.Catalog.Services {
		held, isHeld := in.Held[s.Name]
		switch {
		case !isHeld:
			list = append(list, s)
		case held.As != nil:
			list = append(list, held.As)
		}
	}
	return list
}

// leftOut models what is held back: services, and instances of services that are served without them.
func (b *builder) leftOut(in Input) (list []*Service) {
	if len(in.Held) == 0 {
		return nil
	}
	for _, s := range in.Catalog.Services {
		held, isHeld := in.Held[s.Name]
		if !isHeld {
			continue
		}
		out := *s
		if held.As != nil {
			out.Instances = slices.DeleteFunc(slices.Clone(s.Instances), func(i *service.Instance) bool { return has(held.As, i) })
			if len(out.Instances) == 0 {
				continue
			}
		}
		list = append(list, held.model(newService(&out, b.settings)))
	}
	return list
}

// model is that of what is held back.
func (h Held) model(m *Service) *Service {
	m.Servers, m.Refused = nil, h.Why
	if h.As == nil {
		m.Why = h.Why
	}
	for at := range m.Instances {
		m.Instances[at].Routed, m.Instances[at].Why = false, h.Why
	}
	return m
}

// has tells whether a service has the instance of that key.
func has(s *service.Service, i *service.Instance) bool {
	for _, other := range s.Instances {
		if other.Node == i.Node && other.ID == i.ID {
			return true
		}
	}
	return false
}

// ServiceError says that the text of a service cannot be made, though those of others can.
type ServiceError struct {
	Service string
	Err     error // says file, line and column of the template
}

// Error names the service.
func (e *ServiceError) Error() string { return fmt.Sprintf("service %s: %v", e.Service, e.Err) }

func (e *ServiceError) Unwrap() error { return e.Err }

// ServiceErrors are all that kept a template from giving a text: it is no fault outside of services.
type ServiceErrors []*ServiceError

// Error tells the first.
func (e ServiceErrors) Error() string {
	if len(e) > 1 {
		return fmt.Sprintf("%v (and %d more like that)", e[0], len(e)-1)
	}
	return e[0].Error()
}

// Services counts those that it is about.
func (e ServiceErrors) Services() int {
	names := map[string]bool{}
	for _, fault := range e {
		names[fault.Service] = true
	}
	return len(names)
}

// TextOf is what the configuration says of a service.
func (f Files) TextOf(service string) string {
	var b strings.Builder
	for _, block := range f[0].Blocks {
		if block.Service == service {
			b.WriteString(block.Text)
		}
	}
	return b.String()
}

// ServiceAt is the service whose text has that line of the configuration, counted from 1, and which line
// of its text that is; "" for none, or if the template does not print services one by one.
func (f Files) ServiceAt(line int) (name string, within int) {
	if len(f) == 0 || line < 1 {
		return "", line
	}
	within = line
	for _, block := range f[0].Blocks {
		n := block.lines()
		if within <= n {
			if block.Service == "" {
				return "", line
			}
			return block.Service, within
		}
		within -= n
	}
	return "", line
}
