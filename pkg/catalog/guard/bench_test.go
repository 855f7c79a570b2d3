package guard

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// crowd is a registry of many nodes with 20 instances each, of 200 services.
type crowd struct{ *world }

const crowdNodes, crowdInstances, crowdServices = 1000, 20, 200

func newCrowd(tb testing.TB) crowd {
	tb.Helper()
	c := crowd{newWorld(tb)}
	for n := range crowdNodes {
		c.writes(n)
	}
	c.take()
	return c
}

func crowdNode(n int) string { return fmt.Sprint("n", n) }

// writes claims a node and writes its instances.
func (c crowd) writes(n int) {
	c.tb.Helper()
	c.claims++
	c.mark(service.Node{Name: crowdNode(n), Agent: "x", Claimed: time.Unix(int64(c.claims), 0)})
	for k := range crowdInstances {
		i := instance(crowdNode(n), k)
		i.Address = netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), byte(k)})
		i.Service = fmt.Sprint("s", (n*crowdInstances+k)%crowdServices)
		i.Started = time.Unix(1, 0)
		c.write(i, true)
	}
}

func (c crowd) ends(n int) {
	c.rev++
	for k := range crowdInstances {
		i := instance(crowdNode(n), k)
		c.b.Drop(i.Key(prefix), c.rev)
	}
	c.b.Drop(service.NodeKey(prefix, crowdNode(n)), c.rev)
}

// BenchmarkCrowd lets 1,000 nodes leave and return, each in a catalog of its own, and measures what else the
// guard is asked while all are in doubt.
func BenchmarkCrowd(b *testing.B) {
	c := newCrowd(b)
	b.Run("leave and return", func(b *testing.B) {
		for b.Loop() {
			began := time.Now()
			for n := range crowdNodes {
				c.at = c.at.Add(time.Millisecond)
				c.ends(n)
				c.take()
			}
			left := time.Since(began)
			for n := range crowdNodes {
				c.at = c.at.Add(time.Millisecond)
				c.writes(n)
				c.take()
			}
			b.ReportMetric(left.Seconds()*1e3/crowdNodes, "ms/leave")
			b.ReportMetric((time.Since(began)-left).Seconds()*1e3/crowdNodes, "ms/return")
		}
	})
	for n := range crowdNodes {
		c.ends(n)
	}
	c.take()
	b.Run("tick", func(b *testing.B) {
		for b.Loop() {
			c.now = c.g.Tick(c.at)
		}
	})
	b.Run("answer", func(b *testing.B) {
		for b.Loop() {
			c.at = c.at.Add(time.Millisecond)
			c.g.Next()
			if p, _, ok := c.g.Due(c.at); ok {
				c.g.Answered(p, true, c.at)
			}
		}
	})
}
