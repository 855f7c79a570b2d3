package haproxy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// routed is a configuration with two backends, between which a map chooses by the path, and that map.
func (b *bench) routed(extra, one, two string, rows ...string) render.Files {
	text := strings.Replace(b.text("", "s1 "+one), "global\n", "global\n    default-path config\n", 1)
	text = strings.Replace(text, "default_backend be_web", "use_backend %[path,map_beg(paths.map)]\n    default_backend be_web", 1)
	text += "backend be_two from web\n    server s2 " + two + "\n" + extra
	return append(files(text), render.File{Name: "paths.map", Blocks: []render.Block{render.NewBlock("", strings.Join(append(rows, ""), "\n"))}})
}

// TestMapChangesNeedNoReload: entries of a map come, change and go without a reload, one by one or as
// one transaction, and what somebody else changes in it is set right (P6, P11).
func TestMapChangesNeedNoReload(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.start(t)
		b.run(t)
		one, two := haproxytest.Server(t, "one"), haproxytest.Server(t, "two")
		b.applyFiles(t, b.routed("", one, two, "/nobody be_two"))
		before := b.worker(t)
		load := haproxytest.Start(t, b.addr, 2, true)
		for _, rows := range [][]string{
			{"/nobody be_two", "/ be_two", "# a comment", "   "},
			{"/nobody be_web", "/ be_two"},
			{"/nobody be_web", "/\tbe_two  ", "/more be_web", "/more be_two"}, // a key twice: as a whole
			manyRows(3000),
			{"/ be_two"},
			{},
			{"/ be_two"},
		} {
			want := b.routed("", one, two, rows...)
			if res := b.applyFiles(t, want); res.How != HowRuntime {
				t.Fatalf("to %d rows: got %+v, want runtime", len(rows), res)
			}
			b.holdsMap(t, want)
		}
		haproxytest.Until(t, "two to answer by the map", answers(b.addr, "two"))
		for _, edit := range []string{"add map paths.map /x be_web", "set map paths.map / be_web", "clear map paths.map"} {
			if _, err := ask(t.Context(), b.cfg.RuntimeSocket, edit); err != nil {
				t.Fatal(err)
			}
			(&loop{Driver: b.driver}).audit(t.Context())
			if got := b.driver.State().Differences; got == 0 {
				t.Errorf("after %s: no difference seen", edit)
			}
			b.holdsMap(t, b.routed("", one, two, "/ be_two"))
		}
		if got := b.worker(t); got != before {
			t.Errorf("worker: got %v, want the same %v", got, before)
		}
		load.MustLoseNothing(t)
	})
}

func manyRows(n int) []string {
	var rows []string
	for i := range n {
		rows = append(rows, fmt.Sprintf("/path/%d/%s be_two", i, strings.Repeat("x", i%50)))
	}
	return append(rows, "/ be_two")
}

// holdsMap fails unless HAProxy's map has exactly the entries of the file.
func (b *bench) holdsMap(tb testing.TB, want render.Files) {
	tb.Helper()
	answer, err := ask(tb.Context(), b.cfg.RuntimeSocket, "show map paths.map")
	if err != nil {
		tb.Fatal(err)
	}
	sorted := func(t *table) []Entry {
		return slices.SortedFunc(slices.Values(t.entries), func(a, b Entry) int { return strings.Compare(a.Key+" "+a.Value, b.Key+" "+b.Value) })
	}
	if diff := cmp.Diff(sorted(readTable(want[1].Text())), sorted(parseTable(answer))); diff != "" {
		tb.Errorf("map (-want +got):\n%.2000s", diff)
	}
}

