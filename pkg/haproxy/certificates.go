package haproxy

import (
	"crypto/tls"
	"slices"
	"strings"
)

// maxPayload bounds what is sent with one statement: HAProxy's buffer has 16 KiB by default, and more
// closes the connection without a word.
const maxPayload = 15 << 10

// certificate is what HAProxy is sent of a file with a certificate and its key. HAProxy takes any
// rubbish here and says that all is well, so only what can be served goes by this way: what cannot
// is for its check to refuse, which comes before a reload.
func certificate(text string) (pem, why string) {
	if _, err := tls.X509KeyPair([]byte(text), []byte(text)); err != nil {
		return "", "it is no certificate with its key (" + err.Error() + ")"
	}
	var b strings.Builder
	for raw := range strings.Lines(text) {
		// An empty line would end the payload.
		if row := strings.TrimSpace(raw); row != "" {
			b.WriteString(row + "\n")
		}
	}
	if b.Len() > maxPayload {
		return "", "it is too large for a runtime command"
	}
	return b.String(), ""
}

// listLine is a line of a crt-list.
type listLine struct {
	certificate string // the file's name
	text        string // the whole line, with one blank between words
	filters     []string
}

// readList reads a crt-list: on each line a certificate, options in brackets, and the names that it is
// for, if not its own ones.
func readList(text string) []listLine {
	var all []listLine
	for raw := range strings.Lines(text) {
		words := strings.Fields(raw)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		l := listLine{certificate: words[0], text: strings.Join(words, " ")}
		rest := strings.TrimSpace(strings.TrimPrefix(l.text, words[0]))
		if strings.HasPrefix(rest, "[") {
			_, rest, _ = strings.Cut(rest, "]")
		}
		l.filters = strings.Fields(rest)
		all = append(all, l)
	}
	return all
}

// certificatesOf are the files that a crt-list names.
func certificatesOf(list []listLine) map[string]bool {
	names := map[string]bool{}
	for _, l := range list {
		names[l.certificate] = true
	}
	return names
}

// listChanges are the lines to add to a crt-list and those to delete. The first line is the
// certificate for names that no other is for, and of two for one name the first one counts: so lines
// come at the end, or anywhere if each says for which names it is.
func listChanges(was, now []listLine) (added, deleted []listLine, why string) {
	if len(was) == 0 || len(now) == 0 || was[0].text != now[0].text {
		return nil, nil, "its first line differs"
	}
	if len(certificatesOf(was)) != len(was) || len(certificatesOf(now)) != len(now) {
		return nil, nil, "it names a certificate twice"
	}
	var kept, stayed []listLine
	added, kept = apart(now, was)
	deleted, stayed = apart(was, now)
	before := certificatesOf(was)
	switch end := now[len(now)-len(added):]; {
	case slices.ContainsFunc(added, func(l listLine) bool { return before[l.certificate] || !safeLine.MatchString(l.text) }):
		return nil, nil, "a line's options or names differ"
	case slices.ContainsFunc(deleted, func(l listLine) bool { return !safeKey.MatchString(l.certificate) }):
		return nil, nil, "a name cannot be used at run time"
	case unambiguous(was) && unambiguous(now):
	case !slices.EqualFunc(kept, stayed, sameListLine) || !slices.EqualFunc(end, added, sameListLine):
		return nil, nil, "the order of its lines counts"
	}
	return added, deleted, ""
}

func sameListLine(a, b listLine) bool { return a.text == b.text }

// apart parts the lines of a list into those that another one has not and those that it has.
func apart(list, other []listLine) (only, both []listLine) {
	has := map[string]bool{}
	for _, l := range other {
		has[l.text] = true
	}
	for _, l := range list {
		if has[l.text] {
			both = append(both, l)
		} else {
			only = append(only, l)
		}
	}
	return only, both
}

// unambiguous tells whether each line says for which names it is, and no two say the same one.
func unambiguous(list []listLine) bool {
	seen := map[string]bool{}
	for _, l := range list {
		if len(l.filters) == 0 {
			return false
		}
		for _, f := range l.filters {
			if seen[f] || strings.HasPrefix(f, "!") {
				return false
			}
			seen[f] = true
		}
	}
	return true
}
