package ask

import (
	"context"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

const (
	answerTTL = 30 * time.Second       // of an agent's answers
	mostAsks  = 256                    // that are answered at one time
	countPace = 100 * time.Millisecond // between two counts of sessions,
	countCost = 20                     // which take this part of the time at most
	fallPace  = time.Second            // between two answers while sessions end
	retryPace = time.Second            // after an answer that could not be written
)

// Answerer answers for one agent. See and InForce tell it what goes on; they never block, and may be
// called at any time by any goroutine.
type Answerer struct {
	// Node and Agent say whose answers they are: only the agent that holds the node's name answers.
	Node, Agent string
	Prefix      string
	Registry    Registry
	// Sessions counts what is still open on the servers of these instances, in all of the proxy's
	// processes. It is nil if there is no proxy.
	Sessions func(ctx context.Context, of []*service.Instance) (int, error)
	// Undrain makes the agent forget that an instance of its own was told to stop. It may be nil.
	Undrain func(id string)
	Log     logrus.FieldLogger

	mu    sync.Mutex
	now   view
	awake chan struct{} // see bell
}

// view is what an Answerer was told.
type view struct {
	catalog *service.Catalog
	number  uint64 // of the snapshot that says all of the catalog
	inForce uint64 // number of the snapshot that the proxy runs
}

// See takes a catalog of the registry, and the number of the snapshot by which it comes into force.
func (a *Answerer) See(c *service.Catalog, number uint64) {
	a.tell(func(v *view) { v.catalog, v.number = c, number })
}

// InForce takes the number of the snapshot that the proxy runs.
func (a *Answerer) InForce(number uint64) {
	a.tell(func(v *view) { v.inForce = max(v.inForce, number) })
}

// tell changes the view and wakes Run up if that may be of interest to it.
func (a *Answerer) tell(change func(*view)) {
	a.mu.Lock()
	asked := a.asked()
	change(&a.now)
	asked = asked || a.asked()
	a.mu.Unlock()
	if !asked {
		return
	}
	select {
	case a.bell() <- struct{}{}:
	default:
	}
}

// asked tells whether there is an ask. It is called with the lock held.
func (a *Answerer) asked() bool { return a.now.catalog != nil && len(a.now.catalog.Asks) > 0 }

// bell holds a token when there is something to look at.
func (a *Answerer) bell() chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.awake == nil {
		a.awake = make(chan struct{}, 1)
	}
	return a.awake
}

// Run answers until ctx is cancelled, and takes its answers away then.
func (a *Answerer) Run(ctx context.Context) error {
	r := answering{Answerer: a, open: map[string]*question{}, written: map[string]written{}}
	defer r.close(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-a.bell():
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		r.look()
		r.next = time.Time{}
		for _, q := range r.open {
			r.consider(ctx, q)
		}
		r.write(ctx)
		timer.Stop()
		if !r.next.IsZero() {
			timer.Reset(max(0, time.Until(r.next)))
		}
	}
}
