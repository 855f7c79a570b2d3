package service

import "time"

// Departure is a node whose key has gone, and the instances that went along with it, as when a lease
// ends: nobody took them away one by one. It is never changed.
type Departure struct {
	Node      *Node       // as its key said last
	Instances []*Instance // sorted by id; those that were not written again since
}

// Doubt is what a reader of a registry says of an instance that the registry does not have at
// present, or not as it had it, although nobody took it away. It never travels in a value.
type Doubt struct {
	Out bool   // it gets no requests: its address does not answer
	Why string // one sentence for people: what happened, what is done, until when
}

// Doubts sums up what a catalog holds in doubt. It is never changed.
type Doubts struct {
	Instances int       // suspects: listed though the registry does not have them as they are
	Withheld  int       // of a registry that was replaced: listed as rejected, and get no requests
	Until     time.Time // when the last of them ends, if nothing does before
	Nodes     []*Node   // whose they are, as their keys said last, sorted by name
	Absent    []*Node   // those of them that the registry does not have
}

// Suspect is the instance with that doubt.
func (i *Instance) Suspect(d *Doubt) *Instance {
	s := *i
	s.Doubt = d
	return &s
}

// Suspects is the number of instances in doubt that are listed.
func (d *Doubts) Suspects() int {
	if d == nil {
		return 0
	}
	return d.Instances
}

// absent are nodes to be kept along with their instances.
func (d *Doubts) absent() []*Node {
	if d == nil {
		return nil
	}
	return d.Absent
}
