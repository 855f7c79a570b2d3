// Command bench measures what design budgets are about, each figure beside a lower bound made by
// hand in the same run: the ratio means something on any machine, the times only on one.
//
// It starts its own etcd, HAProxy and agents on loopback from bin/sidekick, and ends them. Run it
// by `make bench`.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	binary := flag.String("sidekick", "bin/sidekick", "the program to measure")
	rounds := flag.Int("rounds", 40, "changes measured by each way")
	containers := flag.Int("containers", 10, "containers started; 0 leaves the engine out")
	flag.Parse()
	if err := run(ctx, *binary, *rounds, *containers); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, binary string, rounds, containers int) error {
	var bound time.Duration // of the smallest size, for containers
	for _, size := range []int{100, 1_000, 10_000} {
		hand, err := benchSize(ctx, binary, size, rounds)
		if err != nil {
			return fmt.Errorf("%d instances: %w", size, err)
		}
		if bound == 0 {
			bound = hand
		}
	}
	if containers == 0 {
		return nil
	}
	return benchContainers(ctx, binary, besides(binary, "whoami"), containers, bound)
}

// benchSize measures an agent beside the hand-made path with that many instances in etcd. It
// returns the median of the hand-made changes.
func benchSize(ctx context.Context, binary string, size, rounds int) (time.Duration, error) {
	b, err := newBed(ctx, binary)
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
