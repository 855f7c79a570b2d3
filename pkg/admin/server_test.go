package admin

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// clock is the tests' time.
func clock() time.Time { return time.Date(2026, 11, 22, 10, 1, 0, 0, time.UTC) }

func testState(t *testing.T) *State {
	t.Helper()
	proxy := func() Proxy {
		return Proxy{Mode: "managed", InStep: true, State: "in step", Reloads: map[string]uint64{"section": 3}, RuntimeCommands: 7, OldWorkers: 1, OldWorkersBytes: 119080, ServersDown: []string{"be_web/host3-ext-0"}}
	}
	return NewState("host1", "v1", []Stage{StageWatch, StageRender}, proxy, clock)
}

func testCatalog(t *testing.T) *service.Catalog {
	t.Helper()
	catalog, err := service.ParseFile([]byte(`{"revision":42,"items":{
		"/sidekick/v1/nodes/host1":{"agent":"a","address":"192.0.2.5","version":"v1","started":"2026-11-22T09:00:00Z"},
		"/sidekick/v1/instances/host1/c1.web.80":{"service":"web","address":"192.0.2.5","port":32768,"hosts":["shop.example.com"],"started":"2026-11-22T10:00:00Z"},
		"/sidekick/v1/instances/host2/c2.web.80":{"service":"web","address":"192.0.2.6","port":32769,"hosts":["shop.example.com"],"state":"draining","weight":0,"started":"2026-11-22T10:00:30Z"},
		"/sidekick/v1/instances/host2/bad":{"service":"web","address":"nowhere","port":1}}}`))
	if err != nil {
		t.Fatal(err)
	}
	return catalog
}

func get(t *testing.T, s *State, path string) (int, string) {
	t.Helper()
	recorder := httptest.NewRecorder()
	Handler(s).ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, path, http.NoBody))
	body, err := io.ReadAll(recorder.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return recorder.Code, string(body)
}

// The names and types of the fields are a promise to other programs: docs/formats.md.
func TestServicesFormat(t *testing.T) {
	s := testState(t)
	catalog := testCatalog(t)
	s.SetCatalog(catalog, true, time.Time{})
	s.SetModel(render.Build(render.Input{Catalog: catalog}, render.Settings{Node: "host1", HTTPListen: ":80"}))
	s.SetRejected("docker")([]service.Rejection{{Kind: "label", Service: "web", Node: "host1", ID: "c9.web.80", Reason: "sidekick.port=x: no port"}})
	s.SetRejected("gate")([]service.Rejection{{Kind: service.HeldByCheck, Service: "slow", Node: "host1", ID: "c8.slow.80", Reason: "does not answer yet"}})

	_, body := get(t, s, "/api/v1/services")
	var got []map[string]any
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	names := []any{}
	for _, service := range got {
		names = append(names, service["name"])
	}
	if diff := cmp.Diff(names, []any{"/sidekick/v1/instances/host2/bad", "slow", "web"}); diff != "" {
		t.Fatalf("services (- got, + want):\n%s", diff)
	}
	web := got[2]
	instances := web["instances"].([]any)
	delete(web, "instances")
	if diff := cmp.Diff(web, map[string]any{"name": "web", "mode": "http", "hosts": []any{"shop.example.com"}, "path": "/", "listen": 0.0}); diff != "" {
		t.Errorf("service (- got, + want):\n%s", diff)
	}
	want := map[string]any{
		"id": "c1.web.80", "node": "host1", "address": "192.0.2.5", "port": 32768.0, "state": "ready",
		"weight": 100.0, "routed": true, "why": "", "age_seconds": 60.0, "server": render.ServerName(catalog.Service("web").Instances[0]),
	}
	if diff := cmp.Diff(instances[0], any(want)); diff != "" {
		t.Errorf("instance (- got, + want):\n%s", diff)
	}
	draining, rejected := instances[1].(map[string]any), instances[2].(map[string]any)
	if draining["routed"] != false || draining["why"] == "" {
		t.Errorf("the draining instance is listed as %v, want not routed, with a reason", draining)
	}
	if rejected["server"] != "" || draining["server"] == "" {
		t.Errorf("servers: got %q of the rejected instance and %q of the draining one, which HAProxy knows", rejected["server"], draining["server"])
	}
	if rejected["state"] != "rejected" || rejected["why"] != "sidekick.port=x: no port" {
		t.Errorf("the rejected instance is listed as %v", rejected)
	}
	if slow := got[1]["instances"].([]any)[0].(map[string]any); slow["state"] != "starting" {
		t.Errorf("the instance that does not answer yet is listed as %v", slow)
	}
}

