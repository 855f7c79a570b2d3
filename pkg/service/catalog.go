package service

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Catalog is what a registry held at one revision. It is immutable and may be shared.
//
// Services are pointers on purpose: two catalogs that hold the same *Service agree on everything
// about it, so a reader finds what changed by comparing pointers.
type Catalog struct {
	Prefix   string
	Revision int64
	Services []*Service // sorted by name
	Nodes    []*Node    // sorted by name
	Rejected []Rejection

	Overrides []*Override // sorted by target, those of services that are not there as well
	Asks      []*Ask      // sorted by id
	Answers   []*Answer   // sorted by node and ask

	// Departed are the nodes whose keys went since the catalog before, as far as its reader took that,
	// sorted by name. A node may be back already.
	Departed []*Departure
	// Replaced counts how often the registry was found to be another one than before, or what it was
	// once. What it has not does not count as taken away then, and what it has may be old.
	Replaced int
	// Doubts sums up what is listed in doubt. A registry's own catalog has none.
	Doubts *Doubts
}

// Service is a name and all that is registered under it. It is never changed.
type Service struct {
	Name      string
	Spec      Spec
	Instances []*Instance // sorted by node and id; none for a service that is kept while empty
	Overrides []*Override // of this service, a wider one before those within it

	// Since is when a service that is kept lost its last instance, as far as that is known, and Until is up
	// to when at least it is kept.
	Since, Until time.Time
}

// Spec holds what concerns a service as a whole. When instances disagree it is that of the
// instance which started first, on every host alike.
type Spec struct {
	Mode    Mode
	Hosts   []string
	Path    string
	Listen  uint16
	Options map[string]string
	Lead    *Instance // whose it is
}

// Service returns the service of that name, or nil.
func (c *Catalog) Service(name string) *Service {
	at, ok := c.find(name)
	if !ok {
		return nil
	}
	return c.Services[at]
}

// find returns where the service of that name is.
func (c *Catalog) find(name string) (at int, ok bool) {
	return slices.BinarySearchFunc(c.Services, name, func(s *Service, n string) int { return cmp.Compare(s.Name, n) })
}

// WithEmpty returns a catalog that also holds these services, whose names c does not have.
func (c *Catalog) WithEmpty(empty []*Service) *Catalog {
	if len(empty) == 0 {
		return c
	}
	with := *c
	with.Services = slices.Concat(c.Services, empty)
	slices.SortFunc(with.Services, func(a, b *Service) int { return cmp.Compare(a.Name, b.Name) })
	return &with
}

// Emptied is the service without its instances: what is kept of one whose last instance is gone.
func (s *Service) Emptied() *Service { return &Service{Name: s.Name, Spec: s.Spec} }

// NewService groups the instances of one name, which are sorted by key, and what people said of them.
// It keeps the slices.
func NewService(name string, instances []*Instance, overrides []*Override) *Service {
	lead := slices.MinFunc(instances, Older)
	return &Service{
		Name: name, Instances: instances, Overrides: overrides,
		Spec: Spec{Mode: lead.Mode, Hosts: lead.Hosts, Path: lead.Path, Listen: lead.Listen, Options: lead.Options, Lead: lead},
	}
}

// Older orders instances by the rule for disagreements: the one that started first leads, and of
// two that started at once the one whose key comes first. One that does not say when it started
// comes after all that do, so that it cannot take a service over.
func Older(a, b *Instance) int {
	if a.Started.IsZero() != b.Started.IsZero() {
		if a.Started.IsZero() {
			return 1
		}
		return -1
	}
	return cmp.Or(a.Started.Compare(b.Started), compareKeys(a, b))
}

// CompareKeys orders instances by node and id, as services list them.
func CompareKeys(a, b *Instance) int { return compareKeys(a, b) }

// sortKey orders instances like compareKeys, as text.
func (i *Instance) sortKey() string { return i.Node + "\x00" + i.ID }

func compareKeys(a, b *Instance) int {
	return cmp.Or(strings.Compare(a.Node, b.Node), strings.Compare(a.ID, b.ID))
}

// Conflict says in what way i differs from the service as a whole so that it cannot be routed
// along with it, or "" when it does not.
func (s *Spec) Conflict(i *Instance) string {
	switch {
	case i.Mode != s.Mode:
		return "mode " + string(i.Mode) + " differs from " + string(s.Mode)
	case !sameHosts(i.Hosts, s.Hosts):
		return "host " + strings.Join(i.Hosts, ",") + " differs from " + strings.Join(s.Hosts, ",")
	case i.Path != s.Path:
		return "path " + i.Path + " differs from " + s.Path
	}
	return ""
}

func sameHosts(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
