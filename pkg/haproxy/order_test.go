package haproxy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// TestOrderOfServersCounts: where the place of a line decides which server answers, a change leaves the
// same one answering as a start with the new text would (P6).
func TestOrderOfServersCounts(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.start(t)
		b.run(t)
		addresses := map[string]string{}
		for _, name := range []string{"a", "b", "c"} {
			addresses[name] = haproxytest.Server(t, name)
		}
		for i, c := range []struct {
			options, word string
			steps         [][]string
			answer        string
		}{
			{"", "backup", [][]string{{"b"}, {"a", "b"}}, "a"},
			{"", "backup", [][]string{{"a", "b"}, {"b", "a"}}, "b"},
			{"", "backup", [][]string{{"a", "b"}, {"b", "c"}}, "b"},
			{"    balance first\n", "", [][]string{{"b"}, {"a", "b"}}, "a"},
			{"    balance first\n", "", [][]string{{"a", "b"}, {"b", "a"}}, "b"},
			{"    balance first\n", "", [][]string{{"a", "b"}, {"b"}, {"b", "c"}}, "b"},
		} {
			for _, names := range c.steps {
				var lines []string
				for _, name := range names {
					lines = append(lines, fmt.Sprintf("%s%d %s %s", name, i, addresses[name], c.word))
				}
				b.apply(t, b.withOptions(c.options, "", lines...))
			}
			if got, err := haproxytest.Get(b.addr); got != c.answer {
				t.Errorf("%q, %q, %v: got the answer of %q, %v, want that of %q", c.options, c.word, c.steps, got, err, c.answer)
			}
		}
	})
}

// TestPlanKnowsWherePlacesCount: only what would answer otherwise after a reload needs one (P6, P11).
func TestPlanKnowsWherePlacesCount(t *testing.T) {
	for name, c := range map[string]struct {
		options         string
		running, wanted []string
		reload          string
	}{
		"any order":                       {"balance leastconn", []string{"a", "b"}, []string{"c", "b", "a"}, ""},
		"one backup, any order":           {"balance random", []string{"a", "b backup"}, []string{"b backup", "c", "a"}, ""},
		"servers around backups":          {"", []string{"a", "x backup", "y backup"}, []string{"x backup", "c", "y backup", "a"}, ""},
		"a backup behind the others":      {"", []string{"x backup", "y backup"}, []string{"x backup", "a", "y backup", "z backup"}, ""},
		"a backup that goes":              {"", []string{"x backup", "y backup"}, []string{"y backup"}, ""},
		"a backup before another":         {"", []string{"y backup"}, []string{"x backup", "y backup"}, "its place before others counts"},
		"backups in another order":        {"", []string{"x backup", "y backup"}, []string{"y backup", "x backup"}, "the order of servers differs"},
		"backups that share":              {"option allbackups", []string{"y backup"}, []string{"x backup", "y backup"}, ""},
		"backups that do not after all":   {"option allbackups\nno option allbackups", []string{"y backup"}, []string{"x backup", "y backup"}, "its place before others counts"},
		"backups that may share":          {".if defined(X)\noption allbackups\n.endif", []string{"y backup"}, []string{"x backup", "y backup"}, "its place before others counts"},
		"backups by default":              {"default-server backup", []string{"x", "y"}, []string{"y", "x"}, "the order of servers differs"},
		"words for haproxy alone":         {"", []string{"x resolvers r", "y resolvers r"}, []string{"y resolvers r", "x resolvers r"}, "the order of servers differs"},
		"a table in another order":        {"balance source", []string{"a", "b"}, []string{"b", "a"}, "the order of servers differs"},
		"by number, in another order":     {"balance first", []string{"a", "b"}, []string{"b", "a"}, "the order of servers differs"},
		"by number, which none has":       {"balance first", []string{"a"}, []string{"a", "b"}, "no id"},
		"by number, one that goes":        {"balance first", []string{"a", "b"}, []string{"b"}, ""},
		"by number, which they have":      {"balance first", []string{"a id 7", "b id 5"}, []string{"c id 6", "b id 5", "a id 7"}, ""},
		"by number, of backups they have": {"balance first", []string{"a id 7 backup"}, []string{"b id 8 backup", "a id 7 backup"}, "its place before others counts"},
	} {
		text := func(servers []string) string {
			var s strings.Builder
			s.WriteString("defaults d\nbackend b from d\n" + c.options + "\n")
			for _, line := range servers {
				name, words, _ := strings.Cut(line, " ")
				fmt.Fprintf(&s, "server %s 10.0.0.1:80 %s\n", name, words)
			}
			return s.String()
		}
		_, reason := Plan(files(text(c.running)), files(text(c.wanted)), Capabilities{})
		if reason.needed() != (c.reload != "") || !strings.Contains(reason.Detail, c.reload) {
			t.Errorf("%s: got the reason %+v, want %q", name, reason, c.reload)
		}
	}
}

// TestAuditHeedsPlaces: a server that somebody took out comes back at run time only where it gets its
// place again (P6).
func TestAuditHeedsPlaces(t *testing.T) {
	text := "defaults d\nbackend b from d\nserver x 10.0.0.1:80 backup\nserver y 10.0.0.2:80 backup\n"
	all := []liveServer{{backend: "b", name: "x", address: netip.MustParseAddrPort("10.0.0.1:80"), weight: 1}, {backend: "b", name: "y", address: netip.MustParseAddrPort("10.0.0.2:80"), weight: 1}}
	first, last := compare(text, all[1:], Capabilities{}, nil), compare(text, all[:1], Capabilities{}, nil)
	got := []string{first.reload, last.reload}
	want := []string{"b/x is not running: it is new, and its place before others counts", ""}
	if diff := cmp.Diff(want, got); diff != "" || len(last.repair) != 1 {
		t.Errorf("reasons for a reload (-want +got):\n%s\nrepairs: %v", diff, last.repair)
	}
}
