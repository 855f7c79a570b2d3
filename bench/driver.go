package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
)

// pair is one kind of change as the agent makes it and as it is made by hand, in turns.
type pair struct{ agent, hand []time.Duration }

// kinds of a change of endpoints, in the order in which a round makes them.
const (
	added = iota
	weighed
	removed
	kinds
)

// pairs are the samples of one size.
type pairs [kinds]pair

// benchDriver measures one change of endpoints from the catalog to HAProxy's confirmation, beside the
// bare commands for the same on the same HAProxy. All sizes take turns, so that the growth from one to
// another is not that of the machine's load.
func benchDriver(ctx context.Context, program string, rounds int, sizes ...int) error {
	var proxies []*proxy
	for _, size := range sizes {
		p, err := newProxy(ctx, program, size, min(size/2, 10))
		if err != nil {
			return err
		}
		defer p.close()
		proxies = append(proxies, p)
	}
	samples := make([]pairs, len(proxies))
	for range rounds {
		for i, p := range proxies {
			if err := p.round(ctx, &samples[i]); err != nil {
				return fmt.Errorf("%d servers: %w", p.size, err)
			}
		}
	}
	for i, s := range samples {
		fmt.Printf("\n%d servers, one changed: catalog → confirmed by HAProxy\n", sizes[i])
		for kind, name := range []string{"a server added", "its weight changed", "it removed"} {
			row(name+", p50", quantile(s[kind].agent, 0.5), quantile(s[kind].hand, 0.5), "the bare commands")
			row(name+", p95", quantile(s[kind].agent, 0.95), quantile(s[kind].hand, 0.95), "the bare commands")
		}
	}
	growth(sizes, samples)
	return nil
}

// growth prints how much longer a change takes among 10,000 servers than among 100.
func growth(sizes []int, samples []pairs) {
	all := map[int][2]time.Duration{}
	for i, s := range samples {
		var agent, hand time.Duration
		for _, kind := range s {
			agent, hand = agent+quantile(kind.agent, 0.5), hand+quantile(kind.hand, 0.5)
		}
		all[sizes[i]] = [2]time.Duration{agent, hand}
	}
	small, large := all[100], all[10_000]
	if small[0] == 0 || large[0] == 0 {
		return
	}
	fmt.Printf("\n  the three together, 10,000 servers : 100, p50     %.2f by the agent, %.2f by bare commands (budget 1.5)\n",
		float64(large[0])/float64(small[0]), float64(large[1])/float64(small[1]))
}

// round makes each kind of change once in both ways.
func (p *proxy) round(ctx context.Context, s *pairs) error {
	i := p.fresh()
	of := backend(0)
	hand := fmt.Sprintf("%s/by-hand-%d", of, p.serial)
	steps := [kinds]struct {
		change func() error
		lines  []string
	}{
		added:   {func() error { return p.put(i) }, []string{addLine(hand), "set server " + hand + " state ready"}},
		weighed: {func() error { i.Weight = 50; return p.put(i) }, []string{"set server " + hand + " weight 50"}},
		removed: {func() error { p.drop(i); return nil }, []string{"set server " + hand + " state maint", "del server " + hand}},
	}
	for kind, step := range steps {
		began := time.Now()
		if err := step.change(); err != nil {
			return err
		}
		if _, err := p.change(ctx); err != nil {
			return err
		}
		s[kind].agent = append(s[kind].agent, time.Since(began))
		began = time.Now()
		if err := must(ctx, p.cfg.RuntimeSocket, step.lines...); err != nil {
			return err
		}
		s[kind].hand = append(s[kind].hand, time.Since(began))
	}
	return nil
}

// addLine adds a server as the driver does.
func addLine(target string) string {
	return "add server " + target + " 127.250.0.1:8000 weight 100 pool-max-conn -1 pool-purge-delay 5s"
}

