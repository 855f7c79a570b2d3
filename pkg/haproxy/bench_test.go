package haproxy

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// BenchmarkPlan is what the driver does for one changed server among many: with a block for each
// service its time and its allocations do not grow with them but for the comparison of hashes (P12),
// with a text in one block they do.
func BenchmarkPlan(b *testing.B) {
	for _, servers := range []int{10, 1_000, 10_000, 100_000} {
		before, after := manyServers(servers, 100), manyServers(servers, 7)
		b.Run(fmt.Sprintf("blocks/%d", servers), func(b *testing.B) { benchmarkPlan(b, before, after) })
		before, after = inOneBlock(before), inOneBlock(after)
		b.Run(fmt.Sprintf("one_block/%d", servers), func(b *testing.B) { benchmarkPlan(b, before, after) })
	}
}

func benchmarkPlan(b *testing.B, before, after render.Files) {
	b.Helper()
	known := readBlocks(before[0])
	b.ReportAllocs()
	for b.Loop() {
		if sameFiles(before, after) {
			b.Fatal("the files are equal")
		}
		d := diff(before, after, Capabilities{}, known)
		if len(d.commands()) != 1 || d.reason.needed() {
			b.Fatal(d.commands(), d.reason)
		}
	}
}

// BenchmarkPlanPending is the same while a new section waits for a reload, or is refused.
func BenchmarkPlanPending(b *testing.B) {
	for _, servers := range []int{1_000, 10_000, 100_000} {
		b.Run(strconv.Itoa(servers), func(b *testing.B) {
			running := manyServers(servers, 1)
			var wanted [2]render.Files
			for i := range wanted {
				wanted[i] = manyServers(servers, 2+i)
				wanted[i][0].Blocks = append(wanted[i][0].Blocks, render.NewBlock("", "backend be_new from web\n"))
			}
			known := readBlocks(running[0])
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				want := wanted[n%2]
				d := diff(running, want, Capabilities{}, known)
				if len(d.commands()) != 1 || !d.reason.needed() {
					b.Fatal(d.commands(), d.reason)
				}
				running, known = d.afterCommands(running, want), d.reading
				n++
			}
		})
	}
}

// manyServers is a text with that many servers in services of ten, one of which has that weight.
func manyServers(n, weight int) render.Files {
	f := render.File{Blocks: []render.Block{render.NewBlock("head", "global\n    maxconn 10\ndefaults web\n    mode http\n")}}
	for service := range n / 10 {
		var text strings.Builder
		fmt.Fprintf(&text, "backend be_%d from web\n    balance roundrobin\n", service)
		for s := range 10 {
			w := 100
			if s == 5 && service == n/20 {
				w = weight
			}
			fmt.Fprintf(&text, "    server s%d 10.0.0.%d:80 weight %d\n", s, s+1, w)
		}
		f.Blocks = append(f.Blocks, render.NewBlock("service", text.String()))
	}
	return render.Files{f}
}

// inOneBlock is what a template makes that does not use {{services}}.
func inOneBlock(files render.Files) render.Files {
	return render.Files{{Blocks: []render.Block{render.NewBlock("", files[0].Text())}}}
}

// BenchmarkHeld is what the rendering asks for when a service wants a port of its own, after one
// changed server among many (P12).
func BenchmarkHeld(b *testing.B) {
	for _, servers := range []int{100, 10_000} {
		b.Run(strconv.Itoa(servers), func(b *testing.B) {
			texts := []render.Files{withBinds(manyServers(servers, 100)), withBinds(manyServers(servers, 7))}
			var d Driver
			d.here.answering = true
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				d.holds(texts[n%2 : n%2+1])
				if got := len(d.Held()); got != 2 {
					b.Fatalf("got %d ports held, want 2", got)
				}
				n++
			}
		})
	}
}

// withBinds gives a text two addresses, one at each end.
func withBinds(files render.Files) render.Files {
	blocks := []render.Block{render.NewBlock("", "frontend first\n    bind :80\n")}
	blocks = append(blocks, files[0].Blocks...)
	return render.Files{{Blocks: append(blocks, render.NewBlock("", "frontend last\n    bind :81\n"))}}
}
