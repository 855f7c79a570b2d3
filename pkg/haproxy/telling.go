package haproxy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	tellMost = 5  // how many things a sentence for people names
	tellLine = 80 // how much of a line of a text it has, in bytes
)

// some names the first few of many things.
func some(things []string) string { return someOf(things, func(s string) string { return s }) }

// someOf is some, of things that say by that function what they are.
func someOf[T any](things []T, say func(T) string) string {
	var words []string
	for _, thing := range things[:min(len(things), tellMost)] {
		words = append(words, say(thing))
	}
	if more := len(things) - len(words); more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, "; ")
}

// became says how the first of the statements that differ was changed, by their keys; "" if none was.
func became(before, after []string) string {
	i := 0
	for i < len(before) && i < len(after) && before[i] == after[i] {
		i++
	}
	before, after = before[i:], after[i:]
	switch {
	case len(before) == 0 && len(after) == 0:
		return ""
	case len(after) == 0 || len(before) > len(after) && slices.Contains(before, after[0]):
		return cited(before[0]) + " is gone"
	case len(before) == 0 || len(after) > len(before) && slices.Contains(after, before[0]):
		return cited(after[0]) + " is new"
	default:
		return cited(before[0]) + " became " + cited(after[0])
	}
}

// secret is in lines that may hold a password or a key: logs and the status page are not the place for it.
var secret = regexp.MustCompile(`(?i)auth|passw|secret|token|key`)

// cited is a statement by its key, not too long and without secrets.
func cited(key string) string {
	text := strings.ReplaceAll(strings.TrimPrefix(key, "\x01"), "\x00", " ")
	if secret.MatchString(text) {
		text, _, _ = strings.Cut(text, " ")
		text += " …"
	}
	if len(text) > tellLine {
		end := tellLine
		for !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end] + "…"
	}
	return fmt.Sprintf("%q", text)
}

// otherDefaults says which defaults section is another one, and what is.
func otherDefaults(before, after []section) string {
	for i := range min(len(before), len(after)) {
		if what := became(before[i].keys(), after[i].keys()); what != "" {
			return before[i].id() + " differs: " + what
		}
	}
	if len(before) > len(after) {
		return before[len(after)].id() + " is gone"
	}
	return after[len(before)].id() + " is new"
}

// keys are those of a section's statements.
func (s section) keys() []string {
	var keys []string
	for _, l := range s.lines {
		keys = append(keys, l.key())
	}
	return keys
}

// unmet says why it is not known what a new worker runs. A child of the agent was started by it.
func unmet(first, child bool) string {
	switch {
	case first && child:
		return ": haproxy has just started, with what was on disk"
	case first:
		return ": this agent meets this haproxy for the first time, and no note says that it runs what is on disk"
	}
	return ": haproxy was started anew, or reloaded by somebody else"
}

// brief is a command in a few words, without anything that is secret or long.
func (c Command) brief() string {
	if c.File != "" {
		return string(c.Op) + " " + c.File
	}
	words := string(c.Op) + " " + c.target()
	switch c.Op {
	case OpAdd:
		return fmt.Sprintf("%s at %s with weight %d", words, c.Address, c.Weight)
	case OpWeight:
		return fmt.Sprintf("%s to %d", words, c.Weight)
	case OpMaxconn:
		return fmt.Sprintf("%s to %d", words, c.Maxconn)
	default:
		return words
	}
}
