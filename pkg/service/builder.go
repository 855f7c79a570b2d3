package service

import (
	"crypto/sha256"
	"iter"
	"slices"
	"strconv"
	"strings"
)

// Builder folds keys and values of a registry into catalogs. Its work for a change grows with the
// services that changed, not with the catalog, but for the copies of its lists of pointers. It is
// not safe for concurrent use.
type Builder struct {
	prefix   string
	entries  map[string]*entry
	members  map[string]*list[*Instance] // by service, then by node and id
	dirty    map[string]struct{}         // names of services to be grouped again
	services list[*Service]
	nodes    list[*Node]
	rejected list[Rejection] // by registry key

	overrides  list[*Override]             // by target
	overridden map[string]*list[*Override] // the same by service
	asks       list[*Ask]
	answers    list[*Answer]

	departures departures
	replaced   int
}

// Item is a key as a registry holds it.
type Item struct {
	Key   string
	Value []byte
	// Created and Modified are the revisions at which the key came to be and was last written, 0 if
	// that is not known. A node whose key was created again was gone meanwhile, and one that was written
	// again has been claimed by its agent. See also Contradicts.
	Created, Modified int64
	Leased            bool // see [Instance]
}

// entry is what one key was decoded to: exactly one is set besides the sum and the revisions.
type entry struct {
	sum               [sha256.Size]byte
	created, modified int64
	leased            bool
	unproven          bool // from a registry that was replaced: the same value written anew is news

	instance *Instance
	node     *Node
	override *Override
	ask      *Ask
	answer   *Answer
	rejected *Rejection
}

// NewBuilder returns an empty builder for keys under prefix.
func NewBuilder(prefix string) *Builder {
	return &Builder{
		prefix:  prefix,
		entries: map[string]*entry{},
		members: map[string]*list[*Instance]{},
		dirty:   map[string]struct{}{},

		overridden: map[string]*list[*Override]{},
	}
}

// Put takes one key's value in, and tells whether that changed anything. A value equal to the
// known one, as written under a new lease, changes nothing.
func (b *Builder) Put(key string, value []byte) bool { return b.Take(Item{Key: key, Value: value}) }

// Take is Put for a key of which more is known. A node that was written again is another value in the
// catalogs that follow, even if it says the same.
func (b *Builder) Take(i Item) bool {
	sum := sha256.Sum256(i.Value)
	old := b.entries[i.Key]
	if old != nil {
		if old.sum == sum && old.leased == i.Leased && !old.unproven && (old.node == nil || old.modified == i.Modified) {
			old.created, old.modified = i.Created, i.Modified
			return false
		}
		b.forget(i.Key, old)
	}
	e := decode(b.prefix, i.Key, i.Value)
	e.sum, e.created, e.modified, e.leased = sum, i.Created, i.Modified, i.Leased
	if e.instance != nil {
		e.instance.Leased = i.Leased
		b.departures.returned(e.instance)
	}
	b.entries[i.Key] = e
	b.add(i.Key, e)
	return true
}

// Delete takes a key out, and tells whether it was there. Somebody took it away.
func (b *Builder) Delete(key string) bool { return b.Drop(key, 0) }

// Drop is Delete at a known revision. Instances that go at one revision with their node's key were not
// taken away: their lease ended. They are in the catalog's Departed.
func (b *Builder) Drop(key string, revision int64) bool {
	old := b.entries[key]
	if old == nil {
		return false
	}
	b.forget(key, old)
	delete(b.entries, key)
	if revision != 0 {
		b.departures.dropped(revision, old)
	}
	return true
}

// Taken says that the reader has taken the last catalog: its Departed need not be told again.
func (b *Builder) Taken() { b.departures.forget() }

// Replace makes the builder hold exactly these keys and values; what it had besides was taken away.
// What is equal keeps its identity in the catalogs that follow. It tells whether anything changed.
func (b *Builder) Replace(items iter.Seq2[string, []byte]) bool {
	_, _, changed := b.relist(func(yield func(Item) bool) {
		for key, value := range items {
			if !yield(Item{Key: key, Value: value}) {
				return
			}
		}
	})
	return changed
}

// Relist is Replace for keys of which more is known: the way back from a list. What is not in it any
// more has departed if its node's key was gone meanwhile. If the registry is known to be another one than
// before, or what it was once, nothing has departed: the catalog says that it was replaced.
func (b *Builder) Relist(items iter.Seq[Item], replaced bool) bool {
	gone, missing, changed := b.relist(items)
	if replaced {
		b.replace()
		return true
	}
	b.departures.missed(gone, missing)
	return changed
}

// Contradicts tells whether a list cannot come from the registry of which the builder holds all up to that
// revision: it has a key that was last written before that, and the builder has not, or otherwise. So is a
// registry that was restored, however much was written to it since.
func (b *Builder) Contradicts(list []Item, revision int64) bool {
	return slices.ContainsFunc(list, func(i Item) bool {
		e := b.entries[i.Key]
		return i.Modified <= revision && (e == nil || e.modified != i.Modified)
	})
}

// relist makes the builder hold exactly these items. It returns the nodes whose keys were gone, at least
// for a while, and what is missing.
func (b *Builder) relist(items iter.Seq[Item]) (gone map[string]*Node, missing []*entry, changed bool) {
	seen := make(map[string]struct{}, len(b.entries))
	gone = map[string]*Node{}
	for i := range items {
		seen[i.Key] = struct{}{}
		if old := b.entries[i.Key]; old != nil && old.node != nil && old.created != i.Created {
			gone[old.node.Name] = old.node
		}
		changed = b.Take(i) || changed
	}
	for key, e := range b.entries {
		if _, ok := seen[key]; ok {
			continue
		}
		missing = append(missing, e)
		changed = b.Delete(key) || changed
		if e.node != nil {
			gone[e.node.Name] = e.node
		}
	}
	return gone, missing, changed
}

