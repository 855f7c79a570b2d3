package guard

import (
	"bytes"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// replacement is a registry that was replaced, beside what was known of the one before.
type replacement struct {
	at            time.Time
	before, nodes map[string]*service.Node
}

// replace takes in the catalog of a registry that was replaced, by an empty one or by what it was once.
// What was known before holds, and what is new gets no requests, until the node that it is of has written
// anew. What is equal is not in doubt. Keys without a lease and without a node's key are what people or
// scripts wrote, whom nobody makes write them again: they are believed as they stand.
func (g *Guard) replace(old, now *service.Catalog, at time.Time) {
	r := &replacement{at: at, before: nodesOf(old), nodes: nodesOf(now)}
	g.known = len(r.before)
	was, is := g.proven(old), instancesOf(now)
	for k, i := range was {
		n := is[k]
		if equal(i, n) || n == nil && r.free(i) || n != nil && r.free(n) {
			continue
		}
		g.suspect(g.replaced(r, i.Node), i, at)
	}
	for k, n := range is {
		if !equal(was[k], n) && !r.free(n) {
			g.replaced(r, n.Node).withheld[n.ID] = n
			g.merged.touch(n.Service)
		}
	}
	for name := range g.nodes { // what was in doubt already
		g.replaced(r, name)
	}
	g.claims(now)
	g.tellReplaced()
}

// equal tells whether two instances say the same. Those of one builder do if they are one value.
func equal(a, b *service.Instance) bool {
	if a == b || a == nil || b == nil {
		return a == b
	}
	one, err1 := a.Encode()
	other, err2 := b.Encode()
	return err1 == nil && err2 == nil && bytes.Equal(one, other)
}

// proven are the instances of a catalog but for those that are withheld. It forgets the latter.
func (g *Guard) proven(c *service.Catalog) map[key]*service.Instance {
	all := instancesOf(c)
	for name, d := range g.nodes {
		for id, i := range d.withheld {
			if all[key{name, id}] == i {
				delete(all, key{name, id})
			}
			g.merged.touch(i.Service)
		}
		clear(d.withheld)
		if d.verdict == believed {
			g.forget(d)
		}
	}
	return all
}

// free tells whether nobody writes the instance again: neither a node nor whoever holds a lease.
func (r *replacement) free(i *service.Instance) bool {
	return !i.Leased && r.before[i.Node] == nil && r.nodes[i.Node] == nil
}

// replaced returns what is known of a node in doubt because the registry was replaced.
func (g *Guard) replaced(r *replacement, name string) *doubted {
	d := g.doubt(name)
	if d.verdict == replaced && d.since.Equal(r.at) {
		return d
	}
	before, now := r.before[name], r.nodes[name]
	if before != nil {
		d.node, d.kept = before, nil
	}
	d.verdict, d.since, d.cause = replaced, r.at, registryReplaced(r.at)
	d.back, d.active, d.seen, d.unproven = time.Time{}, r.at, nil, now
	if now != nil && d.node != nil && now.Agent == d.node.Agent && now.Claimed.After(d.node.Claimed) {
		d.unproven = nil // its agent was faster than this one
	}
	g.touch(d)
	return d
}
