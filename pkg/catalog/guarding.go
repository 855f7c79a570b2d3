package catalog

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/catalog/guard"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// heard is a catalog of the registry with what is in doubt, or for lack of one the copy on disk. With the
// first catalog comes the copy as well, if there is one to use.
type heard struct {
	catalog *service.Catalog
	copy    *Snapshot
}

// guarding is the state of a View's guard.
type guarding struct {
	*View
	guard   *guard.Guard
	began   time.Time
	live    bool      // the registry has answered
	copy    *Snapshot // that is in force while it has not
	probes  sync.WaitGroup
	flying  int // probes under way
	answers chan answer
}

// answer is the outcome of a probe.
type answer struct {
	guard.Probe
	answers bool
}

// guard passes catalogs on with what is in doubt, and probes the addresses of that. If the registry does
// not answer in time, it starts from the copy on disk.
func (v *View) guard(ctx context.Context, in <-chan *service.Catalog, out chan<- heard) error {
	ctx, cancel := context.WithCancel(ctx)
	g := guarding{
		View: v, began: time.Now(), answers: make(chan answer),
		guard: &guard.Guard{Keep: v.KeepStale, TTL: v.TTL, Node: v.Node, Log: v.Log},
	}
	defer g.probes.Wait()
	defer cancel()
	cold := time.NewTimer(v.coldWait())
	defer cold.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	var sent *service.Catalog
	for {
		var next heard
		select {
		case c := <-in:
			cold.Stop()
			next = g.take(c)
		case <-cold.C:
			g.copy = v.cached()
			next.copy = g.copy
		case a := <-g.answers:
			next.catalog = g.answered(a)
		case <-due.C:
			next.catalog = g.tick()
		case <-ctx.Done():
			return ctx.Err()
		}
		g.probe(ctx, due)
		if next.catalog == nil && next.copy == nil || next.catalog != nil && next.catalog == sent {
			continue
		}
		sent = next.catalog
		if err := send(ctx, out, next); err != nil {
			return err
		}
	}
}

func (v *View) coldWait() time.Duration { return cmp.Or(v.ColdWait, 500*time.Millisecond) }

// take takes a catalog of the registry. What was in force before the first one, or would have been but
// for a moment, is what its nodes have departed from. Of an older copy that is so for this host alone, and
// for what was in doubt already.
func (g *guarding) take(c *service.Catalog) heard {
	now := time.Now()
	if g.live {
		return heard{catalog: g.guard.Take(c, now)}
	}
	g.live = true
	inForce := g.copy != nil
	if !inForce {
		g.copy = g.former()
	}
	if g.copy != nil && c.Revision < g.copy.Catalog.Revision {
		g.guard.TellOverrides(g.copy.Catalog, c, now)
	}
	var before *service.Catalog
	switch {
	case inForce || g.copy != nil && now.Sub(g.copy.Saved) < g.TTL:
		before = g.copy.Catalog
	case g.copy != nil:
		before = g.lasting(g.copy.Catalog, now)
	}
	first := heard{catalog: g.guard.Start(before, c, now), copy: g.copy}
	g.copy = nil
	return first
}

// lasting is what of a copy counts however old that is: what is this host's, unless that was restarted since,
// because its proxy has served it all the time, and its agent is about to write it again; and what was in
// doubt and still would be.
func (g *guarding) lasting(c *service.Catalog, now time.Time) *service.Catalog {
	counts := map[string]bool{}
	lasting := &service.Catalog{Prefix: c.Prefix}
	for _, n := range c.Nodes {
		if n.Name == g.Node && n.Boot == g.Boot || !n.Lost.IsZero() && now.Sub(n.Lost) < g.KeepStale {
			counts[n.Name] = true
			lasting.Nodes = append(lasting.Nodes, n)
		}
	}
	for _, s := range c.Services {
		others := func(i *service.Instance) bool { return !counts[i.Node] }
		if some := slices.DeleteFunc(slices.Clone(s.Instances), others); len(some) > 0 {
			lasting.Services = append(lasting.Services, service.NewService(s.Name, some, nil))
		}
	}
	return lasting
}

// tick lets the guard do what goes by time. Before the first catalog there is nothing.
func (g *guarding) tick() *service.Catalog {
	if !g.live {
		return nil
	}
	return g.guard.Tick(time.Now())
}

// answered takes the outcome of a probe and of those that wait behind it.
func (g *guarding) answered(a answer) *service.Catalog {
	changed := false
	for {
		g.flying--
		changed = g.guard.Answered(a.Probe, a.answers, time.Now()) || changed
		select {
		case a = <-g.answers:
			continue
		default:
		}
		break
	}
	if !changed {
		return nil
	}
	return g.guard.Tick(time.Now())
}

// probe sends probes out that are due, a few at a time, and sets the time for another look.
func (g *guarding) probe(ctx context.Context, due *time.Timer) {
	next := g.guard.Next()
	for g.flying < g.most() {
		p, at, ok := g.guard.Due(time.Now())
		if !ok {
			if !at.IsZero() && (next.IsZero() || at.Before(next)) {
				next = at
			}
			break
		}
		g.flying++
		g.probes.Go(func() {
			a := answer{p, g.reaches(ctx, p.Address)}
			select {
			case g.answers <- a:
			case <-ctx.Done():
			}
		})
	}
	due.Stop()
	if !next.IsZero() {
		due.Reset(max(0, time.Until(next)))
	}
}

// most is how many probes may be under way. Addresses of hosts that are down take each its time: half of what
// there is at once, so that a look at all takes twice that, up to a bound.
func (g *guarding) most() int {
	const least, share, most = 16, 2, 128
	return min(most, max(least, g.guard.Waiting()/share))
}

// reaches tells whether an address answers.
func (g *guarding) reaches(ctx context.Context, to netip.AddrPort) bool {
	const limit = time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if g.Dial != nil {
		return g.Dial(ctx, to) == nil
	}
	c, err := new(net.Dialer).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return false
	}
	c.Close()
	return true
}
