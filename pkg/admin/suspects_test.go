package admin

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// TestSuspectsAreShown: in the list, routed or not, in the status and in the metrics; what is withheld as
// well. The names are a promise: docs/formats.md.
func TestSuspectsAreShown(t *testing.T) {
	b := service.NewBuilder("/p")
	for n := range 3 {
		b.Put(fmt.Sprint("/p/v1/instances/host2/", n), fmt.Appendf(nil, `{"service":"web","address":"10.0.0.%d","port":80,"hosts":["a.test"]}`, n+1))
	}
	c := b.Catalog(1)
	i := c.Services[0].Instances
	until := clock().Add(10 * time.Minute)
	with := *c
	with.Services = []*service.Service{service.NewService("web", []*service.Instance{
		i[0].Suspect(&service.Doubt{Why: "it is routed"}), i[1].Suspect(&service.Doubt{Out: true, Why: "it is out"}), i[2],
	}, nil)}
	with.Rejected = []service.Rejection{{Kind: service.HeldInDoubt, Service: "web", Node: "host3", ID: "9", Reason: "it may be old"}}
	with.Doubts = &service.Doubts{Instances: 2, Withheld: 1, Until: until, Nodes: []*service.Node{{Name: "host2"}}}
	s := testState(t)
	s.SetCatalog(&with, true, time.Time{})
	s.SetModel(render.Build(render.Input{Catalog: &with}, render.Settings{Node: "host1", HTTPListen: ":80"}))

	_, body := get(t, s, "/api/v1/services")
	var services []Service
	if err := json.Unmarshal([]byte(body), &services); err != nil || len(services) != 1 {
		t.Fatalf("%v: %s", err, body)
	}
	var got []string
	for _, i := range services[0].Instances {
		got = append(got, fmt.Sprintf("%s/%s %s %v %q %q", i.Node, i.ID, i.State, i.Routed, i.Why, i.Doubt))
	}
	want := []string{
		`host2/0 suspect true "" "it is routed"`, `host2/1 suspect false "it is out" "it is out"`,
		`host2/2 ready true "" ""`, `host3/9 suspect false "it may be old" "it may be old"`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if strings.Count(body, `"doubt"`) != 3 {
		t.Errorf("doubt is there for others as well: %s", body)
	}
	_, body = get(t, s, "/api/v1/status")
	for _, field := range []string{`"suspects": 3`, `"suspect_nodes": 1`, `"suspect_until": "2026-11-22T10:11:00Z"`, `"rejected": 0`} {
		if !strings.Contains(body, field) {
			t.Errorf("status has no %s: %s", field, body)
		}
	}
	_, body = get(t, s, "/metrics")
	for _, line := range []string{`sidekick_instances{state="suspect"} 3`, `sidekick_instances{state="ready"} 1`} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("metrics have no %s", line)
		}
	}
}
