package catalog

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/sirupsen/logrus/hooks/test"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// BenchmarkView takes one change of one instance through a View, of few and of many, without doubts and
// with those of 300 instances. P12: it must not grow but for copies of pointers.
func BenchmarkView(b *testing.B) {
	for _, size := range []int{100, 10_000, 100_000} {
		for _, doubts := range []bool{false, true} {
			b.Run(fmt.Sprintf("instances=%d/doubts=%v", size, doubts), func(b *testing.B) { benchView(b, size, doubts) })
		}
	}
}

func benchView(b *testing.B, size int, doubts bool) {
	b.Helper()
	builder, rev := service.NewBuilder(prefix), int64(0)
	key := func(n int) string { return service.InstancesKey(prefix, fmt.Sprint("n", n%10)) + strconv.Itoa(n) }
	put := func(n, weight int) {
		rev++
		builder.Take(service.Item{Key: key(n), Value: fmt.Appendf(nil, `{"service":"s%d","address":"10.%d.%d.%d","port":80,"weight":%d}`, n/10, n>>16, n>>8&255, n&255, weight), Modified: rev, Leased: true})
	}
	for n := range 10 {
		rev++
		builder.Take(service.Item{Key: service.NodeKey(prefix, fmt.Sprint("n", n)), Value: []byte(`{"agent":"x"}`), Created: rev, Modified: rev, Leased: true})
	}
	for n := range size {
		put(n, 100)
	}
	log, _ := test.NewNullLogger()
	v := &View{KeepStale: time.Hour, TTL: time.Hour, Node: "n9", Log: log, Dial: func(context.Context, netip.AddrPort) error { return nil }}
	ctx, cancel := context.WithCancel(b.Context())
	in, out, done := make(chan *service.Catalog), make(chan *Snapshot), make(chan error)
	go func() { done <- v.Run(ctx, in, out) }()
	defer func() { cancel(); <-done }()
	step := func() {
		in <- builder.Catalog(rev)
		builder.Taken()
		<-out
	}
	step()
	if doubts {
		for node := range 3 {
			rev++
			for n := node; n < min(size, 1000); n += 10 {
				builder.Drop(key(n), rev)
			}
			builder.Drop(service.NodeKey(prefix, fmt.Sprint("n", node)), rev)
		}
		step()
	}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		put(9, n%200)
		step()
	}
}
