package haproxy

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekick-proxy/sidekick/internal/certtest"
	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// corpus are configurations in the styles that are found in public, by their names.
func corpus(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("testdata/corpus/*.cfg")
	if err != nil || len(paths) == 0 {
		t.Fatalf("the corpus: %d files, %v", len(paths), err)
	}
	texts := map[string]string{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[strings.TrimSuffix(filepath.Base(path), ".cfg")] = string(text)
	}
	return texts
}

// TestCorpusRead: the reader is certain of every line without a variable, and every text but those that
// name their own lines can be read by parts.
func TestCorpusRead(t *testing.T) {
	for name, text := range corpus(t) {
		t.Run(name, func(t *testing.T) {
			r := read(text)
			if names := strings.Contains(text, "${."); r.whole != names {
				t.Errorf("makes sense as a whole only: got %v, want %v", r.whole, names)
			}
			for _, s := range r.all {
				for _, l := range s.lines {
					if !l.plain && !strings.Contains(l.raw, "$") && !strings.Contains(l.raw, `""`) {
						t.Errorf("the line %q is only for haproxy to read, want certainty", l.raw)
					}
				}
			}
			if cmds, reason := Plan(files(text), lineBlocks(text), Capabilities{}); len(cmds) > 0 || reason.needed() {
				t.Errorf("the plan for the same text in blocks: got %v, %v, want nothing", cmds, reason)
			}
		})
	}
}

// TestCorpusAgrees: HAProxy accepts the corpus, and what it then runs is what the reader says.
func TestCorpusAgrees(t *testing.T) {
	texts := corpus(t)
	haproxytest.Each(t, func(each haproxytest.T) {
		_, old, _ := strings.Cut(each.Name(), "/2.")
		for _, name := range slices.Sorted(maps.Keys(texts)) {
			if old != "" && strings.HasPrefix(texts[name], "# needs 3.0\n") {
				continue // it has keywords that 2.6 does not know
			}
			each.Run(name, func(t *testing.T) {
				o := newOracle(haproxytest.T{T: t, Bin: each.Bin})
				if err := os.CopyFS(o.dir, os.DirFS("testdata/corpus/files")); err != nil {
					t.Fatal(err)
				}
				o.path("site.pem", certtest.Make(t, 1, time.Hour, "shop.example.com").PEM())
				if refused := o.refused(texts[name]); len(refused) > 0 {
					t.Fatalf("haproxy refuses the lines %v", slices.Sorted(maps.Keys(refused)))
				}
				text := harmless(texts[name])
				mustRun(t, o.start(text), text)
			})
		}
	})
}

// harmless is a text that HAProxy can run as anybody and without a master beside others: it listens on
// sockets of its own directory.
func harmless(text string) string {
	var out strings.Builder
	kind := ""
	for raw := range strings.Lines(text) {
		l := splitLine(raw)
		if isHeader(word(l, 0)) {
			kind = l.words[0]
		}
		switch first := word(l, 0); {
		case first == "bind":
			raw = fmt.Sprintf(" bind unix@bind%d.sock\n", out.Len())
		case first == "dgram-bind", kind == "program", kind == "global" && drops(first, word(l, 1)):
			raw = "\n"
		}
		out.WriteString(raw)
	}
	return out.String()
}

// drops tells whether a statement of the global section needs rights, or another directory.
func drops(first, second string) bool {
	switch first {
	case "chroot", "user", "group", "daemon":
		return true
	default:
		return first == "stats" && second == "socket"
	}
}

// runningServer is what reader and HAProxy both know of a server.
type runningServer struct {
	Weight   int
	Disabled bool
}

// mustRun compares what a HAProxy runs with what the reader finds in its text.
func mustRun(t *testing.T, api runtimeAPI, text string) {
	t.Helper()
	answer, err := ask(t.Context(), api.path, "show servers state")
	if err != nil {
		t.Fatal(err)
	}
	list, err := parseServers(answer)
	if err != nil {
		t.Fatal(err)
	}
	live := map[string]map[string]liveServer{}
	for row := range list.rows() {
		s := list.live(row)
		if live[s.backend] == nil {
			live[s.backend] = map[string]liveServer{}
		}
		live[s.backend][s.name] = s
	}
	all := parse(text)
	defaults := defaultsOf(all)
	seen := map[string]bool{}
	for _, s := range all {
		p := readProxy(s, defaults(s))
		if s.kind != "frontend" && !s.isProxy() || p.off || p.doubtful {
			continue
		}
		seen[s.kind+" "+s.name] = true
		if s.isProxy() {
			mustHaveServers(t, p, live[p.name])
		}
	}
	mustName(t, api, seen)
}

// mustHaveServers compares the servers of one proxy.
func mustHaveServers(t *testing.T, p *proxy, live map[string]liveServer) {
	t.Helper()
	want, got := map[string]runningServer{}, map[string]runningServer{}
	for _, s := range p.servers {
		l, runs := live[s.name]
		switch {
		case !runs:
			t.Errorf("%s has no server %s in haproxy", p.id, s.name)
		case p.why == "" && s.why == "":
			want[s.name], got[s.name] = runningServer{s.weight, s.disabled}, runningServer{l.weight, l.maint}
			if differentAddress(s.address, l.address) {
				t.Errorf("%s/%s: address %s, haproxy has %s", p.name, s.name, s.address, l.address)
			}
		}
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("%s: servers (-haproxy +reader):\n%s", p.id, diff)
	}
	for name := range live {
		if p.find(name) == nil && !p.templates {
			t.Errorf("%s has no server %s for the reader, but for haproxy", p.id, name)
		}
	}
}

// mustName looks whether HAProxy has the proxies.
func mustName(t *testing.T, api runtimeAPI, proxies map[string]bool) {
	t.Helper()
	answer, err := ask(t.Context(), api.path, "show stat")
	if err != nil {
		t.Fatal(err)
	}
	for id := range proxies {
		kind, name, _ := strings.Cut(id, " ")
		for side, kinds := range map[string]string{"FRONTEND": "frontend listen", "BACKEND": "backend listen"} {
			want := strings.Contains(kinds, kind)
			other := proxies["frontend "+name] && proxies["backend "+name]
			if got := strings.Contains(answer, "\n"+name+","+side+","); got != want && !other {
				t.Errorf("%s: haproxy has it as a %s: %v, want %v", id, strings.ToLower(side), got, want)
			}
		}
	}
}
