package haproxy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// splitCase is a line and what is read of it.
type splitCase struct {
	raw   string
	words []string
	plain bool
}

func splitCases() []splitCase {
	return []splitCase{
		{"  server a 1.2.3.4:80 # comment", []string{"server", "a", "1.2.3.4:80"}, true},
		{`a 'x#y "z" \ w' b`, []string{"a", `x#y "z" \ w`, "b"}, true},
		{`a b\ c\#d 'it'\''s'`, []string{"a", "b c#d", "it's"}, true},
		{`a "q\"r" "\'\#\ \\"`, []string{"a", `q"r`, `'# \`}, true},
		{`a \x41\x20b "\x5A" '\x41'`, []string{"a", "A b", "Z", `\x41`}, true},
		{`a \n\r\tb "\t"`, []string{"a", "\n\r\tb", "\t"}, true},
		{`a \q \1 \`, []string{"a", `\q`, `\1`, `\`}, true},
		{`a $HOME ${HOME} \$HOME '$HOME' "\$HOME"`, []string{"a", "$HOME", "${HOME}", `\$HOME`, "$HOME", "$HOME"}, true},
		{"a\tb\vc\fd \r e", []string{"a", "b", "c", "d", "e"}, true},
		{"a b\r\n", []string{"a", "b"}, true},
		{"a b\rc", []string{"a", "b"}, true},
		{"a \xff\x80\u00a0b", []string{"a", "\xff\x80\u00a0b"}, true},
		{`"ser"ver a`, []string{"server", "a"}, true},
		{`a#b`, []string{"a"}, true},
		{`a ""`, []string{"a"}, true},
		{`""`, nil, true},
		{"", nil, true},
		{" \t\r\n", nil, true},
		{"# only 'this", nil, true},
		{`"" b`, []string{"", "b"}, false},
		{`a '' b`, []string{"a", "", "b"}, false},
		{`a "${HOME}"`, []string{"a", "${HOME}"}, false},
		{`a \x4`, []string{"a", "x4"}, false},
		{`a \x00b`, []string{"a", "\x00b"}, false},
		{`a 'open`, []string{"a", "open"}, false},
		{"a \"b\rc\"", []string{"a", "b"}, false},
		{"a b # c\x00", []string{"a", "b"}, false},
		{"[scope] a", []string{"[scope]", "a"}, false},
	}
}

func TestSplitLine(t *testing.T) {
	for _, tt := range splitCases() {
		got := splitLine(tt.raw)
		if diff := cmp.Diff(tt.words, got.words); diff != "" || got.plain != tt.plain {
			t.Errorf("splitLine(%q): plain %v, want %v (-want +got):\n%s", tt.raw, got.plain, tt.plain, diff)
		}
	}
}

// TestSplitLineLimits: a line has 64 words, and blanks behind the last are already too much.
func TestSplitLineLimits(t *testing.T) {
	full := strings.TrimSpace(strings.Repeat("w ", 64))
	for raw, plain := range map[string]bool{full: true, full + "#": true, full + " ": false, full + " w": false} {
		if got := splitLine(raw).plain; got != plain {
			t.Errorf("a line of %d characters: plain %v, want %v", len(raw), got, plain)
		}
	}
}

// TestSplitLineKnown: the words before the first variable are certain, none if HAProxy's own place is
// asked for.
func TestSplitLineKnown(t *testing.T) {
	for raw, known := range map[string]int{
		`server a 1.1.1.1:1`:     3,
		`server a "$ADDR"`:       2,
		`server a"$X" 1.1.1.1:1`: 1,
		`"${KIND}" a`:            0,
		`log-format "${.LINE}"`:  0,
		`server "$X" "$.FILE"`:   0,
	} {
		if got := splitLine(raw).known; got != known {
			t.Errorf("splitLine(%q): %d words known, want %d", raw, got, known)
		}
	}
}

// quoted writes a word so that HAProxy reads it back, in one of several ways.
func quoted(t *rapid.T, word string) string {
	switch rapid.SampledFrom([]string{"strong", "weak", "escapes"}).Draw(t, "quotes") {
	case "strong":
		return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	case "weak":
		return `"` + strings.NewReplacer(`"`, `\"`, `\`, `\\`, `$`, `\$`).Replace(word) + `"`
	default:
		return strings.NewReplacer(`"`, `\"`, `\`, `\\`, `'`, `\'`, ` `, `\ `, "\t", `\t`, `#`, `\#`).Replace(word)
	}
}

// TestSplitLineQuoted: words that are written in quotes or escaped come back.
func TestSplitLineQuoted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(rapid.StringMatching("[a-z\"'\\\\ \t#${}]{1,6}"), 1, 6).Draw(t, "words")
		var raw strings.Builder
		for _, w := range words {
			raw.WriteString(rapid.SampledFrom([]string{" ", "\t", " \v \f"}).Draw(t, "blank") + quoted(t, w))
		}
		l := splitLine(raw.String() + " # comment\n")
		if diff := cmp.Diff(words, l.words); diff != "" || !l.plain {
			t.Fatalf("splitLine(%q): plain %v (-want +got):\n%s", raw.String(), l.plain, diff)
		}
	})
}
