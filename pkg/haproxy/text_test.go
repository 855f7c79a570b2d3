package haproxy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// outline is what a test says of a section.
type outline struct {
	ID, Base string
	Lines    int
	Doubt    string // a part of it
}

func TestParse(t *testing.T) {
	const condition, shared = "stands in a condition", "lines of another one"
	tests := map[string]struct {
		text  string
		want  []outline
		whole bool
	}{
		"nothing but comments": {"# a\n\n", nil, false},
		"every kind": {
			"global\ndefaults d\nfrontend f from d\nbackend b\npeers p\n server s 1.1.1.1:1\nnamespace_list\nring r\n server s 1.1.1.1:1\n",
			[]outline{{"global", "", 1, ""}, {"defaults d", "", 1, ""}, {"frontend f", "d", 1, ""}, {"backend b", "", 1, ""}, {"peers p", "", 2, ""}, {"namespace_list", "", 1, ""}, {"ring r", "", 2, ""}},
			false,
		},
		"defaults": {
			"defaults\ndefaults\ndefaults from\ndefaults from a\ndefaults from from a\ndefaults a b\n",
			[]outline{{"defaults", "", 1, ""}, {"defaults (2)", "", 1, ""}, {"defaults from", "", 1, ""}, {"defaults (3)", "a", 1, ""}, {"defaults from (2)", "a", 1, ""}, {"defaults a", "", 1, "header"}},
			false,
		},
		"headers that make no proxy": {
			"backend a b\nbackend from\nbackend a from\nbackend a from d x\nbackend \"$A\"\n\"back\"end q\n",
			[]outline{{"backend a", "", 1, "header"}, {"backend from", "", 1, ""}, {"backend a (2)", "", 1, "header"}, {"backend a (3)", "", 1, "header"}, {"backend $A", "", 1, "only haproxy"}, {"backend q", "", 1, ""}},
			false,
		},
		"before the first header": {"[scope]\nbackend a\n", []outline{{"", "", 1, ""}, {"backend a", "", 1, ""}}, false},
		"a condition within":      {"global\n.if 1\n maxconn 5\n.endif\nbackend a\n", []outline{{"global", "", 4, ""}, {"backend a", "", 1, ""}}, false},
		"a condition around":      {"backend a\n.if 1\nbackend b\n mode tcp\n.endif\nbackend c\n", []outline{{"backend a", "", 2, ""}, {"backend b", "", 3, condition}, {"backend c", "", 1, ""}}, false},
		"a condition within one around": {
			"backend a\n.if 1\nbackend b\n.if 2\n mode tcp\n.endif\n retries 3\n.endif\nbackend c\n",
			[]outline{{"backend a", "", 2, ""}, {"backend b", "", 6, condition}, {"backend c", "", 1, ""}},
			false,
		},
		"a line behind":            {"backend z\nbackend a\n.if 1\nbackend b\n.endif\n mode tcp\nbackend c\n", []outline{{"backend z", "", 1, ""}, {"backend a", "", 2, shared}, {"backend b", "", 3, condition}, {"backend c", "", 1, ""}}, false},
		"a line in the other part": {"backend a\n.if 1\nbackend b\n.else\n mode tcp\n.endif\nbackend c\n", []outline{{"backend a", "", 2, shared}, {"backend b", "", 4, condition}, {"backend c", "", 1, ""}}, false},
		"sections in both parts":   {"global\n.if 1\nbackend b\n.elif 2\nbackend b\n.endif\n", []outline{{"global", "", 2, ""}, {"backend b", "", 2, condition}, {"backend b (2)", "", 2, condition}}, false},
		"a second condition in doubt": {
			"backend a\n.if 1\nbackend b\n.endif\n.if 2\nbackend c\n.else\n mode tcp\n.endif\nbackend d\n",
			[]outline{{"backend a", "", 2, shared}, {"backend b", "", 3, condition}, {"backend c", "", 4, condition}, {"backend d", "", 1, ""}},
			false,
		},
		"never ended":        {"backend a\n.if 1\n", []outline{{"backend a", "", 2, ""}}, true},
		"never begun":        {"backend a\n.endif\n", []outline{{"backend a", "", 2, ""}}, true},
		"any line":           {"backend a\n \"$X\" b\n", []outline{{"backend a", "", 2, ""}}, true},
		"a line's own place": {"backend a\n server \"s${.LINE}\" 1.1.1.1:1\n", []outline{{"backend a", "", 2, ""}}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := read(tt.text)
			if r.whole != tt.whole {
				t.Errorf("makes sense as a whole only: got %v, want %v", r.whole, tt.whole)
			}
			if len(r.all) != len(tt.want) {
				t.Fatalf("got %d sections, want %d: %+v", len(r.all), len(tt.want), r.all)
			}
			for i, s := range r.all {
				got := outline{s.id(), s.base, len(s.lines), s.doubt}
				if strings.Contains(s.doubt, tt.want[i].Doubt) && tt.want[i].Doubt != "" {
					got.Doubt = tt.want[i].Doubt
				}
				if diff := cmp.Diff(tt.want[i], got); diff != "" {
					t.Errorf("section %d (-want +got):\n%s", i, diff)
				}
			}
		})
	}
}

