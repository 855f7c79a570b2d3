package haproxy

import (
	"strconv"
	"strings"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// section is a run of statements that begins with its header, such as "backend web from http".
type section struct {
	kind, name string
	base       string // the named defaults section that it takes, "" if it does not say so
	repeat     int    // how many sections of that kind and name stand before it
	lines      []line // the header first; none of them is empty
	text       string // as it stands in the file
	// doubt says why only HAProxy knows whether there is such a section, or what belongs to it; "" if
	// there is no doubt. Such a section can only be compared as a whole.
	doubt string
	start int // of its text within the whole
}

// id names a section within its file.
func (s section) id() string {
	id := strings.TrimSpace(s.kind + " " + s.name)
	if s.repeat > 0 {
		id += " (" + strconv.Itoa(s.repeat+1) + ")"
	}
	return id
}

// isProxy tells whether the servers of a section are those of a proxy.
func (s section) isProxy() bool { return s.kind == "backend" || s.kind == "listen" }

// isHeader tells whether a statement opens a section, in any HAProxy there is.
func isHeader(word string) bool {
	switch word {
	case "global", "defaults", "frontend", "backend", "listen", "userlist", "peers", "resolvers",
		"mailers", "cache", "program", "http-errors", "ring", "log-forward", "fcgi-app",
		"namespace_list", "crt-store", "traces", "log-profile", "acme", "healthcheck":
		return true
	default:
		return false
	}
}

// isCondition tells whether a statement begins, parts or ends a conditional block.
func isCondition(word string) bool {
	switch word {
	case ".if", ".elif", ".else", ".endif":
		return true
	default:
		return false
	}
}

// parse splits a text into its sections. What stands before the first header becomes a section
// without a kind, if it says anything.
func parse(text string) []section { return read(text).all }

// parseBlocks splits blocks into their sections, each of which lies within its block.
func parseBlocks(blocks []render.Block) []section {
	var all []section
	seen := map[string]int{}
	for _, block := range blocks {
		all = append(all, parseBlock(block, seen)...)
	}
	return all
}

// parseBlock splits a block that comes behind others, with the sections that were seen in them.
func parseBlock(block render.Block, seen map[string]int) []section {
	return readBehind(block.Text, seen).all
}

// reader is the state of parse between two lines.
type reader struct {
	all    []section
	levels []level // the conditional blocks that are open
	shared int     // the first of the sections that the next statement may belong to, -1 if it is the last one's
	// whole means that the text makes sense as a whole only: its conditional blocks do not end within
	// it, or a line may be a header or a condition, as HAProxy's environment has it.
	whole bool
}

// level is a conditional block.
type level struct {
	section int  // where it begins
	crossed bool // a section begins inside
}

// read reads a text.
func read(text string) *reader { return readBehind(text, map[string]int{}) }

// readBehind reads a text that comes behind others, in which these sections were seen.
func readBehind(text string, seen map[string]int) *reader {
	r := &reader{all: make([]section, 1), shared: -1}
	at := 0
	for raw := range strings.Lines(text) {
		r.line(raw, at)
		at += len(raw)
	}
	r.whole = r.whole || len(r.levels) > 0
	if len(r.all[0].lines) == 0 { // the first section begins with the text
		r.all = r.all[1:]
	}
	for i := range r.all {
		s := &r.all[i]
		key, end := s.id(), len(text)
		if i == 0 {
			s.start = 0
		}
		if i+1 < len(r.all) {
			end = r.all[i+1].start
		}
		s.text, s.repeat = text[s.start:end], seen[key]
		seen[key]++
	}
	return r
}

// line adds the line that begins at a place of the text.
func (r *reader) line(raw string, at int) {
	l := splitLine(raw)
	if !strings.HasSuffix(raw, "\n") {
		l.plain = false // HAProxy refuses the whole text
	}
	if len(l.words) == 0 && l.plain {
		return
	}
	r.whole = r.whole || l.known == 0 && len(l.words) > 0
	switch first := word(l, 0); {
	case isCondition(first):
		r.condition(first)
		l.conditional = true
	case isHeader(first):
		r.header(l, at)
	case r.shared >= 0:
		r.doubt(r.shared, "may have lines of another one, by a condition")
	}
	l.conditional = l.conditional || len(r.levels) > 0
	last := &r.all[len(r.all)-1]
	last.lines = append(last.lines, l)
}

// condition opens, parts or closes a conditional block. Behind a part with headers the last of them
// may be in force or not.
func (r *reader) condition(word string) {
	if word == ".if" {
		r.levels = append(r.levels, level{section: r.owner()})
		return
	}
	if len(r.levels) == 0 {
		r.whole = true
		return
	}
	if top := r.levels[len(r.levels)-1]; top.crossed && (r.shared < 0 || top.section < r.shared) {
		r.shared = top.section
	}
	if word == ".endif" {
		r.levels = r.levels[:len(r.levels)-1]
	}
}

// owner is the first section that the next statement may belong to.
func (r *reader) owner() int {
	if r.shared >= 0 {
		return r.shared
	}
	return len(r.all) - 1
}

// header begins a section.
func (r *reader) header(l line, at int) {
	s := section{kind: l.words[0], name: word(l, 1), start: at}
	more := l.words[1:]
	if s.kind == "defaults" && len(more) == 2 && more[0] == "from" {
		s.name, more = "", append([]string{""}, more...)
	}
	isProxy := s.kind == "defaults" || s.kind == "frontend" || s.isProxy()
	switch {
	case isProxy && len(more) == 3 && more[1] == "from":
		s.base = more[2]
	case isProxy && len(more) > 1: // HAProxy makes no proxy of it, or ignores words
		s.doubt = "has a header of another form than NAME or NAME from DEFAULTS"
	}
	if !l.plain {
		s.doubt = "has a header that only haproxy can read"
	}
	r.all, r.shared = append(r.all, s), -1
	for i := range r.levels {
		r.levels[i].crossed = true
	}
	if len(r.levels) > 0 {
		r.doubt(len(r.all)-1, "stands in a condition")
	}
}

// doubt notes why sections, from one of them on to the last, are for HAProxy to know.
func (r *reader) doubt(from int, why string) {
	for i := from; i < len(r.all); i++ {
		if r.all[i].doubt == "" {
			r.all[i].doubt = why
		}
	}
}

// opening is what the first statement of a text is.
type opening int

const (
	opensNothing opening = iota // there is none
	opensSection
	opensOther
)

// opens looks at the first statement of a text.
func opens(text string) opening {
	for raw := range strings.Lines(text) {
		switch l := splitLine(raw); {
		case len(l.words) == 0:
			continue
		case l.known > 0 && isHeader(l.words[0]):
			return opensSection
		default:
			return opensOther
		}
	}
	return opensNothing
}

// endsLine tells whether a text ends with a whole line.
func endsLine(text string) bool { return text == "" || strings.HasSuffix(text, "\n") }

// mayRule tells whether a text may have something that other texts depend on: a defaults section, a
// condition, or a first word in quotes, which may be either. It costs no more than a look over the
// beginnings of the lines.
func mayRule(text string) bool {
	for raw := range strings.Lines(text) {
		first := strings.TrimLeft(raw, blanks)
		if end := strings.IndexAny(first, blanks+"#"); end >= 0 {
			first = first[:end]
		}
		if first == "defaults" || strings.HasPrefix(first, ".") || strings.ContainsAny(first, `"'\`) {
			return true
		}
	}
	return false
}
