package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/ask"
	"github.com/sidekick-proxy/sidekick/pkg/registry/etcd"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// registryPatience is how long a command waits for the registry's answer.
const registryPatience = 10 * time.Second

// newAsker returns what asks agents for a command, and shows how far they are.
func (s *settings) newAsker(cmd *cobra.Command, client *clientv3.Client) *ask.Asker {
	return &ask.Asker{
		Registry: &etcd.Board{Client: client, Prefix: s.prefix},
		Watcher:  &etcd.Watcher{Client: client, Prefix: s.prefix, Log: s.newLogger(io.Discard)},
		Prefix:   s.prefix,
		Progress: (&progress{out: cmd.ErrOrStderr()}).show,
	}
}

// progress tells what is waited for, once that has taken a while.
type progress struct {
	out io.Writer

	mu    sync.Mutex
	begun bool
	due   bool // it takes a while
	left  string
}

// unremarkable is how long nobody wants to know.
const unremarkable = time.Second

// show takes how far things are.
func (p *progress) show(r ask.Report) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.begun {
		p.begun = true
		time.AfterFunc(unremarkable, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.due = true
			p.print()
		})
	}
	p.left = remaining(r)
	if p.due {
		p.print()
	}
}

func (p *progress) print() {
	if p.left != "" {
		fmt.Fprintln(p.out, "waiting:", p.left)
	}
}

func (s *settings) newAsk(want service.Want, key string, revision int64) service.Ask {
	return service.Ask{ID: rand.Text(), By: s.by(), Want: want, Key: key, Revision: revision}
}

// waitFor asks, and says what did not come to its end in ctx's time.
func waitFor(ctx context.Context, cmd *cobra.Command, asker *ask.Asker, asks ...service.Ask) error {
	report, err := asker.Wait(ctx, asks...)
	if err == nil && report.Nodes == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "no agent stands in the registry: nobody was waited for")
	}
	return unanswered(report, err)
}

// remaining says in words what is still waited for, or was in vain.
func remaining(r ask.Report) string {
	var parts []string
	if len(r.Silent) > 0 {
		parts = append(parts, "no answer from "+strings.Join(r.Silent, ", "))
	}
	if len(r.Gone) > 0 {
		parts = append(parts, "left without an answer: "+strings.Join(r.Gone, ", "))
	}
	for _, node := range slices.Sorted(maps.Keys(r.Sessions)) {
		parts = append(parts, fmt.Sprintf("%s on %s", count(r.Sessions[node], "session"), node))
	}
	return strings.Join(parts, "; ")
}

// unanswered is why an ask did not come to its end, nil if it did. An agent that left meanwhile did not say
// what its proxy does, which may serve on.
func unanswered(r ask.Report, err error) error {
	left := remaining(r)
	switch {
	case left != "" && errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the time is up: %s; see `sidekick status` there", left)
	case err != nil:
		return fmt.Errorf("the agents' answers did not come: %w", err)
	case left != "":
		return errors.New(left)
	}
	return nil
}
