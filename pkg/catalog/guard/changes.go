package guard

import (
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// follow takes in what changed in the registry, as far as it concerns what is in doubt.
func (g *Guard) follow(old, now *service.Catalog, at time.Time) {
	if len(g.nodes) == 0 {
		return
	}
	departed := map[key]bool{}
	for _, d := range now.Departed {
		for _, i := range d.Instances {
			departed[keyOf(i)] = true
		}
	}
	gone, came := changes(old, now)
	for _, i := range gone {
		if !departed[keyOf(i)] {
			g.settled(i, at)
		}
	}
	for _, i := range came {
		g.settled(i, at)
		g.claimed(i)
	}
}

// settled ends the doubts of an instance that was written or taken away.
func (g *Guard) settled(i *service.Instance, at time.Time) {
	d := g.nodes[i.Node]
	if d == nil {
		return
	}
	d.active = at
	if s := d.suspects[i.ID]; s != nil {
		g.end(s)
	}
	if d.withheld[i.ID] != nil {
		delete(d.withheld, i.ID)
		g.merged.touch(i.Service)
	}
}

// claimed ends suspects whose address a registered instance has: it belongs to who is registered now.
func (g *Guard) claimed(i *service.Instance) {
	for _, s := range g.probes.at(i.Endpoint()) {
		if shared(s.was, i) {
			g.end(s)
		}
	}
}

// claims is claimed for all that is registered and believed, which also ends what was before under its key.
func (g *Guard) claims(c *service.Catalog) {
	for _, s := range c.Services {
		for _, i := range s.Instances {
			d := g.nodes[i.Node]
			if d != nil && d.withheld[i.ID] == i {
				continue
			}
			if d != nil && d.suspects[i.ID] != nil {
				g.end(d.suspects[i.ID])
			}
			g.claimed(i)
		}
	}
}

// changes are the instances that only the older catalog has, and those that only the newer one has. One
// that changed is in both.
func changes(old, now *service.Catalog) (gone, came []*service.Instance) {
	a, b := old.Services, now.Services
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(a) > 0 && len(b) > 0 && a[0] == b[0]:
			a, b = a[1:], b[1:]
		case len(b) == 0 || len(a) > 0 && a[0].Name < b[0].Name:
			gone, a = append(gone, a[0].Instances...), a[1:]
		case len(a) == 0 || b[0].Name < a[0].Name:
			came, b = append(came, b[0].Instances...), b[1:]
		default:
			g, c := differ(a[0].Instances, b[0].Instances)
			gone, came = append(gone, g...), append(came, c...)
			a, b = a[1:], b[1:]
		}
	}
	return gone, came
}

// differ is changes within a service.
func differ(a, b []*service.Instance) (gone, came []*service.Instance) {
	for len(a) > 0 || len(b) > 0 {
		order := 1
		if len(b) == 0 {
			order = -1
		} else if len(a) > 0 {
			order = service.CompareKeys(a[0], b[0])
		}
		if order == 0 && a[0] == b[0] {
			a, b = a[1:], b[1:]
			continue
		}
		if order <= 0 {
			gone, a = append(gone, a[0]), a[1:]
		}
		if order >= 0 {
			came, b = append(came, b[0]), b[1:]
		}
	}
	return gone, came
}

// depart takes in nodes whose keys have gone.
func (g *Guard) depart(departed []*service.Departure, at time.Time) {
	added := false
	for _, p := range departed {
		if p.Node.Leaving {
			g.left(p)
			continue
		}
		g.recent = append(g.recent, going{p.Node.Name, at})
		added = g.departs(p, at) || added
	}
	if len(departed) > 0 {
		g.count(at)
	}
	if added {
		g.claims(g.last)
	}
}

// left takes in that a node has gone which had left in good order. Then it had written all that it has,
// unless a registry says so that was replaced.
func (g *Guard) left(p *service.Departure) {
	d := g.nodes[p.Node.Name]
	if d == nil {
		return
	}
	if d.unproven != p.Node {
		g.forget(d)
		return
	}
	g.drop(d, p.Instances)
}

// drop forgets what was withheld of these instances, and returns the others.
func (g *Guard) drop(d *doubted, instances []*service.Instance) (others []*service.Instance) {
	for _, i := range instances {
		if d.withheld[i.ID] == nil {
			others = append(others, i)
			continue
		}
		delete(d.withheld, i.ID)
		g.merged.touch(i.Service)
	}
	return others
}

// departs takes in one node's departure, and tells whether there are suspects more.
func (g *Guard) departs(p *service.Departure, at time.Time) bool {
	d := g.doubt(p.Node.Name)
	if d.verdict == believed {
		g.forget(d)
		d = g.doubt(p.Node.Name)
	}
	if d.verdict == pending {
		d.cause = leftAlone(at)
		if d.name == g.Node {
			d.verdict, d.cause = own, cutOff(at)
		}
	}
	d.node, d.kept, d.since, d.back, d.unproven = p.Node, nil, at, time.Time{}, nil
	for _, i := range g.drop(d, p.Instances) {
		g.suspect(d, i, at)
	}
	return len(p.Instances) > 0
}

// count finds out whether too many nodes have gone within one TTL for each to be believed. Then those that
// were believed come back.
func (g *Guard) count(at time.Time) {
	known, gone := map[string]bool{}, map[string]bool{}
	for _, n := range g.last.Nodes {
		if !n.Leaving {
			known[n.Name] = true
		}
	}
	recent := g.recent[:0]
	for _, r := range g.recent {
		if at.Sub(r.at) < g.TTL {
			recent = append(recent, r)
			known[r.name], gone[r.name] = true, true
		}
	}
	g.recent, g.known = recent, len(known)
	if !tooMany(len(gone), len(known)) {
		return
	}
	for _, r := range recent {
		if d := g.nodes[r.name]; d != nil && (d.verdict == pending || d.verdict == believed) {
			d.verdict, d.cause = mass, leftWithOthers(d.since, len(gone), len(known))
			g.touch(d)
		}
	}
	g.tellMass(len(gone), len(known))
}

// tooMany is the measure: all of them, or at least two and 30 %.
func tooMany(gone, known int) bool {
	const percent = 30
	return gone == known || gone >= 2 && 100*gone >= percent*known
}
