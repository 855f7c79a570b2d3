package main

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/sidekick-proxy/sidekick/internal/filepoll"
	"github.com/sidekick-proxy/sidekick/pkg/admin"
	"github.com/sidekick-proxy/sidekick/pkg/catalog"
	"github.com/sidekick-proxy/sidekick/pkg/quarantine"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
	"github.com/sidekick-proxy/sidekick/pkg/sitefiles"
	"github.com/sidekick-proxy/sidekick/templates"
)

// TestExamsAreBounded: whatever is asked for, exams take no more than a burst and their share of the time, and
// ones that find nobody become rare. F9.
func TestExamsAreBounded(t *testing.T) {
	tests := map[string]struct {
		took   time.Duration
		nobody bool
		most   int // in an hour
	}{
		"short ones":            {100 * time.Millisecond, false, 3600},
		"long ones":             {2 * time.Second, false, 96},
		"very long ones":        {time.Minute, false, 5},
		"ones that find nobody": {100 * time.Millisecond, true, 17},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var x examining
				n, began := 0, time.Now()
				for time.Since(began) < time.Hour {
					time.Sleep(max(0, time.Until(x.next())))
					time.Sleep(tt.took)
					x.spend(tt.took)
					if n++; tt.nobody {
						x.nobody, x.alike = x.nobody+1, x.alike+1
					}
				}
				if n > tt.most {
					t.Errorf("%d exams in an hour, want at most %d", n, tt.most)
				}
			})
		})
	}
}

// stepping is a stage that makes texts of the built-in template for a catalog of these services.
func stepping(t *testing.T) (stage *renderStage, log *logtest.Hook, step func(now *rendering, services ...string)) {
	t.Helper()
	logger, log := logtest.NewNullLogger()
	s := newSettings()
	stage = &renderStage{
		settings: s, log: logger, passage: &passage{}, ports: &ports{held: func() []uint16 { return nil }, doubled: map[uint16]bool{}},
		state:  admin.NewState("host1", "test", []admin.Stage{admin.StageRender}, func() admin.Proxy { return admin.Proxy{} }, time.Now),
		memory: filepath.Join(t.TempDir(), "none", "quarantine.json"),
	}
	renderer, err := render.New(templates.Name, templates.HAProxy, s.renderSettings())
	if err != nil {
		t.Fatal(err)
	}
	return stage, log, func(now *rendering, services ...string) {
		t.Helper()
		b := service.NewBuilder("/p")
		for _, name := range services {
			b.Put("/p/v1/instances/n/"+name, []byte(`{"service":"`+name+`","address":"10.0.0.1","port":80,"hosts":["`+name+`.test"]}`))
		}
		now.renderer, now.snapshot, now.site = renderer, &catalog.Snapshot{Catalog: b.Catalog(1), Live: true}, &sitefiles.Set{}
		if err := stage.step(t.Context(), now, false, make(chan render.Files, 1)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAnotherTextIsExaminedSoon: after exams that found nobody, as of a catalog with nothing but one bad service,
// another text is not left lying for minutes. P7, F7.
func TestAnotherTextIsExaminedSoon(t *testing.T) {
	stage, _, step := stepping(t)
	var now rendering
	step(&now, "bad")
	for range 12 {
		stage.conclude(&now, examined{renderer: now.renderer, verdict: quarantine.Verdict{Nobody: errors.New("the template")}})
	}
	if wait := time.Until(now.exam.next()); wait < time.Minute {
		t.Errorf("the same text is examined again after %s, want minutes", wait)
	}
	step(&now, "bad", "good")
	if wait := time.Until(now.exam.next()); wait > examPause {
		t.Errorf("another text is examined after %s, want %s at most", wait, examPause)
	}
}

// TestMemoryThatCannotBeWrittenIsToldOnce, whatever changes. F9.
func TestMemoryThatCannotBeWrittenIsToldOnce(t *testing.T) {
	_, log, step := stepping(t)
	var now rendering
	step(&now, "bad")
	now.exam.ward.Take(quarantine.Verdict{Findings: []quarantine.Finding{{Service: now.snapshot.Catalog.Service("bad"), Words: "nonsense"}}}, time.Now())
	log.Reset()
	for _, more := range []string{"one", "two", "three"} {
		step(&now, "bad", more)
	}
	if n := len(log.AllEntries()); n != 2 { // and that a service is held
		t.Errorf("%d lines are logged, want 2", n)
	}
}

// TestSlipsAreToldOnce: a name of --set that may be a slip of the pen, however often the template is read.
func TestSlipsAreToldOnce(t *testing.T) {
	stage, log, _ := stepping(t)
	stage.set = map[string]string{"acces-log": "json", "team": "shop"}
	var now rendering
	for range 3 {
		stage.parse(filepoll.Content{Text: templates.HAProxy}, &now)
	}
	if all := log.AllEntries(); len(all) != 1 || !strings.Contains(all[0].Message, "did you mean access-log?") {
		t.Errorf("%d lines are logged, want one with access-log", len(all))
	}
}