// TestParseConditional: the lines of a condition are marked, whatever it holds.
func TestParseConditional(t *testing.T) {
	var got []string
	for _, s := range parse("global\n maxconn 5\n.if 1\n a\n.elif 2 # x\n b\n.endif\n c\n.if 1\nbackend x\n d\n.endif\nbackend y\n") {
		for _, l := range s.lines {
			if l.conditional {
				got = append(got, strings.Join(l.words, " "))
			}
		}
	}
	if diff := cmp.Diff([]string{".if 1", "a", ".elif 2", "b", ".endif", ".if 1", "backend x", "d", ".endif"}, got); diff != "" {
		t.Errorf("conditional lines (-want +got):\n%s", diff)
	}
}

// TestParseCutShort: a text without its last line feed, which HAProxy refuses, is not the whole one.
func TestParseCutShort(t *testing.T) {
	for _, text := range []string{planBase, planBase + "# the end\n", planBase + "  \n"} {
		if _, reason := Plan(files(text), files(strings.TrimSuffix(text, "\n")), Capabilities{}); !reason.needed() {
			t.Errorf("the plan for %q without its end needs no reload, want one that finds out", text)
		}
	}
}

// FuzzParse: the sections make up the text, and comments change nothing.
func FuzzParse(f *testing.F) {
	f.Add("")
	f.Add(planBase)
	f.Add("# a\n.if 1\nbackend 'a\\ b' from \"$D\"\n.else\n\"\" x\n.endif\r\n[s]\n server a\\x00\n")
	f.Fuzz(func(t *testing.T, text string) {
		all := parse(text)
		var joined strings.Builder
		for i, s := range all {
			joined.WriteString(s.text)
			if i > 0 && len(s.lines) == 0 {
				t.Fatalf("the section %q has no line", s.id())
			}
		}
		if len(all) > 0 && joined.String() != text {
			t.Fatalf("the sections of %q give %q", text, joined.String())
		}
		if !endsLine(text) {
			text += "\n"
		}
		before, after := parse(text), parse(text+"\n \t# a comment 'with \"quotes\n\r\n")
		if len(before) != len(after) {
			t.Fatalf("%d sections of %q, with a comment behind it %d", len(before), text, len(after))
		}
		for i := range before {
			if !sameLines(before[i], after[i]) || before[i].id() != after[i].id() || before[i].doubt != after[i].doubt {
				t.Fatalf("section %d of %q differs with a comment behind it", i, text)
			}
		}
		mustReadBack(t, before)
	})
}

// mustReadBack quotes the words of all plain lines and reads them again.
func mustReadBack(t *testing.T, all []section) {
	t.Helper()
	escape := strings.NewReplacer("'", `'\''`, "\n", `'\n'`, "\r", `'\r'`)
	for _, s := range all {
		for _, l := range s.lines {
			if !l.plain {
				continue
			}
			var quoted []string
			for _, w := range l.words {
				quoted = append(quoted, "'"+escape.Replace(w)+"'")
			}
			if again := splitLine(strings.Join(quoted, " ")); !again.plain || !cmp.Equal(again.words, l.words) {
				t.Fatalf("the words %q come back as %q", l.words, again.words)
			}
		}
	}
}

