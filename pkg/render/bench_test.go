package render

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
	"github.com/sidekick-proxy/sidekick/templates"
)

// instancesEach is how many instances each service has here.
const instancesEach = 10

// crowded is a catalog of that many services.
func crowded(services int) *service.Builder {
	b := service.NewBuilder("/p")
	for s := range services {
		for i := range instancesEach {
			putCrowded(b, s, i, 100, "")
		}
	}
	return b
}

// putCrowded writes one instance of such a catalog, or one more.
func putCrowded(b *service.Builder, s, i, weight int, host string) {
	b.Put(fmt.Sprintf("/p/v1/instances/n%d/%d", i, s), fmt.Appendf(nil,
		`{"service":"s%d","address":"10.0.0.1","port":%d,"weight":%d,"hosts":["s%d%s.test"],"started":"2026-11-22T10:00:00Z"}`, s, 1000+i, weight, s, host))
}

// plainTemplate is the built-in template without blocks: what text/template alone makes of a model.
func plainTemplate(tb testing.TB) func(m *Model) {
	tb.Helper()
	text := templates.HAProxy
	for _, name := range []string{"service", "routes", "splits"} {
		inline := `{{range .Services}}{{template "` + name + `" .}}{{end}}`
		text = strings.ReplaceAll(strings.ReplaceAll(text, `{{services "`+name+`"}}`, inline), "{{services}}", inline)
	}
	t, err := template.New("t").Option("missingkey=error").Funcs(functions(testSettings().withDefaults())).Parse(text)
	if err != nil {
		tb.Fatal(err)
	}
	return func(m *Model) {
		for _, name := range []string{"t", "file routes.map", "file split.map"} {
			if err := t.ExecuteTemplate(io.Discard, name, m); err != nil {
				tb.Fatal(err)
			}
		}
	}
}

// BenchmarkRender is a full render, and one after one change, beside the bare execution of the same template
// over the same model. A change costs what it changes, and copies of lists (P12).
func BenchmarkRender(b *testing.B) {
	for _, services := range []int{1_000, 10_000} {
		b.Run(fmt.Sprintf("%dx%d", services, instancesEach), func(b *testing.B) { benchmarkRender(b, services) })
	}
}

func benchmarkRender(b *testing.B, services int) {
	b.Helper()
	catalog := crowded(services)
	files, model, err := builtin(b, testSettings()).Render(Input{Catalog: catalog.Catalog(1)})
	if err != nil {
		b.Fatal(err)
	}
	size := 0
	for _, f := range files {
		size += len(f.Text())
	}
	plain, bound := plainTemplate(b), time.Duration(0)
	b.Run("bare template", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			plain(model)
		}
		bound = b.Elapsed() / time.Duration(b.N)
	})
	beside := func(b *testing.B) {
		b.Helper()
		if bound > 0 {
			b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(bound), "of-bare")
		}
	}
	b.Run("full", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := builtin(b, testSettings()).Render(Input{Catalog: catalog.Catalog(1)}); err != nil {
				b.Fatal(err)
			}
		}
		beside(b)
		b.ReportMetric(float64(size), "bytes")
	})
	r := builtin(b, testSettings())
	if _, _, err := r.Render(Input{Catalog: catalog.Catalog(1)}); err != nil {
		b.Fatal(err)
	}
	for _, change := range []struct {
		name string
		make func(n int)
	}{
		{"a weight", func(n int) { putCrowded(catalog, services/2, 3, n%2, "") }},
		{"an instance more or less", func(n int) {
			if putCrowded(catalog, services/2, instancesEach, 100, ""); n%2 == 0 {
				catalog.Delete(fmt.Sprintf("/p/v1/instances/n%d/%d", instancesEach, services/2))
			}
		}},
		{"another host", func(n int) {
			for i := range instancesEach {
				putCrowded(catalog, services/3, i, 100, strconv.Itoa(n))
			}
		}},
	} {
		b.Run(change.name, func(b *testing.B) {
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				n++
				change.make(n)
				if _, _, err := r.Render(Input{Catalog: catalog.Catalog(1)}); err != nil {
					b.Fatal(err)
				}
			}
			beside(b)
		})
	}
}