// What the registry does not take is listed with the cause, unless the catalog has it from before.
func TestUnwrittenIsListed(t *testing.T) {
	s := testState(t)
	catalog := testCatalog(t)
	s.SetCatalog(catalog, true, time.Time{})
	s.SetModel(render.Build(render.Input{Catalog: catalog}, render.Settings{Node: "host1", HTTPListen: ":80"}))
	services := func() (list []Service) {
		_, body := get(t, s, "/api/v1/services")
		if err := json.Unmarshal([]byte(body), &list); err != nil {
			t.Fatal(err)
		}
		return list
	}
	before := services()
	const why = "not written to the registry yet: no route"
	s.SetRejected("publisher")([]service.Rejection{
		{Kind: service.Unwritten, Service: "web", Node: "host1", ID: "c1.web.80", Reason: why},
		{Kind: service.Unwritten, Service: "new", Node: "host1", ID: "c7.new.80", Reason: why},
	})
	got := services()
	at := slices.IndexFunc(got, func(s Service) bool { return s.Name == "new" })
	if at < 0 || got[at].Instances[0].State != "waiting" || got[at].Instances[0].Why != why || got[at].Instances[0].Routed {
		t.Fatalf("got %+v, want the new one to wait", got)
	}
	if diff := cmp.Diff(slices.Delete(got, at, at+1), before); diff != "" {
		t.Errorf("the one that was written before is listed again (- got, + want):\n%s", diff)
	}
	_, metrics := get(t, s, "/metrics")
	if want := `sidekick_instances{state="waiting"} 1`; !strings.Contains(metrics, want) {
		t.Errorf("the metrics lack %s", want)
	}
}

// What HAProxy's own check has taken out of service is not shown as routed.
func TestServerDownIsNotRouted(t *testing.T) {
	catalog := testCatalog(t)
	model := render.Build(render.Input{Catalog: catalog}, render.Settings{Node: "host1", HTTPListen: ":80"})
	web := model.Services[0]
	for _, server := range web.Servers {
		listed := Services(catalog, model, nil, []string{web.Backend + "/" + server.Name}, clock())
		one, two := listed[1].Instances[0], listed[1].Instances[1]
		if down := server.Name == web.Servers[0].Name; one.Routed == down || (one.Why == whyDown) != down {
			t.Errorf("%s is down: the ready instance is listed as %+v", server.Name, one)
		}
		if two.Routed || two.Why == whyDown {
			t.Errorf("%s is down: the draining instance is listed as %+v, want its own reason", server.Name, two)
		}
	}
}