// replace notes that what the builder holds is what a registry holds that was replaced.
func (b *Builder) replace() {
	b.replaced++
	b.departures = departures{}
	nodes := map[string]bool{}
	for _, e := range b.entries {
		if e.node != nil {
			nodes[e.node.Name] = true
		}
	}
	for _, e := range b.entries {
		// Whoever has no node proves what it wrote by writing it once more.
		e.unproven = e.instance != nil && e.leased && !nodes[e.instance.Node]
	}
}

// Len is how many keys the builder holds, those that it turns away included.
func (b *Builder) Len() int { return len(b.entries) }

// Catalog returns what the builder holds as of that revision. Services that did not change since
// the last one are the same pointers.
func (b *Builder) Catalog(revision int64) *Catalog {
	for name := range b.dirty {
		b.regroup(name)
	}
	clear(b.dirty)
	return &Catalog{
		Prefix: b.prefix, Revision: revision,
		Services: b.services.sorted(), Nodes: b.nodes.sorted(), Rejected: b.rejected.sorted(),
		Overrides: b.overrides.sorted(), Asks: b.asks.sorted(), Answers: b.answers.sorted(),
		Departed: b.departures.sorted(), Replaced: b.replaced,
	}
}

func (b *Builder) regroup(name string) {
	instances, overrides := b.members[name].sorted(), b.overridden[name].sorted()
	if len(overrides) == 0 {
		delete(b.overridden, name)
	}
	if len(instances) == 0 {
		delete(b.members, name)
		b.services.remove(name)
		return
	}
	if old, ok := b.services.get(name); ok && slices.Equal(old.Instances, instances) && slices.Equal(old.Overrides, overrides) {
		return // what came has gone again
	}
	b.services.set(name, NewService(name, instances, overrides))
}

// add takes in what a key was decoded to.
func (b *Builder) add(key string, e *entry) {
	switch {
	case e.instance != nil:
		members := b.membersOf(e.instance)
		if other, ok := members.some(); ok {
			e.instance.share(other)
		}
		members.set(e.instance.sortKey(), e.instance)
	case e.node != nil:
		b.nodes.set(e.node.Name, e.node)
	case e.override != nil:
		b.overrides.set(e.override.sortKey(), e.override)
		b.overridesOf(e.override).set(e.override.sortKey(), e.override)
	case e.ask != nil:
		b.asks.set(e.ask.ID, e.ask)
	case e.answer != nil:
		b.answers.set(e.answer.sortKey(), e.answer)
	case e.rejected != nil:
		b.rejected.set(key, *e.rejected)
	}
}

// forget takes out what a key was decoded to.
func (b *Builder) forget(key string, e *entry) {
	switch {
	case e.instance != nil:
		b.membersOf(e.instance).remove(e.instance.sortKey())
	case e.node != nil:
		b.nodes.remove(e.node.Name)
	case e.override != nil:
		b.overrides.remove(e.override.sortKey())
		b.overridesOf(e.override).remove(e.override.sortKey())
	case e.ask != nil:
		b.asks.remove(e.ask.ID)
	case e.answer != nil:
		b.answers.remove(e.answer.sortKey())
	case e.rejected != nil:
		b.rejected.remove(key)
	}
}

// membersOf returns the list that i is to be put in or out of.
func (b *Builder) membersOf(i *Instance) *list[*Instance] { return touch(b, b.members, i.Service) }

// overridesOf returns the list that o is to be put in or out of.
func (b *Builder) overridesOf(o *Override) *list[*Override] {
	return touch(b, b.overridden, o.Service)
}

// touch returns the list of a service that is about to change.
func touch[T any](b *Builder, lists map[string]*list[T], name string) *list[T] {
	b.dirty[name] = struct{}{}
	if lists[name] == nil {
		lists[name] = &list[T]{}
	}
	return lists[name]
}

func decode(prefix, key string, value []byte) *entry {
	k, err := ParseKey(prefix, key)
	if err != nil {
		return &entry{rejected: &Rejection{Kind: RejectedKey, Name: printKey(key), Reason: reason(err)}}
	}
	e := &entry{}
	switch k.Kind {
	case KeyInstance:
		e.instance, err = pointer(DecodeInstance(k.Node, k.ID, value))
	case KeyNode:
		e.node, err = pointer(DecodeNode(k.Node, value))
	case KeyOverride:
		e.override, err = pointer(DecodeOverride(k.Target(), value))
	case KeyAsk:
		e.ask, err = pointer(DecodeAsk(prefix, k.Ask, value))
	case KeyAnswer:
		e.answer, err = pointer(DecodeAnswer(k.Node, k.Ask, value))
	}
	if err != nil {
		return &entry{rejected: &Rejection{Kind: RejectedValue, Service: k.Service, Node: k.Node, ID: k.ID, Name: printKey(key), Reason: reason(err)}}
	}
	return e
}

func pointer[T any](v T, err error) (*T, error) { return &v, err }

// reason writes an error, also of several lines, as a short sentence that is fit for a terminal.
func reason(err error) string {
	const most = 300
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if len(text) <= most {
		return clean(text, most)
	}
	const more = " …"
	return clean(text, most-len(more)) + more
}

// printKey makes a foreign key fit for a terminal.
func printKey(key string) string { return clean(key, 200) }

// quote is what of a foreign text goes into a sentence.
func quote(text string, most int) string { return strconv.Quote(clean(text, most)) }

// clean is the beginning of a text, in at most that many bytes without control characters.
func clean(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if isControl(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(text[:min(len(text), most+1)], "?"))
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "")
}
