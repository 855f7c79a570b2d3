package quarantine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// The template prints what meta.raw says, of the service and of each instance. Two backends with one
// "name" are bad together.
const text = `global
{{services}}
{{- define "service"}}backend {{.Name}}
{{- range $key, $value := .Meta}}{{if eq $key "raw"}}
    {{$value}}{{if eq $value "fail"}}{{template "nowhere"}}{{end}}{{end}}{{end}}
{{- range .Instances}}{{if .Routed}}
    server {{.Name}} {{.Endpoint}}{{range $key, $value := .Meta}}{{if eq $key "word"}} {{$value}}{{end}}{{end}}{{end}}{{end}}
{{end}}
{{- define "nowhere"}}{{index "" 1}}{{end}}`

// judge refuses texts with "bad" in them, and those that have "name x" twice.
func judge(_ context.Context, files render.Files) error {
	all := files[0].Text()
	if strings.Contains(all, "bad") {
		return &haproxy.Refused{Stage: haproxy.StageCheck, Words: "it says bad"}
	}
	if strings.Count(all, "name x") > 1 {
		return &haproxy.Refused{Stage: haproxy.StageCheck, Words: "name x is there twice"}
	}
	return nil
}

// catalog makes one of lines "SERVICE ID HOST META", all of one node; the later ones are younger.
func catalog(lines ...string) *service.Catalog {
	b := service.NewBuilder("/p")
	for n, line := range lines {
		words := strings.SplitN(line, " ", 4)
		i := service.Instance{
			Node: "host1", ID: words[1], Service: words[0], Hosts: []string{words[2]}, Path: "/", Mode: service.HTTP, State: service.Ready, Weight: 100,
			Address: netip.MustParseAddr("10.0.0.1"), Port: 80, Started: time.Date(2026, 11, 1, 0, n, 0, 0, time.UTC), Options: map[string]string{"default": "true"},
		}
		if key, value, ok := strings.Cut(words[3], "="); ok {
			i.Meta = map[string]string{key: value}
		}
		value, err := i.Encode()
		if err != nil {
			panic(err)
		}
		b.Put(i.Key("/p"), value)
	}
	return b.Catalog(1)
}

func renderer(tb testing.TB) *render.Renderer {
	tb.Helper()
	r, err := render.New("t", text, render.Settings{Node: "host1"})
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// TestExam: who is to blame, and what becomes of it. P7, F7.
func TestExam(t *testing.T) {
	tests := map[string]struct {
		good, now []string
		held      []string // whom the ward held before, as left out
		unproven  bool
		want      []string // held now: "NAME" left out, "NAME as IDS" served as before
		template  bool
		nobody    bool
	}{
		"a new one":            {[]string{"a 1 a.test -"}, []string{"a 1 a.test -", "b 2 b.test raw=bad"}, nil, false, []string{"b"}, false, false},
		"one that changed":     {[]string{"a 1 a.test -", "b 2 b.test -"}, []string{"a 1 a.test -", "b 2 b.test raw=bad"}, nil, false, []string{"b as 2"}, false, false},
		"replaced, other host": {[]string{"a 1 a.test -", "b 2 b.test -"}, []string{"a 1 a.test -", "b 3 c.test raw=bad"}, nil, false, []string{"b as 3"}, false, false},
		"one instance of two":  {[]string{"b 2 b.test -"}, []string{"b 2 b.test -", "b 3 b.test word=bad"}, nil, false, []string{"b as 2"}, false, false},
		"all instances":        {[]string{"b 2 b.test -"}, []string{"b 3 b.test word=bad"}, nil, false, []string{"b"}, false, false},
		"the younger of two":   {[]string{"a 1 a.test -"}, []string{"z 2 z.test raw=name x", "a 1 a.test -", "b 3 b.test raw=name x"}, nil, false, []string{"b"}, false, false},
		"not the one in force": {[]string{"z 1 z.test raw=name x"}, []string{"a 0 a.test raw=name x", "z 1 z.test raw=name x"}, nil, false, []string{"a"}, false, false},
		"two":                  {[]string{"a 1 a.test -"}, []string{"a 1 a.test raw=bad", "b 2 b.test raw=bad", "c 3 c.test -"}, nil, false, []string{"a as 1", "b"}, false, false},
		"at the start":         {nil, []string{"a 1 a.test -", "b 2 b.test raw=bad", "c 3 c.test -"}, nil, true, []string{"b"}, false, false},
		"most at the start":    {nil, []string{"a 1 a.test raw=bad", "b 2 b.test raw=bad", "c 3 c.test -"}, nil, true, nil, false, true},
		"the template":         {[]string{"a 1 a.test raw=bad"}, []string{"a 1 a.test raw=bad", "b 2 b.test -"}, nil, true, nil, true, false},
		"mended":               {[]string{"a 1 a.test -"}, []string{"a 1 a.test -", "b 2 b.test raw=good"}, []string{"b"}, false, nil, false, false},
		"not mended":           {[]string{"a 1 a.test -"}, []string{"a 1 a.test -", "b 2 b.test raw=also bad"}, []string{"b"}, false, []string{"b"}, false, false},
		"the template fails":   {[]string{"a 1 a.test -"}, []string{"a 1 a.test raw=fail", "b 2 b.test raw=bad"}, nil, false, []string{"a as 1", "b"}, false, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			good, now := catalog(tt.good...), catalog(tt.now...)
			for at, s := range now.Services { // what is equal is the same
				if former := good.Service(s.Name); former != nil && cmp.Equal(former, s, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) {
					now.Services[at] = former
				}
			}
			var w Ward
			for _, name := range tt.held {
				w.admit(Finding{Service: &service.Service{Name: name}}, time.Now())
			}
			held := w.Held(now)
			e := &Exam{
				Renderer: renderer(t), Judge: judge, Input: render.Input{Catalog: now, Held: held}, Retry: w.Due(time.Now()),
				Good: good.Services, Cold: tt.good == nil, Unproven: tt.unproven,
			}
			v, err := e.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			w.Take(v, time.Now())
			if got := outcome(&w, now); !slices.Equal(got, tt.want) || (v.Template != nil) != tt.template || (v.Nobody != nil) != tt.nobody {
				t.Errorf("held %q, want %q; template %v, want %v; nobody %v, want %v", got, tt.want, v.Template, tt.template, v.Nobody, tt.nobody)
			}
			files, _, err := renderer(t).Render(render.Input{Catalog: now, Held: w.Held(now)})
			if err == nil {
				err = judge(t.Context(), files)
			}
			if blamed := tt.template || tt.nobody; (err != nil) != blamed {
				t.Errorf("with these held: %v", err)
			}
		})
	}
}

