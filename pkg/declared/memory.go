package declared

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/internal/atomicfile"
)

// forgetAfter is how long an instance that is not declared any more keeps its age, should it come
// back: a file that was moved away for a moment does not make its instances the youngest.
const forgetAfter = 10 * time.Minute

// memory outlasts the process: the last good text of each file, so that a file that is bad when the
// agent is restarted takes nothing away, and since when each instance is declared, so that the oldest
// of a service stays the oldest.
type memory struct {
	Files map[string]string    `json:"files"`
	First map[string]time.Time `json:"first"` // by id

	path    string
	log     logrus.FieldLogger
	gone    map[string]time.Time // since when an id is not declared
	written written              // what is on disk
	failing bool
}

// written is what of a memory is on disk.
type written struct {
	files map[string]string
	first map[string]time.Time
}

// recall reads the memory of an earlier process: none if there is no file, or it cannot be read.
func recall(path string, log logrus.FieldLogger) *memory {
	m := &memory{path: path, log: log, gone: map[string]time.Time{}}
	if path != "" {
		text, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(text, m)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			log.WithError(fmt.Errorf("read %s: %w", path, err)).Warn("memory of the services files cannot be read; their instances count as new")
		}
	}
	if m.Files == nil {
		m.Files = map[string]string{}
	}
	if m.First == nil {
		m.First = map[string]time.Time{}
	}
	m.note()
	return m
}

func (m *memory) note() { m.written = written{maps.Clone(m.Files), maps.Clone(m.First)} }

// since is when the instance was first declared.
func (m *memory) since(id string, now time.Time) time.Time {
	if m.First[id].IsZero() {
		m.First[id] = now.UTC().Truncate(time.Second)
	}
	return m.First[id]
}

// keep forgets what has long not been declared, and writes the rest down if it has changed.
func (m *memory) keep(declared map[string]string, now time.Time) {
	for id := range m.First {
		switch since, ok := m.gone[id]; {
		case declared[id] != "":
			delete(m.gone, id)
		case !ok:
			m.gone[id] = now
		case now.Sub(since) > forgetAfter:
			delete(m.gone, id)
			delete(m.First, id)
		}
	}
	if m.path == "" || maps.Equal(m.Files, m.written.files) && maps.EqualFunc(m.First, m.written.first, time.Time.Equal) {
		return
	}
	err := atomicfile.Write(m.path, 0o600, func(w io.Writer) error { return json.NewEncoder(w).Encode(m) })
	if err == nil {
		m.failing = false
		m.note()
		return
	}
	if !m.failing {
		m.failing = true
		m.log.WithError(err).Warn("memory of the services files cannot be written; trying again")
	}
}
