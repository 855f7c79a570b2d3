package haproxy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/atomicfile"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

const (
	startsMost   = 2                // that end by themselves, before a text is set aside
	startsApart  = 30 * time.Second // and no further apart: whoever restarts HAProxy waits longer and longer
	vacantWithin = 2 * time.Second  // for the addresses of a HAProxy that ended a moment ago
)

// starts is what Prepare notes for the next one: how often HAProxy was started with a text, each time
// soon after the last, and nobody saw it run. Whoever is about to become HAProxy cannot see how it ends.
type starts struct {
	Text  string    `json:"text"` // its hash
	Count int       `json:"count"`
	Last  time.Time `json:"last"`
}

// startsName is where that is kept: beside the configuration, where both HAProxy's user and the agent's
// can write.
func startsName(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".starts")
}

// survivable refuses the configuration on disk if HAProxy, which is not running, does not start with it
// although its check accepts it: an address is taken, or it ended each time before.
func (c Config) survivable(ctx context.Context, files render.Files) error {
	if err := c.vacant(ctx, files); err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(files[0].Text()))
	next := starts{Text: hex.EncodeToString(sum[:]), Count: 1, Last: time.Now()}
	if last := readStarts(c.Path); last.Text == next.Text && next.Last.Sub(last.Last).Abs() < startsApart {
		next.Count = last.Count + 1
	}
	if next.Count > startsMost && files[0].Text() != MinimalConfig(c) {
		started(c.Path) //nolint:errcheck // then the text gets no further start
		return &Refused{Stage: StageStart, Words: fmt.Sprintf(
			"haproxy ended soon after each of its last %d starts with it: its log has the reason", startsMost)}
	}
	// Without the note HAProxy is only started again and again.
	atomicfile.Write(startsName(c.Path), 0o644, func(w io.Writer) error { return json.NewEncoder(w).Encode(next) }) //nolint:errcheck // as said
	return nil
}

// vacant refuses a configuration that asks for an address that another program has, and goes on having.
func (c Config) vacant(ctx context.Context, files render.Files) error {
	limit, cancel := context.WithTimeout(ctx, vacantWithin)
	defer cancel()
	for {
		err := probe(ctx, nil, files)
		if asRefused(err) == nil || pause(limit, pollEvery) != nil {
			return err
		}
	}
}

// readStarts returns the note; a missing or broken one is none.
func readStarts(path string) starts {
	var s starts
	text, err := readNote(startsName(path), 1<<10)
	if err != nil || json.Unmarshal(text, &s) != nil {
		return starts{}
	}
	return s
}

// started forgets the starts: HAProxy answers, or another text takes the place of the one that was counted.
func started(path string) error { return os.Remove(startsName(path)) }
