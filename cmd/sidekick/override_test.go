package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/sidekick-proxy/sidekick/pkg/catalog"
	"github.com/sidekick-proxy/sidekick/pkg/registry/embedded"
	"github.com/sidekick-proxy/sidekick/pkg/registry/etcd"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// overrideNamed is one of the commands, as if it were run.
func overrideNamed(name string, lasts time.Duration, weight *int) *override {
	o := &override{name: name, settings: newSettings(), lasts: lasts, weight: weight, target: service.Target{Service: "web"}}
	switch name {
	case "drain":
		o.edit = stateEdit(service.Drain)
	case "maint":
		o.edit = stateEdit(service.Maint)
	case "undrain":
		o.edit = withoutState
	default:
		o.edit = o.withWeight
	}
	return o
}

// TestStateAndWeightKeepEachOther: a command changes its own part of an override and leaves the other, and is
// refused where that would change the other's end.
func TestStateAndWeightKeepEachOther(t *testing.T) {
	five := 5
	soon := time.Now().Add(time.Hour)
	tests := []struct {
		name  string
		lasts time.Duration
		n     *int
		old   *service.Override
		want  string
	}{
		{"drain", 0, nil, nil, "drain"},
		{"drain", 0, nil, &service.Override{State: service.Maint, Until: soon}, "drain"},
		{"maint", time.Minute, nil, nil, "maint, ends"},
		{"maint", 0, nil, &service.Override{Weight: &five}, "maint weight 5"},
		{"drain", time.Minute, nil, &service.Override{Weight: &five}, "refused: ends never"},
		{"drain", 0, nil, &service.Override{Weight: &five, Until: soon}, "refused: ends at"},
		{"weight", 0, &five, &service.Override{State: service.Drain}, "drain weight 5"},
		{"weight", 0, &five, &service.Override{State: service.Drain, Until: soon}, "refused: ends at"},
		{"weight", 0, nil, &service.Override{State: service.Drain, Weight: &five, Until: soon}, "drain, ends"},
		{"weight", 0, nil, &service.Override{Weight: &five}, "none"},
		{"undrain", 0, nil, nil, "none"},
		{"undrain", 0, nil, &service.Override{State: service.Drain}, "none"},
		{"undrain", 0, nil, &service.Override{State: service.Drain, Weight: &five, Until: soon}, "weight 5, ends"},
	}
	for _, tt := range tests {
		got := "none"
		o, err := overrideNamed(tt.name, tt.lasts, tt.n).change(tt.old)
		switch {
		case err != nil:
			got = "refused: " + err.Error()[strings.Index(err.Error(), "ends"):]
		case o != nil:
			o.By = ""
			got = strings.TrimPrefix(describe(o), o.String()+" ")
		}
		if !strings.HasPrefix(got, tt.want) || !strings.Contains(tt.want, "ends") && got != tt.want {
			t.Errorf("%s for %v after %+v: got %q, want %q", tt.name, tt.lasts, tt.old, got, tt.want)
		}
	}
}

// TestFindTarget: what names nothing is refused with the names that there are, the most similar first.
func TestFindTarget(t *testing.T) {
	b := service.NewBuilder("/p")
	for _, at := range []string{"web host-a 1.web", "web host-a 2.web", "web host-b 3.web", "api host-a 4.api"} {
		f := strings.Fields(at)
		b.Put(service.InstancesKey("/p", f[1])+f[2], fmt.Appendf(nil, `{"service":%q,"address":"10.0.0.1","port":80}`, f[0]))
	}
	b.Put("/p/v1/overrides/gone/host-c", []byte(`{"state":"drain"}`))
	c := b.Catalog(1)
	for target, want := range map[string]string{
		"web": "", "web/host-a": "", "web/host-b/3.web": "", "gone/host-c": "",
		"wbe":              `there is no service "wbe" (did you mean web?); there are: web, api`,
		"nothing":          `there is no service "nothing"; there are: `,
		"api/host-b":       `there is no node with an instance of api "host-b" (did you mean host-a?); there are: host-a`,
		"web/host-a/3.web": `there is no instance of web on host-a "3.web" (did you mean 1.web?); there are: 1.web, 2.web`,
		"gone":             `there is no service "gone"; there are: `,
	} {
		target, err := service.ParseTarget(target)
		if err != nil {
			t.Fatal(err)
		}
		if err = findTarget(c, target); want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", target, err, want)
		}
	}
	if err := findTarget(service.NewBuilder("/p").Catalog(1), service.Target{Service: "web"}); err == nil || !strings.Contains(err.Error(), "nor any other") {
		t.Errorf("in an empty catalog: %v", err)
	}
}

