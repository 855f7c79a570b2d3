package main

import (
	"context"
	"fmt"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// shape is how many servers there are, and how many each service has of them.
type shape struct{ size, each int }

func (s shape) String() string {
	if s.size == s.each {
		return fmt.Sprintf("%d servers in one service", s.size)
	}
	return fmt.Sprintf("%d servers in services of %d", s.size, s.each)
}

// benchBursts measures many changes at once by commands and by a reload, and says which one the
// planner chooses. All costs are HAProxy's processor time, as those that the planner counts with.
func benchBursts(ctx context.Context, program string) error {
	for _, s := range []struct {
		shape
		counts []int
	}{
		{shape{10_000, 10}, []int{1_000, 3_000, 9_000}},
		{shape{1_000, 1_000}, []int{100, 400, 900}},
		{shape{10_000, 10_000}, []int{100, 600, 1_000}},
	} {
		p, err := newProxy(ctx, program, s.size, s.each)
		if err != nil {
			return err
		}
		err = p.bursts(ctx, s.shape, s.counts)
		p.close()
		if err != nil {
			return fmt.Errorf("%s: %w", s.shape, err)
		}
	}
	return nil
}

// bursts measures one HAProxy.
func (p *proxy) bursts(ctx context.Context, s shape, counts []int) error {
	reload, err := p.reloadCost(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("\nchanges at once, %s: HAProxy's CPU by commands, beside %.1f ms by a reload\n", s, ms(reload))
	for _, count := range counts {
		if err := p.comeAndGo(ctx, count, reload); err != nil {
			return err
		}
	}
	return p.weigh(ctx, counts[len(counts)-1], reload)
}

// comeAndGo adds servers and removes them again.
func (p *proxy) comeAndGo(ctx context.Context, count int, reload time.Duration) error {
	var in, out []string
	for n := range count {
		target := fmt.Sprintf("%s/burst-%d", backend(p.serviceOf(n)), n)
		in = append(in, addLine(target), "set server "+target+" state ready")
		out = append(out, "set server "+target+" state maint", "del server "+target)
	}
	added, removed, err := p.toAndFro(ctx, in, out)
	if err != nil {
		return err
	}
	fewer, err := p.render()
	if err != nil {
		return err
	}
	for n := range count {
		if err := p.put(p.instance(p.serviceOf(n), p.size+n)); err != nil {
			return err
		}
	}
	more, err := p.render()
	if err != nil {
		return err
	}
	verdict("servers added", count, added, reload, fewer, more)
	verdict("servers removed", count, removed, reload, more, fewer)
	for n := range count {
		p.drop(p.instance(p.serviceOf(n), p.size+n))
	}
	return nil
}

// weigh changes weights.
func (p *proxy) weigh(ctx context.Context, count int, reload time.Duration) error {
	var less, again []string
	for n := range count {
		i := p.instance(n/p.each, n)
		target := backend(n/p.each) + "/" + render.ServerName(i)
		less, again = append(less, "set server "+target+" weight 50"), append(again, "set server "+target+" weight 100")
		i.Weight = 50
		if err := p.put(i); err != nil {
			return err
		}
	}
	changed, _, err := p.toAndFro(ctx, less, again)
	if err != nil {
		return err
	}
	wanted, err := p.render()
	verdict("weights changed", count, changed, reload, p.files, wanted)
	return err
}

// serviceOf spreads changes over all services.
func (p *proxy) serviceOf(n int) int { return n % (p.size / p.each) }

// toAndFro is what lines cost HAProxy, and what those cost that undo them.
func (p *proxy) toAndFro(ctx context.Context, to, fro []string) (a, b time.Duration, err error) {
	var there, back []time.Duration
	for range 3 {
		a, err := p.spent(ctx, func() error { return must(ctx, p.cfg.RuntimeSocket, to...) })
		if err != nil {
			return 0, 0, err
		}
		b, err := p.spent(ctx, func() error { return must(ctx, p.cfg.RuntimeSocket, fro...) })
		if err != nil {
			return 0, 0, err
		}
		there, back = append(there, a.cpu), append(back, b.cpu)
	}
	return quantile(there, 0.5), quantile(back, 0.5), nil
}

// reloadCost is what a reload and the check before it cost, with the end of the old worker.
func (p *proxy) reloadCost(ctx context.Context) (time.Duration, error) {
	var all []time.Duration
	for range 3 {
		check, err := p.check(ctx)
		if err != nil {
			return 0, err
		}
		load, err := p.spent(ctx, func() error { return p.load(ctx) })
		if err != nil {
			return 0, err
		}
		all = append(all, check+load.cpu)
	}
	return quantile(all, 0.5), nil
}

// asGood is how close two costs are that are not worth a choice: those of two versions of HAProxy are
// farther apart.
const asGood = 0.5

// verdict prints which way is the cheaper one, and which one the planner chooses.
func verdict(what string, count int, commands, reload time.Duration, running, wanted render.Files) {
	cheaper, share := "commands", float64(commands)/float64(reload)
	if share > 1 {
		cheaper, share = "reload", 1/share
	}
	planned := "commands"
	if _, reason := haproxy.Plan(running, wanted, haproxy.Capabilities{}); reason.Kind != "" {
		planned = "reload"
	}
	judgement := "the cheaper one"
	switch {
	case planned == cheaper:
	case share > asGood:
		judgement = "about as cheap"
	default:
		judgement = "NOT the cheaper one"
	}
	each := float64(commands) / float64(time.Microsecond) / float64(count)
	fmt.Printf("  %6d %-18s %9.1f ms, %8.1f µs each   %5.2f of the reload   planned: %-8s %s\n",
		count, what, ms(commands), each, float64(commands)/float64(reload), planned, judgement)
}
