package service

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// File is a catalog as JSON, for --catalog, `services -o catalog` and the copy on disk.
type File struct {
	Revision int64                      `json:"revision"`
	Items    map[string]json.RawMessage `json:"items"`
	// Empty has a former instance, which led it, of each service that is kept without instances.
	Empty map[string]json.RawMessage `json:"empty,omitempty"`
}

// File returns the catalog's items under their registry keys. What was rejected is not among them, and
// neither are asks and answers, which are of the moment.
func (c *Catalog) File() (*File, error) {
	f := &File{Revision: c.Revision, Items: map[string]json.RawMessage{}}
	empty := map[string]json.RawMessage{}
	for _, n := range slices.Concat(c.Nodes, c.Doubts.absent()) {
		b, err := n.Encode()
		if err != nil {
			return nil, fmt.Errorf("node %s: %w", n.Name, err)
		}
		f.Items[NodeKey(c.Prefix, n.Name)] = b
	}
	for _, o := range c.Overrides {
		b, err := o.Encode()
		if err != nil {
			return nil, err
		}
		f.Items[o.Key(c.Prefix)] = b
	}
	for _, s := range c.Services {
		items := f.Items
		instances, none := s.kept()
		if none {
			items = empty
		}
		for _, i := range instances {
			b, err := i.marshal()
			if err != nil {
				return nil, err
			}
			items[i.Key(c.Prefix)] = b
		}
	}
	if len(empty) > 0 {
		f.Empty = empty
	}
	return f, nil
}

// Encoder writes catalogs as a [File] is written, one after another. It remembers the texts of
// services, so that the next catalog costs what changed in it. Its zero value is ready.
type Encoder struct {
	prefix string
	known  map[*Service]serviceItems
}

// serviceItems are the instances of a service as they stand in a File.
type serviceItems struct {
	text []byte
	none bool // among the empty services
}

// Encode returns the parts of the text, which nobody may change.
func (e *Encoder) Encode(c *Catalog) ([][]byte, error) {
	if e.prefix != c.Prefix {
		*e = Encoder{prefix: c.Prefix}
	}
	known := make(map[*Service]serviceItems, len(c.Services))
	var items, empty [][]byte
	for _, n := range slices.Concat(c.Nodes, c.Doubts.absent()) {
		b, err := n.item(c.Prefix)
		if err != nil {
			return nil, err
		}
		items = append(items, b)
	}
	for _, o := range c.Overrides {
		b, err := o.item(c.Prefix)
		if err != nil {
			return nil, err
		}
		items = append(items, b)
	}
	for _, s := range c.Services {
		b, ok := e.known[s]
		if !ok {
			var err error
			if b, err = s.items(c.Prefix); err != nil {
				return nil, err
			}
		}
		switch known[s] = b; {
		case len(b.text) == 0:
		case b.none:
			empty = append(empty, b.text)
		default:
			items = append(items, b.text)
		}
	}
	e.known = known
	return object(c.Revision, items, empty), nil
}

// object puts items into the form of a File.
func object(revision int64, items, empty [][]byte) [][]byte {
	parts := make([][]byte, 0, 2*(len(items)+len(empty))+3)
	parts = append(parts, fmt.Appendf(nil, `{"revision":%d,"items":{`, revision))
	parts = commaed(parts, items)
	if len(empty) > 0 {
		parts = commaed(append(parts, []byte(`},"empty":{`)), empty)
	}
	return append(parts, []byte("}}"))
}

// commaed appends items with commas between them.
func commaed(parts, items [][]byte) [][]byte {
	for i, item := range items {
		if i > 0 {
			parts = append(parts, []byte{','})
		}
		parts = append(parts, item)
	}
	return parts
}

