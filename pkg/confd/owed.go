package confd

import (
	"encoding/json"
	"io"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/internal/atomicfile"
)

// owed keeps of which files a reload is still to come: one that failed, or that this process did not
// live to see. It is kept on disk, because the file itself looks finished.
type owed struct {
	path string // "": not kept over the process
	log  logrus.FieldLogger

	mu    sync.Mutex
	dests map[string]bool
}

func newOwed(path string, log logrus.FieldLogger) *owed {
	o := &owed{path: path, log: log, dests: map[string]bool{}}
	text, err := os.ReadFile(path)
	var list []string
	if err != nil || json.Unmarshal(text, &list) != nil {
		return o // never written, or no use
	}
	for _, dest := range list {
		o.dests[dest] = true
	}
	return o
}

func (o *owed) has(dest string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dests[dest]
}

// set notes whether a reload is owed. That a note cannot be kept holds up no reload.
func (o *owed) set(dest string, is bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dests[dest] == is {
		return
	}
	if is {
		o.dests[dest] = true
	} else {
		delete(o.dests, dest)
	}
	if o.path == "" {
		return
	}
	err := atomicfile.Write(o.path, 0o600, func(w io.Writer) error {
		return json.NewEncoder(w).Encode(slices.Sorted(maps.Keys(o.dests)))
	})
	if err != nil {
		o.log.WithError(err).Warn("a reload that fails now is forgotten if the agent ends before it succeeds")
	}
}
