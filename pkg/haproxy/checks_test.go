package haproxy

import (
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
