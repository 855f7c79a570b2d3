package render

import (
	"errors"
	"strings"
	"testing"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

const heldText = `global
{{services}}
{{- define "service"}}backend {{.Name}}
{{- range .Servers}}
    server {{.Name}}
{{- end}}
    {{mapkey (index .Meta "must")}}
{{end}}`

// TestHeld: what is held is not among what is served, and is listed with the reason; the template's failure for
// some services names these alone. P7, F7.
func TestHeld(t *testing.T) {
	b := service.NewBuilder("")
	for key, value := range map[string]string{
		"/v1/instances/h/a": `{"service":"a","address":"10.0.0.1","port":80,"hosts":["a.test"],"meta":{"must":"1"}}`,
		"/v1/instances/h/b": `{"service":"b","address":"10.0.0.2","port":80,"hosts":["b.test"],"meta":{"must":"2"}}`,
		"/v1/instances/h/c": `{"service":"c","address":"10.0.0.3","port":80,"hosts":["c.test"]}`,
	} {
		b.Put(key, []byte(value))
	}
	in := Input{Catalog: b.Catalog(1)}
	r, err := New("t", heldText, Settings{Node: "h"})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = r.Render(in)
	if faults, ok := errors.AsType[ServiceErrors](err); !ok || faults.Services() != 1 || faults[0].Service != "c" {
		t.Fatalf("got %v, want a failure for c alone", err)
	}
	as := *in.Catalog.Service("a")
	as.Instances = nil
	in.Held = map[string]Held{"a": {Why: "served as before", As: &as}, "c": {Why: "left out"}}
	files, m, err := r.Render(in)
	if err != nil {
		t.Fatal(err)
	}
	text := files[0].Text()
	if strings.Contains(text, "backend c") || strings.Count(text, "server ") != 1 || len(m.Services) != 2 || len(m.LeftOut) != 2 {
		t.Errorf("%d services, %d left out, want 2 and 2, and the server of b:\n%s", len(m.Services), len(m.LeftOut), text)
	}
	for at, name := range []string{"a", "c"} {
		out := m.LeftOut[at]
		if out.Name != name || out.Refused == "" || len(out.Instances) != 1 || out.Instances[0].Routed || out.Instances[0].Why == "" {
			t.Errorf("left out: %+v, want the instance of %s with the reason", out, name)
		}
	}
	for line := range strings.SplitSeq("global,backend a,    1,backend b,    server", ",") {
		before, _, _ := strings.Cut(text, line)
		got, _ := files.ServiceAt(strings.Count(before, "\n") + 1)
		if want := map[string]string{"backend a": "a", "    1": "a", "backend b": "b", "    server": "b"}[line]; got != want {
			t.Errorf("line %q is of service %q, want %q", line, got, want)
		}
	}
	in.Held = nil
	in.Catalog.Services = in.Catalog.Services[:2]
	if _, m, err := r.Render(in); err != nil || len(m.LeftOut) > 0 || m.Services[0].Refused != "" || len(m.Services[0].Servers) != 1 {
		t.Errorf("nothing is held any more: %+v, %v", m, err)
	}
}
