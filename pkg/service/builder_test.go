package service

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// anyItem draws a key and a value out of few, so that they meet: instances that move between
// services, nodes, values that are rejected, keys of other kinds and of no kind.
func anyItem(t *rapid.T) (key string, value []byte) {
	node := rapid.SampledFrom([]string{"a", "a-b", "b"}).Draw(t, "node")
	id := rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "id")
	switch rapid.IntRange(0, 9).Draw(t, "kind") {
	case 0:
		return NodeKey("/p", node), fmt.Appendf(nil, `{"agent":"%d"}`, rapid.IntRange(0, 2).Draw(t, "agent"))
	case 1:
		return InstancesKey("/p", node) + id, []byte(`{"service":"web"}`)
	case 2:
		return "/p/v1/" + rapid.SampledFrom([]string{"overrides/x", "asks/1", "new/1", "instances/a/b c"}).Draw(t, "other"), []byte("{}")
	case 3:
		return "/p/v1/overrides/" + rapid.SampledFrom([]string{"api", "web", "web/a", "web/a/1", "web/a-b"}).Draw(t, "target"),
			fmt.Appendf(nil, `{"weight":%d}`, rapid.IntRange(0, 2).Draw(t, "weight"))
	case 4:
		return "/p/v1/" + rapid.SampledFrom([]string{"asks/1", "answers/a/1", "answers/b/1"}).Draw(t, "talk"),
			fmt.Appendf(nil, `{"want":"applied","revision":%d}`, rapid.IntRange(0, 2).Draw(t, "revision"))
	}
	i := Instance{
		Node: node, ID: id, Service: rapid.SampledFrom([]string{"api", "web"}).Draw(t, "service"), Address: netip.MustParseAddr("10.0.0.1"),
		Port: rapid.Uint16Range(1, 3).Draw(t, "port"), State: Ready, Mode: HTTP, Path: "/",
		Started: time.Unix(rapid.Int64Range(0, 3).Draw(t, "started"), 0).UTC(),
	}
	value, err := i.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return i.Key("/p"), value
}

// fromScratch is what any history that ends in these items must come to.
func fromScratch(items map[string][]byte, revision int64) *Catalog {
	b := NewBuilder("/p")
	for _, k := range sortedKeys(items) {
		b.Put(k, items[k])
	}
	return b.Catalog(revision)
}

// After any sequence of changes the catalog is the one built from scratch, and services that did
// not change are the same pointers (P12, F5).
func TestBuilderEqualsScratch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, items := NewBuilder("/p"), map[string][]byte{}
		last := b.Catalog(0)
		for revision := range int64(rapid.IntRange(1, 20).Draw(t, "steps")) {
			before := maps.Clone(items)
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0:
				key, _ := anyItem(t)
				_, want := items[key]
				delete(items, key)
				checkChanged(t, b.Delete(key), want)
			case 1:
				clear(items)
				for range rapid.IntRange(0, 5).Draw(t, "items") {
					key, value := anyItem(t)
					items[key] = value
				}
				checkChanged(t, b.Replace(maps.All(items)), !maps.EqualFunc(before, items, sameBytes))
			default:
				key, value := anyItem(t)
				items[key] = value
				checkChanged(t, b.Put(key, value), !maps.EqualFunc(before, items, sameBytes))
			}
			if rapid.Bool().Draw(t, "look") {
				continue // several changes between two looks
			}
			got := b.Catalog(revision)
			if diff := cmp.Diff(fromScratch(items, revision), got, exact); diff != "" {
				t.Fatalf("(-scratch +built):\n%s", diff)
			}
			checkIdentity(t, last, got)
			last = got
		}
	})
}

func sameBytes(a, b []byte) bool { return string(a) == string(b) }

func checkChanged(t *rapid.T, got, want bool) {
	if got != want {
		t.Fatalf("changed = %v, want %v", got, want)
	}
}

// checkIdentity wants the same pointer where instances are the same pointers.
func checkIdentity(t *rapid.T, last, now *Catalog) {
	for _, s := range now.Services {
		if old := last.Service(s.Name); old != nil && old != s && slices.Equal(old.Instances, s.Instances) && slices.Equal(old.Overrides, s.Overrides) {
			t.Fatalf("service %s was built again out of the same instances and overrides", s.Name)
		}
	}
}

