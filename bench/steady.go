package main

import (
	"context"
	"fmt"
	"time"
)

const (
	steadyRate  = 20 // changes per second
	steadyTime  = 20 * time.Second
	restingTime = 5 * time.Second
	followTime  = 3 * time.Second // by then the file on disk has followed the last change
)

// steady replaces the probe service's instance again and again, and prints what that takes of the
// processors: of the agent with HAProxy's checks that it runs, and of HAProxy itself.
func (b *bed) steady(ctx context.Context) error {
	agent, proxy := b.agent.cmd.Process.Pid, b.haproxy.cmd.Process.Pid
	if err := pause(ctx, followTime); err != nil {
		return err
	}
	rest, err := b.spend(agent, func() error { return pause(ctx, restingTime) })
	if err != nil {
		return err
	}
	before := worker(ctx, b.runtimeSocket)
	traffic := cpu(proxy)
	busy, err := b.spend(agent, func() error { return b.keepChanging(ctx) })
	if err != nil {
		return err
	}
	traffic = cpu(proxy) - traffic
	reloads := 0
	if worker(ctx, b.runtimeSocket) != before {
		reloads = 1
	}
	minute := float64(time.Minute) / float64(steadyTime)
	fmt.Printf("  %-48s %6.2f s of the agent's CPU in 60 s, %.2f s of HAProxy's (budget 3 s), reloads seen: %d\n",
		fmt.Sprintf("%d changes per second for %.0f s", steadyRate, steadyTime.Seconds()), busy.Seconds()*minute, traffic.Seconds()*minute, reloads)
	fmt.Printf("  %-48s %6.2f %% of a core (budget 0.5 %%)\n", "no changes", 100*rest.Seconds()/restingTime.Seconds())
	return nil
}

// spend is the processor time of a process while something is done.
func (b *bed) spend(pid int, do func() error) (time.Duration, error) {
	before := cpu(pid)
	err := do()
	return cpu(pid) - before, err
}

// keepChanging makes changes at the rate, and waits until the last one is in force.
func (b *bed) keepChanging(ctx context.Context) error {
	old := b.registered(ctx)
	every := time.NewTicker(time.Second / steadyRate)
	defer every.Stop()
	last := ""
	for n := range int(steadyTime.Seconds() * steadyRate) {
		next := b.probe(n % 2)
		if err := b.replace(ctx, old, next); err != nil {
			return err
		}
		old, last = next.Key(prefix), fmt.Sprintf("server-%d", n%2)
		select {
		case <-every.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return until(ctx, "the last change", b.agent, func() bool { return answers(b.agentFront) == last })
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
