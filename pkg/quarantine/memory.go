package quarantine

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/atomicfile"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// memory is what a ward keeps on disk, so that an agent's restart takes nothing out of service that was served by
// a former definition.
type memory struct {
	Template string          `json:"template"` // its hash
	Held     []note          `json:"held"`
	Good     json.RawMessage `json:"good"` // the former definitions, as a catalog of services without instances
}

// note is a patient on disk.
type note struct {
	Service    string   `json:"service"`
	Words      string   `json:"words"`
	Failed     bool     `json:"failed,omitempty"`
	Definition string   `json:"definition"`
	Bad        []string `json:"bad,omitempty"` // labels of instances
}

// Under says which template it is under. Another one than before may take everybody.
func (w *Ward) Under(template string) {
	sum := sha256.Sum256([]byte(template))
	if now := hex.EncodeToString(sum[:]); now != w.template {
		w.template, w.patients = now, nil
	}
}

// Save writes who is held to a file, if that has changed since.
func (w *Ward) Save(path string) error {
	if len(w.patients) == 0 && w.saved == nil {
		return nil // the usual case
	}
	text, err := w.encode()
	if err != nil {
		return fmt.Errorf("keep who is in quarantine: %w", err)
	}
	if bytes.Equal(text, w.saved) {
		return nil
	}
	err = atomicfile.Write(path, 0o600, func(out io.Writer) error {
		_, err := out.Write(text)
		return err
	})
	if err != nil {
		return fmt.Errorf("keep who is in quarantine: %w", err)
	}
	w.saved = text
	return nil
}

func (w *Ward) encode() ([]byte, error) {
	m := memory{Template: w.template, Held: []note{}}
	good := service.File{Items: map[string]json.RawMessage{}, Empty: map[string]json.RawMessage{}}
	for _, name := range w.Names() {
		p := w.patients[name]
		n := note{Service: name, Words: p.Words, Failed: p.Failed, Definition: hex.EncodeToString(p.definition[:])}
		if p.Good != nil && p.Good.Spec.Lead != nil {
			value, err := p.Good.Spec.Lead.Encode()
			if err != nil {
				return nil, err
			}
			good.Empty[p.Good.Spec.Lead.Key("")] = json.RawMessage(value)
		}
		for l := range p.bad {
			n.Bad = append(n.Bad, hex.EncodeToString(l[:]))
		}
		slices.Sort(n.Bad)
		m.Held = append(m.Held, n)
	}
	var err error
	if m.Good, err = json.Marshal(good); err != nil {
		return nil, err
	}
	return json.Marshal(m)
}

// Load takes over what Save has left. A file that is not there is none; of one that is damaged nothing is taken.
func (w *Ward) Load(path string, now time.Time) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var m memory
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		return fmt.Errorf("who was in quarantine is not known: %w", err)
	}
	good, err := service.ParseFile(m.Good)
	if err != nil {
		return fmt.Errorf("who was in quarantine is not known: %s: %w", path, err)
	}
	patients := map[string]*patient{}
	for _, n := range m.Held {
		p, err := n.patient(good)
		if err != nil {
			return fmt.Errorf("who was in quarantine is not known: %s: %w", path, err)
		}
		p.retry = now.Add(retryEvery)
		patients[n.Service] = p
	}
	w.template, w.patients, w.saved = m.Template, patients, text
	return nil
}

func (n note) patient(good *service.Catalog) (*patient, error) {
	p := &patient{Finding: Finding{Words: n.Words, Failed: n.Failed, Good: good.Service(n.Service), bad: map[labels]bool{}}}
	if err := sum(n.Definition, p.definition[:]); err != nil {
		return nil, err
	}
	for _, text := range n.Bad {
		var l labels
		if err := sum(text, l[:]); err != nil {
			return nil, err
		}
		p.bad[l] = true
	}
	return p, nil
}

// sum reads a hash.
func sum(text string, into []byte) error {
	if hex.DecodedLen(len(text)) != len(into) {
		return fmt.Errorf("%.80q is no hash", text)
	}
	_, err := hex.Decode(into, []byte(text))
	return err
}

// Names are those that are held, sorted.
func (w *Ward) Names() []string { return slices.Sorted(maps.Keys(w.patients)) }
