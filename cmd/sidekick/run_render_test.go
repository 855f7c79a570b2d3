package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/sidekick-proxy/sidekick/internal/filepoll"
	"github.com/sidekick-proxy/sidekick/pkg/admin"
	"github.com/sidekick-proxy/sidekick/pkg/catalog"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
	"github.com/sidekick-proxy/sidekick/pkg/sitefiles"
)

// TestTemplateLog: each fault of the template is logged once, as an error while nothing good is in force,
// and so is its mend.
func TestTemplateLog(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	state := admin.NewState("host1", "test", []admin.Stage{admin.StageRender}, func() admin.Proxy { return admin.Proxy{} }, time.Now)
	ports := &ports{held: func() []uint16 { return nil }, doubled: map[uint16]bool{}}
	r := &renderStage{settings: newSettings(), log: log, state: state, ports: ports, passage: &passage{}}
	now := rendering{snapshot: &catalog.Snapshot{Catalog: &service.Catalog{}}, site: &sitefiles.Set{}}
	none, warn, fault, info := logrus.PanicLevel, logrus.WarnLevel, logrus.ErrorLevel, logrus.InfoLevel
	const broken, failing, good = "{{", "{{index .Services 7}}", "global\n"
	var got []logrus.Level
	for _, text := range []string{failing, broken, good, good, failing, failing, good, broken, "", good} {
		hook.Reset()
		if text != "" { // else only the catalog has changed
			r.parse(filepoll.Content{Text: text}, &now)
		}
		if now.renderer != nil {
			if err := r.step(t.Context(), &now, false, make(chan render.Files, 1)); err != nil {
				t.Fatal(err)
			}
		}
		level := none
		if e := hook.LastEntry(); e != nil {
			level = e.Level
		}
		got = append(got, level)
	}
	want := []logrus.Level{fault, fault, info, none, warn, none, info, warn, none, info}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("levels (-want +got):\n%s", diff)
	}
}
