package ask

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sidekick-proxy/sidekick/pkg/catalog"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// askTTL is how long an ask outlives an asker that dies.
const askTTL = 60 * time.Second

// errGone ends the waiting for answers that cannot come.
var errGone = errors.New("the registry has lost the question: its lease ran out, or the registry was restored")

// Asker asks agents and waits for their answers.
type Asker struct {
	Registry Registry
	Watcher  catalog.Watcher
	Prefix   string
	// Progress is told how far things are, whenever that is something else; it may be nil.
	Progress func(Report)
}

// Report says how far an ask is. Nodes are in the order of their names.
type Report struct {
	Nodes    int            // that are asked
	Silent   []string       // that have not answered yet
	Gone     []string       // that left the registry without an answer
	Sessions map[string]int // that are left, by node; none where none are
	known    bool           // the registry has shown the ask
}

// Done tells whether there is nothing left to wait for.
func (r *Report) Done() bool { return r.known && len(r.Silent) == 0 && len(r.Sessions) == 0 }

// Wait puts the asks, and returns when every agent has answered them all and no session is left where that
// was asked, or with ctx's error and the state of things. An agent is asked while its node's key is there.
// An ask for [service.WantUndrained] is for the node of its key alone. The asks are gone when it returns.
func (a *Asker) Wait(ctx context.Context, asks ...service.Ask) (Report, error) {
	lease, err := a.Registry.Open(ctx, askTTL)
	if err != nil {
		return Report{}, fmt.Errorf("ask the agents: %w", err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
		defer cancel()
		_ = lease.Close(closing) // failing that, it runs out
	}()
	w := waiting{Asker: a, asks: asks, asked: map[string]bool{}, gone: map[string]bool{}}
	for _, ask := range asks {
		value, err := ask.Encode()
		if err == nil {
			w.since, err = lease.Put(ctx, ask.RegistryKey(a.Prefix), value)
		}
		if err != nil {
			return Report{}, fmt.Errorf("ask the agents: %w", err)
		}
	}
	return w.run(ctx)
}

// waiting is the state of one Wait.
type waiting struct {
	*Asker
	asks   []service.Ask
	since  int64           // the revision from which on the registry has the asks
	asked  map[string]bool // nodes that were seen since
	gone   map[string]bool // of them, those that left without an answer
	report Report
}

func (w *waiting) run(ctx context.Context) (Report, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	catalogs := make(chan *service.Catalog)
	group, watching := errgroup.WithContext(ctx)
	group.Go(func() error { return w.Watcher.Run(watching, catalogs) })
	defer group.Wait() //nolint:errcheck // it ends because it is cancelled
	defer cancel()
	for {
		select {
		case c := <-catalogs:
			switch {
			case c.Revision >= w.since && w.stand(c):
			case w.report.known || c.Revision >= w.since:
				return w.report, errGone
			default: // from before the asks
				continue
			}
			w.take(c)
			if w.report.Done() {
				return w.report, nil
			}
		case <-watching.Done():
			return w.report, context.Cause(watching)
		}
	}
}

// stand tells whether the registry has the asks.
func (w *waiting) stand(c *service.Catalog) bool {
	for _, ask := range w.asks {
		if !slices.ContainsFunc(c.Asks, func(a *service.Ask) bool { return a.ID == ask.ID }) {
			return false
		}
	}
	return true
}

// take looks at the answers in a catalog.
func (w *waiting) take(c *service.Catalog) {
	answers := map[string]*service.Answer{} // by node and ask
	for _, a := range c.Answers {
		answers[a.Node+"/"+a.Ask] = a
	}
	r := Report{Sessions: map[string]int{}, known: true}
	there := map[string]bool{}
	for _, n := range c.Nodes {
		if w.wants(n.Name) {
			there[n.Name] = true
			w.asked[n.Name] = true
			w.judge(&r, n.Name, answers)
		}
	}
	for _, node := range slices.Sorted(maps.Keys(w.asked)) {
		w.gone[node] = !there[node] && (w.gone[node] || slices.Contains(w.report.Silent, node) || w.report.Sessions[node] > 0)
		if w.gone[node] {
			r.Gone = append(r.Gone, node)
		}
	}
	changed := !slices.Equal(r.Silent, w.report.Silent) || !slices.Equal(r.Gone, w.report.Gone) || !maps.Equal(r.Sessions, w.report.Sessions)
	w.report = r
	if changed && w.Progress != nil {
		w.Progress(r)
	}
}

// wants tells whether a node is asked.
func (w *waiting) wants(node string) bool {
	return slices.ContainsFunc(w.asks, func(a service.Ask) bool { return a.Want != service.WantUndrained || w.nodeOf(a) == node })
}

func (w *waiting) nodeOf(a service.Ask) string {
	k, _ := service.ParseKey(w.Prefix, a.Key) // no node then
	return k.Node
}

// judge notes what one node has answered.
func (w *waiting) judge(r *Report, node string, answers map[string]*service.Answer) {
	r.Nodes++
	silent := false
	for _, ask := range w.asks {
		if ask.Want == service.WantUndrained && w.nodeOf(ask) != node {
			continue
		}
		a := answers[node+"/"+ask.ID]
		if a == nil || !a.Applied || a.Revision < ask.Revision {
			silent = true
		} else if a.Sessions > 0 {
			r.Sessions[node] += a.Sessions
		}
	}
	if silent {
		r.Silent = append(r.Silent, node)
	}
}
