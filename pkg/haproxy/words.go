package haproxy

import (
	"slices"
	"strings"
)

// maxWords is how many words a line may have; HAProxy refuses longer ones.
const maxWords = 64

// blanks are what parts words.
const blanks = " \t\n\v\f\r"

// line is one statement of a configuration.
type line struct {
	words []string
	// plain means that words are certainly what HAProxy reads. Of another line, with a variable of
	// HAProxy's environment or something that HAProxy refuses, only the first known words are certain.
	plain bool
	known int
	// conditional means that the line stands between .if and .endif, or is one of these: only HAProxy
	// knows whether it reads the line at all.
	conditional bool
	raw         string
}

// key tells statements apart: equal keys mean the same to HAProxy. Comments and blanks do not count
// in a plain line, everything counts in others.
func (l line) key() string {
	if !l.plain {
		return "\x01" + l.raw
	}
	return strings.Join(l.words, "\x00")
}

// splitLine reads one line with HAProxy's rules: blanks part words, '#' begins a comment, quotes of
// both kinds and backslashes take away the meaning of what they cover. It reads up to the line's end,
// which a carriage return is as well.
func splitLine(raw string) line {
	s := splitter{rest: strings.TrimLeft(raw, blanks), known: -1}
	scope := strings.HasPrefix(s.rest, "[") // of other programs' files; HAProxy passes over it
	text := strings.TrimRight(s.rest, "\r\n")
	for s.next() {
	}
	if s.quote != 0 {
		s.refused = true
	}
	if word := s.taken(); word != "" {
		s.keep(word)
	}
	l := line{words: s.words, known: s.known, raw: text}
	if l.known < 0 {
		l.known = len(l.words)
	}
	if i := slices.Index(l.words, ""); i >= 0 { // for HAProxy the line ends there
		l.known = min(l.known, i)
	}
	l.plain = l.known == len(l.words) && !s.refused && !scope && strings.IndexByte(raw, 0) < 0
	return l
}

// splitter is the state of splitLine between two characters.
type splitter struct {
	rest    string // what is not read yet
	words   []string
	piece   string // the present word as it stands in the line,
	word    []byte // or what it is made of, if that is more than one piece
	quote   byte   // the quotes that are open
	known   int    // how many words are certain, -1 for all
	refused bool   // HAProxy refuses the line
}

// next reads what stands next in the line, false if that is its end.
func (s *splitter) next() bool {
	n := 0
	for n < len(s.rest) && ordinary(s.rest[n]) {
		n++
	}
	s.add(s.rest[:n])
	if s.rest = s.rest[n:]; s.rest == "" {
		return false
	}
	c := s.rest[0]
	s.rest = s.rest[1:]
	switch {
	case c == '\n' || c == '\r':
		return false
	case c == s.quote:
		s.quote = 0
	case s.quote == '\'':
		s.put(c)
	case c == '\\':
		s.escape()
	case s.quote == '"' && c == '$':
		s.variable()
	case s.quote == '"' || c == '$':
		s.put(c)
	case c == '"' || c == '\'':
		s.quote = c
	case c == '#':
		return false
	default:
		s.endWord()
	}
	return true
}

// add adds characters of the line to the present word. A word that is nothing else stays a part of the line.
func (s *splitter) add(piece string) {
	switch {
	case piece == "":
	case s.piece == "" && len(s.word) == 0:
		s.piece = piece
	default:
		s.word = append(s.apart(), piece...)
	}
}

// put adds a character to the present word.
func (s *splitter) put(c byte) { s.word = append(s.apart(), c) }

// apart is the present word as what it is made of.
func (s *splitter) apart() []byte {
	s.word, s.piece = append(s.word, s.piece...), ""
	return s.word
}

// taken is the present word, which ends.
func (s *splitter) taken() string {
	word := s.piece
	if len(s.word) > 0 {
		word = string(s.word)
	}
	s.piece, s.word = "", s.word[:0]
	return word
}

// keep adds a word to those of the line.
func (s *splitter) keep(word string) {
	const usual = 6
	if s.words == nil {
		s.words = make([]string, 0, usual)
	}
	s.words = append(s.words, word)
}

// ordinary tells whether a character means itself everywhere.
func ordinary(c byte) bool {
	switch c {
	case ' ', '\t', '\n', '\v', '\f', '\r', '"', '\'', '\\', '#', '$':
		return false
	default:
		return true
	}
}

// endWord ends a word at the blanks behind it.
func (s *splitter) endWord() {
	s.rest = strings.TrimLeft(s.rest, blanks)
	s.keep(s.taken())
	s.refused = s.refused || len(s.words) >= maxWords // even if none follows
}

// variable is a dollar sign between double quotes. What follows only HAProxy can read: an unknown
// variable even takes a quote and blanks behind it away. HAProxy's own variables, which begin with a
// dot, name the line and the file where they stand, so that nothing of the line is certain.
func (s *splitter) variable() {
	name := strings.TrimPrefix(s.rest, "{")
	s.unsure()
	if strings.HasPrefix(name, ".") {
		s.known = 0
	}
	s.put('$')
}

// unsure notes that nothing is certain from the present word on.
func (s *splitter) unsure() {
	if s.known < 0 {
		s.known = len(s.words)
	}
}

// escape reads what stands behind a backslash. A backslash before any other character means itself.
func (s *splitter) escape() {
	c := byte(0)
	if s.rest != "" {
		c = s.rest[0]
	}
	switch c {
	case ' ', '\\', '#', '\'', '"':
	case 't':
		c = '\t'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 'x':
		s.hexadecimal()
		return
	case '$':
		if s.quote == 0 {
			s.put('\\')
			return
		}
	default:
		s.put('\\')
		return
	}
	s.put(c)
	s.rest = s.rest[1:]
}

// hexadecimal reads an "x" and two digits of a character's number. HAProxy refuses less than two, and
// loses the rest of a word behind the number 0.
func (s *splitter) hexadecimal() {
	var c byte
	for _, digit := range []byte(s.rest[1:min(3, len(s.rest))]) {
		n := strings.IndexByte("0123456789abcdef", digit|0x20)
		if digit < '0' || n < 0 {
			s.refused = true
			return
		}
		c = c<<4 | byte(n) //nolint:gosec // of 4 bits
	}
	if len(s.rest) < 3 {
		s.refused = true
		return
	}
	if c == 0 {
		s.unsure()
	}
	s.put(c)
	s.rest = s.rest[3:]
}
