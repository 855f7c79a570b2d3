// Package histories proves the first pipe, from an engine's containers to the registry, in one process:
// a fake engine that fails in every way that engines do, containers that are real listeners, and the
// stages of the agent as the command puts them together. What happens is drawn at random; what must
// hold is written down in [history.write] and [history.differs].
//
// It is not part of the end-to-end tests beside it, for it needs neither an engine nor HAProxy.
package histories

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/sidekick-proxy/sidekick/internal/fakeengine"
	"github.com/sidekick-proxy/sidekick/pkg/docker"
	"github.com/sidekick-proxy/sidekick/pkg/register"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// node is the name of the host on which all happens.
const node = "h1"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() logrus.FieldLogger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// agent is the first pipe of an agent: what `sidekick run` makes of an engine and a registry.
type agent struct {
	engine   *fakeengine.Engine
	registry register.Registry
	memory   string        // file of the gate
	resync   time.Duration // of the source
	linger   time.Duration

	mu     sync.Mutex
	told   map[run]bool // runs that the gate has heard to be told to stop
	broken []string     // what came out of the gate and must not
	stop   context.CancelFunc
	done   chan error
}

// start begins to run the stages.
func (a *agent) start(ctx context.Context) {
	ctx, a.stop = context.WithCancel(ctx)
	if a.told == nil {
		a.told = map[run]bool{}
	}
	a.done = make(chan error, 1)
	found, candidates := make(chan []service.Instance), make(chan []service.Instance)
	passed, wanted := make(chan []service.Instance), make(chan []service.Instance)
	source := &docker.Source{
		Host: a.engine.Host(), Node: node, Advertise: netip.MustParseAddr("192.0.2.1"), ExposeAll: true, Log: quiet(), Resync: a.resync,
	}
	gate := &register.Gate{Log: quiet(), Memory: a.memory}
	publisher := &register.Publisher{
		Registry: a.registry, Log: quiet(), MinRetry: 5 * time.Millisecond, MaxRetry: 50 * time.Millisecond, Linger: a.linger,
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return source.Run(ctx, found) })
	g.Go(func() error { return a.watchSource(ctx, found, candidates) })
	g.Go(func() error { return gate.Run(ctx, candidates, passed) })
	g.Go(func() error { return a.watchGate(ctx, passed, wanted) })
	joined, part := make(chan register.Set), register.Part{Origin: service.FromContainer, In: wanted}
	g.Go(func() error { return register.Join(ctx, joined, part) })
	g.Go(func() error { return errors.Join(publisher.Run(ctx, joined), context.Canceled) })
	go func() { a.done <- g.Wait() }()
}

// watchSource notes who is told to stop, once the gate has heard it.
func (a *agent) watchSource(ctx context.Context, in <-chan []service.Instance, out chan<- []service.Instance) error {
	for {
		set, err := pass(ctx, in, out)
		if err != nil {
			return err
		}
		a.mu.Lock()
		for k := range set {
			if set[k].State == service.Draining {
				a.told[runOf(&set[k])] = true
			}
		}
		a.mu.Unlock()
	}
}

// watchGate looks for what must never come out of the gate after that: anything but the word that such
// a run gets no requests, ever again. P1.
func (a *agent) watchGate(ctx context.Context, in <-chan []service.Instance, out chan<- []service.Instance) error {
	for {
		a.mu.Lock()
		told := maps.Clone(a.told) // before the set is taken
		a.mu.Unlock()
		set, err := pass(ctx, in, out)
		if err != nil {
			return err
		}
		for k := range set {
			if i := &set[k]; told[runOf(i)] && i.State != service.Draining {
				a.mu.Lock()
				a.broken = append(a.broken, fmt.Sprintf("%s is let through as %s after the gate heard that it is told to stop", i.ID, i.State))
				a.mu.Unlock()
			}
		}
	}
}

// pass passes one set on.
func pass(ctx context.Context, in <-chan []service.Instance, out chan<- []service.Instance) (set []service.Instance, err error) {
	select {
	case set = <-in:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case out <- set:
		return set, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// end ends the agent in good order, and returns why it would have ended otherwise.
func (a *agent) end() error {
	a.stop()
	if err := <-a.done; !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// crash ends the agent so that the next finds the gate's memory as it was before.
func (a *agent) crash() error {
	before, err := os.ReadFile(a.memory)
	if errors.Is(err, os.ErrNotExist) {
		return errors.Join(a.end(), ignoreMissing(os.Remove(a.memory)))
	}
	if err != nil {
		return err
	}
	return errors.Join(a.end(), os.WriteFile(a.memory, before, 0o600))
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// faults is what came out of the gate and must not.
func (a *agent) faults() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.broken)
}

// run is one run of a container.
type run struct {
	container string // as instances name it
	started   int64
}

func runOf(i *service.Instance) run { return run{i.Container, i.Started.UnixNano()} }
