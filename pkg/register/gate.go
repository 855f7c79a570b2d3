package register

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

const (
	firstWait  = 2 * time.Second // for the first verdicts on what runs already
	dialsAtAll = 64              // connections being made at a time
)

// Gate lets an instance through when it answers. It stands between a Source and a Publisher.
type Gate struct {
	Log logrus.FieldLogger
	// Report is told of each set that is passed on (nil). It may be nil.
	Report func(error)
	// Held is given the complete set of what is not let through yet, with the reasons, when it
	// changes. It is called from Run's goroutine and may be nil.
	Held func([]service.Rejection)
	// Dial makes the connections of checks; a net.Dialer if nil.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Run takes complete sets of candidates, and sends complete sets of those that answer, after each
// change, until ctx is cancelled; a reader that is slow gets the newest. An instance is let through
// by its first successful check; later it may turn unhealthy, but leaves only when its Source lets
// it go. The first set waits for the first verdict on every candidate, 2 s at most, so that the
// restart of an agent does not take away what went on running.
func (g *Gate) Run(ctx context.Context, in <-chan []service.Instance, out chan<- []service.Instance) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	h := &hall{
		Gate: g, wg: &wg, verdicts: make(chan verdict),
		check:      newChecker(g.Dial, dialsAtAll),
		candidates: map[string]*candidate{},
	}
	first := time.NewTimer(firstWait)
	defer first.Stop()
	first.Stop() // until there is a first set
	var ready chan<- []service.Instance
	var next []service.Instance
	for {
		if set, ok := h.next(); ok {
			next, ready = set, out
		}
		select {
		case set := <-in:
			if h.take(ctx, set) {
				first.Reset(firstWait)
			}
		case v := <-h.verdicts:
			h.judge(v)
		case <-first.C:
			h.open = true
		case ready <- next:
			ready = nil
			g.report()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (g *Gate) report() {
	if g.Report != nil {
		g.Report(nil)
	}
}
