package render

import (
	"slices"
	"strings"
	"testing"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// inDoubt is the catalog with the instances of these ids in doubt.
func inDoubt(c *service.Catalog, doubts map[string]*service.Doubt) *service.Catalog {
	with := *c
	with.Services = slices.Clone(c.Services)
	for at, s := range c.Services {
		instances := slices.Clone(s.Instances)
		for n, i := range instances {
			if d := doubts[i.ID]; d != nil {
				instances[n] = i.Suspect(d)
			}
		}
		with.Services[at] = service.NewService(s.Name, instances, s.Overrides)
	}
	return &with
}

// TestSuspects: one that is routed is the very line that it was, so that HAProxy hears nothing of it; one
// that does not answer is out of service like one that is told to stop, which takes no reload. P3, P11.
func TestSuspects(t *testing.T) {
	c := mustCatalog(t, map[string]string{
		"instances/a/1":     `{"service":"web","address":"10.0.0.1","port":80,"hosts":["web.test"]}`,
		"instances/a/2":     `{"service":"web","address":"10.0.0.2","port":80,"hosts":["web.test"]}`,
		"instances/b/3":     `{"service":"web","address":"10.0.0.3","port":80,"hosts":["web.test"]}`,
		"instances/b/4":     `{"service":"web","address":"10.0.0.4","port":80,"hosts":["web.test"],"state":"draining"}`,
		"overrides/web/b/3": `{"state":"maint","by":"root"}`,
	})
	r := builtin(t, testSettings())
	render := func(c *service.Catalog) (string, *Model) {
		files, m, err := r.Render(Input{Catalog: c})
		if err != nil {
			t.Fatal(err)
		}
		checkHAProxy(t, files)
		return printed(files), m
	}
	before, _ := render(c)
	in := &service.Doubt{Why: "its node left; it is routed"}
	routed, _ := render(inDoubt(c, map[string]*service.Doubt{"1": in, "2": in, "3": in, "4": in}))
	if routed != before {
		t.Errorf("suspects that are routed change the text to\n%s\nfrom\n%s", routed, before)
	}
	out := &service.Doubt{Out: true, Why: "its node left; it does not answer"}
	text, m := render(inDoubt(c, map[string]*service.Doubt{"1": in, "2": out, "3": out, "4": out}))
	was, now := strings.Split(before, "\n"), strings.Split(text, "\n")
	differ := 0
	for n, line := range was {
		if n < len(now) && line == now[n] {
			continue
		}
		if differ++; len(was) != len(now) || now[n] != line+" disabled" || !strings.Contains(line, "10.0.0.2") {
			t.Errorf("line %q became %q", line, now[n])
		}
	}
	if differ != 1 {
		t.Errorf("%d lines differ, want that of one server", differ)
	}
	compareGolden(t, "testdata/suspects.golden", text+explained(m))
}
