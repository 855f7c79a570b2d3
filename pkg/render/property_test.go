package render

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sidekick-proxy/sidekick/pkg/service"
	"github.com/sidekick-proxy/sidekick/templates"
)

// anyText draws what a hostile container or another writer of keys may try.
func anyText(t *rapid.T, name string) string {
	return rapid.OneOf(
		rapid.SampledFrom([]string{"a\nserver x 1.2.3.4:80", "'", `"`, "#", "${PATH}", "%[env(PATH)]", "\\", "a b", "\x00", "\u2028", ";", "{{.Node}}", strings.Repeat("x", 1000)}),
		rapid.StringN(0, 20, -1),
		rapid.StringMatching(`[ -~]{0,20}`),
	).Draw(t, name)
}

// anyOf draws a good value, or now and then a hostile one.
func anyOf(t *rapid.T, name string, good ...string) string {
	if rapid.IntRange(0, 9).Draw(t, name+" hostile") == 0 {
		return anyText(t, name)
	}
	return rapid.SampledFrom(good).Draw(t, name)
}

// anyValue draws the value of an instance, which may or may not decode.
func anyValue(t *rapid.T) []byte {
	v := map[string]any{
		"service": anyOf(t, "service", "web", "api", "db", "no-service", "a", strings.Repeat("z", 63)),
		"address": anyOf(t, "address", "10.0.0.1", "fd00::1", "127.0.0.1", "::ffff:1.2.3.4"),
		"port":    rapid.IntRange(0, 65536).Draw(t, "port"),
		"state":   anyOf(t, "state", "ready", "draining", "unhealthy"),
		"weight":  rapid.IntRange(-1, 257).Draw(t, "weight"),
		"mode":    anyOf(t, "mode", "http", "http", "tcp"),
		"hosts":   []string{anyOf(t, "host", "a.test", "*.a.test", "localhost"), anyOf(t, "host2", "b.test", "a.test")},
		"path":    anyOf(t, "path", "/", "/api", "/api/", "/a%20b/~c"),
		"listen":  rapid.SampledFrom([]int{0, 0, 8080, 9000, 9001, 80, 65535, -1}).Draw(t, "listen"),
		"scope":   anyOf(t, "scope", "", "", "node"),
		"name":    anyOf(t, "name", "web-1"), "container": anyOf(t, "container", "3f2a91c0de12", ""),
		"started": rapid.SampledFrom([]string{"2026-11-22T10:00:00Z", "2026-11-22T11:00:00Z"}).Draw(t, "started"),
	}
	options := map[string]string{}
	for _, o := range [][]string{
		{"balance", "roundrobin", "leastconn", "first", "random", "random(3)", "source", "uri", "uri whole", "uri path-only", "url_param x", "hdr(X-Y)"},
		{"path.strip", "true", "false"},
		{"default", "true", "false"},
		{"backup", "true"},
		{"maxconn", "1", "1000000"},
		{"retry", "post"},
		{"drain", "0s", "2m", "480h"},
		{"check", "none", "tcp", "http:/health"},
		{"timeout.server", "1ms", "480h", "1m30s"},
		{"timeout.connect", "1500ms"},
		{"timeout.tunnel", "480h"},
		{"timeout.queue", "1s"},
		{"header.request.X", "a"},
		{"auth", "users"},
		{"sticky", "id", "SRV.x_y-z"},
		{"tls", "server"},
		{"h2", "true", "false"},
		{"proxy-protocol", "v1", "v2"},
		{"newer", "x"},
	} {
		if rapid.IntRange(0, 2).Draw(t, o[0]+"?") == 0 {
			options[o[0]] = anyOf(t, o[0], o[1:]...)
		}
	}
	v["options"] = options
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func anyCatalog(t *rapid.T) map[string][]byte {
	items := map[string][]byte{}
	for range rapid.IntRange(0, 8).Draw(t, "items") {
		node := rapid.SampledFrom([]string{"host-a", "b", strings.Repeat("n", 63)}).Draw(t, "node")
		items["/p/v1/instances/"+node+"/"+rapid.StringMatching(`[A-Za-z0-9._-]{1,12}`).Draw(t, "id")] = anyValue(t)
	}
	for range rapid.IntRange(0, 2).Draw(t, "overrides") {
		by, err := json.Marshal(anyText(t, "by"))
		if err != nil {
			t.Fatal(err)
		}
		items["/p/v1/overrides/"+anyOf(t, "target", "web", "api", "web/host-a", "db/b")] = fmt.Appendf(nil, `{"state":%q,"weight":%d,"by":%s}`, anyOf(t, "said", "drain", "maint", ""), rapid.IntRange(-1, 257).Draw(t, "share"), by)
	}
	return items
}

func catalogOf(items map[string][]byte, keys []string) *service.Catalog {
	b := service.NewBuilder("/p")
	for _, k := range keys {
		b.Put(k, items[k])
	}
	return b.Catalog(0)
}

// Whatever is registered: each line is one that the template began, and HAProxy takes the whole
// (P7, F7).
func TestHostileCatalogs(t *testing.T) {
	needHAProxy(t)
	head := printedLines(t)
	rapid.Check(t, func(rt *rapid.T) {
		items := anyCatalog(rt)
		c := catalogOf(items, slices.Sorted(maps.Keys(items)))
		files, m, err := builtin(t, testSettings()).Render(Input{Catalog: c})
		if err != nil {
			rt.Fatal(err)
		}
		checkLinesBegin(rt, files, m, head)
		if rapid.IntRange(0, 4).Draw(rt, "check") == 0 {
			checkHAProxy(t, files)
		}
	})
}

// printedLines counts the lines of an empty catalog.
func printedLines(t *testing.T) int {
	t.Helper()
	files, _, err := builtin(t, testSettings()).Render(Input{Catalog: mustCatalog(t, nil)})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(files[0].Text(), "\n")
}

// checkLinesBegin counts what the model says should be there.
func checkLinesBegin(t *rapid.T, files Files, m *Model, head int) {
	starts := []string{"", "frontend fe_listen_", "    bind '", "    default_backend be_", "backend be_", "    balance ", "    hash-type consistent", "    timeout ", "    http-request ", "    default-server ", "    cookie ", "    # ", "    server "}
	count := map[string]int{}
	lines := strings.Split(strings.TrimSuffix(files[0].Text(), "\n"), "\n")
	for _, line := range lines[head:] {
		known := slices.IndexFunc(starts, func(s string) bool { return s == line || s != "" && strings.HasPrefix(line, s) })
		if known < 0 {
			t.Fatalf("line %q is none of the template's", line)
		}
		count[starts[known]]++
	}
	servers, listens := 0, 0
	for _, s := range m.Services {
		servers += len(s.Servers)
		if s.Listen != 0 {
			listens++
		}
	}
	if count["    server "] != servers || count["backend be_"] != len(m.Services) || count["frontend fe_listen_"] != listens {
		t.Fatalf("%v lines for %d services, %d servers, %d ports", count, len(m.Services), servers, listens)
	}
	if got := strings.Count(files[1].Text(), "\n"); got != 1+len(m.Routes) {
		t.Fatalf("%d lines in %s for %d routes", got, files[1].Name, len(m.Routes))
	}
}

// Equal catalogs give identical files, whatever the order in which they came to be and whatever was
// rendered before (P11).
func TestSameCatalogSameFiles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first, items := anyCatalog(t), anyCatalog(t)
		keys := slices.Sorted(maps.Keys(items))
		taken := map[uint16]string{}
		if rapid.Bool().Draw(t, "taken") {
			taken[9000] = "in use"
		}
		want := mustRender(t, newBuiltin(t), catalogOf(items, keys), taken)

		used := newBuiltin(t)
		b := service.NewBuilder("/p")
		b.Replace(maps.All(first))
		mustRender(t, used, b.Catalog(1), nil)
		for _, k := range slices.Sorted(maps.Keys(first)) {
			if _, keep := items[k]; !keep {
				b.Delete(k)
			}
		}
		for _, k := range rapid.Permutation(keys).Draw(t, "order") {
			b.Put(k, items[k])
			if rapid.Bool().Draw(t, "look") {
				mustRender(t, used, b.Catalog(2), nil)
			}
		}
		if diff := cmp.Diff(want, mustRender(t, used, b.Catalog(3), taken)); diff != "" {
			t.Fatalf("(-from scratch +step by step):\n%s", diff)
		}
	})
}

