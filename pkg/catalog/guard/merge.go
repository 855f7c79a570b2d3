package guard

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// merged makes catalogs of the registry's and what is in doubt. Services that stay as they are keep their
// identity, so that a change costs no more than what changed and copies of pointers.
type merged struct {
	suspects map[string]map[key]*suspect // that are listed, by service
	dirty    map[string]bool             // services that are to be made anew
	made     map[string]made
	catalog  *service.Catalog // the last one made,
	of       *service.Catalog // and of which
	doubts   *service.Doubts
}

// made is a service with suspects, or without what is withheld.
type made struct {
	of      *service.Service // nil if the registry has it not
	service *service.Service // nil if nothing is left
}

// touch has a service made anew.
func (m *merged) touch(name string) {
	if m.dirty == nil {
		m.dirty = map[string]bool{}
	}
	m.dirty[name] = true
}

// show lists a suspect, as it is shown now.
func (m *merged) show(s *suspect) {
	name := s.was.Service
	if m.suspects == nil {
		m.suspects = map[string]map[key]*suspect{}
	}
	if m.suspects[name] == nil {
		m.suspects[name] = map[key]*suspect{}
	}
	m.suspects[name][keyOf(s.was)] = s
	m.touch(name)
}

// hide takes it off the list.
func (m *merged) hide(s *suspect) {
	name := s.was.Service
	if m.suspects[name][keyOf(s.was)] != s {
		return
	}
	delete(m.suspects[name], keyOf(s.was))
	if len(m.suspects[name]) == 0 {
		delete(m.suspects, name)
	}
	m.touch(name)
}

// merge returns the registry's last catalog with what is in doubt: the same as before if nothing changed.
func (g *Guard) merge() *service.Catalog {
	m, c := &g.merged, g.last
	withheld := g.withheld()
	if len(m.suspects) == 0 && len(withheld) == 0 {
		*m = merged{}
		return c
	}
	if m.of == c && len(m.dirty) == 0 {
		return m.catalog
	}
	again := m.of == nil || !slices.Equal(m.of.Overrides, c.Overrides)
	next := map[string]made{}
	var changed []made
	for _, name := range concerned(m.suspects, withheld) {
		one := made{of: c.Service(name)}
		if old, ok := m.made[name]; ok && old.of == one.of && !m.dirty[name] && (!again || one.of != nil) {
			one = old
		} else {
			one.service = g.service(name, one.of, withheld[name])
		}
		next[name] = one
		changed = append(changed, one)
	}
	with := *c
	with.Services = replaceAll(c.Services, changed)
	with.Rejected = g.rejections(withheld)
	with.Doubts = g.sum(withheld)
	m.of, m.catalog, m.made, m.dirty = c, &with, next, nil
	return &with
}

