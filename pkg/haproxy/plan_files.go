package haproxy

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// use is how a set of files uses one of them.
type use struct {
	maps  []string // the methods by which it is looked up as a map
	crt   bool     // as a certificate that clients are shown, of a bind line or a crt-list
	lists bool     // as a crt-list
	other string   // in a way that only a reload can follow; "" if in none
	lines []string // keys of the statements that name it
}

// Kinds of use.
const (
	useNothing     = ""
	useMap         = "map "
	useCertificate = "crt "
	useList        = "list "
)

// kind sums a use up.
func (u use) kind() string {
	kind := useNothing
	if len(u.maps) > 0 {
		kind += useMap
	}
	if u.crt {
		kind += useCertificate
	}
	if u.lists {
		kind += useList
	}
	return kind
}

// mapCall is a map lookup within a word: its method and its file.
var mapCall = regexp.MustCompile(`\b(map(?:_[a-z0-9_]+)?)\(\s*([^\s,()]+)\s*[,)]`)

// loads are words whose statements make HAProxy read files. A variable in such a statement may name
// any file.
var loads = regexp.MustCompile(`map|crt|file|-f\s|lua|ca-`)

// signs may stand for others: quotes, escapes and variables.
const signs = "$\"'\\"

// directories are words behind which a whole directory may be named, such as that of the files.
var directories = regexp.MustCompile(`\b(?:crt|crt-base|ca-base|ca-file|ca-verify-file|lua-prepend-path)\s+(\S+)`)

// singleFile are the usual names of files, which are no directories.
var singleFile = regexp.MustCompile(`\.(?:pem|crt|cer|cert|ca|lua)$`)

// besides are the usual endings of files that HAProxy reads beside a certificate without their being
// named: its key, what goes with it, and the parts of a bundle.
var besides = regexp.MustCompile(`\.(?:key|ocsp|issuer|sctl|rsa|dsa|ecdsa)$`)

// uses remembers how a configuration uses files. It holds for a later one as well, as long as it does
// not depend on the blocks that differ.
type uses struct {
	named   map[string]use
	loaders *loaders
}

// dependOn tells whether a block may say how a file is used.
func (u *uses) dependOn(b render.Block) bool {
	if loads.MatchString(b.Text) {
		return true
	}
	for name := range u.named {
		if strings.Contains(b.Text, name) {
			return true
		}
	}
	return false
}

// of finds out how the files use one of them.
func (u *uses) of(files render.Files, name string) use {
	found := u.in(files[0], name)
	for _, f := range files[1:] {
		if f.Name == name {
			continue
		}
		if other := u.in(files[0], f.Name); (other.lists || other.other != "") && has(f, name) {
			found.list(f.Text(), name)
		}
	}
	if found.kind() == useNothing && found.other == "" {
		if u.loaders == nil {
			u.loaders = loadersOf(files[0])
		}
		found.other = u.loaders.mayRead(files, name)
	}
	return found
}

// in finds out how a configuration uses a file.
func (u *uses) in(configuration render.File, name string) use {
	found, known := u.named[name]
	if !known {
		found = namedIn(configuration, name)
		if u.named == nil {
			u.named = map[string]use{}
		}
		u.named[name] = found
	}
	return found
}

// namedIn finds out how a configuration uses a file.
func namedIn(configuration render.File, name string) use {
	var u use
	for _, l := range linesAbout(configuration, name) {
		u.read(l, name)
		if !l.plain && loads.MatchString(l.raw) {
			u.other = "a variable may name it"
		}
	}
	return u
}

// has tells whether a file holds some text.
func has(f render.File, text string) bool {
	return slices.ContainsFunc(f.Blocks, func(b render.Block) bool { return strings.Contains(b.Text, text) })
}

// list takes a crt-list that may name the file as a certificate, or in another way.
func (u *use) list(text, name string) {
	for _, l := range readList(text) {
		rest := l.text
		if l.certificate == name {
			u.crt, rest = true, strings.TrimPrefix(rest, name)
		}
		if mentions(rest, name) {
			u.other = "a crt-list names it as in " + l.text
		}
	}
}

// loaders is by what a configuration makes HAProxy read files that it does not name.
type loaders struct {
	lua, certificates bool
	directories       []string // or files, by their names alone
}

func loadersOf(configuration render.File) *loaders {
	l := &loaders{}
	for _, b := range configuration.Blocks {
		l.lua = l.lua || strings.Contains(b.Text, "lua-")
		l.certificates = l.certificates || strings.Contains(b.Text, "crt")
		for _, m := range directories.FindAllStringSubmatch(b.Text, -1) {
			l.directories = append(l.directories, m[1])
		}
	}
	return l
}