// TestMapBesideReload: a map's change does not wait for a reload that something else needs, unless it
// leads to what only the reload brings: no request loses its way.
func TestMapBesideReload(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.start(t)
		b.run(t)
		one, two := haproxytest.Server(t, "one"), haproxytest.Server(t, "two")
		b.applyFiles(t, b.routed("", one, two, "/x be_two"))
		refused := "backend be_new from web\n    nonsense\n"
		if _, err := b.driver.Apply(t.Context(), b.routed(refused, one, two, "/ be_two")); asRefused(err) == nil {
			t.Fatalf("a refused text: got %v", err)
		}
		haproxytest.Until(t, "two to answer although the text is refused", answers(b.addr, "two"))
		if _, err := b.driver.Apply(t.Context(), b.routed(refused, one, two, "/ be_new")); asRefused(err) == nil {
			t.Fatalf("a refused text: got %v", err)
		}
		b.holdsMap(t, b.routed("", one, two, "/ be_two"))
		if got, err := haproxytest.Get(b.addr); got != "two" {
			t.Errorf("got %q, %v, want the answer of two", got, err)
		}
		want := b.routed("backend be_new from web\n    server s3 "+one+"\n", one, two, "/ be_new")
		if res := b.applyFiles(t, want); res.How != HowReload {
			t.Errorf("got %+v, want a reload", res)
		}
		haproxytest.Until(t, "one to answer by way of the new backend", answers(b.addr, "one"))
	})
}

func TestPlanFiles(t *testing.T) {
	base := planBase + "frontend f\n    use_backend %[path,map_beg(a.map)]\n    default_backend be_a\n"
	tests := map[string]struct {
		config, also string // also stands behind base, before and after
		was, now     string
		cmds         []string
		reload       string
	}{
		"add":                       {was: "/b x\n", now: "/b x\n/a y\n", cmds: []string{"add map a.map /a y"}},
		"set":                       {was: "/b x\n/c x\n", now: "/b y\n/c x\n", cmds: []string{"set map a.map /b y"}},
		"delete comes last":         {was: "/b x\n/d x\n/e x\n/f x\n", now: "/c x\n/d x\n/e x\n/f x\n", cmds: []string{"add map a.map /c x", "del map a.map /b"}},
		"only comments":             {was: "/b x\n", now: "# why\n\n  /b   x  \n"},
		"two blanks in the value":   {was: "/b x\n", now: "/b x y\n", cmds: nil},
		"no value":                  {was: "/b x\n", now: "/b\n", reload: "without a value"},
		"used by another method":    {also: "    acl a path -f a.map\n", was: "/b x\n", now: "/c x\n", reload: "used as in acl a"},
		"absolute":                  {also: "    acl a path,map(/x/a.map) -m found\n", was: "/b x\n", now: "/c x\n", reload: "used as in"},
		"a variable":                {also: "    acl a path -f \"$X\"\n", was: "/b x\n", now: "/c x\n", reload: "variable"},
		"part of another name":      {also: "    acl a path,map(aa.map) -m found\n", was: "/b x\n", now: "/b y\n", cmds: []string{"set map a.map /b y"}},
		"twice in one word":         {also: "    acl a path,map_str(a.map,),map_beg(a.map) -m found\n", was: "/b x\n", now: "/b y\n", cmds: []string{"set map a.map /b y"}},
		"a variable of other words": {also: "    http-request set-header a \"$X\"\n", was: "/b x\n", now: "/b y\n", cmds: []string{"set map a.map /b y"}},
		"in quotes":                 {also: "    acl a path,map(\"a\".map) -m found\n", was: "/b x\n", now: "/b y\n", cmds: []string{"set map a.map /b y"}},
		"in a condition":            {also: ".if 0\n    acl a path,map(a.map) -m found\n.endif\n", was: "/b x\n", now: "/b y\n", reload: "only haproxy knows"},
		"beside a condition":        {also: ".if 0\n    acl a path -m found\n.endif\n", was: "/b x\n", now: "/b y\n", cmds: []string{"set map a.map /b y"}},
		"unused":                    {config: planBase, was: "/b x\n", now: "/c x\n"},
		"perhaps of a directory":    {config: planBase + "frontend f\n    bind :1 ssl crt .\n", was: "/b x\n", now: "/c x\n", reload: "directory"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.config == "" {
				tt.config = base
			}
			set := func(text string) render.Files {
				return append(files(tt.config+tt.also), render.File{Name: "a.map", Blocks: []render.Block{render.NewBlock("", text)}})
			}
			cmds, reason := Plan(set(tt.was), set(tt.now), Capabilities{})
			var got []string
			for _, c := range cmds {
				got = append(got, c.lines()...)
			}
			if diff := cmp.Diff(tt.cmds, got); diff != "" {
				t.Errorf("commands (-want +got):\n%s", diff)
			}
			if reason.needed() != (tt.reload != "") || !strings.Contains(reason.Detail, tt.reload) {
				t.Errorf("reason: got %+v, want %q", reason, tt.reload)
			}
		})
	}
}

