package haproxy

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

const (
	downEvery = 10 * time.Second
	downShare = 1000 // of a core's time, 1/1000 is spent on it
)

// lookDown asks which servers HAProxy's own checks have found down, if the text in force has checks. It
// returns when to ask again.
func (d *Driver) lookDown(ctx context.Context) (next time.Time) {
	began := time.Now()
	worker, text, err := d.inUse(ctx)
	if err != nil || text == nil {
		return began.Add(lookEvery) // what was seen last is shown until more is known
	}
	var down []string
	if hasChecks(text[0]) {
		live, err := d.api.servers(ctx, worker) // without the turn: it holds up nothing
		if err != nil {
			return began.Add(downEvery)
		}
		down = downServers(live)
	}
	d.mu.Lock()
	d.view.Down = down
	d.mu.Unlock()
	return time.Now().Add(max(downEvery, downShare*time.Since(began)))
}

// inUse returns the worker and the text in force, nil if that is not known.
func (d *Driver) inUse(ctx context.Context) (Worker, render.Files, error) {
	if err := d.acquire(ctx); err != nil {
		return Worker{}, nil, err
	}
	defer d.release()
	return d.worker, d.running, nil
}

// hasChecks tells whether a text may have servers that HAProxy checks. It costs no more than a look over
// the lines.
func hasChecks(f render.File) bool {
	for _, block := range f.Blocks {
		for raw := range strings.Lines(block.Text) {
			first, rest, _ := strings.Cut(strings.TrimLeft(raw, blanks), " ")
			if strings.Contains(first, "server") && strings.Contains(rest, "check") {
				return true
			}
		}
	}
	return false
}

// downServers names the servers that are in service and get no requests all the same.
func downServers(live []liveServer) []string {
	var down []string
	for _, s := range live {
		if s.stopped && !s.maint {
			down = append(down, s.backend+"/"+s.name)
		}
	}
	slices.Sort(down)
	return down
}
