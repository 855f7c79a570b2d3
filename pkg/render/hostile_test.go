package render

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/template/parse"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// hostile are texts by which somebody may try to say more in HAProxy's configuration than one word.
var hostile = []string{
	"a\nserver x 1.2.3.4:80", "a\r", "\x00", "\u2028", "\u0085", "'", "''", `"`, `\`, `\'`, `a\`, "'\\''", "#", "a #", "$HOME", "${HOME}", `"${HOME}"`, "%", "%%", "%[env(HOME)]", "100%",
	"a b", " a", "a ", ";", "a,b", ")", "str(x)", "}", "{ }", "||", "unless TRUE", "-i", "--", "@1", "{{.Node}}", "é ü €", "\U0001F600", "<html>",
	strings.Repeat("x", 1000), strings.Repeat("%", 1024), strings.Repeat("'", 1024), strings.Repeat("a ", 500), "a" + strings.Repeat(",a", 31),
}

// mild are texts that labels take, whatever they are for: a new one needs one here.
var mild = []string{
	"true", "false", "http", "tcp", "none", "docker", "/", "/api", "/api/", "/a%20b/~c", "/%25/" + strings.Repeat("p", 500), "http:/health?a=b%20c",
	"1", "2", "80", "100", "256", "0", "8080", "9000", "65535", "1000000", "1ms", "1500ms", "1m30s", "480h", "0s", "2m",
	"roundrobin", "leastconn", "first", "random", "random(3)", "source", "uri", "uri whole", "uri path-only", "url_param x", "url_param ._-", "hdr(X-Y)", "hdr(-)",
	"web", "api", "a.test", "*.b.test", "A.test,b.test, c.test", "published", "container", "prefer", "any", "terminate", "passthrough", "server", "https",
	"v1", "v2", "post", "api:10", "api:10,db:0", "users", "id", "v1,v2", strings.Repeat("s", 63), manyOf(64, "h%d.test"), manyOf(16, "s%d:1"), manyOf(32, "tag%d"),
}

// arguments are what may follow a label whose name ends in a dot.
var arguments = []string{"X-Note", "x_note", "Host", "Cookie", "-", "_", "a b", "team", "%", "'", "Content-Length", strings.Repeat("X", 63)}

func manyOf(n int, format string) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf(format, i))
	}
	return strings.Join(list, ",")
}

// labelValue is a label, without "sidekick.", with one of its values.
type labelValue struct{ name, text string }

// valid are all labels with those of the texts here that they take.
func valid(tb testing.TB) []labelValue {
	tb.Helper()
	var list []labelValue
	for _, row := range service.LabelNames() {
		before := len(list)
		for i, name := range namesOf(row) {
			for _, text := range slices.Concat(mild, hostile) {
				if (i == 0 || text == mild[0]) && takes(name, text) { // all texts with one name, all names with one text
					list = append(list, labelValue{name, text})
				}
			}
		}
		if len(list) == before {
			tb.Fatalf("none of the texts here is one for the label sidekick.%s: add some", row)
		}
	}
	return list
}

// takes tells whether a text is valid as a label's value.
func takes(name, text string) bool {
	d := service.NewDefinition()
	return d.Set(name, text) == nil
}

// namesOf are the labels of a row of the table.
func namesOf(row string) []string {
	if !strings.HasSuffix(row, ".") {
		return []string{row}
	}
	var names []string
	for _, arg := range arguments {
		names = append(names, row+arg)
	}
	return names
}

// anyLabels draws labels with values that they take, and now and then another.
func anyLabels(t *rapid.T) map[string]string {
	drawn := map[string]string{}
	for _, row := range service.LabelNames() {
		if rapid.IntRange(0, 3).Draw(t, row+"?") > 0 {
			continue
		}
		name := rapid.SampledFrom(namesOf(row)).Draw(t, row)
		if rapid.IntRange(0, 49).Draw(t, name+" hostile") == 0 {
			drawn[name] = anyText(t, name)
			continue
		}
		if free := rapid.StringMatching(`[ -~é€]{0,30}`).Draw(t, name+" free"); takes(name, free) && rapid.Bool().Draw(t, "free") {
			drawn[name] = free
		} else if fine := slices.DeleteFunc(slices.Concat(mild, hostile), func(text string) bool { return !takes(name, text) }); len(fine) > 0 {
			drawn[name] = rapid.SampledFrom(fine).Draw(t, name)
		}
	}
	return drawn
}

