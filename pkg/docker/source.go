package docker

import (
	"context"
	"net/netip"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/sidekick-proxy/sidekick/internal/newest"
	"github.com/sidekick-proxy/sidekick/pkg/convention"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// DefaultResync is how often a Source lists all containers although events tell it what changes.
const DefaultResync = 30 * time.Second

// Source watches one Docker engine. It implements register.Source.
type Source struct {
	// Host is the engine's address, as in DOCKER_HOST. If empty, that variable or the default
	// socket is used. TLS comes from DOCKER_TLS_VERIFY and DOCKER_CERT_PATH.
	Host string
	// Node and Zone go into every instance.
	Node, Zone string
	// Advertise is the address under which other hosts reach this host's published ports. Loopback
	// only if the whole cluster is this host.
	Advertise netip.Addr
	// ExposeAll also takes in containers without labels.
	ExposeAll bool
	// Conventions are those that are on, in the order in which they count; only Sidekick's own if
	// empty.
	Conventions []string
	// Resync is the time between two lists; DefaultResync if zero.
	Resync time.Duration

	Log logrus.FieldLogger
	// Report is told of each stage's success (nil) and failure. It may be nil.
	Report func(error)
	// Rejected is given the complete set of what containers ask for but cannot get, when it
	// changes. It is called from Run's goroutines, one call at a time, and may be nil.
	Rejected func([]service.Rejection)
}

// Run sends the complete set of this host's instances, sorted, when it is first known and after
// each change, until ctx is cancelled; a reader that is slow gets the newest. While the engine
// does not answer it sends nothing and keeps trying. It fails only if the settings of the
// connection cannot be used at all.
func (s *Source) Run(ctx context.Context, out chan<- []service.Instance) error {
	probe, err := dial(s.Host)
	if err != nil {
		return err
	}
	defer func() { _ = probe.Close() }()
	sets := make(chan []service.Instance)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return newest.Run(ctx, sets, out) })
	g.Go(func() error { return s.keep(ctx, sets) })
	return g.Wait()
}

// describer is what describes this host's containers as the settings say.
func (s *Source) describer() host {
	h := host{node: s.Node, zone: s.Zone, advertise: s.Advertise.Unmap(), exposeAll: s.ExposeAll, conventions: s.Conventions}
	if len(h.conventions) == 0 {
		h.conventions = []string{convention.Sidekick}
	}
	return h
}

// keep holds a session with the engine, one after the other.
func (s *Source) keep(ctx context.Context, sets chan<- []service.Instance) error {
	f := newFleet(s.describer())
	t := &teller{sets: sets, log: s.Log, rejected: s.Rejected, on: f.host.conventions}
	pause := &backoff.ExponentialBackOff{
		InitialInterval: 100 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: time.Second,
	}
	pause.Reset()
	away := false
	for {
		err := s.session(ctx, f, t, func() {
			pause.Reset()
			if away {
				away = false
				s.Log.Info("docker engine is followed again")
			}
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.report(err)
		if !away {
			away = true
			s.Log.WithError(err).Warn("connection to the docker engine is lost; what is known of its containers stays")
		}
		if !wait(ctx, pause.NextBackOff()) {
			return ctx.Err()
		}
	}
}

// session connects, and runs one session until the connection fails. A new client for each means
// that the API version is agreed on anew with an engine that was replaced.
func (s *Source) session(ctx context.Context, f *fleet, t *teller, listed func()) error {
	c, err := dial(s.Host)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	resync := s.Resync
	if resync <= 0 {
		resync = DefaultResync
	}
	n := &session{
		engine: c, host: f.host, fleet: f, tell: t, resync: resync,
		networks: &networks{engine: c, drivers: map[string]string{}},
		succeed:  func() { listed(); s.report(nil) },
		fail:     s.report,
	}
	return n.run(ctx)
}

func (s *Source) report(err error) {
	if s.Report != nil {
		s.Report(err)
	}
}

// wait returns after d, or false when ctx is cancelled first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
