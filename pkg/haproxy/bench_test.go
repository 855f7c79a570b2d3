package haproxy

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// BenchmarkPlan is what the driver does for one changed server among many services (P12).
func BenchmarkPlan(b *testing.B) {
	for _, services := range []int{100, 10000} {
		b.Run(strconv.Itoa(services), func(b *testing.B) {
			before, after := manyServices(services, 100), manyServices(services, 7)
			known := readBlocks(before[0])
			for b.Loop() {
				if sameFiles(before, after) {
					b.Fatal("the files are equal")
				}
				d := diff(before, after, Capabilities{}, known)
				if len(d.commands()) != 1 || d.reason.needed() {
					b.Fatal(d.commands(), d.reason)
				}
			}
		})
	}
}

func manyServices(n, weight int) render.Files {
	f := render.File{Blocks: []render.Block{render.NewBlock("head", "global\n    maxconn 10\ndefaults web\n    mode http\n")}}
	for i := range n {
		w := 100
		if i == n/2 {
			w = weight
		}
		f.Blocks = append(f.Blocks, render.NewBlock("service", fmt.Sprintf(
			"backend be_%d from web\n    server s1 10.0.0.1:80 weight %d check inter 2s fall 3\n    server s2 10.0.0.2:80 weight 100\n", i, w)))
	}
	return render.Files{f}
}
