package haproxy

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/atomicfile"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

const (
	candidatePrefix = "sidekick-check-"
	appliedName     = "applied.json"
	refusedSuffix   = ".refused" // of what is set aside
	refusedName     = "refused.cfg"
	readLimit       = 64 << 20 // of a set of files that is read back
)

// store is the configuration and the files it names, on disk. At every instruction the files are one
// set that HAProxy accepts: candidates are complete and checked elsewhere before the live directory
// changes, all names change in one step there (see place), and the former set goes after the new one
// is confirmed.
//
// HAProxy may write in the live directory as well, and may have been broken into. So what is checked
// never lies there, and what is read back from there is looked at with suspicion.
type store struct {
	path string
	work string // only we write there; "" if there is no such place that lasts
	step step   // for tests, else nil
}

func (s store) dir() string { return filepath.Dir(s.path) }

// place opens the live directory, for the caller to close.
func (s store) place() (place, error) {
	root, err := os.OpenRoot(s.dir())
	return place{root: root, name: filepath.Base(s.path), step: s.step}, err
}

// at is where a file of the set lies below a directory that stands for the live one.
func (s store) at(dir, name string) string {
	if name == "" {
		name = filepath.Base(s.path)
	}
	return filepath.Join(dir, name)
}

// valid refuses sets whose names would leave the directory or hit files of our own.
func (s store) valid(files render.Files) error {
	if len(files) == 0 || files[0].Name != "" {
		return &Refused{Stage: StageText, Words: "there is no configuration among the files"}
	}
	seen := map[string]bool{filepath.Base(s.path): true, appliedName: true}
	for _, f := range files[1:] {
		if !isPlainName(f.Name) || seen[f.Name] {
			return &Refused{Stage: StageText, Words: fmt.Sprintf("the file name %q is not allowed or used twice", f.Name)}
		}
		seen[f.Name] = true
	}
	return nil
}

// isPlainName tells whether a name can only mean a file in the directory itself, and none of our own
// unfinished ones.
func isPlainName(name string) bool {
	return name != "" && name[0] != '.' && !strings.ContainsAny(name, "/\x00")
}

// stage writes a complete candidate into a new directory that only we can write: what is checked must
// be what was rendered, for HAProxy's program runs with our rights when it checks.
func (s store) stage(files render.Files) (candidate, error) {
	if err := s.valid(files); err != nil {
		return candidate{}, err
	}
	dir, err := s.newDir()
	if err != nil {
		return candidate{}, fmt.Errorf("stage the configuration: %w", err)
	}
	c := candidate{store: s, dir: dir, files: files, proxies: sync.OnceValue(func() map[string]*proxy { return knownProxies(files[0].Text()) })}
	for _, f := range files {
		if err := writeNew(s.at(dir, f.Name), f); err != nil {
			return candidate{}, errors.Join(fmt.Errorf("stage the configuration: %w", err), c.discard())
		}
	}
	return c, nil
}

// writeNew writes a file that is not there yet.
func writeNew(path string, f render.File) error {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteTo(out)
	return errors.Join(err, out.Close())
}

// newDir makes a directory for a candidate. Its path is absolute, for the check works in it.
func (s store) newDir() (string, error) {
	if err := s.makeWork(); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(s.work, candidatePrefix)
	if err != nil {
		return "", err
	}
	return filepath.Abs(dir)
}

// makeWork makes the directory of our own.
func (s store) makeWork() error {
	if s.work == "" {
		return nil
	}
	return os.MkdirAll(s.work, 0o700)
}

// candidate is a staged set of files.
type candidate struct {
	store store
	dir   string
	files render.Files
	// proxies are those of the text. They are read while HAProxy checks it, for after its reload nothing
	// is certain before they are held against what runs.
	proxies func() map[string]*proxy
}

// check lets HAProxy judge the candidate, for so long and some more for each file.
func (c candidate) check(ctx context.Context, bin string, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience(limit, len(c.files)-1), errHangs)
	defer cancel()
	return check(ctx, bin, c.store.at(c.dir, ""), c.store.path)
}

// discard removes what is left of the candidate.
func (c candidate) discard() error { return os.RemoveAll(c.dir) }

// swap puts the candidate in the live place, all files at once. On an error the former ones are there.
func (c candidate) swap() error {
	p, err := c.store.place()
	if err != nil {
		return fmt.Errorf("put the configuration in place: %w", err)
	}
	defer p.close()
	if err := p.swap(c.files, c.store.readApplied().Files); err != nil {
		p.prune() //nolint:errcheck // the next one tries again
		return fmt.Errorf("put the configuration in place: %w; the former one stays", err)
	}
	return nil
}

// restore puts the set from before the last swap back, unless it is pruned. It needs no room on the disk.
func (s store) restore() error {
	p, err := s.place()
	if err != nil {
		return fmt.Errorf("put the former configuration back: %w", err)
	}
	defer p.close()
	if err := p.restore(); err != nil {
		return fmt.Errorf("put the former configuration back: %w", err)
	}
	return nil
}

// prune removes what is not of the set in force.
func (s store) prune() error {
	p, err := s.place()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.close()
	return p.prune()
}

// inForce names the set in force, "" if there is none.
func (s store) inForce() string {
	p, err := s.place()
	if err != nil {
		return ""
	}
	defer p.close()
	set, _ := p.current() // unknown is like none
	return set
}

