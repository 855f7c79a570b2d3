package haproxy

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// TestRuntimeEqualsReload: whatever a text is changed to, the runtime path leaves HAProxy as a start
// with the new text would: servers, addresses, states, weights, checks and maps (P6, P11).
func TestRuntimeEqualsReload(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		t.Parallel() // it waits most of the time
		b, fresh := external(t, t.Bin), external(t, t.Bin)
		b.start(t)
		fresh.start(t)
		b.run(t)
		fresh.run(t)
		one := haproxytest.Server(t, "one")
		b.applyFiles(t, b.routed("", one, one, "/ be_web"))
		how, seed := map[string]int{}, drawSeed(t)
		for i := range 25 {
			gen := rapid.Custom(func(rt *rapid.T) func(*bench) render.Files { return drawRouted(rt, one) })
			text := gen.Example(seed + i)
			how[b.applyFiles(t, text(b)).How]++
			fresh.driver.acquire(t.Context())
			fresh.driver.forget(Reason{Kind: ReasonStart, Detail: "the test wants a reload"})
			fresh.driver.release()
			if res := fresh.applyFiles(t, text(fresh)); res.How != HowReload {
				t.Fatalf("%d: got %+v, want a reload", i, res)
			}
			if diff := cmp.Diff(fresh.shows(t), b.shows(t)); diff != "" {
				t.Fatalf("%d: after the runtime path (-reload +runtime):\n%s\n%s", i, diff, text(b)[0].Text())
			}
		}
		if how[HowRuntime] < 3 {
			t.Errorf("paths: got %v, want some by the runtime path", how)
		}
	})
}

// drawSeed is a new seed for each run, which is told if the test fails; SOAKSEED draws the same again.
func drawSeed(tb testing.TB) int {
	tb.Helper()
	seed := rand.IntN(1_000_000_000)
	if text := os.Getenv("SOAKSEED"); text != "" { // a setting of the tests
		var err error
		if seed, err = strconv.Atoi(text); err != nil {
			tb.Fatalf("SOAKSEED: %v", err)
		}
	}
	tb.Logf("drawn from SOAKSEED=%d", seed)
	return seed
}

// drawRouted is a random configuration with servers and a map, for any bench.
func drawRouted(rt *rapid.T, address string) func(*bench) render.Files {
	var extra strings.Builder
	for i := range 6 {
		if rapid.IntRange(0, 3).Draw(rt, "left out") == 0 {
			continue
		}
		// The name tells what no command can change.
		kind := rapid.SampledFrom([]string{"", "check inter 60s", "backup"}).Draw(rt, "kind")
		words := rapid.SampledFrom([]string{"", "disabled", "weight 0", "weight 77", "maxconn 5", "disabled weight 3"}).Draw(rt, "words")
		fmt.Fprintf(&extra, "    server %.1s%d %s %s %s\n", kind+"v", i, address, kind, words)
	}
	var rows []string
	for i := range rapid.IntRange(0, 12).Draw(rt, "rows") {
		rows = append(rows, fmt.Sprintf("/%d be_%s", rapid.IntRange(0, 15).Draw(rt, "key"), []string{"web", "two"}[i%2]))
	}
	option := rapid.SampledFrom([]string{"", "", "", "", "", "", "", "    timeout server 9s\n"}).Draw(rt, "option")
	return func(b *bench) render.Files {
		return b.routed(option+extra.String(), address, address, rows...)
	}
}

// shows is what a HAProxy tells of its servers and its map.
func (b *bench) shows(tb testing.TB) []string {
	tb.Helper()
	live, err := b.driver.api.servers(tb.Context(), b.worker(tb))
	if err != nil {
		tb.Fatal(err)
	}
	var all []string
	for _, s := range live {
		if b.driver.leaving[s.backend+"/"+s.name] == nil {
			all = append(all, fmt.Sprintf("%+v", s))
		}
	}
	answer, err := ask(tb.Context(), b.cfg.RuntimeSocket, "show map paths.map")
	if err != nil {
		tb.Fatal(err)
	}
	for key, value := range parseTable(answer).values {
		all = append(all, key+" → "+value)
	}
	slices.Sort(all)
	return all
}
