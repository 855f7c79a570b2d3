package haproxy

import (
	"cmp"
	"crypto/sha256"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// Plan says how to get from running to wanted: by the runtime commands, if reload is the zero Reason,
// else by a reload. The commands that come with a reason are those that are right before the reload
// too, on the worker that the reload will replace.
func Plan(running, wanted render.Files, can Capabilities) (cmds []Command, reload Reason) {
	d := diff(running, wanted, can, nil)
	d.preferReload(wanted)
	return d.commands(), d.reason
}

// difference is what Plan finds out.
type difference struct {
	up, down []Command     // first the servers that give more room, at the end those that take some away
	files    fileCommands  // between them, what changes in the named files
	cost     time.Duration // of all of them, for HAProxy
	reason   Reason        // the first one found
	moved    []section     // sections of the wanted text that the commands put in force
	named    []render.File // files that they put in force
	// reading holds for the wanted text, if it was compared by blocks.
	reading *reading
}

// reading is what the changed blocks of a text may depend on in all others. It holds for a later
// text as well, as long as none of its changed blocks has defaults or makes sense only as a part.
type reading struct {
	whole    bool // the blocks cannot be read by themselves
	defaults []section
	tracked  tracked
	uses     *uses // how the text uses files
}

// readBlocks looks through a whole text. Only what may hold defaults or conditions is read; blocks that
// go on with the section of the block before are read together with that.
func readBlocks(f render.File) *reading {
	r := &reading{uses: &uses{}}
	var end int
	for begin := 0; begin < len(f.Blocks); begin = end {
		end = begin + 1
		for end < len(f.Blocks) && (!endsLine(f.Blocks[end-1].Text) || opens(f.Blocks[end].Text) != opensSection) {
			end++
		}
		r.tracked.blocks(f.Blocks[begin:end])
		if !slices.ContainsFunc(f.Blocks[begin:end], func(b render.Block) bool { return mayRule(b.Text) }) {
			continue
		}
		part := read(joined(f.Blocks[begin:end]))
		r.whole = r.whole || part.whole
		r.defaults = append(r.defaults, defaultsAmong(part.all)...)
	}
	return r
}

// commands are in the order in which they lose least: add before remove.
func (d *difference) commands() []Command {
	return slices.Concat(d.up, d.files.in(), d.files.out(), d.down)
}

func (d *difference) reload(kind, detail string) {
	if !d.reason.needed() {
		d.reason = Reason{Kind: kind, Detail: detail}
	}
}

// diff compares two sets of files. Blocks with equal hashes are not looked into where the rest
// allows it. known is the reading of running from an earlier comparison, if there was one.
func diff(running, wanted render.Files, can Capabilities, known *reading) *difference {
	d := &difference{}
	if len(running) == 0 || len(wanted) == 0 {
		d.reload(ReasonStart, "what runs is not known")
		return d
	}
	d.reading = known
	c := comparison{difference: d, can: can, before: running[0], after: wanted[0], fresh: map[string]bool{}, usesBefore: &uses{}, usesAfter: &uses{}}
	if a, b, ok := changedBlocks(running[0].Blocks, wanted[0].Blocks); !ok || !c.parts(a, b) {
		*d = difference{}
		c.whole()
	}
	if !d.reason.needed() || c.compared {
		c.namedFiles(running, wanted)
	}
	return d
}

// preferReload leaves so many commands to a reload that it is cheaper.
func (d *difference) preferReload(wanted render.Files) {
	if len(wanted) == 0 || !d.dear(wanted[0]) {
		return
	}
	n := len(d.commands())
	*d = difference{reason: d.reason}
	d.reload(ReasonBatch, strconv.Itoa(n)+" changes at once")
}

// What changes cost HAProxy in processor time, in the middle between 2.6 and 3.0 as `make bench` sees
// them: a command, of which adding a server costs most; for a server to be added, each one that the
// section has, for its name is looked for among them, while all threads stand still; the same for one
// to be removed; an entry of a map; a certificate; a reload with the check before it, and for each
// server of the text; and for each two servers of one section, whose names are compared.
const (
	commandCost     = 20 * time.Microsecond
	neighbourCost   = 190 * time.Nanosecond
	partingCost     = 20 * time.Nanosecond
	entryCost       = 3 * time.Microsecond
	certificateCost = time.Millisecond
	reloadCost      = 70 * time.Millisecond
	readCost        = 22 * time.Microsecond
	crowdCost       = 13 * time.Nanosecond
)

// dear tells whether a reload costs less than the commands.
func (d *difference) dear(wanted render.File) bool {
	return d.cost > reloadCost && d.cost > costOfReload(wanted)
}

// costOfReload is what HAProxy's check and its reload of a text cost.
func costOfReload(f render.File) time.Duration {
	cost, servers := reloadCost, 0
	section := func() {
		cost += time.Duration(servers)*readCost + time.Duration(servers)*time.Duration(servers)*crowdCost
		servers = 0
	}
	for _, block := range f.Blocks {
		for raw := range strings.Lines(block.Text) {
			switch first, _, _ := strings.Cut(strings.TrimSpace(raw), " "); {
			case first == "server":
				servers++
			case isHeader(first):
				section()
			}
		}
	}
	section()
	return cost
}

// sameText compares two files. Only the texts between the blocks that both begin and end with are
// put together: those may be cut into blocks in another way.
func sameText(a, b render.File) bool {
	n, endA, endB := sharedEnds(a.Blocks, b.Blocks)
	return joined(a.Blocks[n:endA]) == joined(b.Blocks[n:endB])
}

// sharedEnds finds the blocks that both lists begin with, up to n, and those that both end with, from
// endA and endB.
func sharedEnds(a, b []render.Block) (n, endA, endB int) {
	for n < len(a) && n < len(b) && a[n].Equal(b[n]) {
		n++
	}
	endA, endB = len(a), len(b)
	for endA > n && endB > n && a[endA-1].Equal(b[endB-1]) {
		endA, endB = endA-1, endB-1
	}
	return n, endA, endB
}

// sameFiles compares two sets of files.
func sameFiles(a, b render.Files) bool {
	return slices.EqualFunc(a, b, func(x, y render.File) bool { return x.Name == y.Name && sameText(x, y) })
}

// changedBlocks leaves out the blocks that both files have in the same order. It gives up if a
// changed block, or one behind it, does not begin with a section's header: then the blocks cannot be
// read by themselves.
func changedBlocks(a, b []render.Block) (onlyA, onlyB []render.Block, ok bool) {
	n, endA, endB := sharedEnds(a, b)
	if !endsLines(a[:n]) || !beginsSections(a[endA:]) || !beginsSections(b[endB:]) {
		return nil, nil, false
	}
	a, b = a[n:endA], b[n:endB]
	onlyA, keptA := without(a, b)
	onlyB, keptB := without(b, a)
	if !slices.Equal(keptA, keptB) {
		return nil, nil, false
	}
	for _, block := range slices.Concat(a, b) {
		if opens(block.Text) == opensOther || !endsLine(block.Text) {
			return nil, nil, false
		}
	}
	return onlyA, onlyB, true
}

// without parts the blocks of a into those that b has not and the hashes of the others.
func without(a, b []render.Block) (only []render.Block, kept [][sha256.Size]byte) {
	in := hashesOf(b)
	for _, block := range a {
		if in[block.Hash] {
			kept = append(kept, block.Hash)
		} else {
			only = append(only, block)
		}
	}
	return only, kept
}

func hashesOf(blocks []render.Block) map[[sha256.Size]byte]bool {
	hashes := make(map[[sha256.Size]byte]bool, len(blocks))
	for _, block := range blocks {
		hashes[block.Hash] = true
	}
	return hashes
}

// endsLines tells whether blocks end with a whole line.
func endsLines(blocks []render.Block) bool {
	for _, block := range slices.Backward(blocks) {
		if block.Text != "" {
			return endsLine(block.Text)
		}
	}
	return true
}

// beginsSections tells whether blocks say nothing before their first header.
func beginsSections(blocks []render.Block) bool {
	for _, block := range blocks {
		if o := opens(block.Text); o != opensNothing {
			return o == opensSection
		}
		if !endsLine(block.Text) { // a comment that goes on
			return false
		}
	}
	return true
}

// comparison is one run of diff.
type comparison struct {
	*difference
	can           Capabilities
	before, after render.File
	compared      bool            // sections were compared one by one
	fresh         map[string]bool // names of those that only the wanted text has
	tracked       tracked         // in the running text
	// How both texts use files, the same thing if no changed block matters for it.
	usesBefore, usesAfter *uses
}

// parts compares only the changed blocks. It gives up where a section depends on what stands in
// other blocks in another way than by a name.
func (c *comparison) parts(a, b []render.Block) bool {
	before, after := parseBlocks(a), parseBlocks(b)
	for _, s := range slices.Concat(before, after) {
		if s.kind == "defaults" || s.isProxy() && s.base == "" {
			return false
		}
	}
	if slices.ContainsFunc(slices.Concat(a, b), func(b render.Block) bool { return mayRule(b.Text) && read(b.Text).whole }) {
		return false
	}
	if c.reading == nil {
		c.reading = readBlocks(c.before)
	}
	if c.reading.whole && len(a)+len(b) > 0 {
		return false
	}
	c.tracked = c.reading.tracked
	c.sections(before, after, defaultsOf(c.reading.defaults))
	c.pass(a, b)
	return true
}

// pass goes on with the reading of the running text as that of the wanted one, without what the changed
// blocks say otherwise.
func (c *comparison) pass(a, b []render.Block) {
	c.usesBefore, c.usesAfter = c.reading.uses, c.reading.uses
	if slices.ContainsFunc(slices.Concat(a, b), c.usesBefore.dependOn) {
		next := *c.reading
		next.uses = &uses{}
		c.reading, c.usesAfter = &next, next.uses
	}
	var was, is tracked
	was.blocks(a)
	is.blocks(b)
	if !maps.Equal(was, is) {
		c.reading = nil // which servers are tracked then is found out by the next comparison
	}
}

func joined(blocks []render.Block) string { return render.File{Blocks: blocks}.Text() }

// whole compares everything.
func (c *comparison) whole() {
	running, wanted := read(c.before.Text()), read(c.after.Text())
	before, after := running.all, wanted.all
	switch {
	case running.whole || wanted.whole:
		if !sameText(c.before, c.after) {
			c.reload(ReasonText, "the text differs and has lines that haproxy's environment may turn into any others")
		}
	case slices.EqualFunc(before, after, sameLines):
	case !sameOrder(before, after):
		c.reload(ReasonText, "sections stand in another order")
	case !slices.EqualFunc(defaultsAmong(before), defaultsAmong(after), sameLines):
		c.reload(ReasonSection, otherDefaults(defaultsAmong(before), defaultsAmong(after)))
	default:
		c.tracked.read(c.before.Text())
		c.sections(before, after, defaultsOf(after))
	}
}

// sections compares section by section. What runtime commands can do is done also if something else
// needs a reload.
func (c *comparison) sections(before, after []section, defaults lookup) {
	c.compared = true
	old := map[string]section{}
	for _, s := range before {
		old[s.id()] = s
	}
	for _, s := range after {
		was, known := old[s.id()]
		delete(old, s.id())
		switch {
		case !known:
			c.fresh[s.name] = true
			c.reload(ReasonSection, s.id()+" is new")
		case sameLines(was, s):
		case !s.isProxy():
			c.reload(ReasonSection, s.id()+" differs: "+became(was.keys(), s.keys()))
		case s.doubt != "" || was.doubt != "":
			c.reload(ReasonSection, s.id()+" differs and "+cmp.Or(s.doubt, was.doubt))
		default:
			in := defaults(s)
			c.proxy(readProxy(was, in), readProxy(s, in), s)
		}
	}
	for _, s := range before {
		if _, gone := old[s.id()]; gone {
			c.reload(ReasonSection, s.id()+" is gone")
		}
	}
}

// lookup finds what a proxy inherits.
type lookup func(section) inherited

// defaultsOf gives each proxy its defaults section: the one that it names, else the one before it.
func defaultsOf(all []section) lookup {
	named, before := map[string]section{}, map[string]section{}
	var last section
	for _, s := range all {
		switch s.kind {
		case "defaults":
			named[s.name], last = s, s
		default:
			before[s.id()] = last
		}
	}
	return func(s section) inherited {
		in := inherited{}
		next, found := before[s.id()], true
		if s.base != "" {
			next, found = named[s.base]
		}
		if !found {
			in.why = "the unknown defaults section " + strconv.Quote(s.base)
		}
		in.chain(next, named, len(named))
		return in
	}
}

// chain reads a defaults section after the one that it takes itself, if any.
func (in *inherited) chain(s section, named map[string]section, depth int) {
	if up, ok := named[s.base]; ok && s.base != "" && depth > 0 {
		in.chain(up, named, depth-1)
	}
	if s.doubt != "" {
		in.doubt = "its " + s.id() + " " + s.doubt
	}
	for _, l := range s.lines {
		in.judge(l)
		in.read(l)
	}
}

// defaultsAmong picks the defaults sections.
func defaultsAmong(all []section) []section {
	return slices.DeleteFunc(slices.Clone(all), func(s section) bool { return s.kind != "defaults" })
}

// sameOrder tells whether the sections that both texts have stand in the same order.
func sameOrder(before, after []section) bool {
	return slices.Equal(common(before, after), common(after, before))
}

// common are the names of the sections of a that b has as well.
func common(a, b []section) []string {
	in := map[string]bool{}
	for _, s := range b {
		in[s.id()] = true
	}
	var out []string
	for _, s := range a {
		if in[s.id()] {
			out = append(out, s.id())
		}
	}
	return out
}

func sameLines(a, b section) bool {
	return slices.EqualFunc(a.lines, b.lines, func(x, y line) bool { return x.key() == y.key() })
}