// addLabels says in an instance's value what labels say, whether they are valid or not.
func addLabels(v map[string]any, labels map[string]string) {
	options, meta := map[string]string{}, map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		text := labels[name]
		key, isMeta := strings.CutPrefix(name, "meta.")
		switch {
		case isMeta:
			meta[key] = text
		case name == "host":
			v["hosts"] = splitList(text)
		case name == "tags":
			v["tags"] = splitList(text)
		case name == "port", name == "listen", name == "weight":
			if n, err := strconv.Atoi(text); err == nil {
				v[name] = n
			}
		case name == "service", name == "path", name == "mode":
			v[name] = text
		default:
			options[name] = text
		}
	}
	v["options"], v["meta"] = options, meta
}

// splitList is a label's list, as the label's grammar takes it apart.
func splitList(text string) []string {
	list := strings.Split(text, ",")
	for i := range list {
		list[i] = strings.Trim(list[i], " ")
	}
	return list
}

// valueOf is the value that the agent writes for a container with these labels, nil if it refuses them.
func valueOf(tb testing.TB, labels map[string]string, v map[string]any) []byte {
	tb.Helper()
	full := map[string]string{}
	for name, text := range labels {
		full["sidekick."+name] = text
	}
	defs, _ := service.ParseLabels(full)
	if len(defs) != 1 || defs[0].Err != nil {
		return nil
	}
	d := defs[0]
	if d.Service != "" {
		v["service"] = d.Service
	}
	v["mode"], v["hosts"], v["path"], v["listen"], v["weight"], v["options"], v["tags"], v["meta"] = d.Mode, d.Hosts, d.Path, d.Listen, d.Weight, d.Options, d.Tags, d.Meta
	b, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// The characters that a template's own text is marked with, so that those of values stand out.
const (
	ownLine, ownBlank, ownHash, ownQuote = "\uE000", "\uE001", "\uE002", "\uE003"
)

// marked is the built-in template with marks in its own text: before the ends of lines, and in place of
// blanks, hashes and double quotes.
func marked(tb testing.TB) *Renderer {
	tb.Helper()
	r := builtin(tb, hostSettings())
	mark := strings.NewReplacer("\n", ownLine+"\n", " ", ownBlank, "#", ownHash, `"`, ownQuote)
	for _, t := range r.main.Templates() {
		afterServices := false
		walk(t.Root, func(n parse.Node) {
			switch n := n.(type) {
			case *parse.ActionNode:
				afterServices = strings.Contains(n.String(), "services")
			case *parse.TextNode:
				first, text := "", n.Text
				if afterServices && bytes.HasPrefix(text, []byte("\n")) { // it has to stand alone in its line
					first, text = "\n", text[1:]
				}
				n.Text, afterServices = []byte(first+mark.Replace(string(text))), false
			}
		})
	}
	return r
}

// unmark takes the marks away again.
func unmark(files Files) Files {
	plain := strings.NewReplacer(ownLine, "", ownBlank, " ", ownHash, "#", ownQuote, `"`)
	without := make(Files, 0, len(files))
	for _, f := range files {
		blocks := make([]Block, 0, len(f.Blocks))
		for _, b := range f.Blocks {
			blocks = append(blocks, NewBlock(b.Name, plain.Replace(b.Text)))
		}
		without = append(without, File{Name: f.Name, Blocks: blocks})
	}
	return without
}

// foreign finds what a value has added to a text but its own words: a line, or in the configuration a word,
// a comment or open quotes. It returns the line.
func foreign(text string, configuration bool) (line, what string) {
	for line := range strings.Lines(strings.TrimSuffix(text, "\n")) {
		inner, ended := strings.CutSuffix(line, "\n")
		if ended && !strings.HasSuffix(inner, ownLine) {
			return line, "a line's end"
		}
		if word, _, _ := strings.Cut(strings.TrimLeft(inner, ownBlank), ownBlank); !configuration || word == "balance" { // which has two words by its grammar
			continue
		}
		if what := outsideQuotes(inner); what != "" {
			return line, what
		}
	}
	return "", ""
}

func outsideQuotes(line string) string {
	single, double := false, false
	for i := 0; i < len(line); i++ {
		own := strings.HasPrefix(line[i:], ownQuote)
		switch c := line[i]; {
		case single:
			single = c != '\''
		case own:
			double = !double
		case double:
		case c == '\'':
			single = true
		case strings.HasPrefix(line[i:], `\'`): // between quotes of one word
			i++
		case strings.HasPrefix(line[i:], ownHash):
			return "" // the template's own comment
		case c == ' ' || c == '\t':
			return "a word"
		case c == '#':
			return "a comment"
		case c == '"' || c == '\\':
			return "a quote"
		}
	}
	if single || double {
		return "open quotes"
	}
	return ""
}

// hostSettings and hostInput are what the labels' features need of the host that looks at them: a feature
// that needs more has it here.
func hostSettings() Settings {
	s := testSettings()
	s.Set = map[string]string{"auth-dir": "/users"}
	return s
}

func hostInput(c *service.Catalog) Input {
	user := User{Name: `a'b "c" # d`, Hash: md5Hash}
	return Input{Catalog: c, Users: map[string]UserFile{"users": {Users: []User{user}}, "id": {Why: "it is broken"}}}
}

// checkForeign wants nothing in the files of a catalog but what the template began, and returns them.
func checkForeign(t rapid.TB, r *Renderer, in Input) Files {
	t.Helper()
	files, _, err := r.Render(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Secret() { // a certificate, which is no template's
			continue
		}
		for _, b := range f.Blocks {
			if line, what := foreign(b.Text, f.Name == ""); what != "" {
				t.Fatalf("a value began %s in file %q, %s: %q", what, f.Name, b.Name, line)
			}
		}
	}
	return unmark(files)
}

// Whatever is registered: each line, and each word, is one that the template began, and HAProxy takes the
// whole (P7, F7).
func TestHostileCatalogs(t *testing.T) {
	needHAProxy(t)
	certificates := []Certificate{madeCertificate(t, "a", 1, time.Hour, "a.test"), madeCertificate(t, "b", 2, time.Hour, "*.a.test")}
	rapid.Check(t, func(rt *rapid.T) {
		items := anyCatalog(rt)
		in := hostInput(catalogOf(items, slices.Sorted(maps.Keys(items))))
		if rapid.Bool().Draw(rt, "certificates") {
			in.Certificates = certificates
		}
		files := checkForeign(rt, marked(t), in)
		if rapid.IntRange(0, 9).Draw(rt, "check") == 0 {
			checkHAProxy(t, files)
		}
	})
}

// FuzzRender is the same without HAProxy, led by what the inputs reach.
func FuzzRender(f *testing.F) {
	r := marked(f)
	f.Fuzz(rapid.MakeFuzz(func(t *rapid.T) {
		items := anyCatalog(t)
		checkForeign(t, r, hostInput(catalogOf(items, slices.Sorted(maps.Keys(items)))))
	}))
}

// Every label with everything that it takes, from a container and from the registry, and all of them in
// one configuration: so is a new one, as soon as it is in the table of labels (P7, F7).
func TestEveryLabel(t *testing.T) {
	b := service.NewBuilder("/p")
	for i, l := range valid(t) {
		for _, from := range []string{"container", "registry"} {
			name := fmt.Sprintf("%s-%d", from, i)
			v := map[string]any{"service": name, "address": "10.0.0.1", "port": 80, "hosts": []string{name + ".test"}, "path": "/api"}
			value := valueOf(t, map[string]string{"service": name, "host": name + ".test", "path": "/api", l.name: l.text}, maps.Clone(v))
			if from == "registry" {
				addLabels(v, map[string]string{l.name: l.text})
				value = mustJSON(t, v)
			}
			b.Put("/p/v1/instances/n/"+name, value)
		}
	}
	c := b.Catalog(0)
	for _, r := range c.Rejected {
		t.Errorf("%s: %s", r.Name, r.Reason)
	}
	in := hostInput(c)
	in.Certificates = []Certificate{madeCertificate(t, "a", 1, time.Hour, "a.test")}
	files := checkForeign(t, marked(t), in)
	if diff := cmp.Diff(printed(mustFiles(t, in)), printed(files)); diff != "" {
		t.Errorf("the marks change more than marks (-without +with):\n%s", diff)
	}
	checkHAProxy(t, files)
}

func mustFiles(t *testing.T, in Input) Files {
	t.Helper()
	files, _, err := builtin(t, hostSettings()).Render(in)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestForeign(t *testing.T) {
	line := func(s string) string {
		return strings.NewReplacer("_", ownBlank, "~", ownQuote, "§", ownHash, "\n", ownLine+"\n").Replace(s) + "\n"
	}
	tests := map[string]string{
		"":                                    "",
		"__set_'a b # \" \\ '\\''c'\nb":       "",
		"string_~no such~_§ it's a comment\n": "",
		"balance_url_param x":                 "",
		"server_a b":                          "a word",
		"server_a\tb":                         "a word",
		"server_a#":                           "a comment",
		"server_\"a":                          "a quote",
		"server_a\\":                          "a quote",
		"server_'a":                           "open quotes",
		"server_~a":                           "open quotes",
	}
	for text, want := range tests {
		if at, got := foreign(line(text), true); got != want {
			t.Errorf("%q: got %q at %q, want %q", text, got, at, want)
		}
	}
	if _, got := foreign("a"+ownLine+"\nb\nc"+ownLine+"\n", false); got != "a line's end" {
		t.Errorf("a line of a value: %q", got)
	}
}
