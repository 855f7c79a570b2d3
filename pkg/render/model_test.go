package render

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

func TestServerName(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.5")
	tests := []struct {
		i    service.Instance
		want string
	}{
		{service.Instance{Node: "host-a", ID: "x", Container: "3f2a91c0de12", Address: addr, Port: 80}, "host-a-3f2a91c0-"},
		{service.Instance{Node: "host-a", ID: "file.web.1", Address: addr, Port: 80}, "host-a-file-"},
		{service.Instance{Node: "host-a", ID: "cli.web.1", Address: addr, Port: 80}, "host-a-cli-"},
		{service.Instance{Node: "host-a", ID: "other.web", Address: addr, Port: 80}, "host-a-ext-"},
		{service.Instance{Node: strings.Repeat("n", 63), ID: "x", Container: "abc", Address: addr, Port: 80}, strings.Repeat("n", 20) + "-abc-"},
	}
	seen := map[string]bool{}
	for _, test := range tests {
		got := ServerName(&test.i)
		if !strings.HasPrefix(got, test.want) || len(got) != len(test.want)+8 {
			t.Errorf("%+v: %s, want %s and 8 digits", test.i, got, test.want)
		}
		moved := test.i
		moved.Port = 81
		if ServerName(&moved) == got || seen[got] {
			t.Errorf("%s stands for two addresses", got)
		}
		seen[got] = true
	}
	// The formula is the same in every version, or an upgrade would replace all servers.
	fixed := service.Instance{Node: "host-a", ID: "3f2a91c0de12.web.8080", Container: "3f2a91c0de12", Address: addr, Port: 32768}
	if got, want := ServerName(&fixed), "host-a-3f2a91c0-0ad82fbd"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Two instances of one service whose server names meet would make HAProxy refuse everything (P7).
func TestSameServerNameIsLeftOut(t *testing.T) {
	seen := map[string]string{}
	items := map[string]string{}
	for n := 0; len(items) == 0; n++ {
		i := service.Instance{Node: "n", ID: fmt.Sprint("x", n), Address: netip.MustParseAddr("10.0.0.1"), Port: 80}
		name := ServerName(&i)
		if twin := seen[name]; twin != "" {
			for _, id := range []string{twin, i.ID} {
				items["instances/n/"+id] = `{"service":"web","address":"10.0.0.1","port":80,"hosts":["a.test"]}`
			}
		}
		seen[name] = i.ID
	}
	m := Build(Input{Catalog: mustCatalog(t, items)}, testSettings())
	s := m.Services[0]
	if len(s.Servers) != 1 || s.Instances[1].Routed || !strings.Contains(s.Instances[1].Why, "too like that of") {
		t.Errorf("%d servers, %+v", len(s.Servers), s.Instances)
	}
}

// claim is an instance by what it asks for.
func claim(name, started, rest string) string {
	return fmt.Sprintf(`{"service":%q,"address":"10.0.0.1","port":80,"started":"2026-11-22T%sZ",%s}`, name, started, rest)
}

func TestOlderServiceKeepsRouteAndPort(t *testing.T) {
	tests := []struct {
		name  string
		items map[string]string
		taken map[uint16]string
		want  []string // service, routes, port, part of why
	}{
		{"one host and path", map[string]string{
			"instances/n/1": claim("a", "11:00:00", `"hosts":["x.test"]`), "instances/n/2": claim("b", "10:00:00", `"hosts":["x.test","y.test"]`),
		}, nil, []string{"a  0 x.test/ belongs to service b, which is older", "b x.test/ y.test/ 0 "}},
		{"same host, other path", map[string]string{
			"instances/n/1": claim("a", "11:00:00", `"hosts":["x.test"],"path":"/a/"`), "instances/n/2": claim("b", "10:00:00", `"hosts":["x.test"]`),
		}, nil, []string{"a x.test/a/ 0 ", "b x.test/ 0 "}},
		{"two defaults", map[string]string{
			"instances/n/1": claim("a", "10:00:00", `"options":{"default":"true"}`), "instances/n/2": claim("b", "11:00:00", `"options":{"default":"true"}`),
		}, nil, []string{"a */ 0 ", "b  0 */ belongs to service a"}},
		{"two ports", map[string]string{
			"instances/n/1": claim("a", "11:00:00", `"listen":9000`), "instances/n/2": claim("b", "10:00:00", `"mode":"tcp","listen":9000`),
		}, nil, []string{"a  0 sidekick.listen 9000 belongs to service b, which is older", "b  9000 "}},
		{"taken port, host stays", map[string]string{
			"instances/n/1": claim("a", "11:00:00", `"hosts":["x.test"],"listen":9000`),
		}, map[uint16]string{9000: "in use"}, []string{"a x.test/ 0 sidekick.listen 9000 cannot be had on this host: in use"}},
		{"ports of the proxy", map[string]string{
			"instances/n/1": claim("a", "11:00:00", `"listen":8080`), "instances/n/2": claim("b", "11:00:00", `"listen":8405`), "instances/n/3": claim("c", "11:00:00", `"listen":80`),
		}, nil, []string{"a  0 sidekick.listen 8080 is the port of --http-listen", "b  0 sidekick.listen 8405 is the port of the statistics", "c  0 sidekick.listen 80 is outside --listen-ports 1024-65535"}},
		{"tcp needs a port", map[string]string{"instances/n/1": claim("a", "11:00:00", `"mode":"tcp","hosts":["x.test"]`)}, nil, []string{"a  0 no sidekick.listen"}},
		{"http needs something", map[string]string{"instances/n/1": claim("a", "11:00:00", `"weight":1`)}, nil, []string{"a  0 no sidekick.host"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := Build(Input{Catalog: mustCatalog(t, test.items), Taken: test.taken}, testSettings())
			var got []string
			for i, s := range m.Services {
				var keys []string
				for _, r := range s.Routes {
					keys = append(keys, r.Key)
				}
				line := fmt.Sprintf("%s %s %d %s", s.Name, strings.Join(keys, " "), s.Listen, s.Why)
				if i < len(test.want) {
					line = line[:min(len(line), max(len(test.want[i]), len(line)*boolInt(s.Why == "")))]
				}
				got = append(got, line)
				if reached := len(keys) > 0 || s.Listen != 0; s.Instances[0].Routed != reached {
					t.Errorf("%s: routed %v, reached %v", s.Name, s.Instances[0].Routed, reached)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// A service that is only remembered has no claim against one that lives.
func TestEmptyServiceYields(t *testing.T) {
	old := mustCatalog(t, map[string]string{"instances/n/1": claim("old", "09:00:00", `"hosts":["x.test"],"listen":9000`)})
	c := mustCatalog(t, map[string]string{"instances/n/2": claim("new", "10:00:00", `"hosts":["x.test"],"listen":9000`)})
	c = c.WithEmpty([]*service.Service{old.Services[0].Emptied(), {Name: "unknown"}})
	m := Build(Input{Catalog: c}, testSettings())
	if got := m.Services[0]; got.Name != "new" || len(got.Routes) != 1 || got.Listen != 9000 {
		t.Errorf("new: %+v", got)
	}
	files, _, err := builtin(t, testSettings()).Render(Input{Catalog: c})
	if err != nil {
		t.Fatal(err)
	}
	if text := files[0].Text(); !strings.Contains(text, "backend be_old from http\n") || !strings.Contains(text, "backend be_unknown from http\n") {
		t.Errorf("no empty backends in:\n%s", text)
	}
	checkHAProxy(t, files)
}

func TestQuoting(t *testing.T) {
	tests := []struct {
		call, value, want string // want "" for an error
	}{
		{"quote", `a'b "c" # ${X} \ %[y]`, `'a'\''b "c" # ${X} \ %[y]'`},
		{"quote", "", "''"},
		{"quote", "a\nb", ""},
		{"quote", "a\x00b", ""},
		{"quote", "a\rb", ""},
		{"quote", "\u2028", ""},
		{"quotefmt", `100% %[env(X)] 'q'`, `'100%% %%[env(X)] '\''q'\'''`},
		{"quotefmt", "a\nb", ""},
		{"mapkey", "*.a.test/x/", "*.a.test/x/"},
		{"mapkey", "#a", ""},
		{"mapkey", "a b", ""},
		{"mapkey", "", ""},
		{"mapkey", "a\nb", ""},
		{"mapvalue", "be_x y", "be_x y"},
		{"mapvalue", " x", ""},
		{"mapvalue", "", ""},
		{"mapvalue", "a\nb", ""},
		{"comment", "shop-web-1 (é)", "shop-web-1 (é)"},
		{"comment", "a\nserver x", ""},
	}
	for _, test := range tests {
		s := testSettings()
		s.Set = map[string]string{"v": test.value}
		r, err := New("t", "{{"+test.call+" .Set.v}}\n", s)
		if err != nil {
			t.Fatal(err)
		}
		files, _, err := r.Render(Input{Catalog: mustCatalog(t, nil)})
		got := ""
		if err == nil {
			got = strings.TrimSuffix(files[0].Text(), "\n")
		}
		if got != test.want {
			t.Errorf("%s %q: %q, %v, want %q", test.call, test.value, got, err, test.want)
		}
	}
}

func TestTemplateErrorsNameTheirPlace(t *testing.T) {
	c := mustCatalog(t, map[string]string{"instances/n/1": claim("a", "11:00:00", `"hosts":["x.test"]`)})
	tests := []struct{ text, want string }{
		{"a\n{{if}}\n", `my.tmpl:2: missing value for if, in the line "{{if}}"`},
		{"a\n  b {{frob .Node}}\n", `my.tmpl:2:6: function "frob" not defined, in the line "b {{frob .Node}}"`},
		{"{{frob}} {{frob}}\n", `my.tmpl:1: function "frob" not defined`},
		{"{{range .Services}}\n", "my.tmpl:2: unexpected EOF"},
		{"a\n{{.Nope}}\n", "my.tmpl:2:2: "},
		{"a\n{{.Set.nope}}\n", `my.tmpl:2:6: executing "my.tmpl" at <.Set.nope>: map has no entry for key "nope"`},
		{"a\n{{services}}\n", `my.tmpl:2:2: {{services}} wants a template defined as "service"`},
		{"a\n{{with .Node}}x {{services}}{{end}}\n{{define \"service\"}}{{end}}", "my.tmpl:2:18: {{services}} needs a line of its own"},
		{"{{services}} x\n{{define \"service\"}}{{end}}", "my.tmpl:1:2: {{services}} needs a line of its own"},
		{"{{services}}\n{{define \"service\"}}\n{{.Nope}}{{end}}", "service a: template: my.tmpl:3:2: "},
		{"{{services}}\n{{define \"service\"}}\n{{services}}{{end}}", "service a: template: my.tmpl:3:2: {{services}} cannot stand in the text of a service"},
		{"{{services}}\n{{define \"service\"}}\na\n\rb{{end}}", `service a: template: my.tmpl:2:20: define "service": the text has control characters, in the line "\rb"`},
		{"a\n\rb", `template: my.tmpl: the text has control characters, in the line "\rb"`},
		{"\n{{define \"file ../x\"}}x{{end}}", `"../x" is no name of a file`},
		{"\n{{define \"file .x\"}}{{end}}", `".x" is no name of a file`},
		{"{{services \"a\" \"b\"}}", "at most one"},
	}
	for _, test := range tests {
		r, err := New("my.tmpl", test.text, testSettings())
		if err == nil {
			_, _, err = r.Render(Input{Catalog: c})
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: error %v, want %q", test.text, err, test.want)
		}
	}
}

// A template without a block per service works like one with it.
func TestPlainTemplate(t *testing.T) {
	c := mustCatalog(t, map[string]string{
		"instances/n/1": claim("a", "11:00:00", `"hosts":["x.test"],"meta":{"team":"it's"},"tags":["t"]`), "instances/n/2": claim("b", "11:00:00", `"listen":9000`),
	})
	s := testSettings()
	s.Set, s.Zone = map[string]string{"motd": "hi"}, "eu"
	r, err := New("t", `{{.Set.motd}} {{.Zone}} {{len .Routes}}
{{- range .Services}}
{{.Name}}{{range .Servers}} {{.Address}}:{{.Port}}{{end}} {{join "+" .Tags}} {{range $k, $v := .Meta}}{{$k}}={{quote $v}}{{end}} {{settings.Node}}
{{- range .Instances}} {{.State}} {{.Routed}}{{end}}{{end}}`, s)
	if err != nil {
		t.Fatal(err)
	}
	files, _, err := r.Render(Input{Catalog: c})
	if err != nil {
		t.Fatal(err)
	}
	want := "hi eu 1\na 10.0.0.1:80 t team='it'\\''s' host-a ready true\nb 10.0.0.1:80   host-a ready true\n"
	if got := files[0].Text(); got != want || len(files) != 1 || len(files[0].Blocks) != 1 {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
