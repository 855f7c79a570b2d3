package haproxy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// TestTrackedServerTakesNoOtherAlong: a server whose state another one takes over goes by a reload, so
// that the other one stays in service, also if that reload fails (P6).
func TestTrackedServerTakesNoOtherAlong(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.start(t)
		b.run(t)
		one := haproxytest.Server(t, "one")
		text := func(track, global string, servers ...string) string {
			more := "backend be_more from web\n    server m1 " + one + " track be_web/" + track + "\n"
			return strings.Replace(b.text(more, servers...), "global\n", "global\n"+global, 1)
		}
		s1, s2 := "s1 "+one+" check", "s2 "+one+" check"
		b.apply(t, text("s1", "", s1, s2))
		for _, want := range []string{text("s2", "    nonsense\n", s2), text("s1", "    nonsense\n", s1+" disabled", s2)} {
			if _, err := b.driver.Apply(t.Context(), files(want)); asRefused(err) == nil {
				t.Fatalf("a refused text: got %v", err)
			}
			live, err := b.driver.api.servers(t.Context(), b.worker(t))
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range live {
				if s.maint {
					t.Errorf("out of service before the reload: %+v", s)
				}
			}
		}
		if res := b.apply(t, text("s1", "", s1)); res.How != HowRuntime {
			t.Errorf("a server beside the tracked one goes: got %+v, want runtime", res)
		}
	})
}

// TestPlanSeesTracking: wherever a text names a tracked server, and however it is cut into blocks, only
// that one needs a reload, from the change on that brings the word (P11, P12).
func TestPlanSeesTracking(t *testing.T) {
	const head, last = "defaults d\n mode http\n", "backend z from d\n retries 3\n"
	web := func(servers ...string) string {
		return "backend web from d\n server " + strings.Join(servers, "\n server ") + "\n"
	}
	s1, s2 := "s1 10.0.0.1:80 check", "s2 10.0.0.2:80 check"
	const why = "others track it"
	for name, c := range map[string]struct {
		more   string
		wanted string
		reload string
	}{
		"the tracked one goes":      {"backend m from d\n server m 10.0.0.3:80 track web/s1\n", web(s2), why},
		"it is disabled":            {"backend m from d\n server m 10.0.0.3:80 track web/s1\n", web(s1+" disabled", s2), why},
		"its weight changes":        {"backend m from d\n server m 10.0.0.3:80 track web/s1\n", web(s1+" weight 7", s2), ""},
		"another one goes":          {"backend m from d\n server m 10.0.0.3:80 track web/s1\n", web(s1), ""},
		"one of another section":    {"backend m from d\n server m 10.0.0.3:80 track web2/s1\n", web(s2), ""},
		"within a section":          {"backend m from d\n server m 10.0.0.3:80 track s1\n", web(s2), why},
		"for haproxy alone to read": {"backend m from d\n server m 10.0.0.3:80 track \"$S\"\n", web(s2), why},
		"a word of another meaning": {"frontend f from d\n http-request track-sc0 src\n", web(s2), ""},
		"a comment":                 {"backend m from d\n retries 3 # server x track web/s1\n", web(s2), ""},
	} {
		for _, cut := range []func(string) render.Files{files, sectionBlocks, lineBlocks} {
			_, reason := Plan(cut(head+web(s1, s2)+c.more+last), cut(head+c.wanted+c.more+last), Capabilities{})
			if reason.needed() != (c.reload != "") || !strings.Contains(reason.Detail, c.reload) {
				t.Errorf("%s: got the reason %+v, want %q", name, reason, c.reload)
			}
		}
	}
	none := blocksOf([]string{head, web(s1, s2), "backend m from d\n", last})
	tracking := blocksOf([]string{head, web(s1, s2), "backend m from d\n server m 10.0.0.3:80 track web/s1\n", last})
	gone := blocksOf([]string{head, web(s2), "backend m from d\n server m 10.0.0.3:80 track web/s1\n", last})
	d := diff(none, tracking, Capabilities{}, nil)
	carried, fresh := diff(tracking, gone, Capabilities{}, d.reading), diff(tracking, gone, Capabilities{}, nil)
	if diff := cmp.Diff(fresh.reason, carried.reason); diff != "" || !strings.Contains(fresh.reason.Detail, why) {
		t.Errorf("with an earlier reading (-fresh +carried), of %+v:\n%s", fresh.reason, diff)
	}
}

// TestServerNamedElsewhere: HAProxy refuses a text that asks for the state of a server that it has not, and
// deletes none that its text asks for. So such a server is left to a reload, which is refused (P6).
func TestServerNamedElsewhere(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.start(t)
		b.run(t)
		one, two := haproxytest.Server(t, "one"), haproxytest.Server(t, "two")
		const asks = "    http-request set-header X-Up yes if { srv_is_up(be_web/s2) }\n"
		b.apply(t, b.text(asks, "s1 "+one, "s2 "+two))
		b.apply(t, b.text(asks, "s2 "+two)) // of others it says nothing
		res, err := b.driver.Apply(t.Context(), files(b.text(asks, "s1 "+one)))
		if asRefused(err) == nil {
			t.Errorf("got %+v, %v, want a refusal", res, err)
		}
		if got := b.stat(t, "s2", "status"); !strings.HasPrefix(got, "UP") && got != "no check" {
			t.Errorf("s2 is %q, want it in service", got)
		}
	})
}