// mayRead says why HAProxy may read a file that the configuration does not name, "" if it does not.
func (l *loaders) mayRead(files render.Files, name string) (why string) {
	set := byName(files[1:])
	switch {
	case l.lua:
		return "a Lua script may read it"
	case l.certificates && besides.MatchString(name):
		return "haproxy may read it beside a certificate"
	case slices.ContainsFunc(files[1:], func(f render.File) bool { return f.Name != name && has(f, name) }):
		return "another file names it"
	case slices.ContainsFunc(l.directories, func(path string) bool {
		_, ours := set[path]
		return !ours && !singleFile.MatchString(path)
	}):
		return "haproxy may read it with its directory"
	}
	return ""
}

// linesAbout are the lines of a configuration that may name a file: those with its name, or with signs
// by which it could be written in another way. Of blocks with conditions it takes a reading to know which
// lines stand in one; the text is read as a whole only where a condition does not end in its block.
func linesAbout(configuration render.File, name string) []line {
	blocks := configuration.Blocks
	if slices.ContainsFunc(blocks, func(b render.Block) bool { return hasConditions(b) && read(b.Text).whole }) {
		blocks = []render.Block{render.NewBlock("", configuration.Text())}
	}
	var lines []line
	for _, block := range blocks {
		if strings.Contains(block.Text, name) || strings.ContainsAny(block.Text, signs) {
			lines = append(lines, linesOf(block, name)...)
		}
	}
	return lines
}

// linesOf are those of one block.
func linesOf(block render.Block, name string) (lines []line) {
	if hasConditions(block) {
		for _, s := range parse(block.Text) {
			lines = append(lines, slices.DeleteFunc(s.lines, func(l line) bool { return !mayName(l.raw, name) })...)
		}
		return lines
	}
	for raw := range strings.Lines(block.Text) {
		if mayName(raw, name) {
			lines = append(lines, splitLine(raw))
		}
	}
	return lines
}

// hasConditions tells whether a block may have conditional lines.
func hasConditions(b render.Block) bool { return strings.Contains(b.Text, ".if") }

// mayName tells whether a line may name a file.
func mayName(raw, name string) bool {
	return strings.Contains(raw, name) || strings.ContainsAny(raw, signs) && loads.MatchString(raw)
}

// read takes one statement.
func (u *use) read(l line, name string) {
	named := false
	for i, w := range l.words {
		switch found := u.word(l, i, w, name); {
		case found:
			named = true
		case mentions(w, name):
			named, u.other = true, "it is used as in "+strings.Join(l.words, " ")
		}
	}
	if named && (!l.plain || l.conditional) {
		u.other = "only haproxy knows how it is used"
	}
	if named {
		u.lines = append(u.lines, l.key())
	}
}

// word tells whether a word uses the file in a known way, and notes in which.
func (u *use) word(l line, i int, w, name string) (known bool) {
	before := ""
	if i > 0 {
		before = l.words[i-1]
	}
	switch {
	case w == name && word(l, 0) == "bind" && before == "crt":
		u.crt = true
		return true
	case w == name && word(l, 0) == "bind" && before == "crt-list":
		u.lists = true
		return true
	}
	rest := w
	for _, call := range mapCall.FindAllStringSubmatch(w, -1) {
		if call[2] == name {
			u.maps, known = append(u.maps, call[1]), true
			rest = strings.Replace(rest, call[0], "", 1)
		}
	}
	return known && !mentions(rest, name)
}

// mentions tells whether a word names the file: not only as a part of another name.
func mentions(w, name string) bool {
	for at := 0; ; {
		i := strings.Index(w[at:], name)
		if i < 0 {
			return false
		}
		i += at
		end := i + len(name)
		if (i == 0 || !isNameByte(w[i-1])) && (end == len(w) || !isNameByte(w[end])) {
			return true
		}
		at = i + 1
	}
}

