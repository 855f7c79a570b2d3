package haproxy

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
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
// So a text that the agent once saw it run is not counted: where nobody looks, a HAProxy that is stopped
// and started a few times is like one that ends by itself.
type starts struct {
	Text  string    `json:"text,omitempty"` // its structure's hash
	Count int       `json:"count,omitempty"`
	Last  time.Time `json:"last,omitzero"`
	Ran   string    `json:"ran,omitempty"` // the structure's hash of the last text that was seen to run
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
	note := readStarts(c.Path)
	next := starts{Text: startText(files), Count: 1, Last: time.Now(), Ran: note.Ran}
	if next.Text == note.Ran || files[0].Text() == MinimalConfig(c) {
		return nil
	}
	if next.Text == note.Text && next.Last.Sub(note.Last).Abs() < startsApart {
		next.Count = note.Count + 1
	}
	if next.Count > startsMost {
		started(c.Path) //nolint:errcheck // then the text gets no further start
		return &Refused{Stage: StageStart, Words: fmt.Sprintf(
			"haproxy ended soon after each of its last %d starts with it: its log has the reason", startsMost)}
	}
	next.write(c.Path) //nolint:errcheck // without the note HAProxy is only started again and again
	return nil
}

// startText tells texts apart: other servers make none that HAProxy starts with out of one that it does
// not.
func startText(files render.Files) string {
	sum := structure(files[:1])
	return hex.EncodeToString(sum[:])
}

// vacant refuses a configuration that asks for an address that another program has, and goes on having.
func (c Config) vacant(ctx context.Context, files render.Files) error {
	limit, cancel := context.WithTimeout(ctx, vacantWithin)
	defer cancel()
	for {
		err := probe(ctx, nil, files, false)
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

// write leaves the note. A host that lost its power is another one: what ended HAProxy before may be gone.
func (s starts) write(path string) error {
	return atomicfile.Note(startsName(path), 0o644, func(w io.Writer) error { return json.NewEncoder(w).Encode(s) })
}

// started forgets the starts: HAProxy answers, or another text takes the place of the one that was counted.
func started(path string) error {
	note := readStarts(path)
	if note.Count == 0 {
		return nil
	}
	return starts{Ran: note.Ran}.write(path)
}

// ran notes that HAProxy was seen to run a text.
func ran(path string, files render.Files) error {
	text := startText(files)
	if readStarts(path).Ran == text {
		return nil
	}
	return starts{Ran: text}.write(path)
}