// TestOrderedMap: where the first entry that matches counts, the map is replaced as a whole.
func TestOrderedMap(t *testing.T) {
	for method, want := range map[string]bool{
		"map": false, "map_str": false, "map_beg": false, "map_beg_str": false,
		"map_reg": true, "map_sub": true, "map_dir": true, "map_dom": true, "map_end": true, "map_int": true, "map_regm": true, "map_ip": true,
	} {
		if got := ordered(method); got != want {
			t.Errorf("ordered(%q): got %v, want %v", method, got, want)
		}
	}
	was, now := readTable("a x\nb y\n"), readTable("b y\na x\n")
	if cmds, _ := was.changes("m", now, true); len(cmds) != 1 || cmds[0].Op != OpMapReplace {
		t.Errorf("another order: got %v, want a transaction", cmds)
	}
	if cmds, _ := was.changes("m", now, false); len(cmds) != 0 {
		t.Errorf("another order that does not count: got %v, want nothing", cmds)
	}
}

// TestMapLaw: the commands between two random maps make the one what the other says, and none is
// needed between equal ones (P6).
func TestMapLaw(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gen := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string {
			return rapid.SampledFrom([]string{"/a", "/b", "/c", "/d", "/e", "#", "/f;x", " /g"}).Draw(t, "key") + " " +
				rapid.SampledFrom([]string{"be_a", "be_b", "two words", ""}).Draw(t, "value")
		}), 0, 8)
		a, b := strings.Join(gen.Draw(t, "a"), "\n"), strings.Join(gen.Draw(t, "b"), "\n")
		was, now := readTable(a), readTable(b)
		if cmds, why := was.changes("m", readTable(a), true); len(cmds) > 0 && why == "" {
			t.Fatalf("between equal maps: got %v", cmds)
		}
		cmds, why := was.changes("m", now, false)
		if why != "" {
			return
		}
		lookup := map[string]string{}
		for _, e := range slices.Backward(was.entries) {
			lookup[e.Key] = e.Value
		}
		for _, c := range cmds {
			if c.Op == OpMapReplace {
				clear(lookup)
			}
			for _, e := range slices.Backward(c.Entries) {
				if c.Op == OpMapDelete {
					delete(lookup, e.Key)
				} else {
					lookup[e.Key] = e.Value
				}
			}
		}
		if diff := cmp.Diff(now.values, lookup); diff != "" {
			t.Fatalf("after %v (-want +got):\n%s", cmds, diff)
		}
	})
}