func TestUnchangedServicesKeepTheirPointers(t *testing.T) {
	b := NewBuilder("/p")
	put(t, b, "1", "api", 1)
	put(t, b, "2", "web", 1)
	first := b.Catalog(1)
	put(t, b, "2", "web", 2)
	second := b.Catalog(2)
	if first.Service("api") != second.Service("api") {
		t.Error("api changed its pointer though only web changed")
	}
	if first.Service("web") == second.Service("web") || first.Service("web").Instances[0].Port != 1 {
		t.Error("web was changed in place")
	}
	put(t, b, "2", "web", 2)
	third := b.Catalog(3)
	for i := range third.Services {
		if third.Services[i] != second.Services[i] {
			t.Errorf("%s changed its pointer by an equal put", third.Services[i].Name)
		}
	}
}

func put(tb testing.TB, b *Builder, id, name string, port uint16) {
	tb.Helper()
	i := Instance{
		Node: "a", ID: id, Service: name, Address: netip.MustParseAddr("10.0.0.1"), Port: port,
		State: Ready, Weight: 100, Mode: HTTP, Path: "/", Options: map[string]string{"balance": "leastconn"},
	}
	value, err := i.Encode()
	if err != nil {
		tb.Fatal(err)
	}
	b.Put(i.Key("/p"), value)
}

