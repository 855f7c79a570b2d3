package service

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// File is a catalog as JSON, for --catalog, `services -o catalog` and the copy on disk.
type File struct {
	Revision int64                      `json:"revision"`
	Items    map[string]json.RawMessage `json:"items"`
}

// File returns the catalog's items under their registry keys. What was rejected is not among them.
func (c *Catalog) File() (*File, error) {
	f := &File{Revision: c.Revision, Items: map[string]json.RawMessage{}}
	for _, n := range c.Nodes {
		b, err := n.Encode()
		if err != nil {
			return nil, fmt.Errorf("node %s: %w", n.Name, err)
		}
		f.Items[NodeKey(c.Prefix, n.Name)] = b
	}
	for _, s := range c.Services {
		for _, i := range s.Instances {
			b, err := i.marshal()
			if err != nil {
				return nil, err
			}
			f.Items[i.Key(c.Prefix)] = b
		}
	}
	return f, nil
}

// Catalog returns what the file holds, under the prefix that its keys have.
func (f *File) Catalog() *Catalog { return f.Under(prefixOf(sortedKeys(f.Items))) }

// Under returns what the file holds under that prefix. Its other keys are rejected.
func (f *File) Under(prefix string) *Catalog {
	b := NewBuilder(prefix)
	for _, k := range sortedKeys(f.Items) {
		b.Put(k, f.Items[k])
	}
	return b.Catalog(f.Revision)
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
