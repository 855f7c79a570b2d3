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
		rapid.SampledFrom(hostile),
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
		"hosts":   []string{anyOf(t, "host", "a.test", "*.a.test", "localhost"), anyOf(t, "host2", "b.test", "a.test")},
		"scope":   anyOf(t, "scope", "", "", "node"), "zone": anyOf(t, "zone", "", "west", "east"),
		"name": anyOf(t, "name", "web-1"), "container": anyOf(t, "container", "3f2a91c0de12", ""),
		"started": rapid.SampledFrom([]string{"2026-11-22T10:00:00Z", "2026-11-22T11:00:00Z"}).Draw(t, "started"),
	}
	addLabels(v, anyLabels(t))
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
