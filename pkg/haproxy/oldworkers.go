package haproxy

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// memoryLimit bounds the question for the memory of old workers, for one may hang, and 3.0 sometimes
// never answers for one that is gone.
const memoryLimit = 500 * time.Millisecond

// countOld makes it visible how many old workers there are, and what they hold as soon as they have told
// it: one may hang, and no change waits for that. What cannot be found out stays as it was.
func (l *loop) countOld(ctx context.Context, p processes) {
	l.mu.Lock()
	l.view.OldWorkers = len(p.old())
	l.mu.Unlock()
	select {
	case l.asking <- struct{}{}:
	default: // the last question is not answered yet
		return
	}
	go func() {
		defer func() { <-l.asking }()
		ctx, cancel := context.WithTimeout(ctx, memoryLimit)
		defer cancel()
		bytes, err := l.master.memory(ctx, p.old())
		if err != nil {
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.view.OldWorkersMemory = bytes
	}()
}

// memory is how many bytes these workers hold for their connections. They are asked by way of the
// master, which also reaches them where their processes cannot be seen from here. One that ended
// meanwhile holds nothing.
func (m masterCLI) memory(ctx context.Context, workers []int) (bytes uint64, err error) {
	for _, pid := range workers { // one by one: the master says no more after one that is gone
		answer, err := ask(ctx, m.path, "@!"+strconv.Itoa(pid)+" show info")
		if err != nil {
			return 0, err
		}
		bytes += poolBytes(answer)
	}
	return bytes, nil
}

// poolBytes is the allocated memory that an answer to `show info` tells of.
func poolBytes(answer string) uint64 {
	_, rest, _ := strings.Cut(answer, "\nPoolAlloc_bytes: ")
	value, _, _ := strings.Cut(rest, "\n")
	n, _ := strconv.ParseUint(value, 10, 64) // else 0
	return n
}

// boundless are the lines that a text lacks so that old workers are bounded in age and in number.
func boundless(files render.Files) (missing []string) {
	has := map[string]bool{}
	for _, l := range globals(files) {
		has[word(l, 0)] = true
	}
	for _, line := range []string{"hard-stop-after 10m", "mworker-max-reloads 20"} {
		if name, _, _ := strings.Cut(line, " "); !has[name] {
			missing = append(missing, strconv.Quote(line))
		}
	}
	return missing
}

// warnOfBoundless tells once that old workers may pile up.
func (d *Driver) warnOfBoundless(files render.Files) {
	missing := boundless(files)
	if d.warned || len(missing) == 0 {
		return
	}
	d.warned = true
	d.cfg.Log.WithField("lines", strings.Join(missing, " and ")).
		Warn("old workers of haproxy, which each reload leaves behind until their last connection ends, are not bounded in both age and number: add these lines to the global section of the template")
}