// kept are the instances that stand in a File for a service: its own, but for suspects that get no
// requests, or the one that leads it if there is no other, as a service that is kept without any.
func (s *Service) kept() (instances []*Instance, none bool) {
	instances = s.Instances
	if slices.ContainsFunc(instances, isOut) {
		instances = slices.DeleteFunc(slices.Clone(instances), isOut)
	}
	if len(instances) == 0 && s.Spec.Lead != nil {
		return []*Instance{s.Spec.Lead}, true
	}
	return instances, len(instances) == 0
}

func isOut(i *Instance) bool { return i.Doubt != nil && i.Doubt.Out }

// items are the instances of a service as they stand in a File.
func (s *Service) items(prefix string) (serviceItems, error) {
	var all [][]byte
	instances, none := s.kept()
	for _, i := range instances {
		value, err := i.marshal()
		if err != nil {
			return serviceItems{}, err
		}
		item, err := item(i.Key(prefix), value)
		if err != nil {
			return serviceItems{}, err
		}
		all = append(all, item)
	}
	return serviceItems{bytes.Join(all, []byte{','}), none}, nil
}

// item is the node as it stands in a File.
func (n *Node) item(prefix string) ([]byte, error) {
	value, err := n.Encode()
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", n.Name, err)
	}
	return item(NodeKey(prefix, n.Name), value)
}

// item is the override as it stands in a File.
func (o *Override) item(prefix string) ([]byte, error) {
	value, err := o.Encode()
	if err != nil {
		return nil, err
	}
	return item(o.Key(prefix), value)
}

func item(key string, value []byte) ([]byte, error) {
	name, err := marshal(key)
	return slices.Concat(name, []byte{':'}, value), err
}

// Catalog returns what the file holds, under the prefix that its keys have.
func (f *File) Catalog() *Catalog {
	return f.Under(prefixOf(slices.Concat(sortedKeys(f.Items), sortedKeys(f.Empty))))
}

// Under returns what the file holds under that prefix. Its other keys are rejected.
func (f *File) Under(prefix string) *Catalog {
	c, former := build(prefix, f.Revision, f.Items), build(prefix, f.Revision, f.Empty)
	c.Rejected = slices.Concat(c.Rejected, former.Rejected)
	var empty []*Service
	for _, s := range former.Services {
		if c.Service(s.Name) == nil {
			empty = append(empty, s.Emptied())
		}
	}
	return c.WithEmpty(empty)
}

// build makes the catalog of some items.
func build(prefix string, revision int64, items map[string]json.RawMessage) *Catalog {
	b := NewBuilder(prefix)
	for _, k := range sortedKeys(items) {
		b.Put(k, items[k])
	}
	return b.Catalog(revision)
}

// prefixOf finds the prefix of a set of keys: the one under which most of them are nodes and
// instances, which no key is under two prefixes; else one under which a key is of another kind.
func prefixOf(keys []string) string {
	var best, other string
	count := map[string]int{}
	for _, k := range keys {
		for at := range k {
			if !strings.HasPrefix(k[at:], version) {
				continue
			}
			key, err := ParseKey(k[:at], k)
			switch {
			case err != nil:
				continue
			case key.Kind != KeyNode && key.Kind != KeyInstance:
				other = k[:at]
				continue
			}
			if count[k[:at]]++; count[k[:at]] > count[best] {
				best = k[:at]
			}
		}
	}
	if len(count) == 0 {
		return other
	}
	return best
}

// ParseFile reads a catalog file of any prefix.
func ParseFile(b []byte) (*Catalog, error) {
	f, err := readFile(b)
	if err != nil {
		return nil, err
	}
	return f.Catalog(), nil
}

// ParseFileUnder reads a catalog file whose keys are under that prefix.
func ParseFileUnder(prefix string, b []byte) (*Catalog, error) {
	f, err := readFile(b)
	if err != nil {
		return nil, err
	}
	return f.Under(prefix), nil
}

func readFile(b []byte) (*File, error) {
	var f File
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf(`not a catalog ({"revision":N,"items":{"<key>":<value>,…}}): %w`, err)
	}
	if f.Items == nil {
		return nil, errors.New(`not a catalog: it has no "items"`)
	}
	return &f, nil
}
