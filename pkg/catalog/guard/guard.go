package guard

import (
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

const (
	mostHold = 3 * time.Second // that a lone departure is held for others to come
	quiet    = 5 * time.Second // after which a node that writes nothing has written all that it has
	standing = 5 * time.Second // beyond the time to live, after which a key that stands is renewed by somebody
)

// Guard is what is in doubt. One goroutine may use it. It gives time to no one: whoever has it calls Take
// with each catalog, Tick when Next says so, and probes what is Due.
type Guard struct {
	// Keep is how long a suspect is listed at most; 0 believes the registry in everything.
	Keep time.Duration
	// TTL is for how long a lease of an agent lasts: nodes that go within that time go together.
	TTL time.Duration
	// Node is this host's, which alone can reach some of its instances.
	Node string
	Log  logrus.FieldLogger

	last    *service.Catalog // of the registry
	nodes   map[string]*doubted
	recent  []going // departures within one TTL, also of nodes that are back
	known   int     // nodes when one last went
	alarmed bool    // people were told that there are doubts
	probes  queue
	merged  merged
}

// going is one node's departure.
type going struct {
	name string
	at   time.Time
}

// verdict is what is thought of a node's departure.
type verdict int

const (
	pending  verdict = iota // it may be one of many
	believed                // its instances are gone, unless more nodes go soon
	own                     // this host's went, whose agent is here: it was cut off, and writes all again
	mass                    // too many went
	replaced                // the whole registry was
)

// doubted is a node of whose instances some are in doubt.
type doubted struct {
	name     string
	node     *service.Node // as its key said last; nil if it had none
	kept     *service.Node // the same as it is kept on disk
	verdict  verdict
	cause    string    // what happened, for people
	since    time.Time // its departure, or the replacement
	suspects map[string]*suspect
	withheld map[string]*service.Instance // what a replaced registry says and nobody has proven, by id

	unproven *service.Node // its key in a replaced registry, if that may be old
	seen     *service.Node // its key as it is now
	back     time.Time     // since when its key stands, written anew; zero if it does not
	active   time.Time     // when it last wrote something
	until    time.Time     // when the first suspect's time is up
}

// Take takes a catalog of the registry, and returns it with what is in doubt.
func (g *Guard) Take(c *service.Catalog, at time.Time) *service.Catalog {
	last := g.last
	g.last = c
	if last != nil && c.Replaced != last.Replaced {
		g.TellOverrides(last, c, at)
	}
	switch {
	case g.Keep <= 0:
		g.tellBelieved(last, c)
		return c
	case last == nil:
		return c
	case c.Replaced != last.Replaced:
		g.replace(last, c, at)
	default:
		g.follow(last, c, at)
		g.depart(c.Departed, at)
	}
	return g.Tick(at)
}

// Start is Take for the first catalog, given what was in force before: nodes that it has not any more have
// departed, or the registry was replaced if it is at an older revision. This host's own node has not gone
// for good, whatever its key said: its agent is here again, and is about to write what it has, perhaps to
// another registry than before. It may have claimed its name already.
func (g *Guard) Start(before, c *service.Catalog, at time.Time) *service.Catalog {
	g.last = c
	if g.Keep <= 0 || before == nil {
		return c
	}
	if c.Revision < before.Revision {
		g.replace(before, c, at)
		return g.Tick(at)
	}
	var departed []*service.Departure
	with, nodes := missing(before, c), nodesOf(c)
	for _, n := range before.Nodes {
		now := nodes[n.Name]
		if n.Name == g.Node && (now == nil || !now.Claimed.Equal(n.Claimed) && len(with[n.Name]) > 0 && !writes(c, n.Name)) {
			own := *n
			own.Leaving, own.Lost = false, time.Time{}
			n, now = &own, nil
		}
		switch {
		case now == nil && !n.Lost.IsZero():
			g.resume(n, with[n.Name], at)
		case now == nil:
			departed = append(departed, &service.Departure{Node: n, Instances: with[n.Name]})
		}
	}
	g.depart(departed, at)
	g.claims(c)
	return g.Tick(at)
}

// resume goes on with doubts that there were before this agent began, and that last no longer for that.
func (g *Guard) resume(n *service.Node, instances []*service.Instance, at time.Time) {
	d := g.doubt(n.Name)
	if n.Lost.Before(at) { // else the clock was put back
		at = n.Lost
	}
	d.node, d.verdict, d.since, d.cause = n, mass, at, leftAlone(at)
	for _, i := range instances {
		g.suspect(d, i, at)
	}
}

// missing are the instances that the newer catalog has not, by node.
func missing(before, c *service.Catalog) map[string][]*service.Instance {
	all, here := map[string][]*service.Instance{}, instancesOf(c)
	for _, s := range before.Services {
		for _, i := range s.Instances {
			if here[keyOf(i)] == nil {
				all[i.Node] = append(all[i.Node], i)
			}
		}
	}
	return all
}

// writes tells whether the node has written any instance.
func writes(c *service.Catalog, node string) bool {
	return slices.ContainsFunc(c.Services, func(s *service.Service) bool {
		return slices.ContainsFunc(s.Instances, func(i *service.Instance) bool { return i.Node == node })
	})
}

// Tick returns the catalog with what is in doubt at that time.
func (g *Guard) Tick(at time.Time) *service.Catalog {
	for _, d := range g.nodes {
		g.returned(d, at)
		g.judge(d, at)
	}
	c := g.merge()
	g.tellEnd(c)
	return c
}

// Next is when Tick is due, zero for never.
func (g *Guard) Next() time.Time {
	var next time.Time
	sooner := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for _, d := range g.nodes {
		for _, t := range g.deadlines(d) {
			sooner(t)
		}
	}
	return next
}

// deadlines are the times at which something becomes of a node's doubts by itself.
func (g *Guard) deadlines(d *doubted) []time.Time {
	var all []time.Time
	switch {
	case !d.back.IsZero():
		all = append(all, d.active.Add(quiet))
	case d.verdict == pending:
		all = append(all, d.since.Add(g.hold()))
	case d.verdict == believed:
		all = append(all, d.since.Add(g.TTL))
	case d.verdict == replaced && !d.leaving() && (d.unproven != nil || len(d.withheld) > 0):
		all = append(all, d.since.Add(g.TTL+standing))
	}
	if len(d.suspects) > 0 {
		all = append(all, d.until)
	}
	if len(d.withheld) > 0 {
		all = append(all, d.since.Add(g.Keep))
	}
	return all
}

// hold is how long a lone departure is held: less than what may lie between two of one cause, which is a
// third of the lease's time, because a dead host's instances must go soon. Those of a cause that is found
// out later come back.
func (g *Guard) hold() time.Duration { return min(mostHold, g.TTL/4) }

// returned finds out whether a node's key stands, written anew.
func (g *Guard) returned(d *doubted, at time.Time) {
	now := findNode(g.last, d.name)
	proves := at.Sub(d.since) >= g.TTL+standing // it is renewed, so somebody is there who knows what it says
	switch {
	case now == nil:
		d.back, d.unproven, d.seen = time.Time{}, nil, nil
		if d.verdict == replaced && proves {
			g.release(d)
		}
		return
	case now == d.unproven && (!proves || d.leaving()):
		return
	case d.back.IsZero():
		d.back, d.active, d.unproven = at, at, nil
	case now != d.seen:
		d.active = at
	}
	d.seen = now
}

// leaving tells whether the node's key in a replaced registry is one that an agent left when it ended: that
// it stands proves nothing.
func (d *doubted) leaving() bool { return d.unproven != nil && d.unproven.Leaving }

// judge applies the rules that go by time.
func (g *Guard) judge(d *doubted, at time.Time) {
	if !d.back.IsZero() {
		if at.Sub(d.active) >= quiet { // what it did not write again is gone
			g.forget(d)
		}
	} else if d.verdict == pending && at.Sub(d.since) >= g.hold() {
		d.verdict = believed
		if len(d.suspects) > 0 {
			g.tellGone(d.name, len(d.suspects))
		}
		g.touch(d)
	}
	g.expire(d, at)
	if d.empty() || d.verdict == believed && at.Sub(d.since) >= g.TTL {
		g.forget(d)
	}
}

// expire ends what has been in doubt for as long as that may be.
func (g *Guard) expire(d *doubted, at time.Time) {
	if at.Sub(d.since) >= g.Keep {
		g.release(d)
	}
	if len(d.suspects) == 0 || at.Before(d.until) {
		return
	}
	for _, s := range d.suspects {
		if !at.Before(s.until) {
			g.end(s)
		}
	}
	d.limit()
}

func (d *doubted) empty() bool { return len(d.suspects) == 0 && len(d.withheld) == 0 }

// limit finds out when the first suspect's time is up.
func (d *doubted) limit() {
	d.until = time.Time{}
	for _, s := range d.suspects {
		if d.until.IsZero() || s.until.Before(d.until) {
			d.until = s.until
		}
	}
}

// doubt returns what is known of a node in doubt.
func (g *Guard) doubt(name string) *doubted {
	d := g.nodes[name]
	if d == nil {
		d = &doubted{name: name, suspects: map[string]*suspect{}, withheld: map[string]*service.Instance{}}
		if g.nodes == nil {
			g.nodes = map[string]*doubted{}
		}
		g.nodes[name] = d
	}
	return d
}

// forget ends all doubts of a node: the registry is believed.
func (g *Guard) forget(d *doubted) {
	for _, s := range d.suspects {
		g.end(s)
	}
	g.release(d)
	delete(g.nodes, d.name)
}

// release believes what a replaced registry says of a node: it is registered from now on, in the place of
// what was before.
func (g *Guard) release(d *doubted) {
	for id, i := range d.withheld {
		if s := d.suspects[id]; s != nil {
			g.end(s)
		}
		g.merged.touch(i.Service)
		g.claimed(i)
	}
	clear(d.withheld)
}

// touch has all that is shown of a node made anew.
func (g *Guard) touch(d *doubted) {
	for _, s := range d.suspects {
		g.show(s)
	}
}

// key names an instance.
type key struct{ node, id string }

func keyOf(i *service.Instance) key { return key{i.Node, i.ID} }

func nodesOf(c *service.Catalog) map[string]*service.Node {
	all := make(map[string]*service.Node, len(c.Nodes))
	for _, n := range c.Nodes {
		all[n.Name] = n
	}
	return all
}

func instancesOf(c *service.Catalog) map[key]*service.Instance {
	all := map[key]*service.Instance{}
	for _, s := range c.Services {
		for _, i := range s.Instances {
			all[keyOf(i)] = i
		}
	}
	return all
}

func findNode(c *service.Catalog, name string) *service.Node {
	at, ok := slices.BinarySearchFunc(c.Nodes, name, func(n *service.Node, name string) int { return strings.Compare(n.Name, name) })
	if !ok {
		return nil
	}
	return c.Nodes[at]
}

// shared tells whether two instances, of which one may have gone, mean one address by their endpoint, and
// not one thing under two names.
func shared(a, b *service.Instance) bool {
	if a.Node == b.Node {
		return a.Container != b.Container
	}
	return a.Scope == "" && b.Scope == ""
}