// read returns the live files: the configuration and those of the names. A set of which a part
// cannot be read is an error.
func (s store) read(names []string) (render.Files, error) {
	files := render.Files{{}}
	for _, name := range names {
		files = append(files, render.File{Name: name})
	}
	if err := s.valid(files); err != nil {
		return nil, fmt.Errorf("read the live configuration: %w", err)
	}
	p, err := s.place()
	if err != nil {
		return nil, fmt.Errorf("read the live configuration: %w", err)
	}
	defer p.close()
	set, err := p.current() // once, so that all are of one set
	if err != nil {
		return nil, fmt.Errorf("read the live configuration: %w", err)
	}
	left := readLimit
	for i, f := range p.entries(files) {
		text, _, err := p.read(set, f.Name, left)
		if err != nil {
			return nil, fmt.Errorf("read the live configuration: %w", err)
		}
		left -= len(text)
		files[i].Blocks = []render.Block{render.NewBlock("", string(text))}
	}
	return files, nil
}

// tempAge is how old an unfinished file must be to be nobody's: an atomic write takes a moment.
const tempAge = time.Minute

// tempName is how the unfinished files of an atomic write end, after their target's name.
var tempName = regexp.MustCompile(`\.[0-9]+$`)

// tidy removes candidates, sets and unfinished files that a crash left.
func (s store) tidy() error {
	return errors.Join(s.tidyWork(), s.prune(), unfinished(s.path), unfinished(s.path+refusedSuffix), unfinished(startsName(s.path)),
		unfinished(s.note()), unfinished(s.refused()))
}

// tidyWork removes the candidates in the directory of our own.
func (s store) tidyWork() error {
	if s.work == "" {
		return nil
	}
	entries, err := os.ReadDir(s.work)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), candidatePrefix) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.work, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// unfinished removes what atomic writes of the file at path left.
func unfinished(path string) error {
	prefix := "." + filepath.Base(path)
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		suffix, ok := strings.CutPrefix(e.Name(), prefix)
		if !ok || !e.Type().IsRegular() || tempName.FindString(suffix) != suffix {
			continue
		}
		info, err := e.Info()
		if err != nil || time.Since(info.ModTime()) < tempAge {
			continue // gone, or somebody writes it now
		}
		if err := os.Remove(filepath.Join(filepath.Dir(path), e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// applied is what the driver leaves for its next start: which worker was seen to run which files.
type applied struct {
	Hash  string   `json:"hash"`
	Files []string `json:"files"` // names besides the configuration's
	Worker
	// Leaving are servers that the files have no more, and that wait for the end of their sessions.
	Leaving map[string]*departure `json:"leaving,omitempty"`
}

// note is where that is kept: where only we write, if there is such a place. Then a set of files whose
// hash is in it is surely one of ours.
func (s store) note() string { return filepath.Join(cmp.Or(s.work, s.dir()), appliedName) }

// writeApplied notes that the worker runs the files, which are the ones on disk. No worker outlives a power
// loss, so the note need not either.
func (s store) writeApplied(files render.Files, w Worker, leaving map[string]*departure) error {
	a := applied{Hash: textHash(files), Files: []string{}, Worker: w, Leaving: leaving}
	for _, f := range files[1:] {
		a.Files = append(a.Files, f.Name)
	}
	if err := s.makeWork(); err != nil {
		return err
	}
	return atomicfile.Note(s.note(), 0o644, func(out io.Writer) error {
		return json.NewEncoder(out).Encode(a)
	})
}

// dropApplied removes the note. One that stays where it cannot be removed could not be written either.
func (s store) dropApplied() { os.Remove(s.note()) }

// refused is where the text that HAProxy refused last is kept.
func (s store) refused() string { return filepath.Join(s.work, refusedName) }

// keepRefused keeps a refused text for people to read, where only we write. It tells whether it is there.
func (s store) keepRefused(files render.Files) bool {
	return s.work != "" && s.makeWork() == nil && atomicfile.Write(s.refused(), 0o600, func(out io.Writer) error {
		_, err := files[0].WriteTo(out)
		return err
	}) == nil
}

// dropRefused removes it. One that cannot be removed does no harm.
func (s store) dropRefused() {
	if s.work != "" {
		os.Remove(s.refused())
	}
}

// readApplied returns the note; a missing or broken one is a zero note.
func (s store) readApplied() applied {
	var a applied
	text, err := readNote(s.note(), readLimit)
	if err != nil || json.Unmarshal(text, &a) != nil || slices.ContainsFunc(a.Files, func(name string) bool { return !isPlainName(name) }) {
		return applied{}
	}
	return a
}

// readNote reads a file of ours by itself, with the same suspicion as those of a set.
func readNote(path string, limit int) ([]byte, error) {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer root.Close() // only read
	text, _, err := readPlain(root, filepath.Base(path), limit)
	return text, err
}

// textHash tells sets of files apart by their texts alone, however they are cut into blocks.
func textHash(files render.Files) string {
	h := sha256.New()
	for _, f := range files {
		io.WriteString(h, f.Name+"\x00") // a hash does not fail
		f.WriteTo(h)                     //nolint:errcheck // a hash does not fail
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil))
}
