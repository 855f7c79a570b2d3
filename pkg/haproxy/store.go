package haproxy

import (
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
	"time"

	"github.com/sidekick-proxy/sidekick/internal/atomicfile"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

const (
	candidatePrefix = ".candidate-"
	appliedName     = "applied.json"
)

// store is the configuration and the files it names, on disk. At every instruction the files are
// ones that HAProxy accepts: candidates are complete and checked elsewhere before the first live
// name changes, the configuration's name changes last, and what only the former one names goes
// after the new one is confirmed.
type store struct {
	path string
}

func (s store) dir() string { return filepath.Dir(s.path) }

// at is where a file of the set lives below a directory that stands for the live one.
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
		if !filepath.IsLocal(f.Name) || filepath.Clean(f.Name) != f.Name || strings.HasPrefix(f.Name, ".") || seen[f.Name] {
			return &Refused{Stage: StageText, Words: fmt.Sprintf("the file name %q is not allowed or used twice", f.Name)}
		}
		seen[f.Name] = true
	}
	return nil
}

// stage writes a complete candidate into a directory of its own beside the live files.
func (s store) stage(files render.Files) (candidate, error) {
	if err := s.valid(files); err != nil {
		return candidate{}, err
	}
	dir, err := os.MkdirTemp(s.dir(), candidatePrefix)
	if err != nil {
		return candidate{}, fmt.Errorf("stage the configuration: %w", err)
	}
	c := candidate{store: s, dir: dir, files: files}
	for _, f := range files {
		if err := writeFile(s.at(dir, f.Name), f); err != nil {
			return candidate{}, errors.Join(err, c.discard())
		}
	}
	return c, nil
}

// writeFile writes one file for good and makes its directories.
func writeFile(path string, f render.File) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // HAProxy runs as another user
		return fmt.Errorf("write %s: %w", path, err)
	}
	return atomicfile.Write(path, 0o644, func(w io.Writer) error {
		_, err := f.WriteTo(w)
		return err
	})
}

// candidate is a staged set of files.
type candidate struct {
	store store
	dir   string
	files render.Files
}

// check lets HAProxy judge the candidate.
func (c candidate) check(ctx context.Context, bin string) error {
	return check(ctx, bin, c.store.at(c.dir, ""), c.store.path)
}

// discard removes what is left of the candidate.
func (c candidate) discard() error { return os.RemoveAll(c.dir) }

// swap puts the candidate in the live place: the files that the configuration names first, then the
// configuration.
func (c candidate) swap() error {
	for _, f := range slices.Backward(c.files) {
		live := c.store.at(c.store.dir(), f.Name)
		if err := os.MkdirAll(filepath.Dir(live), 0o755); err != nil { //nolint:gosec // see writeFile
			return fmt.Errorf("swap %s: %w", live, err)
		}
		if err := os.Rename(c.store.at(c.dir, f.Name), live); err != nil {
			return fmt.Errorf("swap %s: %w", live, err)
		}
	}
	return nil
}

// restore puts an earlier set back: the configuration first, for it may not need what came later.
func (s store) restore(files render.Files) error {
	for _, f := range files {
		if err := writeFile(s.at(s.dir(), f.Name), f); err != nil {
			return fmt.Errorf("put the former configuration back: %w", err)
		}
	}
	return nil
}

// prune removes the files that only before has.
func (s store) prune(before, now render.Files) error {
	var errs []error
	for _, f := range before {
		if !slices.ContainsFunc(now, func(n render.File) bool { return n.Name == f.Name }) {
			err := os.Remove(s.at(s.dir(), f.Name))
			if !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// read returns the live files: the configuration and those of the names. A set of which a part
// cannot be read is an error.
func (s store) read(names []string) (render.Files, error) {
	var files render.Files
	for _, name := range append([]string{""}, names...) {
		text, err := os.ReadFile(s.at(s.dir(), name))
		if err != nil {
			return nil, fmt.Errorf("read the live configuration: %w", err)
		}
		files = append(files, render.File{Name: name, Blocks: []render.Block{render.NewBlock("", string(text))}})
	}
	return files, s.valid(files)
}

// tempAge is how old an unfinished file must be to be nobody's: an atomic write takes a moment.
const tempAge = time.Minute

// tempName is how the unfinished files of an atomic write end, after their target's name.
var tempName = regexp.MustCompile(`\.[0-9]+$`)

// tidy removes candidates and unfinished files that a crash left.
func (s store) tidy() error {
	left, err := filepath.Glob(filepath.Join(s.dir(), candidatePrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	for _, name := range append([]string{"", appliedName, filepath.Base(s.path) + ".refused"}, s.readApplied().Files...) {
		if name != "" && !filepath.IsLocal(name) {
			continue
		}
		if err := unfinished(s.at(s.dir(), name)); err != nil {
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

// applied is what the driver leaves beside the configuration: which worker was seen to run which
// files.
type applied struct {
	Hash  string   `json:"hash"`
	Files []string `json:"files"` // names besides the configuration's
	Worker
}

// writeApplied notes that the worker runs the files, which are the ones on disk.
func (s store) writeApplied(files render.Files, w Worker) error {
	a := applied{Hash: textHash(files), Files: []string{}, Worker: w}
	for _, f := range files[1:] {
		a.Files = append(a.Files, f.Name)
	}
	return atomicfile.Write(s.at(s.dir(), appliedName), 0o644, func(out io.Writer) error {
		return json.NewEncoder(out).Encode(a)
	})
}

// readApplied returns the note; a missing or broken one is a zero note.
func (s store) readApplied() applied {
	var a applied
	text, err := os.ReadFile(s.at(s.dir(), appliedName))
	if err != nil || json.Unmarshal(text, &a) != nil {
		return applied{}
	}
	return a
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
