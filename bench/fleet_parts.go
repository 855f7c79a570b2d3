package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// fleet is an etcd with its agents.
type fleet struct {
	o         fleetOptions
	etcd      *store
	proxies   []*process
	endpoints []string // which the agents use
	agents    []*simulant
	stop      context.CancelFunc
	recording atomic.Bool
	serial    int
}

func newFleet(ctx context.Context, o fleetOptions) (*fleet, error) {
	s, err := newStore(ctx, o.binary)
	if err != nil {
		return nil, err
	}
	f := &fleet{o: o, etcd: s, endpoints: []string{s.addr}, stop: func() {}}
	if o.proxies == 0 {
		return f, nil
	}
	if f.endpoints, err = freeAddresses(o.proxies); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	for _, at := range f.endpoints {
		p, err := start(self, "fleet-proxy", at, s.addr)
		if err != nil {
			return nil, err
		}
		f.proxies = append(f.proxies, p)
	}
	return f, nil
}

func (f *fleet) close() {
	f.stop()
	for _, p := range f.proxies {
		p.stop()
	}
	f.etcd.kill() // nobody needs good-byes
	for _, a := range f.agents {
		a.end()
	}
	f.etcd.close()
}

// patience is how long one thing may take.
const patience = 5 * time.Minute

// within waits until something holds, for patience at most.
func (f *fleet) within(ctx context.Context, what string, holds func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for !holds() {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %v; %d of %d agents follow, the furthest but one tenth is at %d",
				what, patience, f.number(func(a *simulant) bool { return a.wellSince(time.Time{}) }), len(f.agents), f.behind(0.1))
		}
	}
	return nil
}

// number counts the agents of which something holds.
func (f *fleet) number(holds func(*simulant) bool) int {
	n := 0
	for _, a := range f.agents {
		if holds(a) {
			n++
		}
	}
	return n
}

func (f *fleet) all(holds func(*simulant) bool) bool {
	return !slices.ContainsFunc(f.agents, func(a *simulant) bool { return !holds(a) })
}

// behind is the revision that a share of the agents has not passed. Full ones do not count: they say
// nothing of a write that changes nothing.
func (f *fleet) behind(share float64) int64 {
	var at []int64
	for _, a := range f.agents {
		if a.light != nil {
			at = append(at, a.seen.newest.Load())
		}
	}
	slices.Sort(at)
	return at[int(share*float64(len(at)-1))]
}

// calm waits until the agents have seen all that was written, and some seconds more.
func (f *fleet) calm(ctx context.Context) error {
	for {
		revision, err := f.etcd.revision(ctx)
		if err != nil {
			return err
		}
		if err := f.within(ctx, "all seen", func() bool { return f.behind(0) >= revision }); err != nil {
			return err
		}
		if err := pause(ctx, followTime); err != nil {
			return err
		}
		now, err := f.etcd.revision(ctx)
		if err != nil || now == revision {
			return err
		}
	}
}

// start starts all agents at once, which without -late is the worst case: each sees what all others
// register.
func (f *fleet) start(ctx context.Context) error {
	fmt.Printf("\n%d agents with %d instances each, of which %d keep the catalog; %d gRPC proxies; leases of %s\n",
		f.o.agents, f.o.instances, f.o.full, f.o.proxies, f.o.ttl)
	running, stop := context.WithCancel(ctx)
	f.stop = stop
	began := time.Now()
	var registered, followed time.Duration
	l, err := f.etcd.under(ctx, func() (err error) {
		if registered, err = f.register(ctx, running); err != nil {
			return err
		}
		revision, err := f.etcd.revision(ctx)
		if err != nil {
			return err
		}
		for _, a := range f.agents {
			if f.o.late {
				a.watch(running, revision)
			}
		}
		err = f.within(ctx, "all followed", func() bool { return f.behind(0) >= revision && f.well(began) })
		followed = time.Since(began)
		return err
	})
	if err != nil {
		return err
	}
	f.say("start", "all registered", "%.1f s, %.0f keys/s", registered.Seconds(), l.counters[putCount]/registered.Seconds())
	f.say("start", "all have seen all", "%.1f s", followed.Seconds())
	f.say("start", "load", "%s", l)
	return nil
}

// register starts the agents, and returns how long it took until all were registered.
func (f *fleet) register(ctx, running context.Context) (time.Duration, error) {
	began := time.Now()
	for n := range f.o.agents {
		a, err := f.begin(running, n)
		if err != nil {
			return 0, err
		}
		f.agents = append(f.agents, a)
	}
	err := f.within(ctx, "all registered", func() bool {
		return f.all(func(a *simulant) bool { return a.published.Load() > 0 })
	})
	return time.Since(began), err
}