// What this host knows of its own unhealthy instances, which the registry does not, is shown with them
// and not as one more; what is not unhealthy is left as it is.
func TestUnhealthyIsExplained(t *testing.T) {
	catalog, err := service.ParseFile([]byte(`{"revision":1,"items":{
		"/sidekick/v1/instances/host1/c1.web.80":{"service":"web","address":"192.0.2.5","port":80,"state":"unhealthy"},
		"/sidekick/v1/instances/host1/c2.web.80":{"service":"web","address":"192.0.2.5","port":81},
		"/sidekick/v1/instances/host2/c1.web.80":{"service":"web","address":"192.0.2.6","port":80,"state":"unhealthy"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	model := render.Build(render.Input{Catalog: catalog}, render.Settings{Node: "host1", HTTPListen: ":80"})
	var local []service.Rejection
	for _, id := range []string{"c1.web.80", "c2.web.80", "c3.web.80"} {
		local = append(local, service.Rejection{Kind: service.UnhealthyByCheck, Service: "web", Node: "host1", ID: id, Reason: "it turned too often"})
	}
	var got []string
	for _, i := range Services(catalog, model, local, nil, clock())[0].Instances {
		if i.Why == "it turned too often" {
			got = append(got, i.Node+"/"+i.ID)
		}
	}
	if diff := cmp.Diff(got, []string{"host1/c1.web.80"}); diff != "" {
		t.Errorf("explained (-got +want):\n%s", diff)
	}
}

func TestEmptyListIsAList(t *testing.T) {
	if _, body := get(t, testState(t), "/api/v1/services"); strings.TrimSpace(body) != "[]" {
		t.Errorf("services without a catalog = %s, want []", body)
	}
	if _, body := get(t, testState(t), "/api/v1/nodes"); strings.TrimSpace(body) != "[]" {
		t.Errorf("nodes without a catalog = %s, want []", body)
	}
}

func TestCatalogFormatCanBeReadAgain(t *testing.T) {
	s := testState(t)
	if code, _ := get(t, s, "/api/v1/services?format=catalog"); code != http.StatusServiceUnavailable {
		t.Errorf("status without a catalog = %d, want 503", code)
	}
	s.SetCatalog(testCatalog(t), true, time.Time{})
	_, body := get(t, s, "/api/v1/services?format=catalog")
	again, err := service.ParseFile([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if again.Revision != 42 || len(again.Services) != 1 || len(again.Services[0].Instances) != 2 {
		t.Errorf("the catalog came back as %+v", again)
	}
}

// Ready means that a catalog is in force, live or cached; alive means only that the agent answers.
func TestHealth(t *testing.T) {
	s := testState(t)
	steps := []struct {
		name string
		do   func()
		code int
		says string
	}{
		{"nothing known", func() {}, 503, "no catalog yet"},
		{"cached, not in force", func() { s.SetCatalog(testCatalog(t), false, clock().Add(-time.Hour)) }, 503, "not in force yet"},
		{"cached, in force", s.SetInForce, 200, "cached catalog in force, saved 2026-11-22T09:01:00Z"},
		{"live", func() { s.SetCatalog(testCatalog(t), true, time.Time{}) }, 200, "live catalog in force"},
	}
	for _, step := range steps {
		step.do()
		code, body := get(t, s, "/readyz")
		if code != step.code || !strings.Contains(body, step.says) {
			t.Errorf("%s: /readyz = %d %q, want %d with %q", step.name, code, body, step.code, step.says)
		}
		if code, _ := get(t, s, "/healthz"); code != http.StatusOK {
			t.Errorf("%s: /healthz = %d, want 200", step.name, code)
		}
	}
}

// In step is only who has succeeded in every stage, and has a live catalog.
func TestStatusInStep(t *testing.T) {
	s := testState(t)
	inStep := func() bool { return s.Status().InStep }
	if inStep() {
		t.Error("in step before anything happened")
	}
	s.SetCatalog(testCatalog(t), true, time.Time{})
	s.Report(StageWatch)(nil)
	s.Report(StageRender)(nil)
	if !inStep() {
		t.Errorf("not in step although all succeeded: %+v", s.Status())
	}
	s.Report(StageRender)(errors.New("template: no such field"))
	if inStep() {
		t.Error("in step with a failing stage")
	}
	s.Report(StageRender)(nil)
	s.SetCatalog(testCatalog(t), false, clock())
	if inStep() {
		t.Error("in step with a cached catalog")
	}
}

// Each field of the status is in docs/formats.md, and those that may be absent are said to be.
func TestStatusFormat(t *testing.T) {
	doc, err := os.ReadFile("../../docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	at := clock()
	full := Status{
		Catalog: CatalogStatus{Saved: &at, CopyError: "x"}, Proxy: Proxy{Version: "x"},
		Stages: []StageStatus{{LastSuccess: &at, AgeSeconds: 1, Error: "x", Cause: "x", FailedFor: 1}},
	}
	fields := map[string]bool{}
	for _, status := range []Status{full, testState(t).Status()} {
		text, err := json.Marshal(status)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`"(\w+)":`).FindAllStringSubmatch(string(text), -1) {
			fields[name[1]] = true
		}
	}
	delete(fields, "section") // a reason for reloads
	for name := range fields {
		if !strings.Contains(string(doc), "`"+name+"`") {
			t.Errorf("docs/formats.md lacks the field %s", name)
		}
	}
	live := NewState("host1", "v1", nil, func() Proxy { return Proxy{Mode: "off"} }, clock)
	if _, body := get(t, live, "/api/v1/status"); !strings.Contains(body, `"servers_down": []`) {
		t.Errorf("got %s, want an empty list of servers", body)
	}
	live.SetCatalog(testCatalog(t), true, time.Time{})
	if _, body := get(t, live, "/api/v1/status"); strings.Contains(body, `"saved"`) || strings.Contains(body, `"copy_error"`) {
		t.Errorf("got %s, want neither saved nor copy_error of a live catalog", body)
	}
}

// The names of metrics are a promise too.
func TestMetrics(t *testing.T) {
	s := testState(t)
	s.SetCatalog(testCatalog(t), true, time.Time{})
	s.Report(StageWatch)(nil)
	s.Report(StageRender)(errors.New("broken"))
	s.SetCauses([]string{"no-quorum", "unreachable"})
	s.SetRejected("docker")([]service.Rejection{{Kind: "label"}, {Kind: service.HeldByCheck}, {Kind: service.UnhealthyByCheck}})
	if got := s.Status().Catalog.Rejected; got != 2 {
		t.Errorf("rejected: got %d in the status, want 2, without what only waits for its check", got)
	}
	_, body := get(t, s, "/metrics")
	for _, want := range []string{
		`sidekick_stage_last_success_timestamp_seconds{stage="watch"} 1.79534166e+09`,
		`sidekick_stage_last_success_timestamp_seconds{stage="render"} 0`,
		`sidekick_stage_errors_total{stage="render"} 1`,
		`sidekick_reloads_total{reason="section"} 3`,
		`sidekick_runtime_commands_total 7`,
		`sidekick_registry_revision 42`,
		`sidekick_registry_staleness_seconds 0`,
		`sidekick_registry_problem{cause="no-quorum"} 0`,
		`sidekick_registry_problem{cause="unreachable"} 0`,
		`sidekick_proxy_differences 0`,
		`sidekick_old_workers 1`,
		`sidekick_servers_down 1`,
		`sidekick_old_workers_memory_bytes 119080`,
		`sidekick_instances{state="ready"} 1`,
		`sidekick_instances{state="draining"} 1`,
		`sidekick_instances{state="starting"} 1`,
		`sidekick_rejected{kind="label"} 1`,
		`sidekick_rejected{kind="value"} 1`,
		`sidekick_rejected{kind="file"} 0`,
		`sidekick_services 1`,
		`sidekick_in_step 0`,
	} {
		if !strings.Contains(body, "\n"+want+"\n") {
			t.Errorf("metrics lack %q", want)
		}
	}
	s.Report(StageWatch)(caused{})
	_, body = get(t, s, "/metrics")
	for _, want := range []string{`sidekick_registry_problem{cause="no-quorum"} 1`, `sidekick_registry_problem{cause="unreachable"} 0`} {
		if !strings.Contains(body, "\n"+want+"\n") {
			t.Errorf("while the watch fails metrics lack %q", want)
		}
	}
}
