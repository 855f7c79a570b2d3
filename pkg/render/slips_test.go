package render

import (
	"strings"
	"testing"

	"github.com/sidekick-proxy/sidekick/templates"
)

// A name of --set that is nearly one which the model knows is told, unless the template reads it.
func TestSlips(t *testing.T) {
	for name, tt := range map[string]struct{ set, template, want string }{
		"known":                    {"access-log", "", ""},
		"a letter less":            {"acces-log", "", `--set "acces-log": neither Sidekick nor the template reads it: did you mean access-log?`},
		"as variables are written": {"AUTH_DIR", "", "did you mean auth-dir?"},
		"another number":           {"trusted-proxy", "", "did you mean trusted-proxies?"},
		"like none":                {"team", "", ""},
		"hardly like one":          {"host", "", ""},
		"read as a field":          {"hst", `{{.Set.hst}}`, ""},
		"read by settings":         {"hst", `{{if settings.Set.hst}}x{{end}}`, ""},
		"read by a variable":       {"hst", `{{range .Services}}{{$.Set.hst}}{{end}}`, ""},
		"read by index":            {"acces-log", `{{quote (index .Set "acces-log")}}`, ""},
		"read in a define":         {"hst", `{{define "more global"}}{{.Set.hst}}{{end}}`, ""},
		"all are read":             {"acces-log", `{{range $key, $value := .Set}}{{$key}}{{end}}`, ""},
		"one of all is read":       {"acces-log", `{{index .Set .Node}}`, ""},
		"another is read":          {"acces-log", `{{.Set.other}}{{index .Set "others"}}`, "did you mean access-log?"},
	} {
		text := tt.template
		if text == "" {
			text = templates.HAProxy
		}
		r, err := New(name, text, testSettings())
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(r.Slips(map[string]string{tt.set: "x"}), "; ")
		if !strings.Contains(got, tt.want) || (got == "") != (tt.want == "") {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
}
