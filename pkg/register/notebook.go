package register

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/internal/atomicfile"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

const (
	notesPause = 200 * time.Millisecond // between two writings
	notesRetry = 5 * time.Second        // after one that failed
)

// told is the state of an instance that was told to stop before it was let through.
const told service.State = "told"

// note is what the gate remembers of an instance.
type note struct {
	Started  time.Time     `json:"started,omitzero"`
	State    service.State `json:"state"`
	Pardoned time.Time     `json:"pardoned,omitzero"` // the last stop signal that does not count any more
	At       string        `json:"at,omitempty"`      // where it answered; empty if that is not known

	since time.Time // when it was last heard of
}

// noteOf is what is to be remembered of an instance in this state.
func noteOf(i *service.Instance, state service.State, pardoned time.Time) note {
	return note{Started: i.Started, State: state, Pardoned: pardoned, At: answeredAt(i)}
}

// answeredAt is where an instance is checked, "" if it is not.
func answeredAt(i *service.Instance) string {
	if unchecked(i.Check) {
		return ""
	}
	return i.Check.Target.String()
}

func (n note) equal(other note) bool {
	return n.Started.Equal(other.Started) && n.State == other.State && n.At == other.At && n.Pardoned.Equal(other.Pardoned)
}

// notebook keeps the gate's notes in a file, so that they outlast the agent's process. A goroutine
// of its own writes, so that a slow disk slows down nothing; the newest notes win. With no path it
// keeps nothing.
type notebook struct {
	path string
	log  logrus.FieldLogger
	wake chan struct{} // one token when there is something to write

	mu    sync.Mutex
	notes map[string]note // to be written; nil if there is nothing new

	failing bool // owned by run
}

func newNotebook(path string, log logrus.FieldLogger) *notebook {
	return &notebook{path: path, log: log, wake: make(chan struct{}, 1)}
}

// read returns the notes of an earlier process: none if there is no file or it cannot be read,
// which only means that each instance has to pass its check before it is let through.
func (b *notebook) read() map[string]note {
	if b.path == "" {
		return map[string]note{}
	}
	var notes map[string]note
	text, err := os.ReadFile(b.path)
	if err == nil {
		err = json.Unmarshal(text, &notes)
	}
	if err == nil && notes != nil {
		return notes
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.log.WithError(fmt.Errorf("read %s: %w", b.path, err)).Warn("memory of the gate cannot be read; instances have to pass their checks anew")
	}
	return map[string]note{}
}

// keep has the notes written soon. They are the notebook's from then on.
func (b *notebook) keep(notes map[string]note) {
	b.mu.Lock()
	b.notes = notes
	b.mu.Unlock()
	b.nudge()
}

func (b *notebook) nudge() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// run writes until ctx is cancelled, and then what is still to be written.
func (b *notebook) run(ctx context.Context) {
	if b.path == "" {
		return
	}
	for {
		select {
		case <-b.wake:
		case <-ctx.Done():
			b.write()
			return
		}
		pause := notesPause
		if !b.write() {
			pause = notesRetry
			b.nudge()
		}
		if !wait(ctx, pause) {
			b.write()
			return
		}
	}
}

// write writes what is to be written, and tells whether nothing is left to be.
func (b *notebook) write() bool {
	b.mu.Lock()
	notes := b.notes
	b.notes = nil
	b.mu.Unlock()
	if notes == nil {
		return true
	}
	err := atomicfile.Write(b.path, 0o600, func(w io.Writer) error { return json.NewEncoder(w).Encode(notes) })
	if err == nil {
		b.failing = false
		return true
	}
	if !b.failing {
		b.failing = true
		b.log.WithError(err).Warn("memory of the gate cannot be written; trying again")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.notes == nil {
		b.notes = notes
	}
	return false
}
