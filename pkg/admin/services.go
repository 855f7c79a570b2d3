package admin

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// States that only this host's own instances can have: they are not in the registry.
const (
	stateStarting = "starting" // has not passed its check yet
	stateRejected = "rejected" // breaks a rule
	stateWaiting  = "waiting"  // for the registry to take it
)

// stateSuspect is that of an instance which the registry does not vouch for at present.
const stateSuspect = "suspect"

// whyDown is said of an instance that passes its check on its own host, and HAProxy's here finds it down.
const whyDown = "HAProxy's own check from this host finds it down: see whether this host reaches its address"

// Service is one service in /api/v1/services and `sidekick services -o json`.
type Service struct {
	Name      string     `json:"name"`
	Mode      string     `json:"mode"`
	Hosts     []string   `json:"hosts"`
	Path      string     `json:"path"`
	Listen    uint16     `json:"listen"`
	Default   bool       `json:"default,omitempty"` // takes what no host matches
	Why       string     `json:"why,omitempty"`     // the service as a whole is not reached in the way it asks for
	Instances []Instance `json:"instances"`
}

// Instance is one instance of a [Service].
type Instance struct {
	ID         string  `json:"id"`
	Node       string  `json:"node"`
	Address    string  `json:"address"`
	Port       uint16  `json:"port"`
	State      string  `json:"state"`
	Weight     int     `json:"weight"`
	Routed     bool    `json:"routed"`
	Why        string  `json:"why"`             // not routed; empty if routed
	Doubt      string  `json:"doubt,omitempty"` // why it is a suspect, routed or not
	Server     string  `json:"server"`          // its name in HAProxy and its log; empty if HAProxy does not know it
	AgeSeconds float64 `json:"age_seconds"`
}

// Services lists what the model routes and does not route, together with what the registry or this
// host could not take, sorted by name. down names servers, as backend/server, that HAProxy's own checks
// find down. Any argument may be nil.
func Services(catalog *service.Catalog, model *render.Model, local []service.Rejection, down []string, now time.Time) []Service {
	list, isDown := []Service{}, map[string]bool{}
	for _, server := range down {
		isDown[server] = true
	}
	if model != nil {
		for _, s := range model.Services {
			list = append(list, modelled(s, isDown, now))
		}
		for _, s := range model.LeftOut {
			list = addLeftOut(list, modelled(s, isDown, now))
		}
	}
	if catalog != nil {
		local = slices.Concat(local, catalog.Rejected)
	}
	if catalog != nil {
		explainEmpty(list, catalog)
	}
	for _, r := range local {
		list = addRejected(list, r)
	}
	slices.SortStableFunc(list, func(a, b Service) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

func modelled(s *render.Service, down map[string]bool, now time.Time) Service {
	listed := Service{
		Name: s.Name, Mode: string(s.Mode), Hosts: orEmpty(s.Hosts), Path: s.Path, Listen: s.Listen, Default: s.Default, Why: s.Why,
		Instances: make([]Instance, 0, len(s.Instances)),
	}
	known := map[string]bool{} // to HAProxy
	for _, server := range s.Servers {
		known[server.Name] = true
	}
	for _, i := range s.Instances {
		age := 0.0
		if !i.Started.IsZero() {
			age = max(0, now.Sub(i.Started).Seconds())
		}
		shown := Instance{
			ID: i.ID, Node: i.Node, Address: i.Address.String(), Port: i.Port, State: state(i),
			Weight: i.Share, Routed: i.Routed, Why: i.Why, AgeSeconds: age,
		}
		if i.Doubt != nil {
			shown.Doubt = i.Doubt.Why
		}
		if name := render.ServerName(i.Instance); known[name] {
			shown.Server = name
		}
		if i.Routed && down[s.Backend+"/"+shown.Server] {
			shown.Routed, shown.Why = false, whyDown
		}
		listed.Instances = append(listed.Instances, shown)
	}
	return listed
}

// addLeftOut lists what is held back of a service, with what of it is served.
func addLeftOut(list []Service, out Service) []Service {
	at := slices.IndexFunc(list, func(s Service) bool { return s.Name == out.Name })
	if at < 0 {
		return append(list, out)
	}
	s := &list[at]
	s.Instances = append(s.Instances, out.Instances...)
	slices.SortFunc(s.Instances, func(a, b Instance) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.ID, b.ID)) })
	return list
}

// state is that it is in doubt, what people said of an instance that is ready, or else what its agent says.
func state(i render.Instance) string {
	if i.Doubt != nil {
		return stateSuspect
	}
	if i.State == service.Ready && i.Override != "" {
		return string(i.Override)
	}
	return string(i.State)
}

// addRejected lists a rejection with its service, or under a name for people when it has none.
func addRejected(list []Service, r service.Rejection) []Service {
	name := cmp.Or(r.Service, r.Name, r.ID)
	state := stateRejected
	if r.Kind == service.HeldByCheck {
		state = stateStarting
	}
	switch r.Kind {
	case service.UnhealthyByCheck:
		return explainUnhealthy(list, r)
	case service.Unwritten:
		if listed(list, r) { // from the time when it was written, and served since
			return list
		}
		state = stateWaiting
	}
	instance := Instance{ID: cmp.Or(r.ID, r.Name), Node: r.Node, State: state, Why: r.Reason}
	if r.Kind == service.HeldInDoubt {
		instance.State, instance.Doubt = stateSuspect, r.Reason
	}
	for at := range list {
		if list[at].Name == name {
			list[at].Instances = append(list[at].Instances, instance)
			return list
		}
	}
	return append(list, Service{Name: name, Hosts: []string{}, Instances: []Instance{instance}})
}

// listed tells whether the catalog has the instance.
func listed(list []Service, r service.Rejection) bool {
	for _, s := range list {
		if s.Name == r.Service {
			return slices.ContainsFunc(s.Instances, func(i Instance) bool { return i.ID == r.ID && i.Node == r.Node })
		}
	}
	return false
}

// explainUnhealthy says of an instance of this host why it is unhealthy, which the registry does not.
// One that is not in the catalog yet, or is not unhealthy there any more, is left as it is.
func explainUnhealthy(list []Service, r service.Rejection) []Service {
	for at := range list {
		for n := range list[at].Instances {
			i := &list[at].Instances[n]
			if i.ID == r.ID && i.Node == r.Node && i.State == string(service.Unhealthy) {
				i.Why = r.Reason
			}
		}
	}
	return list
}

// explainEmpty says of services that are kept without instances since when, and what becomes of them.
func explainEmpty(list []Service, c *service.Catalog) {
	for at := range list {
		l := &list[at]
		s := c.Service(l.Name)
		if s == nil || len(s.Instances) > 0 || s.Since.IsZero() {
			continue
		}
		meanwhile := "requests get 503"
		if s.Spec.Mode == service.TCP {
			meanwhile = "connections are closed"
		}
		why := fmt.Sprintf("no instances since %s: %s until there are some; it is kept until %s at least",
			s.Since.UTC().Format(time.RFC3339), meanwhile, s.Until.UTC().Format(time.RFC3339))
		l.Why = strings.TrimPrefix(l.Why+"; "+why, "; ")
	}
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
