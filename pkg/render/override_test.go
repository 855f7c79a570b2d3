package render

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sidekick-proxy/sidekick/templates"
)

// changed renders one service by the built-in template, and by it with what a text of one's own changes.
func changed(t *testing.T, own string) (before, after string) {
	t.Helper()
	c := mustCatalog(t, map[string]string{"instances/n/1": `{"service":"web","address":"10.0.0.1","port":80,"hosts":["a.test"],"zone":"west","meta":{"timeout":"90s"}}`})
	for _, text := range []string{templates.HAProxy, own} {
		r, err := New("own.tmpl", text, testSettings())
		if err != nil {
			t.Fatal(err)
		}
		files, _, err := r.Render(Input{Catalog: c})
		if err != nil {
			t.Fatal(err)
		}
		before, after = after, printed(files)
		if text == own {
			checkHAProxy(t, files)
		}
	}
	return before, after
}

// A text of nothing but defines changes these parts of the built-in template, and nothing else.
func TestOverride(t *testing.T) {
	tests := map[string]struct {
		own            string
		added, removed []string
	}{
		"a hook": {
			own:   "{{- /* mine */}}\n\n{{define \"more global\"}}\n    maxconn 5000\n{{- end}}\n",
			added: []string{"    maxconn 5000"},
		},
		"hooks with a dot": {
			own:   `{{define "more backend"}}` + "\n" + `    timeout server {{.Meta.timeout}}{{end}}{{define "more server"}} weight {{len .Instance.Zone}}{{end}}`,
			added: []string{"    timeout server 90s", "    server n-ext-7a16c433 10.0.0.1:80 weight 100 weight 4"}, removed: []string{"    server n-ext-7a16c433 10.0.0.1:80 weight 100"},
		},
		"a part": {
			own:   `{{define "requests"}}` + "\n    http-request deny if { path /admin }{{end}}",
			added: []string{"    http-request deny if { path /admin }"}, removed: []string{"    http-request disable-l7-retry unless METH_GET || METH_OPTIONS || METH_TRACE"},
		},
		"no part": {
			own:     `{{define "requests"}}{{end}}`,
			removed: []string{"    http-request disable-l7-retry unless METH_GET || METH_OPTIONS || METH_TRACE"},
		},
		"a part of one's own": {
			own:   `{{define "more http"}}{{template "mine" .}}{{end}}{{define "mine"}}` + "\n    # {{.Node}}{{end}}",
			added: []string{"    # host-a"},
		},
		"texts per service": {
			own:   `{{define "more sections"}}` + "\n" + `{{services "mine"}}{{end}}{{define "mine"}}# service {{.Name}}{{end}}`,
			added: []string{"# service web", "=== file \"\", block \"part 2\"", "=== file \"\", block \"service web\""},
		},
		"a file": {
			own:   `{{define "file mine.map"}}a {{.Node}}{{end}}`,
			added: []string{`=== file "mine.map", block "mine.map part 1"`, "a host-a"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			before, after := changed(t, test.own)
			added, removed := differences(strings.Split(before, "\n"), strings.Split(after, "\n"))
			if diff := cmp.Diff([][]string{test.added, test.removed}, [][]string{added, removed}, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("added and removed (-want +got):\n%s", diff)
			}
		})
	}
}

// differences are the lines that only one of two texts has, blank ones apart.
func differences(before, after []string) (added, removed []string) {
	count := map[string]int{}
	for _, line := range before {
		count[line]++
	}
	for _, line := range after {
		if count[line]--; count[line] < 0 && line != "" {
			added = append(added, line)
		}
	}
	for _, line := range before {
		if count[line] > 0 && line != "" {
			count[line]--
			removed = append(removed, line)
		}
	}
	return added, removed
}

func TestOverrideErrors(t *testing.T) {
	tests := map[string]struct{ own, err string }{
		"a slip of the pen": {
			own: "\n{{define \"servce\"}}x{{end}}",
			err: `template: own.tmpl:2:19: define "servce": nothing calls it, and the built-in template defines nothing of that name; did you mean "service"?`,
		},
		"like nothing": {
			own: `{{define "a name that is unlike any other"}}{{end}}`,
			err: `template: own.tmpl: define "a name that is unlike any other": nothing calls it, and the built-in template defines nothing of that name`,
		},
		"empty":    {own: " \n{{/* soon */}}\n", err: "template: own.tmpl: it has neither text nor a define"},
		"bad file": {own: `{{define "file ../x"}}a{{end}}`, err: `template: own.tmpl:1:22: define "file ../x": "../x" is no name of a file: use letters, digits and ._- without directories`},
		"syntax":   {own: "{{define \"more http\"}}\n{{nope .}}{{end}}", err: `template: own.tmpl:2:2: function "nope" not defined, in the line "{{nope .}}{{end}}"`},
		"at run time": {
			own: "{{define \"more backend\"}}\n  {{.Nope}}{{end}}",
			err: `service web: template: own.tmpl:2:4: executing "more backend" at <.Nope>: can't evaluate field Nope in type *render.Service`,
		},
		"in what calls it": {
			own: `{{define "more sections"}}` + "\n" + `{{services "none"}}{{end}}`,
			err: `template: own.tmpl:2:2: {{services}} wants a template defined as "none", and there is none`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r, err := New("own.tmpl", test.own, testSettings())
			if err == nil {
				_, _, err = r.Render(Input{Catalog: mustCatalog(t, map[string]string{"instances/n/1": `{"service":"web","address":"10.0.0.1","port":80,"hosts":["a.test"]}`})})
			}
			if err == nil || !strings.HasPrefix(err.Error(), test.err) {
				t.Errorf("got  %v\nwant %s", err, test.err)
			}
		})
	}
}
