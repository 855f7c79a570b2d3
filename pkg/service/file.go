package service

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

// Encode writes the catalog as its [File] is written, one item after another: it is never held as a whole.
func (c *Catalog) Encode(out io.Writer) error {
	w := newItemWriter(out, c.Prefix)
	w.print(fmt.Sprintf(`{"revision":%d,"items":{`, c.Revision))
	for _, n := range slices.Concat(c.Nodes, c.Doubts.absent()) {
		w.item(NodeKey(c.Prefix, n.Name), n)
	}
	for _, o := range c.Overrides {
		w.item(o.Key(c.Prefix), o.value())
	}
	var former []*Instance
	for _, s := range c.Services {
		instances, none := s.kept()
		if none {
			former = append(former, instances...)
			continue
		}
		w.instances(instances)
	}
	if len(former) > 0 {
		w.open(`},"empty":{`)
		w.instances(former)
	}
	w.print("}}")
	return w.flush()
}

// itemWriter writes the items of a File. Its first error is what flush returns.
type itemWriter struct {
	out    *bufio.Writer
	prefix string
	text   bytes.Buffer // of what is written at present
	json   *json.Encoder
	some   bool // there is an item already
	err    error
}

func newItemWriter(out io.Writer, prefix string) *itemWriter {
	w := &itemWriter{out: bufio.NewWriterSize(out, 32<<10), prefix: prefix}
	w.json = newEncoder(&w.text)
	return w
}

// print writes what stands between items.
func (w *itemWriter) print(text string) { w.out.WriteString(text) } //nolint:errcheck // Flush tells of it

// open begins other items.
func (w *itemWriter) open(text string) {
	w.print(text)
	w.some = false
}

func (w *itemWriter) instances(all []*Instance) {
	for _, i := range all {
		w.item(i.Key(w.prefix), i.value())
	}
}

// item writes one key with its value.
func (w *itemWriter) item(key string, value any) {
	if w.some {
		w.print(",")
	}
	w.some = true
	w.encode(key, key)
	w.print(":")
	w.encode(key, value)
}

// encode writes JSON of what has that key.
func (w *itemWriter) encode(key string, v any) {
	w.text.Reset()
	if err := w.json.Encode(v); err != nil && w.err == nil {
		w.err = fmt.Errorf("key %s: %w", printKey(key), err)
	}
	w.out.Write(bytes.TrimSuffix(w.text.Bytes(), []byte("\n"))) //nolint:errcheck // Flush tells of it
}

func (w *itemWriter) flush() error { return cmp.Or(w.err, w.out.Flush()) }

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