// concerned are the names of the services of which something is in doubt, sorted.
func concerned(suspects map[string]map[key]*suspect, withheld map[string][]*service.Instance) []string {
	names := map[string]bool{}
	for name := range suspects {
		names[name] = true
	}
	for name := range withheld {
		names[name] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// withheld is what gets no requests because nobody has proven it, by service.
func (g *Guard) withheld() map[string][]*service.Instance {
	all := map[string][]*service.Instance{}
	for _, d := range g.nodes {
		for _, i := range d.withheld {
			all[i.Service] = append(all[i.Service], i)
		}
	}
	return all
}

// service makes a service of what the registry has under that name and what is in doubt; nil if nothing is
// left.
func (g *Guard) service(name string, of *service.Service, withheld []*service.Instance) *service.Service {
	var instances []*service.Instance
	overrides := overridesOf(g.last, name)
	if of != nil {
		overrides = of.Overrides
		for _, i := range of.Instances {
			if !slices.Contains(withheld, i) {
				instances = append(instances, i)
			}
		}
		if len(instances) == len(of.Instances) && len(g.merged.suspects[name]) == 0 {
			return of
		}
	}
	for _, s := range g.merged.suspects[name] {
		instances = append(instances, s.shown)
	}
	if len(instances) == 0 {
		return nil
	}
	slices.SortFunc(instances, service.CompareKeys)
	return service.NewService(name, instances, overrides)
}

// overridesOf are those of a service that the registry has no instance of.
func overridesOf(c *service.Catalog, name string) []*service.Override {
	var all []*service.Override
	for _, o := range c.Overrides {
		if o.Service == name {
			all = append(all, o)
		}
	}
	return all
}

// replaceAll returns the services with some in the place of what they were made of. Both are sorted by
// name.
func replaceAll(services []*service.Service, by []made) []*service.Service {
	all := make([]*service.Service, 0, len(services)+len(by))
	for _, one := range by {
		to := 0
		if one.of != nil {
			to = slices.Index(services, one.of)
		} else if one.service != nil {
			to, _ = slices.BinarySearchFunc(services, one.service.Name, byName)
		}
		all, services = append(all, services[:to]...), services[to:]
		if one.of != nil {
			services = services[1:]
		}
		if one.service != nil {
			all = append(all, one.service)
		}
	}
	return append(all, services...)
}

func byName(s *service.Service, name string) int {
	switch {
	case s.Name < name:
		return -1
	case s.Name > name:
		return 1
	}
	return 0
}

// rejections are the registry's, and what is withheld.
func (g *Guard) rejections(withheld map[string][]*service.Instance) []service.Rejection {
	if len(withheld) == 0 {
		return g.last.Rejected
	}
	var all []*service.Instance
	for _, some := range withheld {
		for _, i := range some {
			if g.nodes[i.Node].suspects[i.ID] == nil { // else it is listed as it was
				all = append(all, i)
			}
		}
	}
	slices.SortFunc(all, service.CompareKeys)
	list := slices.Clone(g.last.Rejected)
	for _, i := range all {
		list = append(list, service.Rejection{
			Kind: service.HeldInDoubt, Service: i.Service, Node: i.Node, ID: i.ID, Name: i.Key(g.last.Prefix), Reason: g.nodes[i.Node].whyWithheld(i),
		})
	}
	return list
}

// sum sums up what is in doubt. It is the same value as long as it says the same.
func (g *Guard) sum(withheld map[string][]*service.Instance) *service.Doubts {
	d := &service.Doubts{}
	for _, some := range withheld {
		d.Withheld += len(some)
	}
	for _, name := range slices.Sorted(maps.Keys(g.nodes)) {
		n := g.nodes[name]
		if n.verdict == believed || n.empty() {
			continue
		}
		d.Instances += len(n.suspects)
		d.Until = later(d.Until, g.lasts(n))
		now := findNode(g.last, name)
		if node := cmp.Or(n.node, now); node != nil {
			d.Nodes = append(d.Nodes, node)
		}
		if now == nil && n.node != nil && len(n.suspects) > 0 {
			d.Absent = append(d.Absent, g.absent(n))
		}
	}
	if old := g.merged.doubts; old != nil && old.Instances == d.Instances && old.Withheld == d.Withheld && old.Until.Equal(d.Until) &&
		slices.Equal(old.Nodes, d.Nodes) && slices.Equal(old.Absent, d.Absent) {
		return old
	}
	g.merged.doubts = d
	return d
}

// absent is a node that has gone as it is kept along with its suspects. Once that is for more than a moment,
// it says since when, so that an agent that starts again keeps them no longer than this one would.
func (g *Guard) absent(d *doubted) *service.Node {
	if d.verdict == pending {
		return d.node
	}
	lost := d.until.Add(-g.Keep).UTC()
	if d.kept == nil || !d.kept.Lost.Equal(lost) {
		kept := *d.node
		kept.Lost = lost
		d.kept = &kept
	}
	return d.kept
}

// lasts is when the last doubt of a node ends, if nothing does before.
func (g *Guard) lasts(d *doubted) time.Time {
	var last time.Time
	if len(d.withheld) > 0 {
		last = d.since.Add(g.Keep)
	}
	for _, s := range d.suspects {
		if d.verdict == pending {
			return d.since.Add(g.hold())
		}
		last = later(last, s.until)
	}
	return last
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