// lineBlocks cuts a text into a block per line.
func lineBlocks(text string) render.Files {
	var f render.File
	for raw := range strings.Lines(text) {
		f.Blocks = append(f.Blocks, render.NewBlock("line", raw))
	}
	return render.Files{f}
}

// TestPlanBlocks: blocks that only make sense together are read together (P12).
func TestPlanBlocks(t *testing.T) {
	const head, service = "defaults d\n mode http\n", "backend be_a from d\n server s1 10.0.0.1:80\n"
	const changed = service + " server s2 10.0.0.2:80\n"
	tests := map[string]struct {
		before, after []string
		reload        string
	}{
		"each by itself":                    {[]string{head, service}, []string{head, changed}, ""},
		"the section goes on":               {[]string{head, service, "# note\n", " balance source\n"}, []string{head, changed, "# note\n", " balance source\n"}, "not dynamic"},
		"a comment goes on":                 {[]string{head, service, "# note", "backend b\n balance source\n"}, []string{head, changed, "# note", "backend b\n balance source\n"}, "not dynamic"},
		"the line begins before":            {[]string{head + "backend b from d\n #", service}, []string{head + "backend b from d\n #", changed}, ""},
		"the defaults go on":                {[]string{head, " balance source\n", service}, []string{head, " balance source\n", changed}, "not dynamic"},
		"the defaults go on behind a note":  {[]string{head, "# note\n", " balance source\n", service}, []string{head, "# note\n", " balance source\n", changed}, "not dynamic"},
		"the condition ends elsewhere":      {[]string{head, "frontend f from d\n .if 0\n", service, "frontend g from d\n .endif\n"}, []string{head, "frontend f from d\n .if 0\n", changed, "frontend g from d\n .endif\n"}, "stands in a condition"},
		"a changed one opens the condition": {[]string{head, service + " .if 0\n", "backend b from d\n", "frontend g from d\n .endif\n"}, []string{head, changed + " .if 0\n", "backend b from d\n", "frontend g from d\n .endif # now\n"}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cmds, reason := Plan(blocksOf(tt.before), blocksOf(tt.after), Capabilities{})
			wholeCmds, whole := Plan(files(strings.Join(tt.before, "")), files(strings.Join(tt.after, "")), Capabilities{})
			if !cmp.Equal(cmds, wholeCmds) || reason != whole {
				t.Errorf("got %v, %+v, as one block %v, %+v", cmds, reason, wholeCmds, whole)
			}
			if reason.needed() != (tt.reload != "") || !strings.Contains(reason.Detail, tt.reload) {
				t.Errorf("reason: got %+v, want %q", reason, tt.reload)
			}
		})
	}
}

// blocksOf makes a text of blocks.
func blocksOf(texts []string) render.Files {
	var f render.File
	for _, text := range texts {
		f.Blocks = append(f.Blocks, render.NewBlock("block", text))
	}
	return render.Files{f}
}

// TestPlanReadingCarried: what was read of a text holds for the next one only if no condition that
// goes beyond its block came with it (P12).
func TestPlanReadingCarried(t *testing.T) {
	const head, b, c = "defaults d\n mode http\n", "backend b from d\n server s1 10.0.0.1:80\n", "backend c from d\n"
	first := blocksOf([]string{head, "backend a from d\n", b, c})
	second := blocksOf([]string{head, "backend a from d\n.if 0\n", b, c + ".endif\n"})
	third := blocksOf([]string{head, "backend a from d\n.if 0\n", b + " server s2 10.0.0.2:80\n", c + ".endif\n"})
	d := diff(first, second, Capabilities{}, nil)
	carried, fresh := diff(second, third, Capabilities{}, d.reading), diff(second, third, Capabilities{}, nil)
	if carried.reason != fresh.reason || !strings.Contains(fresh.reason.Detail, "stands in a condition") {
		t.Errorf("reason: got %+v, without the earlier reading %+v, want one for the condition", carried.reason, fresh.reason)
	}
}
