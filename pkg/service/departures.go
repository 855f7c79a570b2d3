package service

import (
	"maps"
	"slices"
	"strings"
)

// departures gathers what went along with nodes' keys, until a reader knows of it. The zero value is
// empty.
type departures struct {
	at        int64                  // the revision of the last deletion,
	instances map[string][]*Instance // and what it took so far, by node
	nodes     map[string]*departing  // since forget, by name
}

// departing becomes a Departure.
type departing struct {
	at        int64 // 0 if that is not known
	node      *Node
	instances map[string]*Instance // by id
}

// dropped takes a deletion in. All that a lease takes goes at one revision; the order within it does
// not matter.
func (d *departures) dropped(revision int64, e *entry) {
	if d.at != revision {
		d.at, d.instances = revision, map[string][]*Instance{}
	}
	switch {
	case e.node != nil:
		d.depart(e.node, revision, d.instances[e.node.Name])
	case e.instance != nil:
		i := e.instance
		if n := d.nodes[i.Node]; n != nil && n.at == revision {
			n.instances[i.ID] = i
			return
		}
		d.instances[i.Node] = append(d.instances[i.Node], i)
	}
}

// missed takes in what a list has not any more, given the nodes that are gone or were for a while.
func (d *departures) missed(gone map[string]*Node, missing []*entry) {
	with := map[string][]*Instance{}
	for _, e := range missing {
		if i := e.instance; i != nil && gone[i.Node] != nil {
			with[i.Node] = append(with[i.Node], i)
		}
	}
	for name, node := range gone {
		d.depart(node, 0, with[name])
	}
}

// depart notes that a node has gone. What went with it when it went before is still missing, unless it
// left in good order: then it had written all that it has.
func (d *departures) depart(node *Node, at int64, instances []*Instance) {
	if d.nodes == nil {
		d.nodes = map[string]*departing{}
	}
	n := d.nodes[node.Name]
	if n == nil || node.Leaving || n.node.Leaving {
		n = &departing{instances: map[string]*Instance{}}
		d.nodes[node.Name] = n
	}
	n.node, n.at = node, at
	for _, i := range instances {
		n.instances[i.ID] = i
	}
}

// returned notes that an instance was written: whoever takes it away after that does so on purpose.
func (d *departures) returned(i *Instance) {
	if n := d.nodes[i.Node]; n != nil {
		delete(n.instances, i.ID)
	}
}

// forget forgets the nodes, whose departures are known.
func (d *departures) forget() { d.nodes = nil }

// sorted are the departures as a reader gets them.
func (d *departures) sorted() []*Departure {
	var all []*Departure
	for _, name := range slices.Sorted(maps.Keys(d.nodes)) {
		n := d.nodes[name]
		instances := slices.SortedFunc(maps.Values(n.instances), func(a, b *Instance) int { return strings.Compare(a.ID, b.ID) })
		all = append(all, &Departure{Node: n.node, Instances: instances})
	}
	return all
}
