package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/sidekick-proxy/sidekick/pkg/admin"
	"github.com/sidekick-proxy/sidekick/pkg/catalog"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Each fact is said once, and what is left out is counted.
func TestWriteStatus(t *testing.T) {
	status := admin.Status{
		Node: "n", Version: "v1",
		Catalog: admin.CatalogStatus{Known: true, Live: true, Revision: 7, Services: 1, Instances: 15, Rejected: 4},
		Proxy:   admin.Proxy{Mode: "managed", InStep: true, State: "in step", ServersDown: []string{"be_a/s1"}},
	}
	var out strings.Builder
	writeStatus(&out, status)
	status.Proxy = admin.Proxy{Mode: "managed", State: "behind"}
	status.Catalog.Rejected = 0
	writeStatus(&out, status)
	status.Proxy.State = "a reload is due: backend be_a is new"
	until := time.Date(2026, 11, 22, 12, 10, 3, 0, time.UTC)
	status.Catalog.Suspects, status.Catalog.SuspectNodes, status.Catalog.SuspectUntil = 12, 2, &until
	writeStatus(&out, status)
	want := `
node     n        sidekick v1
catalog  live     1 service, 15 instances, 4 rejected (see ` + "`sidekick services`" + `), revision 7, confirmed 0s ago
proxy    in step  managed, 0 reloads, 0 runtime commands, 0 old workers, 1 server down by HAProxy's own check
node     n       sidekick v1
catalog  live    1 service, 15 instances, revision 7, confirmed 0s ago
proxy    BEHIND  managed, 0 reloads, 0 runtime commands, 0 old workers
node     n       sidekick v1
catalog  live    1 service, 15 instances, 12 suspects of 2 nodes until 12:10:03 UTC at the longest (see ` + "`sidekick services`" + `), revision 7, confirmed 0s ago
proxy    BEHIND  managed, 0 reloads, 0 runtime commands, 0 old workers; a reload is due: backend be_a is new
`
	if diff := cmp.Diff(want[1:], out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A catalog of which the registry does not say any more that it holds is not called live.
func TestCatalogWord(t *testing.T) {
	live := admin.CatalogStatus{Known: true, Live: true, StalenessSeconds: 12}
	old := live
	old.StalenessSeconds = 49
	for want, s := range map[string]admin.Status{
		"NONE":         {},
		"CACHED":       {Catalog: admin.CatalogStatus{Known: true}},
		"live":         {Catalog: live, Stages: []admin.StageStatus{{Stage: admin.StageRegister}, {Stage: admin.StageWatch, OK: true}}},
		"STALE":        {Catalog: live, Stages: []admin.StageStatus{{Stage: admin.StageWatch}}},
		"STALE by age": {Catalog: old, Stages: []admin.StageStatus{{Stage: admin.StageWatch, OK: true}}},
	} {
		if got := catalogWord(s); got != strings.TrimSuffix(want, " by age") {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// A stage that fails says for which cause, if that is known.
func TestStageWord(t *testing.T) {
	for _, tt := range []struct {
		stage admin.StageStatus
		want  string
	}{
		{admin.StageStatus{OK: true, AgeSeconds: 1}, "ok: last success 1s ago"},
		{admin.StageStatus{Error: "has not succeeded yet"}, "waiting: has not succeeded yet"},
		{admin.StageStatus{Errors: 1, Error: "broken", FailedFor: 2}, "FAILING: broken (failing for 2s)"},
		{admin.StageStatus{Errors: 1, Error: "write: full", Cause: "no-space", FailedFor: 2}, "FAILING: no-space: write: full (failing for 2s)"},
	} {
		word, detail := stageWord(tt.stage)
		if got := word + ": " + detail; got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

// What of the registry is left out is logged once, and again when it is something else.
func TestRejectedIsLogged(t *testing.T) {
	log, seen := logtest.NewNullLogger()
	r := &renderStage{log: log}
	var now rendering
	for _, step := range []struct {
		rejected []service.Rejection
		says     string
	}{
		{nil, ""},
		{[]service.Rejection{{Name: "/k/bad", Reason: "no address"}}, "left out; "},
		{[]service.Rejection{{Name: "/k/bad", Reason: "no address"}}, ""},
		{[]service.Rejection{{Name: "/k/bad", Reason: "no port"}}, "left out; "},
		{[]service.Rejection{{Name: "/k/bad", Reason: "no port"}, {Kind: service.HeldInDoubt, Name: "/k/old"}}, ""}, // of which the guard tells
		{nil, "nothing of the registry is left out"},
	} {
		seen.Reset()
		now.snapshot = &catalog.Snapshot{Catalog: &service.Catalog{Rejected: step.rejected}}
		r.tellRejected(&now)
		var said string
		if last := seen.LastEntry(); last != nil {
			said = last.Message
		}
		if (said == "") != (step.says == "") || !strings.Contains(said, step.says) {
			t.Errorf("%v: logged %q, want %q", step.rejected, said, step.says)
		}
	}
}

// What takes several lines stays several facts.
func TestOneLine(t *testing.T) {
	if got, want := oneLine(" service a is\tleft out\n\n  service b is left out\n"), "service a is left out; service b is left out"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
