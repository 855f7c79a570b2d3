package folder

import (
	"cmp"
	"errors"
	"iter"
	"maps"
	"slices"
	"syscall"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// patience is for how many looks what moves is waited for before the first set is complete: a file that
// changes all the time holds up no other.
const patience = 20

// Files is what the items of a folder come to: of each the last content that was good. It is used by one
// goroutine.
type Files[T any] struct {
	Folder
	// Parse understands an item's text. Its error says which item it is about.
	Parse func(item, text string) (T, error)
	// Kind is that of the rejections, and What names the folder in them.
	Kind, What string

	good   map[string]kept[T] // what counts
	faults map[string]string  // why an item's newest content does not count
	away   string             // why the directory cannot be read, "" if it can
	looks  int                // that succeeded
	known  bool               // what counts is complete
}

// kept is a text that was good, and what it says.
type kept[T any] struct {
	text  string
	value T
}

// Recall makes texts count that were good in an earlier process, until something else is seen. It comes
// before the first look.
func (f *Files[T]) Recall(texts map[string]string) {
	f.init()
	for item, text := range texts {
		if value, err := f.Parse(item, text); err == nil { // else written by another version, or by hand
			f.good[item] = kept[T]{text, value}
		}
	}
}

func (f *Files[T]) init() {
	if f.good == nil {
		f.good, f.faults = map[string]kept[T]{}, map[string]string{}
	}
}

// Now takes in what is there at once, for a command that waits for nothing.
func (f *Files[T]) Now() {
	for range 2 { // what is seen twice counts
		f.Look()
	}
}

// Look takes the directory's files in. changed tells that they say something else now, moving that it
// should be looked again soon.
func (f *Files[T]) Look() (changed, moving bool) {
	f.init()
	s, err := f.Folder.Look()
	if err != nil {
		away := f.missing(err)
		changed, f.away = away != f.away, away
		return changed, false
	}
	changed, f.away = f.away != "", ""
	for item, c := range s.Settled {
		changed = f.take(item, c) || changed
	}
	for item := range f.good {
		changed = s.Gone(item) && f.forget(item) || changed
	}
	for item := range f.faults {
		changed = s.Gone(item) && f.forget(item) || changed
	}
	f.looks++
	if !f.known && (!s.Moving() || f.looks > patience) {
		f.known, changed = true, true
	}
	return changed, s.Moving()
}

func (f *Files[T]) missing(err error) string {
	if errors.Is(err, syscall.ENOTDIR) {
		return "it is no directory: name the one that the files are in"
	}
	return f.because(err, true)
}

// take makes an item's content count if it is good, and tells whether that changes anything.
func (f *Files[T]) take(item string, c Content) bool {
	before, had := f.good[item]
	fault := c.Fault
	if fault == "" {
		if had && before.text == c.Text {
			changed := f.faults[item] != ""
			delete(f.faults, item)
			return changed
		}
		value, err := f.Parse(item, c.Text)
		if err == nil {
			f.good[item] = kept[T]{c.Text, value}
			delete(f.faults, item)
			return true
		}
		fault = err.Error()
	}
	if had {
		fault += "; its last good content stays in force"
	}
	changed := f.faults[item] != fault
	f.faults[item] = fault
	return changed
}

func (f *Files[T]) forget(item string) bool {
	delete(f.good, item)
	delete(f.faults, item)
	return true
}

// Known tells whether what counts is complete: each item has been seen, or changes all the time.
func (f *Files[T]) Known() bool { return f.known }

// Settled tells whether there is nothing to wait for: what counts is complete, or cannot be had.
func (f *Files[T]) Settled() bool { return f.known || f.away != "" }

// Away is why the directory cannot be read, "" if it can.
func (f *Files[T]) Away() string { return f.away }

// Faults are those of the newest contents that do not count, in the order of their items.
func (f *Files[T]) Faults() iter.Seq2[string, string] { return sorted(f.faults) }

// Rejections are what is wrong, for people; node is this host.
func (f *Files[T]) Rejections(node string) []service.Rejection {
	list := []service.Rejection{}
	add := func(name, reason string) {
		list = append(list, service.Rejection{Kind: f.Kind, Node: node, Name: name, Reason: reason})
	}
	if f.away != "" {
		add(f.Dir, f.What+" "+f.Dir+": "+f.away)
	}
	for item, fault := range f.Faults() {
		add(item, cmp.Or(f.Dir, f.What)+": "+fault)
	}
	return list
}

// Good are the items that count, sorted.
func (f *Files[T]) Good() iter.Seq2[string, T] {
	return func(yield func(string, T) bool) {
		for item, k := range sorted(f.good) {
			if !yield(item, k.value) {
				return
			}
		}
	}
}

// Texts are the contents that count, for Recall.
func (f *Files[T]) Texts() map[string]string {
	texts := make(map[string]string, len(f.good))
	for item, k := range f.good {
		texts[item] = k.text
	}
	return texts
}

// sorted goes through a map in the order of its keys.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, key := range slices.Sorted(maps.Keys(m)) {
			if !yield(key, m[key]) {
				return
			}
		}
	}
}
