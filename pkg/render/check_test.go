package render

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// crowd registers that many instances of a service.
func crowd(b *service.Builder, name string, instances int) {
	for i := range instances {
		b.Put(fmt.Sprintf("/p/v1/instances/n/%s.%d", name, i), fmt.Appendf(nil, `{"service":%q,"address":"10.0.0.1","port":%d,"hosts":["%s.test"]}`, name, i+1, name))
	}
}

// checks tells which services of a model HAProxy is to check.
func checks(m *Model) string {
	var names []string
	for _, s := range m.Services {
		if s.Check {
			names = append(names, s.Name)
		}
	}
	return fmt.Sprint(m.Check, names)
}

func TestProxyCheck(t *testing.T) {
	few, many := service.NewBuilder("/p"), service.NewBuilder("/p")
	crowd(few, "web", 1)
	few.Put("/p/v1/instances/n/1", []byte(`{"service":"bare","address":"10.0.0.1","port":80,"started":"2026-11-22T10:00:00Z","hosts":["bare.test"],"options":{"check":"none"}}`))
	few.Put("/p/v1/instances/n/2", []byte(`{"service":"bare","address":"10.0.0.1","port":81,"started":"2026-11-22T11:00:00Z","hosts":["bare.test"],"options":{"check":"tcp"}}`))
	crowd(many, "web", fewServers+1)
	tests := []struct {
		setting   ProxyCheck
		few, many string
	}{
		{"", "true [web]", "false []"},
		{ProxyCheckAuto, "true [web]", "false []"},
		{ProxyCheckOn, "true [web]", "true [web]"},
		{ProxyCheckOff, "false []", "false []"},
	}
	for _, test := range tests {
		s := testSettings()
		s.ProxyCheck = test.setting
		for _, side := range []struct {
			c    *service.Catalog
			want string
		}{{few.Catalog(1), test.few}, {many.Catalog(1), test.many}} {
			if got := checks(Build(Input{Catalog: side.c}, s)); got != side.want {
				t.Errorf("%q: %s, want %s", test.setting, got, side.want)
			}
		}
	}
}

// More servers of a known service are no reason for a reload, not even across the limit of auto; a new
// service is one anyway, and so is a service that went (P11).
func TestProxyCheckIsDecidedWithTheServices(t *testing.T) {
	b := service.NewBuilder("/p")
	r := builtin(t, testSettings())
	texts := map[string]string{}
	step := func(name, want string) {
		t.Helper()
		files, m, err := r.Render(Input{Catalog: b.Catalog(1)})
		if err != nil {
			t.Fatal(err)
		}
		if got := checks(m); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		texts[name] = withoutServers(files[0].Text())
	}
	step("empty", "true []")
	crowd(b, "web", fewServers)
	step("at the limit", "true [web]")
	crowd(b, "web", fewServers+1)
	step("above by scaling", "true [web]")
	crowd(b, "api", 1)
	step("a service came", "false []")
	for i := range 10 {
		b.Delete(fmt.Sprintf("/p/v1/instances/n/web.%d", i))
	}
	step("below by scaling", "false []")
	b.Delete("/p/v1/instances/n/api.0")
	step("a service went", "true [web]")
	for _, pair := range [][2]string{{"at the limit", "above by scaling"}, {"a service came", "below by scaling"}} {
		if diff := cmp.Diff(texts[pair[0]], texts[pair[1]]); diff != "" {
			t.Errorf("-%s +%s: more than servers differs:\n%s", pair[0], pair[1], diff)
		}
	}
}

// withoutServers leaves the server lines out of a configuration.
func withoutServers(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "    server ") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// Each server says for itself how long its sessions may last.
func TestDrainIsAComment(t *testing.T) {
	tests := []struct{ option, want string }{
		{`"drain":"2m"`, " # drain 120s\n"},
		{`"drain":"1500ms"`, " # drain 1500ms\n"},
		{`"drain":"0s"`, " # drain 0s\n"},
		{`"maxconn":"7"`, " maxconn 7\n"},
	}
	for _, test := range tests {
		c := mustCatalog(t, map[string]string{"instances/n/1": fmt.Sprintf(`{"service":"web","address":"10.0.0.1","port":80,"hosts":["a.test"],"options":{%s}}`, test.option)})
		files, _, err := builtin(t, testSettings()).Render(Input{Catalog: c})
		if err != nil {
			t.Fatal(err)
		}
		if text := files[0].Text(); !strings.Contains(text, " 10.0.0.1:80 weight 100"+test.want) {
			t.Errorf("%s: no server that ends in %q in\n%s", test.option, test.want, text)
		}
		checkHAProxy(t, files)
	}
}
