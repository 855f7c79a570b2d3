package service

import (
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

// File returns the catalog's items under their registry keys. What was rejected is not among them.
func (c *Catalog) File() (*File, error) {
	f := &File{Revision: c.Revision, Items: map[string]json.RawMessage{}, Empty: map[string]json.RawMessage{}}
	for _, n := range c.Nodes {
		b, err := n.Encode()
		if err != nil {
			return nil, fmt.Errorf("node %s: %w", n.Name, err)
		}
		f.Items[NodeKey(c.Prefix, n.Name)] = b
	}
	for _, s := range c.Services {
		instances, items := s.Instances, f.Items
		if len(instances) == 0 && s.Spec.Lead != nil {
			instances, items = []*Instance{s.Spec.Lead}, f.Empty
		}
		for _, i := range instances {
			b, err := i.marshal()
			if err != nil {
				return nil, err
			}
			items[i.Key(c.Prefix)] = b
		}
	}
	return f, nil
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
			case key.Node == "":
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