// TestPlanFilesBesideOthers: a file that HAProxy reads although the configuration does not name it is no
// unused one (P6).
func TestPlanFilesBesideOthers(t *testing.T) {
	file := func(name, text string) render.File {
		return render.File{Name: name, Blocks: []render.Block{render.NewBlock("", text)}}
	}
	const crt, list = planBase + "frontend f\n bind :1 ssl crt x.pem\n", planBase + "frontend f\n bind :1 ssl crt-list l.list\n"
	for name, c := range map[string]struct {
		config, name, reload string
		others               render.Files
	}{
		"status of a certificate":  {crt, "x.pem.ocsp", "beside a certificate", render.Files{file("x.pem", "c")}},
		"key of a certificate":     {crt, "x.key", "beside a certificate", render.Files{file("x.pem", "c")}},
		"part of a bundle":         {crt, "x.pem.rsa", "beside a certificate", nil},
		"authority in a list":      {list, "clients.pem", "a crt-list names it", render.Files{file("x.pem", "c"), file("l.list", "x.pem [ca-file clients.pem verify required] a.example\n")}},
		"with its path in a list":  {list, "x.pem", "a crt-list names it", render.Files{file("l.list", "/run/sidekick/x.pem a.example\n")}},
		"in both ways in a list":   {list, "x.pem", "a crt-list names it", render.Files{file("l.list", "x.pem\n./x.pem a.example\n")}},
		"module of a script":       {"global\n lua-load main.lua\n" + planBase, "helpers.lua", "Lua", render.Files{file("main.lua", "local h = require('helpers')\n")}},
		"named by an unknown file": {planBase, "x.txt", "another file names it", render.Files{file("y.txt", "x.txt")}},
		"for another program":      {crt, "targets.json", "", render.Files{file("x.pem", "c")}},
	} {
		set := func(text string) render.Files {
			return slices.Concat(files(c.config), c.others, render.Files{file(c.name, text)})
		}
		cmds, reason := Plan(set("old\n"), set("new\n"), Capabilities{})
		if len(cmds) > 0 || reason.needed() != (c.reload != "") || !strings.Contains(reason.Detail, c.reload) {
			t.Errorf("%s: got %v, %+v, want the reason %q", name, cmds, reason, c.reload)
		}
	}
}

// TestAddressesInTwoForms: of two keys that are one address the first one counts, as after a reload (P6).
func TestAddressesInTwoForms(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.start(t)
		b.run(t)
		one, two := haproxytest.Server(t, "one"), haproxytest.Server(t, "two")
		set := func(rows ...string) render.Files {
			all := b.routed("", one, two, append(rows, "192.0.2.1 be_web", "192.0.2.2 be_web", "192.0.2.3 be_web", "192.0.2.4 be_web")...)
			return append(files(strings.Replace(all[0].Text(), "path,map_beg(", "src,map_ip(", 1)), all[1:]...)
		}
		b.applyFiles(t, set("127.0.0.1 be_web"))
		if res := b.applyFiles(t, set("127.0.0.1/32 be_two", "127.0.0.1 be_web")); res.How != HowRuntime {
			t.Errorf("one more key: got %+v, want runtime", res)
		}
		if got, err := haproxytest.Get(b.addr); got != "two" {
			t.Errorf("got the answer of %q, %v, want that of two", got, err)
		}
		(&loop{Driver: b.driver}).audit(t.Context())
		if got := b.driver.State().Differences; got != 0 {
			t.Errorf("differences that the audit sees: got %d, want none", got)
		}
	})
}

// TestMapNobodyLoads: a map that is named where HAProxy loads nothing has no entries to be held against its
// file, and is no reason to reload (P11).
func TestMapNobodyLoads(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.start(t)
		b.run(t)
		text := strings.Replace(b.text("", "s1 "+haproxytest.Server(t, "one")), "global\n", "global\n    default-path config\n", 1) +
			"frontend off from web\n    disabled\n    bind 127.0.0.1:1\n    use_backend %[src,map_str(hosts.map)]\n"
		set := append(files(text), render.File{Name: "hosts.map", Blocks: []render.Block{render.NewBlock("", "a be_web\n")}})
		b.applyFiles(t, set)
		l := &loop{Driver: b.driver, want: set}
		l.audit(t.Context())
		if s := b.driver.State(); s.Differences > 0 || !l.retryAt.IsZero() {
			t.Errorf("the audit found %d differences, want none", s.Differences)
		}
	})
}
