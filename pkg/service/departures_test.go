package service

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// shelf is a registry's content, which a builder follows.
type shelf struct {
	b   *Builder
	rev int64
	has map[string]Item
}

func newShelf() *shelf { return &shelf{b: NewBuilder("/p"), has: map[string]Item{}} }

// node writes a node's key; with extra fields in its value, if any.
func (s *shelf) node(name, extra string) { s.put(NodeKey("/p", name), `{"agent":"x"`+extra+`}`, true) }

// instance writes "node/id".
func (s *shelf) instance(at string, leased bool) {
	s.put("/p/v1/instances/"+at, `{"service":"web","address":"10.0.0.1","port":80}`, leased)
}

func (s *shelf) put(key, value string, leased bool) {
	s.rev++
	i := Item{Key: key, Value: []byte(value), Created: s.rev, Modified: s.rev, Leased: leased}
	if old, ok := s.has[key]; ok {
		i.Created = old.Created
	}
	s.has[key] = i
	s.b.Take(i)
}

// drop takes keys away at one revision, in this order.
func (s *shelf) drop(keys ...string) {
	s.rev++
	for _, key := range keys {
		s.b.Drop("/p/v1/"+key, s.rev)
		delete(s.has, "/p/v1/"+key)
	}
}

// departed lists the departures as "node: id id", those in good order with a full stop.
func (s *shelf) departed() string {
	var all []string
	for _, d := range s.b.Catalog(s.rev).Departed {
		words := []string{d.Node.Name + ":"}
		for _, i := range d.Instances {
			words = append(words, i.ID)
		}
		text := strings.Join(words, " ")
		if d.Node.Leaving {
			text += "."
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

func (s *shelf) want(t *testing.T, want string) {
	t.Helper()
	if got := s.departed(); got != want {
		t.Errorf("departed %q, want %q", got, want)
	}
}

// TestDepartures: what goes at one revision with its node's key was not taken away, in whatever order the
// registry tells; all else was. F13.
func TestDepartures(t *testing.T) {
	start := func() *shelf {
		s := newShelf()
		for _, n := range []string{"a", "b"} {
			s.node(n, "")
			s.instance(n+"/1", true)
			s.instance(n+"/2", true)
		}
		s.instance("none/1", true)
		return s
	}
	for _, tt := range []struct {
		name string
		do   func(s *shelf)
		want string
	}{
		{"a lease ends", func(s *shelf) { s.drop("instances/a/1", "instances/a/2", "nodes/a") }, "a: 1 2"},
		{"in another order", func(s *shelf) { s.drop("instances/a/2", "nodes/a", "instances/a/1") }, "a: 1 2"},
		{"one instance is deleted", func(s *shelf) { s.drop("instances/a/1") }, ""},
		{"all instances are deleted", func(s *shelf) { s.drop("instances/a/1", "instances/a/2") }, ""},
		{"instances first, then the node", func(s *shelf) {
			s.drop("instances/a/1", "instances/a/2")
			s.drop("nodes/a")
		}, "a:"},
		{"an instance before its node", func(s *shelf) {
			s.drop("instances/a/1")
			s.drop("instances/a/2", "nodes/a")
		}, "a: 2"},
		{"of a node without a key", func(s *shelf) { s.drop("instances/none/1") }, ""},
		{"two nodes at one revision", func(s *shelf) { s.drop("instances/a/1", "instances/b/1", "nodes/a", "nodes/b") }, "a: 1, b: 1"},
		{"in good order", func(s *shelf) {
			s.node("a", `,"leaving":true`)
			s.drop("instances/a/1", "instances/a/2", "nodes/a")
		}, "a: 1 2."},
		{"back with one of two", func(s *shelf) {
			s.drop("instances/a/1", "instances/a/2", "nodes/a")
			s.node("a", "")
			s.instance("a/1", true)
		}, "a: 2"},
		{"back, and then deleted", func(s *shelf) {
			s.drop("instances/a/1", "instances/a/2", "nodes/a")
			s.node("a", "")
			s.instance("a/1", true)
			s.drop("instances/a/1")
		}, "a: 2"},
		{"twice", func(s *shelf) {
			s.drop("instances/a/1", "instances/a/2", "nodes/a")
			s.node("a", "")
			s.instance("a/1", true)
			s.drop("instances/a/1", "nodes/a")
		}, "a: 1 2"},
		{"back, and then in good order", func(s *shelf) {
			s.drop("instances/a/1", "instances/a/2", "nodes/a")
			s.node("a", `,"leaving":true`)
			s.instance("a/1", true)
			s.drop("instances/a/1", "nodes/a")
		}, "a: 1."},
		{"in good order, back, and then not", func(s *shelf) {
			s.node("a", `,"leaving":true`)
			s.drop("instances/a/1", "instances/a/2", "nodes/a")
			s.node("a", "")
			s.instance("a/3", true)
			s.drop("instances/a/3", "nodes/a")
		}, "a: 3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start()
			tt.do(s)
			s.want(t, tt.want)
			s.want(t, tt.want) // until the reader has taken it
			s.b.Taken()
			s.want(t, "")
		})
	}
}

// TestMissedDepartures: what a list shows of what happened before it.
func TestMissedDepartures(t *testing.T) {
	s := newShelf()
	for _, n := range []string{"a", "b", "c", "d"} {
		s.node(n, "")
		s.instance(n+"/1", true)
		s.instance(n+"/2", true)
	}
	s.instance("none/1", true)
	list := maps.Clone(s.has)
	for _, key := range []string{"nodes/a", "instances/a/1", "instances/a/2", "instances/b/1", "instances/c/2", "nodes/d", "instances/d/2", "instances/none/1"} {
		delete(list, "/p/v1/"+key)
	}
	again := list["/p/v1/nodes/c"] // gone meanwhile, and created again
	again.Created, again.Modified = 50, 50
	list["/p/v1/nodes/c"] = again
	taken := list["/p/v1/nodes/b"] // taken over by another session
	taken.Modified = 51
	list["/p/v1/nodes/b"] = taken
	s.b.Relist(maps.Values(list), false)
	s.want(t, "a: 1 2, c: 2, d: 2")
}

// TestReplacedRegistryDepartsNothing: it only says that it was replaced.
func TestReplacedRegistryDepartsNothing(t *testing.T) {
	s := newShelf()
	s.node("a", "")
	s.instance("a/1", true)
	s.node("b", "")
	s.drop("nodes/b") // the reader has not heard of that
	s.b.Relist(maps.Values(map[string]Item{}), true)
	s.want(t, "")
	if c := s.b.Catalog(1); c.Replaced != 1 || len(c.Nodes) != 0 {
		t.Errorf("replaced %d times, %d nodes, want 1, none", c.Replaced, len(c.Nodes))
	}
}

// TestRevisionsOfAReplacedRegistry: they are others than those of before, even if they are equal.
func TestRevisionsOfAReplacedRegistry(t *testing.T) {
	s := newShelf()
	s.node("a", "")
	s.instance("a/1", true)
	s.drop("instances/a/1")
	at := s.rev
	s.b.Relist(maps.Values(maps.Clone(s.has)), true)
	s.rev = at - 1
	s.drop("nodes/a")
	s.want(t, "a:")
}

// TestContradicts: what was written up to a revision does not change any more, unless the registry was
// replaced.
func TestContradicts(t *testing.T) {
	s := newShelf()
	s.node("a", "")
	s.instance("a/1", true)
	s.instance("a/1", true) // the same again
	s.instance("a/2", true)
	s.drop("instances/a/2")
	s.put("/p/v1/rubbish", "", false)
	known := s.rev
	for _, tt := range []struct {
		name     string
		key      string
		modified int64
		want     bool
	}{
		{"nothing else", "/p/v1/nodes/a", 1, false},
		{"another value of before", "/p/v1/instances/a/1", 2, true},
		{"a key of before", "/p/v1/instances/a/2", 4, true},
		{"a key of nobody", "/p/v1/rubbish", 1, true},
		{"written since", "/p/v1/instances/a/1", known + 1, false},
		{"a key since", "/p/v1/instances/a/3", known + 1, false},
	} {
		list := maps.Clone(s.has)
		list[tt.key] = Item{Key: tt.key, Value: list[tt.key].Value, Created: 1, Modified: tt.modified, Leased: true}
		if got := s.b.Contradicts(slices.Collect(maps.Values(list)), known); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestWrittenAnew: a node that is written again is another value, as is an instance of nobody's in a
// registry that was replaced; an instance under a new lease is not.
func TestWrittenAnew(t *testing.T) {
	s := newShelf()
	s.node("a", "")
	s.instance("a/1", true)
	s.instance("cli/1", true)
	s.instance("free/1", false)
	look := func() (node *Node, owned, lone, free *Instance) {
		c := s.b.Catalog(s.rev)
		i := c.Service("web").Instances
		return c.Nodes[0], i[0], i[1], i[2]
	}
	write := func() {
		s.node("a", "")
		s.instance("a/1", true)
		s.instance("cli/1", true)
		s.instance("free/1", false)
	}
	n1, o1, l1, f1 := look()
	write()
	n2, o2, l2, f2 := look()
	if n1 == n2 || o1 != o2 || l1 != l2 || f1 != f2 {
		t.Errorf("another node: %v, instances: %v %v %v, want true and false", n1 != n2, o1 != o2, l1 != l2, f1 != f2)
	}
	s.b.Relist(maps.Values(maps.Clone(s.has)), true)
	n3, o3, l3, f3 := look()
	if n2 != n3 || o2 != o3 || l2 != l3 || f2 != f3 {
		t.Error("what is equal is another value after a list")
	}
	write()
	n4, o4, l4, f4 := look()
	if n3 == n4 || o3 != o4 || l3 == l4 || f3 != f4 {
		t.Errorf("after the replacement another node: %v, instances: %v %v %v, want true, false true false", n3 != n4, o3 != o4, l3 != l4, f3 != f4)
	}
	write()
	if _, _, l5, _ := look(); l5 != l4 {
		t.Error("written once more it is another value again")
	}
}

// TestDepartedAreMissing: whatever happens, a departed instance is one that was there when the reader last
// took a catalog or later, and that is not there now.
func TestDepartedAreMissing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newShelf()
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			node := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "node")
			at := node + "/" + rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "id")
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				s.node(node, "")
			case 1, 2:
				s.instance(at, true)
			case 3:
				s.drop("instances/" + at)
			case 4:
				s.drop("instances/"+node+"/1", "instances/"+node+"/2", "instances/"+node+"/3", "nodes/"+node)
			case 5:
				s.b.Catalog(s.rev)
				s.b.Taken()
			}
			c := s.b.Catalog(s.rev)
			for _, d := range c.Departed {
				for _, i := range d.Instances {
					if web := c.Service("web"); web != nil && slices.ContainsFunc(web.Instances, func(o *Instance) bool { return compareKeys(i, o) == 0 }) {
						t.Fatalf("%s/%s has departed, and is there", i.Node, i.ID)
					}
				}
			}
		}
	})
}