// TestExamIsTold: the HAProxy that runs may refuse what our own check does not, or not that check's faults. Its
// lines are those of the files that it was given, not those of the input, which has gone on. P7, F7.
func TestExamIsTold(t *testing.T) {
	good := catalog("b 2 b.test -")
	given, _, err := renderer(t).Render(render.Input{Catalog: catalog("b 2 b.test raw=odd", "c 3 c.test -")})
	if err != nil {
		t.Fatal(err)
	}
	told := &haproxy.Refused{Stage: haproxy.StageReload, Words: "parsing [haproxy.cfg:3] : odd", Lines: []int{3}, Files: given}
	refuses := func(context.Context, render.Files) error {
		return &haproxy.Refused{Stage: haproxy.StageCheck, Words: "our version knows nothing of that template"}
	}
	tests := map[string]struct {
		now   []string
		judge func(context.Context, render.Files) error
		want  []string // after each examination
	}{
		"as it was":          {[]string{"b 2 b.test raw=odd", "c 3 c.test -"}, judge, []string{"[b as 2]", "[b]"}},
		"another one came":   {[]string{"a 1 a.test raw=long", "b 2 b.test raw=odd", "c 3 c.test -"}, judge, []string{"[b as 2]", "[b]"}},
		"mended meanwhile":   {[]string{"a 1 a.test -", "b 2 b.test raw=even", "c 3 c.test -"}, judge, []string{"[]"}},
		"gone meanwhile":     {[]string{"a 1 a.test -", "c 3 c.test -"}, judge, []string{"[]"}},
		"our check is older": {[]string{"b 2 b.test raw=odd", "c 3 c.test -"}, refuses, []string{"[b as 2]", "[b]"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var w Ward
			now := catalog(tt.now...)
			for n, want := range tt.want {
				told := *told
				held := w.Held(now)
				if n > 0 { // what is served in its place is refused as well
					if told.Files, _, err = renderer(t).Render(render.Input{Catalog: now, Held: held}); err != nil {
						t.Fatal(err)
					}
				}
				e := &Exam{Renderer: renderer(t), Judge: tt.judge, Input: render.Input{Catalog: now, Held: held}, Good: good.Services, Told: &told}
				if n > 0 {
					told.Lines = []int{1 + strings.Count(before(told.Files, "backend b"), "\n")}
				}
				v, err := e.Run(t.Context())
				if err != nil || v.Template != nil || v.Nobody != nil {
					t.Fatalf("got %+v, %v", v, err)
				}
				w.Take(v, time.Now())
				if got := fmt.Sprint(outcome(&w, now)); got != want {
					t.Errorf("%d: held %s, want %s", n, got, want)
				}
				if due := w.Due(time.Now()); len(due) > 0 {
					t.Errorf("%d: %q are due at once", n, due)
				}
			}
		})
	}
}

