package docker

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/moby/moby/api/types/events"
	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/internal/fakeengine"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// begin runs a Source, takes its first set, which must hold that many instances, and returns what it
// sends from then on.
func begin(b *testing.B, e *fakeengine.Engine, containers int) (sets <-chan []service.Instance, end func()) {
	b.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	s := &Source{Host: e.Host(), Node: "h1", Log: log}
	out := make(chan []service.Instance)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, out) }()
	if set := <-out; len(set) != containers {
		b.Fatalf("first set has %d instances, want %d", len(set), containers)
	}
	return out, func() { cancel(); <-done }
}

// BenchmarkEvents is how many events a Source takes in at full rate: health changes of 200 containers,
// and at last a stop, which must not be lost and is waited for.
func BenchmarkEvents(b *testing.B) {
	const containers, each = 200, 20_000
	e := fakeengine.New(b)
	for n := range containers {
		e.Start(fakeContainer(n + 1))
	}
	sets, end := begin(b, e, containers)
	defer end()
	var told int
	for b.Loop() {
		told++
		for n := range each {
			e.EmitContainer(fakeContainer(1+n%containers).ID, events.ActionHealthStatusHealthy)
		}
		e.Kill(fakeContainer(told).ID, "15")
		for draining := 0; draining < told; {
			draining = 0
			for _, i := range <-sets {
				if i.State == service.Draining {
					draining++
				}
			}
		}
		if told == containers {
			b.Fatal("no container is left to be stopped: use a shorter -benchtime")
		}
	}
	b.ReportMetric(float64(told*each)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkRelist is a connection, a list and the inspections of all containers, until the set is sent.
func BenchmarkRelist(b *testing.B) {
	for _, containers := range []int{200, 1000} {
		b.Run(fmt.Sprintf("%d containers", containers), func(b *testing.B) {
			e := fakeengine.New(b)
			for n := range containers {
				e.Start(fakeContainer(n + 1))
			}
			for b.Loop() {
				_, end := begin(b, e, containers)
				end()
			}
		})
	}
}
