// Command bench measures what design budgets are about, each figure beside a lower bound made by
// hand in the same run: the ratio means something on any machine, the times only on one.
//
// It starts its own etcd, HAProxys and agents on loopback from bin/sidekick, and ends them. Run it
// by `make bench`; ARCHITECTURE.md says what the parts are.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if ours, err := fleetChild(ctx, os.Args[1:]); ours {
		exit(err)
		return
	}
	var o options
	flag.StringVar(&o.binary, "sidekick", "bin/sidekick", "the program to measure")
	flag.StringVar(&o.programs, "haproxy", "haproxy", "the programs of HAProxy to measure with, separated by colons")
	flag.StringVar(&o.only, "only", "", "the parts to run, such as driver,burst; all if empty")
	flag.IntVar(&o.rounds, "rounds", 40, "changes measured by each way")
	flag.IntVar(&o.containers, "containers", 10, "containers started; 0 leaves the engine out")
	profile := flag.String("cpuprofile", "", "a file for the profile of this program, in which the driver runs but for the part agent")
	flag.Parse()
	exit(profiled(*profile, func() error { return run(ctx, o) }))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are what the flags say.
type options struct {
	binary, programs, only string
	rounds, containers     int
}

// profiled writes a profile of what is done, if a file is named.
func profiled(path string, do func() error) error {
	if path == "" {
		return do()
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	return do()
}

// part is what can be measured by itself.
type part struct {
	name string
	run  func(ctx context.Context, program string) error
}

// parts are all of them, in their order.
func parts(o options) []part {
	var bound time.Duration // of the smallest size, for containers
	return []part{
		{"agent", func(ctx context.Context, program string) (err error) {
			bound, err = benchAgent(ctx, o.binary, program, o.rounds)
			return err
		}},
		{"driver", func(ctx context.Context, program string) error {
			if err := benchDriver(ctx, program, 5*o.rounds, 10, 100, 1_000, 10_000); err != nil {
				return err
			}
			return benchDriver(ctx, program, o.rounds/2, 100_000)
		}},
		{"reload", func(ctx context.Context, program string) error {
			return benchReload(ctx, program, max(3, o.rounds/4), 1_000, 10_000)
		}},
		{"map", func(ctx context.Context, program string) error {
			return benchMap(ctx, program, o.rounds, 100, 10_000)
		}},
		{"burst", benchBursts},
		{"files", benchFiles},
		{"traffic", benchTraffic},
		{"containers", func(ctx context.Context, program string) error {
			if o.containers == 0 || bound == 0 {
				return nil
			}
			return benchContainers(ctx, o.binary, program, besides(o.binary, "whoami"), o.containers, bound)
		}},
		{"stops", func(ctx context.Context, program string) error {
			if o.containers == 0 {
				return nil
			}
			return benchStops(ctx, o.binary, program, besides(o.binary, "whoami"), 3*o.containers)
		}},
	}
}

func run(ctx context.Context, o options) error {
	for _, program := range filepath.SplitList(o.programs) {
		v, err := version(program)
		if err != nil {
			return err
		}
		fmt.Printf("\n=== HAProxy %s\n", v)
		for _, part := range parts(o) {
			if o.only != "" && !slices.Contains(strings.Split(o.only, ","), part.name) {
				continue
			}
			began := time.Now()
			if err := part.run(ctx, program); err != nil {
				return fmt.Errorf("%s: %w", part.name, err)
			}
			fmt.Printf("  (%s: %.0f s)\n", part.name, time.Since(began).Seconds())
		}
	}
	return nil
}

// benchAgent measures a whole agent at all sizes. It returns the median of the hand-made changes at
// the smallest.
func benchAgent(ctx context.Context, binary, program string, rounds int) (bound time.Duration, err error) {
	for _, size := range []int{100, 1_000, 10_000} {
		hand, err := benchSize(ctx, binary, program, size, rounds)
		if err != nil {
			return 0, fmt.Errorf("%d instances: %w", size, err)
		}
		if bound == 0 {
			bound = hand
		}
	}
	return bound, nil
}

// benchSize measures an agent beside the hand-made path with that many instances in etcd. It
// returns the median of the hand-made changes.
func benchSize(ctx context.Context, binary, program string, size, rounds int) (time.Duration, error) {
	b, err := newBed(ctx, binary, program)
	if err != nil {
		return 0, err
	}
	defer b.close()
	if err := b.fill(ctx, size); err != nil {
		return 0, err
	}
	start, err := b.startAgent(ctx, "off")
	if err != nil {
		return 0, err
	}
	bound, err := b.startByHand(ctx)
	if err != nil {
		return 0, err
	}
	fmt.Printf("\n%d instances in etcd\n", size)
	row("agent started → first request answered", start, bound, "HAProxy alone, same file")
	agent, hand, err := b.changes(ctx, rounds)
	if err != nil {
		return 0, err
	}
	row("key written → first request answered, p50", quantile(agent, 0.5), quantile(hand, 0.5), "by hand: put, watch, one command")
	row("key written → first request answered, p95", quantile(agent, 0.95), quantile(hand, 0.95), "by hand")
	m, err := b.agent.memory()
	if err != nil {
		return 0, err
	}
	fmt.Printf("  %-48s %6.1f MB of its own, %.1f MB of program; %.1f MB at most\n", "memory of the agent", m.own, m.program, m.peak)
	if size == 10_000 {
		if err := b.steady(ctx); err != nil {
			return 0, err
		}
	}
	return quantile(hand, 0.5), nil
}

func row(name string, got, bound time.Duration, what string) {
	fmt.Printf("  %-48s %9.2f ms   %9.2f ms %-32s ratio %.2f\n", name, ms(got), ms(bound), what, float64(got)/float64(bound))
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// quantile returns the q-th quantile of the sample, by the nearest rank.
func quantile(sample []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(sample))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