// before is what the configuration has before some words.
func before(files render.Files, words string) string {
	text, _, _ := strings.Cut(files[0].Text(), words)
	return text
}

// outcome says who is held how.
func outcome(w *Ward, c *service.Catalog) (list []string) {
	held := w.Held(c)
	for _, name := range w.Names() {
		words := []string{name}
		if as := held[name].As; as != nil {
			words = append(words, "as")
			for _, i := range as.Instances {
				words = append(words, i.ID)
			}
		}
		list = append(list, strings.Join(words, " "))
	}
	return list
}

// TestExamCannotJudge: what could not be found out is no verdict.
func TestExamCannotJudge(t *testing.T) {
	broken := errors.New("no haproxy here")
	e := &Exam{Renderer: renderer(t), Input: render.Input{Catalog: catalog("a 1 a.test -")}, Judge: func(context.Context, render.Files) error { return broken }}
	if _, err := e.Run(t.Context()); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

// TestWard: who is held is due when its labels change, not when its instances come and go by the same ones, and
// after a while; what replaces it never has an instance that is gone. A restart changes nothing of that.
func TestWard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good := catalog("b 1 b.test -")
		now := catalog("b 1 b.test raw=bad")
		e := &Exam{Renderer: renderer(t), Judge: judge, Input: render.Input{Catalog: now}, Good: good.Services}
		v, err := e.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var w Ward
		w.Under("template")
		w.Take(v, time.Now())
		path := filepath.Join(t.TempDir(), "quarantine.json")
		check := func(what string, c *service.Catalog, want string, due bool) {
			t.Helper()
			w.Held(c)
			if err := w.Save(path); err != nil {
				t.Fatal(err)
			}
			var restarted Ward
			if err := restarted.Load(path, time.Now()); err != nil {
				t.Fatal(err)
			}
			restarted.Under("template")
			for name, w := range map[string]*Ward{"": &w, " after a restart": &restarted} {
				got := fmt.Sprint(outcome(w, c))
				if isDue := len(w.Due(time.Now())) > 0; got != want || isDue != due {
					t.Errorf("%s%s: %s, due %v; want %s, %v", what, name, got, isDue, want, due)
				}
			}
		}
		check("as found", now, "[b as 1]", false)
		check("another instance", catalog("b 1 b.test raw=bad", "b 2 b.test raw=bad"), "[b as 1 2]", false)
		check("the first is gone", catalog("b 2 b.test raw=bad"), "[b as 2]", false)
		check("one with other labels", catalog("b 2 b.test raw=bad", "b 3 b.test raw=new"), "[b as 2 3]", true)
		check("other labels", catalog("b 3 b.test raw=new"), "[b as 3]", true)
		check("as found", now, "[b as 1]", false)
		time.Sleep(retryEvery)
		if due := w.Due(time.Now()); !slices.Equal(due, []string{"b"}) {
			t.Errorf("due after %s: %q, want b", retryEvery, due)
		}
		w.Under("template")
		check("gone", catalog("a 1 a.test -"), "[]", false)
		w.Take(v, time.Now())
		w.Under("another template")
		check("another template", now, "[]", false)
	})
}

// TestWardLoadsNothingDamaged: a damaged file is told of, and is like none.
func TestWardLoadsNothingDamaged(t *testing.T) {
	var w Ward
	if err := w.Load(filepath.Join(t.TempDir(), "none"), time.Now()); err != nil || len(w.Names()) > 0 {
		t.Errorf("no file: %v", err)
	}
	for _, text := range []string{"", "{", `{"held":[{"service":"a","definition":"xy"}],"good":{"items":{}}}`, `{"held":[],"good":[]}`} {
		path := filepath.Join(t.TempDir(), "quarantine.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := w.Load(path, time.Now()); err == nil || len(w.Names()) > 0 {
			t.Errorf("%q: got %v and %v, want an error and nobody", text, err, w.Names())
		}
	}
}
