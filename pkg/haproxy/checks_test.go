package haproxy

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// TestChecksByProgram: a server that a program is to check comes by a reload, for one that comes at run
// time ends HAProxy or is never checked; it goes at run time (P6).
func TestChecksByProgram(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.start(t)
		b.run(t)
		one, two := haproxytest.Server(t, "one"), haproxytest.Server(t, "two")
		text := func(servers ...string) string {
			s := b.withOptions("    option external-check\n    external-check command /bin/true\n", "", servers...)
			return strings.Replace(s, "global\n", "global\n    external-check\n    insecure-fork-wanted\n", 1)
		}
		b.apply(t, text("s1 "+one))
		if res := b.apply(t, text("s1 "+one, "s2 "+two+" check inter 50ms")); res.How != HowReload {
			t.Errorf("a server with a check: got %+v, want a reload", res)
		}
		before := b.worker(t)
		if res := b.apply(t, text("s2 "+two+" check inter 50ms")); res.How != HowRuntime {
			t.Errorf("a server goes: got %+v, want runtime", res)
		}
		haproxytest.Until(t, "two to answer", answers(b.addr, "two"))
		if res := b.apply(t, text("s1 "+one)); res.How != HowRuntime {
			t.Errorf("a server with a check goes: got %+v, want runtime", res)
		}
		haproxytest.Until(t, "one to answer", answers(b.addr, "one"))
		if got := b.worker(t); got != before {
			t.Errorf("worker: got %v, want the same %v", got, before)
		}
	})
}

// TestObservedServer: a server that is watched while it answers bears as many errors as one that came by
// a reload (P6).
func TestObservedServer(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.start(t)
		b.run(t)
		bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
		t.Cleanup(bad.Close)
		one := haproxytest.Server(t, "one")
		line := "s2 " + bad.Listener.Addr().String() + " check inter 60s observe layer7 on-error mark-down"
		b.apply(t, b.text("", "s1 "+one+" weight 0"))
		if res := b.apply(t, b.text("", "s1 "+one+" weight 0", line)); res.How != HowRuntime {
			t.Fatalf("an observed server comes: got %+v, want runtime", res)
		}
		const limit = 10 // by the manual
		for i := range limit {
			live, err := b.driver.api.servers(t.Context(), b.worker(t))
			if err != nil {
				t.Fatal(err)
			}
			if at := slices.IndexFunc(live, func(s liveServer) bool { return s.name == "s2" }); at < 0 || live[at].stopped {
				t.Fatalf("after %d errors: got %+v, want it in service before the %dth", i, live, limit)
			}
			haproxytest.Get(b.addr) // an error, which is what the server gives
		}
	})
}