func TestRejectedIsReportedAndHarmsNobody(t *testing.T) { // P7, F7
	b := NewBuilder("/p")
	put(t, b, "1", "api", 1)
	b.Put("/p/v1/instances/a/2", []byte(`{"service":"web\n","address":"x","port":1}`))
	b.Put("/p/v1/instances/a/x y\n", []byte(`{}`))
	b.Put("/p/v1/nodes/a", []byte(`{"agent":"\u0007"}`))
	c := b.Catalog(1)
	if len(c.Services) != 1 || c.Service("api") == nil || len(c.Nodes) != 0 {
		t.Fatalf("services %v, nodes %v, want only api", c.Services, c.Nodes)
	}
	var got []string
	for _, r := range c.Rejected {
		got = append(got, r.Kind+" "+r.Name)
		if !printable(r.Reason, 1000) || !printable(r.Name, 1000) {
			t.Errorf("%+v is not fit for a terminal", r)
		}
	}
	want := []string{"value /p/v1/instances/a/2", "key /p/v1/instances/a/x y?", "value /p/v1/nodes/a"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestOldestInstanceLeads(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	tests := []struct {
		name string
		ins  []Instance
		want string // node/id of the lead
	}{
		{"started first", []Instance{{Node: "a", ID: "1", Started: at(2)}, {Node: "b", ID: "1", Started: at(1)}}, "b/1"},
		{"at once: lower key", []Instance{{Node: "b", ID: "1", Started: at(1)}, {Node: "a", ID: "2", Started: at(1)}}, "a/2"},
		{"unknown start comes last", []Instance{{Node: "a", ID: "1"}, {Node: "b", ID: "1", Started: at(9)}}, "b/1"},
		{"node before id", []Instance{{Node: "a-b", ID: "1"}, {Node: "a", ID: "z"}}, "a/z"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var pointers []*Instance
			for i := range test.ins {
				pointers = append(pointers, &test.ins[i])
			}
			s := NewService("x", pointers, nil)
			if got := s.Spec.Lead.Node + "/" + s.Spec.Lead.ID; got != test.want {
				t.Errorf("lead %s, want %s", got, test.want)
			}
		})
	}
}

func TestConflict(t *testing.T) {
	spec := Spec{Mode: HTTP, Hosts: []string{"a", "b"}, Path: "/"}
	tests := []struct {
		i    Instance
		want string
	}{
		{Instance{Mode: HTTP, Hosts: []string{"b", "a"}, Path: "/", Listen: 5}, ""},
		{Instance{Mode: TCP, Hosts: []string{"a", "b"}, Path: "/"}, "mode tcp differs from http"},
		{Instance{Mode: HTTP, Hosts: []string{"a"}, Path: "/"}, "host a differs from a,b"},
		{Instance{Mode: HTTP, Hosts: []string{"a", "b"}, Path: "/x"}, "path /x differs from /"},
	}
	for _, test := range tests {
		if got := spec.Conflict(&test.i); got != test.want {
			t.Errorf("%+v: %q, want %q", test.i, got, test.want)
		}
	}
}

func TestWithEmptyKeepsOrder(t *testing.T) {
	b := NewBuilder("/p")
	put(t, b, "1", "b", 1)
	put(t, b, "2", "d", 1)
	c := b.Catalog(1)
	with := c.WithEmpty([]*Service{{Name: "c"}, {Name: "a"}})
	var names []string
	for _, s := range with.Services {
		names = append(names, s.Name)
	}
	if got := strings.Join(names, " "); got != "a b c d" || len(c.Services) != 2 {
		t.Errorf("services %s, and %d in the first catalog, want a b c d and 2", got, len(c.Services))
	}
	if e := with.Service("b").Emptied(); e.Name != "b" || len(e.Instances) != 0 || e.Spec.Lead == nil {
		t.Errorf("emptied: %+v", e)
	}
}

func TestFileRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		items := map[string][]byte{}
		for range rapid.IntRange(0, 8).Draw(t, "items") {
			i := anyInstance(t)
			value, err := i.Encode()
			if err != nil {
				t.Fatal(err)
			}
			items[i.Key("/p")] = value
		}
		items[NodeKey("/p", "n")] = []byte(`{"agent":"x"}`)
		for range rapid.IntRange(0, 3).Draw(t, "overrides") {
			o := anyOverride(t)
			items[o.Key("/p")] = encoded(t, &o)
		}
		want := fromScratch(items, 7)
		for _, s := range want.Services { // some of them are kept without instances
			if rapid.Bool().Draw(t, "empty") {
				s.Instances, s.Overrides = nil, nil
			}
		}
		f, err := want.File()
		if err != nil {
			t.Fatal(err)
		}
		b, err := marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseFile(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, exact); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

// TestEncodeWritesFiles: what is written of a catalog item by item is its file.
func TestEncodeWritesFiles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := rapid.SampledFrom([]string{"/p", "", "<&>\"é"})
		b := NewBuilder(prefix.Draw(t, "prefix"))
		var keys []string
		last := &Catalog{}
		for n := range rapid.IntRange(1, 12).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				b, keys = NewBuilder(prefix.Draw(t, "prefix")), nil
			case 1:
				b.Put(NodeKey(b.prefix, "n"), fmt.Appendf(nil, `{"agent":"%d"}`, n))
			case 2:
				o := anyOverride(t)
				keys = append(keys, o.Key(b.prefix))
				b.Put(o.Key(b.prefix), encoded(t, &o))
			case 3:
				if len(keys) > 0 {
					b.Delete(rapid.SampledFrom(keys).Draw(t, "gone"))
				}
			default:
				i := anyInstance(t)
				value, err := i.Encode()
				if err != nil {
					t.Fatal(err)
				}
				keys = append(keys, i.Key(b.prefix))
				b.Put(i.Key(b.prefix), value)
			}
			now := b.Catalog(int64(n))
			var empty []*Service // some are kept without instances
			for _, s := range last.Services {
				if now.Service(s.Name) == nil && rapid.Bool().Draw(t, "kept") {
					empty = append(empty, s.Emptied())
				}
			}
			last = now.WithEmpty(empty)
			sameAsFile(t, last)
		}
	})
}

func sameAsFile(t *rapid.T, c *Catalog) {
	t.Helper()
	want, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := c.Encode(&text); err != nil {
		t.Fatal(err)
	}
	var got File
	if err := json.Unmarshal(text.Bytes(), &got); err != nil {
		t.Fatalf("%v in %s", err, &text)
	}
	if diff := cmp.Diff(want, &got); diff != "" {
		t.Fatalf("(-file +encoded):\n%s", diff)
	}
}

func TestParseFileNamesTheFormat(t *testing.T) {
	_, err := ParseFile([]byte("web:\n"))
	if err == nil || !strings.Contains(err.Error(), `{"revision":N`) {
		t.Errorf("error %v does not show the format", err)
	}
}

func BenchmarkOneChange(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			builder := NewBuilder("/p")
			for i := range n {
				put(b, builder, strconv.Itoa(i), fmt.Sprintf("s%d", i/10), 80)
			}
			builder.Catalog(0)
			port := uint16(80)
			b.ReportAllocs()
			for b.Loop() {
				port ^= 1
				put(b, builder, "5", "s0", port)
				builder.Catalog(1)
			}
		})
	}
}