// well tells whether all agents follow the registry, by answers from after that time.
func (f *fleet) well(since time.Time) bool {
	return f.all(func(a *simulant) bool { return a.wellSince(since) })
}

// steady measures a fleet to which nothing happens.
func (f *fleet) steady(ctx context.Context) error {
	before, err := f.etcd.revision(ctx)
	if err != nil {
		return err
	}
	l, err := f.etcd.under(ctx, func() error { return pause(ctx, f.o.steady) })
	if err != nil {
		return err
	}
	after, err := f.etcd.revision(ctx)
	f.say("steady", fmt.Sprintf("%.0f s", l.clock.Seconds()), "%.1f renewals/s, %.1f reads/s, %d writes",
		l.rate(renewals), l.rate(ranges), after-before)
	f.say("steady", "load", "%s", l)
	return f.proxyLoad(err)
}

// proxyLoad shows what the proxies hold.
func (f *fleet) proxyLoad(err error) error {
	for _, p := range f.proxies {
		m, err := p.memory()
		if err != nil {
			return err
		}
		f.say("proxy", "so far", "%.1f s of CPU, %.0f MB", ownCPU(p.cmd.Process.Pid).Seconds(), m.own+m.program)
	}
	return err
}

// change writes one instance anew, as an agent does when a container changes its state.
func (f *fleet) change(ctx context.Context) (int64, error) {
	f.serial++
	i := instancesOf(0, 1)[0]
	i.Node, i.Weight = "changes", 1+f.serial%200
	op, err := put(&i)
	if err != nil {
		return 0, err
	}
	reply, err := f.etcd.client.Txn(ctx).Then(op).Commit()
	if err != nil {
		return 0, err
	}
	return reply.Header.Revision, nil
}

// deliver makes changes, and measures the time from each until each agent has it.
func (f *fleet) deliver(ctx context.Context, part string, count int, every time.Duration) error {
	for _, a := range f.agents {
		a.seen.taken()
	}
	f.recording.Store(true)
	defer f.recording.Store(false)
	began := map[int64]time.Time{}
	var writes []time.Duration
	l, err := f.etcd.under(ctx, func() (err error) {
		writes, err = f.changeOften(ctx, count, every, began)
		return err
	})
	if err != nil {
		return err
	}
	f.say(part, fmt.Sprintf("%d changes, %.1f a second", count, float64(count)/l.clock.Seconds()),
		"acknowledged p50 %.1f ms, p99 %.1f ms", ms(quantile(writes, 0.5)), ms(quantile(writes, 0.99)))
	light, full := f.delays(began)
	f.took(part, "put → at each agent", light)
	f.took(part, "put → snapshot of each full agent", full)
	f.say(part, "a change, at all agents", "%.1f ms of etcd's CPU", ms(l.cpu)/float64(count))
	f.say(part, "load", "%s", l)
	return f.proxyLoad(nil)
}

func (f *fleet) took(part, what string, sample []time.Duration) {
	if len(sample) > 0 {
		f.say(part, what, "p50 %.1f ms, p99 %.1f ms, max %.1f ms (of %d)",
			ms(quantile(sample, 0.5)), ms(quantile(sample, 0.99)), ms(quantile(sample, 1)), len(sample))
	}
}