func newBuiltin(t *rapid.T) *Renderer {
	r, err := New("t", templates.HAProxy, testSettings())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustRender(t *rapid.T, r *Renderer, c *service.Catalog, taken map[uint16]string) Files {
	files, m, err := r.Render(Input{Catalog: c, Taken: taken})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(explained(Build(Input{Catalog: c, Taken: taken}, testSettings())), explained(m)); diff != "" {
		t.Fatalf("model (-built +rendered):\n%s", diff)
	}
	return files
}

// An unchanged service is not executed again (P12).
func TestUnchangedServicesKeepTheirModel(t *testing.T) {
	b := service.NewBuilder("/p")
	value := func(name, host string, port int) []byte {
		return fmt.Appendf(nil, `{"service":%q,"address":"10.0.0.1","port":%d,"hosts":[%q]}`, name, port, host)
	}
	b.Put("/p/v1/instances/n/1", value("a", "a.test", 80))
	b.Put("/p/v1/instances/n/2", value("b", "b.test", 80))
	r := builtin(t, testSettings())
	_, first, err := r.Render(Input{Catalog: b.Catalog(1)})
	if err != nil {
		t.Fatal(err)
	}
	b.Put("/p/v1/instances/n/2", value("b", "b.test", 81))
	_, second, err := r.Render(Input{Catalog: b.Catalog(2)})
	if err != nil {
		t.Fatal(err)
	}
	if first.Services[0] != second.Services[0] || first.Services[1] == second.Services[1] {
		t.Error("a was made again, or b was not")
	}
	b.Put("/p/v1/instances/n/0", value("0", "a.test", 80)) // of unknown age as well, but with a lower key
	_, third, err := r.Render(Input{Catalog: b.Catalog(3)})
	if err != nil {
		t.Fatal(err)
	}
	if third.Services[1] == second.Services[0] || len(third.Services[1].Routes) != 0 || third.Services[2] != second.Services[1] {
		t.Errorf("a lost its route, of which its model says %+v", third.Services[1])
	}
}

func BenchmarkRender(b *testing.B) {
	const services, instances = 1000, 10
	value := func(s, port int) []byte {
		return fmt.Appendf(nil, `{"service":"s%d","address":"10.0.0.1","port":%d,"hosts":["s%d.test"],"started":"2026-11-22T10:00:00Z"}`, s, port, s)
	}
	builder := service.NewBuilder("/p")
	for s := range services {
		for i := range instances {
			builder.Put(fmt.Sprintf("/p/v1/instances/n%d/%d", i, s), value(s, 80))
		}
	}
	b.Run("full", func(b *testing.B) {
		c := builder.Catalog(1)
		for b.Loop() {
			if _, _, err := builtin(b, testSettings()).Render(Input{Catalog: c}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("one change", func(b *testing.B) {
		r, port := builtin(b, testSettings()), 80
		b.ReportAllocs()
		for b.Loop() {
			port ^= 1
			builder.Put("/p/v1/instances/n3/500", value(500, port))
			if _, _, err := r.Render(Input{Catalog: builder.Catalog(1)}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
