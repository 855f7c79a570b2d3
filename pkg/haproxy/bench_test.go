package haproxy

import (
	"fmt"
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