// changeOften makes changes until all agents have seen the last. It notes when each began, by its
// revision, and returns how long etcd took to acknowledge each.
func (f *fleet) changeOften(ctx context.Context, count int, every time.Duration, began map[int64]time.Time) ([]time.Duration, error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var writes []time.Duration
	last := int64(0)
	for range count {
		at := time.Now()
		revision, err := f.change(ctx)
		if err != nil {
			return nil, err
		}
		writes = append(writes, time.Since(at))
		began[revision], last = at, revision
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return writes, f.within(ctx, "all seen", func() bool { return f.behind(0) >= last })
}

// delays are the times from each change to its arrival: at the light agents, and at the full ones.
func (f *fleet) delays(began map[int64]time.Time) (light, full []time.Duration) {
	for _, a := range f.agents {
		all, at := a.seen.taken(), 0
		for _, revision := range sorted(began) {
			for at < len(all) && all[at].revision < revision {
				at++
			}
			if at == len(all) {
				break
			}
			took := all[at].at.Sub(began[revision])
			if a.light != nil {
				light = append(light, took)
			} else {
				full = append(full, took)
			}
		}
	}
	return light, full
}

func sorted(began map[int64]time.Time) []int64 {
	var all []int64
	for revision := range began {
		all = append(all, revision)
	}
	slices.Sort(all)
	return all
}

func (f *fleet) put(ctx context.Context) error {
	return f.deliver(ctx, "put", f.o.puts, 100*time.Millisecond)
}

func (f *fleet) changes(ctx context.Context) error {
	return f.deliver(ctx, "burst", int(f.o.burst.Seconds()*float64(f.o.rate)), time.Second/time.Duration(f.o.rate))
}

// list measures listing: once, and by many agents at once.
func (f *fleet) list(ctx context.Context) error {
	var lights []*light
	for _, a := range f.agents {
		if a.light != nil && len(lights) < f.o.lists {
			lights = append(lights, a.light)
		}
	}
	if len(lights) == 0 {
		return errors.New("there is no light agent")
	}
	for _, some := range [][]*light{lights[:1], lights} {
		l, err := f.etcd.under(ctx, func() error { return listAll(ctx, some) })
		if err != nil {
			return err
		}
		n := float64(len(some))
		f.say("lists", fmt.Sprintf("everything, by %d agents at once", len(some)), "%.2f s; each: %.0f ms of etcd's CPU, %.1f MB",
			l.clock.Seconds(), ms(l.cpu)/n, l.counters[sent]/n/1e6)
		f.say("lists", "load", "%s", l)
	}
	return nil
}

func listAll(ctx context.Context, lights []*light) error {
	var wg sync.WaitGroup
	failed := make(chan error, len(lights))
	for _, l := range lights {
		wg.Go(func() {
			if _, err := l.list(ctx); err != nil {
				failed <- err
			}
		})
	}
	wg.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// restart kills etcd and starts it at once.
func (f *fleet) restart(ctx context.Context) error {
	return f.outage(ctx, "restart", 0, func() error { return nil })
}

// away keeps etcd away for longer than leases last without a renewal.
func (f *fleet) away(ctx context.Context) error {
	return f.outage(ctx, "away", f.o.ttl+5*time.Second, func() error { return nil })
}

// empty brings an etcd back that has lost everything.
func (f *fleet) empty(ctx context.Context) error {
	f.serial = 0
	return f.outage(ctx, "emptied", 0, f.etcd.wipe)
}

// outage kills etcd, and measures how all come back.
func (f *fleet) outage(ctx context.Context, part string, length time.Duration, meanwhile func() error) error {
	for _, a := range f.agents {
		a.opens.Store(0)
	}
	before, err := f.etcd.revision(ctx)
	if err != nil {
		return err
	}
	var steps []step
	l, err := f.etcd.under(ctx, func() error {
		f.etcd.kill()
		if err := pause(ctx, length); err != nil {
			return err
		}
		if err := meanwhile(); err != nil {
			return err
		}
		steps, err = f.comeback(ctx)
		return err
	})
	if err != nil {
		return err
	}
	after, err := f.etcd.revision(ctx)
	for _, s := range steps {
		f.say(part, s.what, "%.1f s after etcd's start", s.took.Seconds())
	}
	f.say(part, "in all", "%d sessions of %d opened anew, %.0f puts, revision %d → %d, %.0f reads",
		f.number(func(a *simulant) bool { return a.opens.Load() > 0 }), f.o.agents, l.counters[putCount], before, after, l.counters[ranges])
	f.say(part, "load", "%s", l)
	return f.proxyLoad(err)
}

// step is something that came to pass, and when.
type step struct {
	what string
	took time.Duration
}

// comeback starts etcd, and returns what came back when.
func (f *fleet) comeback(ctx context.Context) ([]step, error) {
	began := time.Now()
	served, err := f.etcd.start(ctx)
	if err != nil {
		return nil, err
	}
	steps := []step{{"etcd serves again", served}}
	keys := int64(f.o.agents * f.o.instances)
	nodes := strings.TrimSuffix(service.InstancesKey(prefix, "n"), "/")
	for _, s := range []struct {
		what  string
		holds func() bool
	}{
		{"all leases renewed, or new", func() bool { return f.all(func(a *simulant) bool { return a.heldSince(began) }) }},
		{"all watches open", func() bool { return f.well(began) }},
		{"all keys there", func() bool { n, err := f.etcd.count(ctx, nodes); return err == nil && n >= keys }},
		{"all have seen all", func() bool { n, err := f.etcd.revision(ctx); return err == nil && f.behind(0) >= n }},
	} {
		if err := f.within(ctx, s.what, s.holds); err != nil {
			return nil, err
		}
		steps = append(steps, step{s.what, time.Since(began)})
	}
	return steps, nil
}
