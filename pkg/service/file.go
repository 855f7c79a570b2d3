package service

import (
	"encoding/json"
	"fmt"
	"slices"
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
			b, err := i.Encode()
			if err != nil {
				return nil, err
			}
			f.Items[i.Key(c.Prefix)] = b
		}
	}
	return f, nil
}

// Catalog returns what the file holds. The prefix is that of its keys.
func (f *File) Catalog() *Catalog {
	keys := sortedKeys(f.Items)
	b := NewBuilder(prefixOf(keys))
	for _, k := range keys {
		b.Put(k, f.Items[k])
	}
	return b.Catalog(f.Revision)
}

// prefixOf finds the prefix of a set of keys: what stands before the version of the first key that
// has one followed by a known kind.
func prefixOf(keys []string) string {
	kinds := []KeyKind{KeyNode, KeyInstance, KeyOverride, KeyAsk, KeyAnswer}
	for _, k := range keys {
		prefix, rest, ok := strings.Cut(k, version)
		kind, _, _ := strings.Cut(rest, "/")
		if ok && slices.Contains(kinds, KeyKind(kind)) {
			return prefix
		}
	}
	return ""
}

// ParseFile reads a catalog file.
func ParseFile(b []byte) (*Catalog, error) {
	var f File
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf(`not a catalog ({"revision":N,"items":{"<key>":<value>,…}}): %w`, err)
	}
	return f.Catalog(), nil
}
