package haproxy

import (
	"slices"
	"strconv"
	"strings"
)

// line is one statement of a configuration.
type line struct {
	words []string
	// plain means that words are certainly what HAProxy reads: no variable is expanded and no
	// escape is used that this reader leaves alone.
	plain bool
	raw   string
}

// key tells statements apart: equal keys mean the same to HAProxy. Comments and blanks do not count
// in a plain line, everything counts in others.
func (l line) key() string {
	if !l.plain {
		return "\x01" + l.raw
	}
	return strings.Join(l.words, "\x00")
}

// section is a run of statements that begins with its header, such as "backend web from http".
type section struct {
	kind, name string
	repeat     int    // how many sections of that kind and name stand before it
	lines      []line // the header first; none of them is empty
	text       string // as it stands in the file
}

// id names a section within its file.
func (s section) id() string {
	id := strings.TrimSpace(s.kind + " " + s.name)
	if s.repeat > 0 {
		id += " (" + strconv.Itoa(s.repeat+1) + ")"
	}
	return id
}

// from is the named defaults section that a proxy takes, "" if it does not say so.
func (s section) from() string {
	if len(s.lines) == 0 {
		return ""
	}
	words := s.lines[0].words
	if i := slices.Index(words, "from"); i >= 1 && i+1 < len(words) {
		return words[i+1]
	}
	return ""
}

// isHeader tells whether a statement opens a section.
func isHeader(word string) bool {
	switch word {
	case "global", "defaults", "frontend", "backend", "listen", "userlist", "peers", "resolvers",
		"mailers", "cache", "program", "http-errors", "ring", "log-forward", "fcgi-app", "traces",
		"crt-store", "log-profile", "acme", "healthcheck":
		return true
	default:
		return false
	}
}

// parse splits a text into its sections. What stands before the first header becomes a section
// without a kind, if it says anything.
func parse(text string) []section {
	var all []section
	var cur section
	start, at := 0, 0
	finish := func() {
		cur.text = text[start:at]
		if len(cur.lines) > 0 || cur.kind != "" {
			all = append(all, cur)
			start = at
		}
	}
	for raw := range strings.Lines(text) {
		l := splitLine(strings.TrimRight(raw, "\n"))
		if len(l.words) > 0 && isHeader(l.words[0]) {
			finish()
			cur = section{kind: l.words[0]}
			if len(l.words) > 1 && l.words[1] != "from" {
				cur.name = l.words[1]
			}
		}
		if len(l.words) > 0 || !l.plain {
			cur.lines = append(cur.lines, l)
		}
		at += len(raw)
	}
	finish()
	seen := map[string]int{}
	for i := range all {
		key := all[i].id()
		all[i].repeat = seen[key]
		seen[key]++
	}
	return all
}

// splitLine reads one line with HAProxy's rules: blanks part words, '#' begins a comment, quotes of
// both kinds and backslashes take away the meaning of what they cover.
func splitLine(raw string) line {
	s := splitter{plain: true}
	i := 0
	for i < len(raw) && !s.done {
		i += s.take(raw[i:])
	}
	s.endWord()
	if s.quote != 0 {
		s.plain = false
	}
	return line{words: s.words, plain: s.plain, raw: strings.TrimSpace(raw)}
}

// splitter is the state of splitLine between two bytes.
type splitter struct {
	words  []string
	word   []byte
	inWord bool
	quote  byte
	plain  bool
	done   bool
}

// take reads what stands at the beginning of rest and returns how many bytes that was.
func (s *splitter) take(rest string) int {
	c := rest[0]
	switch {
	case s.quote == '\'' && c != '\'':
		s.emit(c)
	case c == '\\':
		return s.escape(rest)
	case s.quote == c && c != 0:
		s.quote = 0
	case s.quote == 0 && (c == '\'' || c == '"'):
		s.quote, s.inWord = c, true
	case s.quote == 0 && (c == ' ' || c == '\t'):
		s.endWord()
	case s.quote == 0 && c == '#':
		s.done = true
	default:
		if (s.quote == '"' && c == '$') || c < ' ' || c == 0x7f {
			s.plain = false
		}
		s.emit(c)
	}
	return 1
}

// escape reads a backslash outside single quotes.
func (s *splitter) escape(rest string) int {
	if len(rest) < 2 {
		s.plain = false
		s.emit('\\')
		return 1
	}
	if next := rest[1]; next == '\\' || next == '"' || (s.quote == 0 && (next == ' ' || next == '#' || next == '\'')) {
		s.emit(next)
		return 2
	}
	s.plain = false
	s.emit('\\')
	return 1
}

func (s *splitter) emit(c byte) {
	s.word, s.inWord = append(s.word, c), true
}

func (s *splitter) endWord() {
	if s.inWord {
		s.words = append(s.words, string(s.word))
	}
	s.word, s.inWord = s.word[:0], false
}
