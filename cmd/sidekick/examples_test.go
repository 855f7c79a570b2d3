package main

import (
	"strings"
	"testing"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// The examples that docs/template.md shows do what they say, and HAProxy takes them.
func TestExampleTemplates(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		var out strings.Builder
		c := cases{haproxyBin: t.Bin, check: true, update: *update}
		if err := c.run(t.Context(), &out, "../../examples/templates"); err != nil {
			t.Errorf("%v\n%s", err, out.String())
		}
	})
}

// Words of one's own in a server's line, too, come to HAProxy at run time (P11).
func TestExampleWeightsNeedNoReload(t *testing.T) {
	const dir = "../../examples/templates/weights-by-zone"
	s, err := cases{}.settings(dir)
	if err != nil {
		t.Fatal(err)
	}
	catalog, err := readCase(dir)
	if err != nil {
		t.Fatal(err)
	}
	renderer, err := s.newRenderer()
	if err != nil {
		t.Fatal(err)
	}
	wanted, model, err := renderer.Render(render.Input{Catalog: catalog})
	if err != nil {
		t.Fatal(err)
	}
	far := model.Services[0].Instances[1]
	few := *catalog
	few.Services = []*service.Service{service.NewService("web", catalog.Services[0].Instances[:1], nil)}
	running, _, err := renderer.Render(render.Input{Catalog: &few})
	if err != nil {
		t.Fatal(err)
	}
	commands, reload := haproxy.Plan(running, wanted, haproxy.Capabilities{})
	if reload != (haproxy.Reason{}) || len(commands) != 2 || commands[0].Address != far.Endpoint().String() || commands[0].Weight != 10 {
		t.Errorf("from one server to three: %+v, a reload: %s; want two servers, the first %s with weight 10", commands, reload, far.Endpoint())
	}
}