// benchReload measures a new service beside the same change by hand: check and reload of a HAProxy of
// its own.
func benchReload(ctx context.Context, program string, rounds int, sizes ...int) error {
	for _, size := range sizes {
		agent, err := newProxy(ctx, program, size, 10)
		if err != nil {
			return err
		}
		defer agent.close()
		hand, err := newProxy(ctx, program, size, 10)
		if err != nil {
			return err
		}
		defer hand.close()
		var took, check, load, both, agentCPU, handCPU []time.Duration
		for n := range rounds {
			a, r, err := newService(ctx, agent, hand, n)
			if err != nil {
				return err
			}
			took, check, load, both = append(took, a.clock), append(check, r.check), append(load, r.load), append(both, r.both())
			agentCPU, handCPU = append(agentCPU, a.cpu), append(handCPU, r.cpu)
		}
		fmt.Printf("\n%d servers, a new service: one reload\n", size)
		for _, q := range []float64{0.5, 0.95} {
			row(fmt.Sprintf("catalog → confirmed by HAProxy, p%.0f", 100*q), quantile(took, q), quantile(both, q), "HAProxy's check and reload")
		}
		row("processor time, agent and HAProxy, p50", quantile(agentCPU, 0.5), quantile(handCPU, 0.5), "HAProxy's check and reload")
		fmt.Printf("  %-48s %9.2f ms of check, %.2f ms of reload, p50\n", "  of which HAProxy alone", ms(quantile(check, 0.5)), ms(quantile(load, 0.5)))
	}
	return nil
}

// newService puts one more service in force in both ways.
func newService(ctx context.Context, agent, hand *proxy, n int) (cost, reloaded, error) {
	for _, p := range []*proxy{agent, hand} {
		if err := p.settled(ctx); err != nil {
			return cost{}, reloaded{}, err
		}
		p.serial++
		if err := p.put(p.instance(p.size/p.each+n, p.size+p.serial)); err != nil {
			return cost{}, reloaded{}, err
		}
	}
	took, err := agent.spentWithUs(ctx, func() error {
		res, err := agent.apply(ctx)
		if err == nil && res.How != haproxy.HowReload {
			err = fmt.Errorf("a new service was applied by %q", res.How)
		}
		return err
	})
	if err != nil {
		return cost{}, reloaded{}, err
	}
	files, err := hand.render()
	if err != nil {
		return cost{}, reloaded{}, err
	}
	r, err := hand.reload(ctx, files)
	return took, r, err
}

// benchMap measures changes of the map of routes, one entry for each service.
func benchMap(ctx context.Context, program string, rounds int, sizes ...int) error {
	for _, size := range sizes {
		p, err := newProxy(ctx, program, size, 1)
		if err != nil {
			return err
		}
		defer p.close()
		var one, whole pair
		for n := range rounds {
			if err := p.entries(ctx, n, &one, 1); err != nil {
				return err
			}
			if n >= max(3, rounds/10) {
				continue
			}
			if err := p.entries(ctx, n, &whole, size); err != nil {
				return err
			}
		}
		fmt.Printf("\na map of %d entries: catalog → confirmed by HAProxy\n", size)
		row("one host changed, p50", quantile(one.agent, 0.5), quantile(one.hand, 0.5), "the bare commands")
		row("all hosts changed, p50", quantile(whole.agent, 0.5), quantile(whole.hand, 0.5), "the bare transaction")
	}
	return nil
}

// entries gives some services another host in both ways: as the agent's change of the map, and by hand
// with a key of its own or with the whole map.
func (p *proxy) entries(ctx context.Context, n int, s *pair, count int) error {
	for k := range count {
		i := p.instance(k, k)
		i.Hosts = []string{fmt.Sprintf("r%d-%d.bench", n, k)}
		if err := p.put(i); err != nil {
			return err
		}
	}
	took, err := p.change(ctx)
	if err != nil {
		return err
	}
	s.agent = append(s.agent, took)
	began := time.Now()
	if count == 1 {
		key := fmt.Sprintf("hand-%d.bench/", n)
		err = must(ctx, p.cfg.RuntimeSocket, "add map routes.map "+key+" be_s0", "del map routes.map "+key)
	} else {
		err = p.transaction(ctx)
	}
	s.hand = append(s.hand, time.Since(began))
	return err
}

// transaction hands the map over as a whole.
func (p *proxy) transaction(ctx context.Context) error {
	answers, err := say(ctx, p.cfg.RuntimeSocket, "prepare map routes.map")
	if err != nil {
		return err
	}
	version, ok := strings.CutPrefix(answers[0], "New version created: ")
	if !ok {
		return fmt.Errorf("prepare map: haproxy answers %q", answers[0])
	}
	var lines []string
	var part strings.Builder
	flush := func() {
		lines = append(lines, "add map @"+version+" routes.map <<\n"+part.String())
		part.Reset()
	}
	for _, block := range p.files[1].Blocks {
		if strings.HasPrefix(block.Text, "#") {
			continue
		}
		if part.Len()+len(block.Text) > portion {
			flush()
		}
		part.WriteString(block.Text)
	}
	flush()
	return must(ctx, p.cfg.RuntimeSocket, append(lines, "commit map @"+version+" routes.map")...)
}