// TestPassage: which snapshot the proxy runs is known by the files that it was given, also if some were
// overtaken on the way or come twice.
func TestPassage(t *testing.T) {
	var p passage
	set := func() render.Files { return render.Files{{Name: "x"}} }
	var sent []render.Files
	for n := range 100 {
		sent = append(sent, set())
		p.rendered(sent[n], passenger{number: uint64(n + 1)})
	}
	for _, step := range []struct {
		files render.Files
		want  uint64
	}{{set(), 0}, {sent[0], 0}, {sent[50], 51}, {sent[50], 51}, {sent[99], 100}, {sent[60], 100}} {
		if got := p.inForce(step.files); got != step.want {
			t.Errorf("got snapshot %d, want %d", got, step.want)
		}
	}
}

// TestOverridesAreLogged: each agent logs once what is said of instances, and its end.
func TestOverridesAreLogged(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	r := &renderStage{log: log}
	b := service.NewBuilder("/p")
	var now rendering
	steps := []struct{ key, value, want string }{
		{"overrides/web", `{"state":"drain","by":"root@a"}`, "override is in force: web drain by root@a"},
		{"overrides/web/b", `{"weight":7,"until":"2026-11-22T12:30:00Z"}`, "override is in force: web/b weight 7, ends at 2026-11-22T12:30:00Z"},
		{"nodes/a", `{"agent":"x"}`, ""},
		{"overrides/web", `{"state":"maint"}`, "override is in force: web maint"},
		{"overrides/web/b", "", "override has ended: web/b weight 7, ends at 2026-11-22T12:30:00Z"},
	}
	for n, step := range steps {
		hook.Reset()
		if step.value == "" {
			b.Delete("/p/v1/" + step.key)
		} else {
			b.Put("/p/v1/"+step.key, []byte(step.value))
		}
		now.snapshot = &catalog.Snapshot{Catalog: b.Catalog(int64(n))}
		r.tellOverrides(&now)
		var got []string
		for _, e := range hook.AllEntries() {
			got = append(got, fmt.Sprintf("%s: %s", e.Message, e.Data["override"]))
		}
		if got := strings.Join(got, "; "); got != step.want {
			t.Errorf("after %s %s: logged %q, want %q", step.key, step.value, got, step.want)
		}
	}
}

// TestAlone: whether anybody else serves does not count whom nobody sends requests.
func TestAlone(t *testing.T) {
	b := service.NewBuilder("/p")
	for id, state := range map[string]string{"1": "ready", "2": "ready", "3": "draining"} {
		b.Put(service.InstancesKey("/p", "a")+id, fmt.Appendf(nil, `{"service":"web","address":"10.0.0.1","port":80,"state":%q}`, state))
	}
	first := service.Target{Service: "web", Node: "a", ID: "1"}
	if alone(b.Catalog(1).Service("web"), first.Covers) {
		t.Error("it is taken for the last though another one is ready")
	}
	b.Put("/p/v1/overrides/web/a/2", []byte(`{"state":"drain"}`))
	if !alone(b.Catalog(2).Service("web"), first.Covers) {
		t.Error("it is not taken for the last though the others are drained")
	}
}

// stopsOf makes a registry of its own and stops of one instance in it, each of which has put its override.
func stopsOf(t *testing.T, number int) (board *etcd.Board, target service.Target, stops []*stopping) {
	t.Helper()
	s := newSettings()
	s.stateDir, s.registry, s.node = t.TempDir(), embeddedURL, "n"
	server, err := embedded.Start(t.Context(), embedded.Config{Dir: s.stateDir, Log: logrus.New()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Stop() })
	client, err := s.dialRegistry(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	board = &etcd.Board{Client: client, Prefix: s.prefix}
	target = service.Target{Service: "web", Node: "n", ID: "c.web.80"}
	for range number {
		one := &stopping{settings: s, board: board, grace: 1, targets: []service.Target{target}}
		if _, err := one.override(t.Context(), time.Minute); err != nil {
			t.Fatal(err)
		}
		stops = append(stops, one)
	}
	return board, target, stops
}

// overrideNow is what the registry says of a target, nil for nothing.
func overrideNow(t *testing.T, board *etcd.Board, target service.Target) (now *service.Override) {
	t.Helper()
	_, now, err := board.Change(t.Context(), target, func(now *service.Override) (*service.Override, error) { return now, nil })
	if err != nil {
		t.Fatal(err)
	}
	return now
}

// TestTakeBackKeepsWhatOthersSaid: what somebody else says of an instance while a stop is under way is not
// lost when that is given up.
func TestTakeBackKeepsWhatOthersSaid(t *testing.T) {
	board, target, stops := stopsOf(t, 1)
	_, _, err := board.Change(t.Context(), target, func(*service.Override) (*service.Override, error) {
		return &service.Override{Target: target, State: service.Maint, By: "operator"}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := stops[0].takeBack(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := overrideNow(t, board, target); now == nil || now.By != "operator" {
		t.Errorf("got %+v, want the operator's", now)
	}
}

// TestTwoStops: of two stops of one container the second leaves nothing of the first.
func TestTwoStops(t *testing.T) {
	board, target, stops := stopsOf(t, 2)
	for _, one := range stops {
		if err := one.takeBack(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if now := overrideNow(t, board, target); now != nil {
		t.Errorf("left: %+v", now)
	}
}
