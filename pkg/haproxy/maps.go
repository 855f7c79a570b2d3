package haproxy

import (
	"regexp"
	"slices"
	"strings"
)

// Entry is one line of a map: a key, which has no blanks, and the value behind it.
type Entry struct{ Key, Value string }

// table is a map file as HAProxy reads it.
type table struct {
	entries []Entry
	values  map[string]string
	// why says what HAProxy cannot be told at run time; "" if nothing.
	why    string
	double bool // a key stands there twice: the first one counts
}

// safeKey and safeValue mean nothing to HAProxy's command line but themselves.
var (
	safeKey   = regexp.MustCompile(`^[A-Za-z0-9_.:,/()\[\]@%+=*~!?&-]{1,1000}$`)
	safeValue = regexp.MustCompile(`^[A-Za-z0-9_.:,/()\[\]@%+=*~!?&-]{1,1000}$`)
)

// readTable reads a map file by HAProxy's rules: a '#' at the very beginning of a line makes it a
// comment, the key ends at the first blank, the value is the rest without blanks around it.
func readTable(text string) *table {
	t := &table{values: map[string]string{}}
	for raw := range strings.Lines(text) {
		if raw[0] == '#' {
			continue
		}
		row := strings.Trim(raw, " \t\r\n")
		if row == "" {
			continue
		}
		e := Entry{Key: row}
		if i := strings.IndexAny(row, " \t"); i > 0 {
			e = Entry{row[:i], strings.TrimLeft(row[i:], " \t")}
		}
		t.add(e)
	}
	return t
}

func (t *table) add(e Entry) {
	switch {
	case e.Value == "":
		t.why = "the key " + e.Key + " without a value"
	case e.Key[0] == '#', len(e.Key)+len(e.Value) > maxLine/2, strings.ContainsAny(e.Key+e.Value, "\r\x00"):
		t.why = "a line that only haproxy can read"
	}
	if _, known := t.values[e.Key]; known {
		t.double = true
	} else {
		t.values[e.Key] = e.Value
	}
	t.entries = append(t.entries, e)
}

// ordered tells whether a lookup by that method gives the first entry that matches, so that their
// order counts. The others find the exact key or the longest one. One address can be written as
// several keys, of which the first one counts.
func ordered(method string) bool {
	lookup, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(method, "map"), "_"), "_")
	switch lookup {
	case "", "str", "beg":
		return false
	default:
		return true
	}
}

// transactionShare is how large a part of a map may change entry by entry: HAProxy looks for each one
// in a list, a transaction hands the whole map over.
const transactionShare = 4

// changes are the commands that make a map of now what wanted says. In an ordered one the order of
// entries counts.
func (t *table) changes(file string, wanted *table, ordered bool) (cmds []Command, why string) {
	if wanted.why != "" {
		return nil, wanted.why
	}
	if slices.Equal(t.entries, wanted.entries) {
		return nil, ""
	}
	single, safe := t.single(file, wanted)
	if !safe || ordered || t.double || wanted.double || len(single)*transactionShare > len(wanted.entries)+transactionShare {
		return []Command{{Op: OpMapReplace, File: file, Entries: wanted.entries}}, ""
	}
	return single, ""
}

// single are the commands for each entry that differs: what is new before what is gone.
func (t *table) single(file string, wanted *table) (cmds []Command, safe bool) {
	for _, e := range wanted.entries {
		switch now, known := t.values[e.Key]; {
		case known && now == e.Value:
			continue
		case !safeKey.MatchString(e.Key) || !safeValue.MatchString(e.Value):
			return nil, false
		case known:
			cmds = append(cmds, Command{Op: OpMapSet, File: file, Entries: []Entry{e}})
		default:
			cmds = append(cmds, Command{Op: OpMapAdd, File: file, Entries: []Entry{e}})
		}
	}
	for _, e := range t.entries {
		if _, stays := wanted.values[e.Key]; stays {
			continue
		}
		if !safeKey.MatchString(e.Key) {
			return nil, false
		}
		cmds = append(cmds, Command{Op: OpMapDelete, File: file, Entries: []Entry{e}})
	}
	return cmds, true
}

// parseTable reads the answer to `show map`: lines of an address in memory, the key and the value.
func parseTable(answer string) *table {
	t := &table{values: map[string]string{}}
	for raw := range strings.Lines(answer) {
		_, rest, _ := strings.Cut(strings.TrimRight(raw, "\r\n"), " ")
		key, value, _ := strings.Cut(rest, " ")
		if key != "" {
			t.add(Entry{key, value})
		}
	}
	return t
}
