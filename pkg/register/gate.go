package register

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// firstWait is for the first verdicts on what runs already.
const firstWait = 2 * time.Second

// Gate lets an instance through when it answers. It stands between a Source and a Publisher.
type Gate struct {
	Log logrus.FieldLogger
	// Held is given the complete set of what is not let through yet, or was and is unhealthy, with
	// the reasons, when it changes. It is called from Run's goroutine and may be nil.
	Held func([]service.Rejection)
	// Dial makes the connections of checks; a net.Dialer if nil.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Memory is a file in which the gate keeps what it has let through, so that the next agent on
	// this host takes up where this one ends: what was let through needs no new pass, and what was
	// draining is never ready again in the same run. No file if empty.
	Memory string
	// Undrain brings the ids of instances of which it is to be forgotten that they were told to stop,
	// because they went on. A later stop signal counts again. It may be nil.
	Undrain <-chan string
}

// Run takes complete sets of candidates, and sends complete sets of those that answer, after each
// change, until ctx is cancelled; a reader that is slow gets the newest. An instance is let through
// by its first successful check; later it may turn unhealthy, but leaves only when its Source lets
// it go. One that turns again and again, or whose container is started again and again, has to pass
// for longer each time. The first set waits for the first verdict on every candidate that is not in Memory, 2 s at
// most, so that the restart of an agent does not take away what went on running.
func (g *Gate) Run(ctx context.Context, in <-chan []service.Instance, out chan<- []service.Instance) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	notes := newNotebook(g.Memory, g.Log)
	h := &hall{
		Gate: g, wg: &wg, verdicts: make(chan verdict), check: newChecker(g.Dial),
		candidates: map[string]*candidate{}, dampers: map[string]*damper{}, notes: notes, recalled: notes.read(), began: time.Now(),
	}
	wg.Go(func() { notes.run(ctx) })
	first := time.NewTimer(firstWait)
	defer first.Stop()
	first.Stop() // until there is a first set
	due := time.NewTimer(firstWait)
	defer due.Stop()
	var ready chan<- []service.Instance
	var next []service.Instance
	for {
		if set, ok := h.next(); ok {
			next, ready = set, out
		}
		if due.Stop(); !h.due.IsZero() {
			due.Reset(time.Until(h.due))
		}
		select {
		case set := <-in:
			if h.take(ctx, set) {
				first.Reset(firstWait)
			}
		case v := <-h.verdicts:
			h.judge(v)
			h.judgeWaiting()
		case id := <-g.Undrain:
			h.undrain(id)
		case <-first.C:
			h.open = true
		case <-due.C:
		case ready <- next:
			ready = nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
