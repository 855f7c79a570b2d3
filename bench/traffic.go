package main

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// benchTraffic measures what requests see while many servers come at once, or HAProxy is reloaded:
// its threads stand still while a server is added.
func benchTraffic(ctx context.Context, program string) error {
	p, err := newProxy(ctx, program, 10_000, 10_000)
	if err != nil {
		return err
	}
	defer p.close()
	spread, err := newProxy(ctx, program, 10_000, 10)
	if err != nil {
		return err
	}
	defer spread.close()
	add := func(p *proxy, count int) func() error {
		var lines []string
		for n := range count {
			target := fmt.Sprintf("%s/burst-%d", backend(p.serviceOf(n)), n)
			lines = append(lines, addLine(target), "set server "+target+" state ready")
		}
		return func() error { return must(ctx, p.cfg.RuntimeSocket, lines...) }
	}
	fmt.Printf("\nrequests meanwhile, each on a connection of its own\n")
	for _, s := range []struct {
		name string
		p    *proxy
		do   func() error
	}{
		{"nothing", p, func() error { return pause(ctx, time.Second) }},
		{"3,000 servers added to 1,000 services", spread, add(spread, 3_000)},
		{"500 servers added to one service of 10,000", p, add(p, 500)},
		{"a reload of 10,000 servers", spread, func() error { return spread.load(ctx) }},
	} {
		took, err := s.p.requests(s.do)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Printf("  %-48s %9.2f ms p50 %9.2f ms p99 of %d\n", s.name, ms(quantile(took, 0.5)), ms(quantile(took, 0.99)), len(took))
	}
	return nil
}

// requests asks HAProxy for something that it answers itself, again and again until do is done.
func (p *proxy) requests(do func() error) ([]time.Duration, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- do() }()
	var took []time.Duration
	for {
		began := time.Now()
		reply, err := client.Get("http://" + p.stats + "/healthz")
		if err != nil {
			return nil, err
		}
		reply.Body.Close()
		took = append(took, time.Since(began))
		select {
		case err := <-ended:
			return took, err
		default:
		}
	}
}