// TestSuspectsInFiles: what is routed is written with its node; what is not is none, but leads a service
// that has nothing else. Both writers agree.
func TestSuspectsInFiles(t *testing.T) {
	s := newShelf()
	s.instance("a/1", true)
	s.instance("b/2", true)
	c := s.b.Catalog(1)
	i := c.Service("web").Instances
	gone := &Node{Name: "a", Agent: "x"}
	doubtful := func(first, second *Doubt) *Catalog {
		d := *c
		d.Services = []*Service{NewService("web", []*Instance{i[0].Suspect(first), i[1].Suspect(second)}, nil)}
		d.Doubts = &Doubts{Absent: []*Node{gone}}
		return &d
	}
	for _, tt := range []struct {
		name  string
		c     *Catalog
		items string
		empty string
	}{
		{"both routed", doubtful(&Doubt{}, &Doubt{}), "/p/v1/instances/a/1 /p/v1/instances/b/2 /p/v1/nodes/a", ""},
		{"one is out", doubtful(&Doubt{}, &Doubt{Out: true}), "/p/v1/instances/a/1 /p/v1/nodes/a", ""},
		{"both are", doubtful(&Doubt{Out: true}, &Doubt{Out: true}), "/p/v1/nodes/a", "/p/v1/instances/a/1"},
	} {
		f, err := tt.c.File()
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		if err := tt.c.Encode(&text); err != nil {
			t.Fatal(err)
		}
		encoded, err := readFile(text.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []*File{f, encoded} {
			if got := strings.Join(sortedKeys(f.Items), " "); got != tt.items {
				t.Errorf("%s: items %s, want %s", tt.name, got, tt.items)
			}
			if got := strings.Join(sortedKeys(f.Empty), " "); got != tt.empty {
				t.Errorf("%s: empty %s, want %s", tt.name, got, tt.empty)
			}
		}
	}
}