func isNameByte(c byte) bool {
	return c == '_' || c == '-' || c == '.' || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

// fileCommands are the commands for files, in the order in which nothing is missed: certificates
// before the lists that name them, entries of maps as they come.
type fileCommands struct {
	certificates, lists, maps, unlists, drops []Command
}

func (f *fileCommands) in() []Command { return slices.Concat(f.certificates, f.lists, f.maps) }

func (f *fileCommands) out() []Command { return slices.Concat(f.unlists, f.drops) }

// namedFiles compares the files that the configuration names. What runtime commands can do is done
// also if something else needs a reload, unless it could lead to what only that brings.
func (c *comparison) namedFiles(running, wanted render.Files) {
	before, after := byName(running[1:]), byName(wanted[1:])
	for _, f := range wanted[1:] {
		was, known := before[f.Name]
		if !known || !sameText(was, f) {
			c.file(f.Name, running, wanted)
		}
	}
	for _, f := range running[1:] {
		if _, stays := after[f.Name]; !stays {
			c.file(f.Name, running, wanted)
		}
	}
	if c.reason.needed() {
		c.files = fileCommands{maps: c.files.maps} // certificates depend on one another: the reload brings them
	}
}

func byName(files render.Files) map[string]render.File {
	all := map[string]render.File{}
	for _, f := range files {
		all[f.Name] = f
	}
	return all
}

// file compares one file that differs, came or went.
func (c *comparison) file(name string, running, wanted render.Files) {
	f := fileChange{name: name, before: c.usesBefore.of(running, name), after: c.usesAfter.of(wanted, name)}
	was, known := byName(running[1:])[name]
	now, stays := byName(wanted[1:])[name]
	f.known, f.stays, f.was, f.now = known, stays, was.Text(), now.Text()
	if why := f.read(c.fresh); why != "" {
		c.reload(ReasonFile, "file "+name+": "+why)
		return
	}
	c.files.add(f.commands)
	c.cost += f.cost
	if stays && len(f.commands.certificates)+len(f.commands.lists)+len(f.commands.unlists) == 0 {
		c.named = append(c.named, now)
	}
}

func (f *fileCommands) add(g fileCommands) {
	f.certificates, f.lists, f.maps = append(f.certificates, g.certificates...), append(f.lists, g.lists...), append(f.maps, g.maps...)
	f.unlists, f.drops = append(f.unlists, g.unlists...), append(f.drops, g.drops...)
}

// fileChange collects the commands for one file.
type fileChange struct {
	name          string
	before, after use
	known, stays  bool // it is in the one set, in the other
	was, now      string
	commands      fileCommands
	cost          time.Duration
}

// read fills the commands or says why there cannot be any. fresh are names of sections that only a
// reload brings. A file that HAProxy does not use needs none.
func (f *fileChange) read(fresh map[string]bool) (why string) {
	switch {
	case f.before.other != "" || f.after.other != "":
		return cmp.Or(f.before.other, f.after.other)
	case !slices.Equal(f.before.lines, f.after.lines):
		return "it is used in another way"
	case f.known && f.stays && f.before.kind() != f.after.kind():
		return "it is used in another way"
	}
	switch f.before.kind() + f.after.kind() {
	case "":
		return ""
	case useMap + useMap:
		return f.table(fresh)
	case useList + useList:
		return f.list()
	case useCertificate + useCertificate, useCertificate:
		return f.certificate()
	}
	return "it is used in more than one way"
}

// table compares two maps.
func (f *fileChange) table(fresh map[string]bool) (why string) {
	if !f.known || !f.stays {
		return "it came or went"
	}
	wanted, running := readTable(f.now), readTable(f.was)
	// Requests that still have a way would lose it until the reload.
	if slices.ContainsFunc(wanted.entries, func(e Entry) bool { return fresh[e.Value] }) {
		return "it leads to a section that only a reload brings"
	}
	if running.why != "" {
		return running.why
	}
	f.commands.maps, why = running.changes(f.name, wanted, slices.ContainsFunc(f.after.maps, ordered))
	for _, c := range f.commands.maps {
		f.cost += commandCost + time.Duration(len(c.Entries))*entryCost
	}
	return why
}

// list compares two crt-lists.
func (f *fileChange) list() (why string) {
	if !f.known || !f.stays {
		return "it came or went"
	}
	added, deleted, why := listChanges(readList(f.was), readList(f.now))
	for _, l := range added {
		f.commands.lists = append(f.commands.lists, Command{Op: OpListAdd, File: f.name, Text: l.text})
	}
	for _, l := range deleted {
		f.commands.unlists = append(f.commands.unlists, Command{Op: OpListDelete, File: f.name, Text: l.certificate})
	}
	f.cost = time.Duration(len(added)+len(deleted)) * commandCost
	return why
}

// certificate compares two certificates. One that comes or goes does so by a crt-list.
func (f *fileChange) certificate() (why string) {
	f.cost = certificateCost
	if !f.stays {
		f.commands.drops = []Command{{Op: OpCertificateDrop, File: f.name}}
		return ""
	}
	pem, why := certificate(f.now)
	op := OpCertificate
	if !f.known {
		op = OpCertificateLoad
	}
	f.commands.certificates = []Command{{Op: op, File: f.name, Text: pem}}
	return why
}
