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
	"syscall"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/atomicfile"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

const (
	candidatePrefix = "sidekick-check-"
	appliedName     = "applied.json"
	readLimit       = 64 << 20 // of a set of files that is read back
)

// store is the configuration and the files it names, on disk. At every instruction the files are
// ones that HAProxy accepts: candidates are complete and checked elsewhere before the first live
// name changes, the configuration's name changes last, and what only the former one names goes
// after the new one is confirmed.
//
// HAProxy may write in the live directory as well, and may have been broken into. So what is checked
// never lies there, and what is read back from there is looked at with suspicion.
type store struct {
	path string
	work string // only we write there; "" if there is no such place that lasts
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
	c := candidate{store: s, dir: dir, files: files}
	for _, f := range files {
		if err := os.WriteFile(s.at(dir, f.Name), []byte(f.Text()), 0o600); err != nil {
			return candidate{}, errors.Join(fmt.Errorf("stage the configuration: %w", err), c.discard())
		}
	}
	return c, nil
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

// write puts one file in the live place.
func (s store) write(f render.File) error {
	return atomicfile.Write(s.at(s.dir(), f.Name), 0o644, func(w io.Writer) error {
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
		if err := c.store.write(f); err != nil {
			return err
		}
	}
	return nil
}

// restore puts an earlier set back: the configuration first, for it may not need what came later.
func (s store) restore(files render.Files) error {
	for _, f := range files {
		if err := s.write(f); err != nil {
			return fmt.Errorf("put the former configuration back: %w", err)
		}
	}
	return nil
}

// prune removes the files that only before has, as far as they are plain files.
func (s store) prune(before, now render.Files) error {
	var errs []error
	for _, f := range before {
		if !isPlainName(f.Name) || slices.ContainsFunc(now, func(n render.File) bool { return n.Name == f.Name }) {
			continue
		}
		path := s.at(s.dir(), f.Name)
		info, err := os.Lstat(path)
		if err == nil && info.Mode().IsRegular() {
			err = os.Remove(path)
		}
		if !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
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
	left := readLimit
	for i, f := range files {
		text, err := readPlain(s.at(s.dir(), f.Name), left)
		if err != nil {
			return nil, fmt.Errorf("read the live configuration: %w", err)
		}
		left -= len(text)
		files[i].Blocks = []render.Block{render.NewBlock("", string(text))}
	}
	return files, nil
}

// readPlain reads a file in a directory where others write: it follows no link, waits for nobody, as
// opening a pipe would, and does not grow without end.
func readPlain(path string, limit int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%s is a link: put a plain file there or remove it", path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no plain file: put one there or remove it", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err == nil && len(text) > limit {
		err = fmt.Errorf("%s is too large: all files together may have %d MiB", path, readLimit>>20)
	}
	return text, err
}

// tempAge is how old an unfinished file must be to be nobody's: an atomic write takes a moment.
const tempAge = time.Minute

// tempName is how the unfinished files of an atomic write end, after their target's name.
var tempName = regexp.MustCompile(`\.[0-9]+$`)

// tidy removes candidates and unfinished files that a crash left.
func (s store) tidy() error {
	if s.work != "" {
		if err := s.tidyWork(); err != nil {
			return err
		}
	}
	for _, name := range append([]string{"", filepath.Base(s.path) + ".refused"}, s.readApplied().Files...) {
		if err := unfinished(s.at(s.dir(), name)); err != nil {
			return err
		}
	}
	return unfinished(s.note())
}

// tidyWork removes the candidates in the directory of our own.
func (s store) tidyWork() error {
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
}

// note is where that is kept: where only we write, if there is such a place. Then a set of files whose
// hash is in it is surely one of ours.
func (s store) note() string { return filepath.Join(cmp.Or(s.work, s.dir()), appliedName) }

// writeApplied notes that the worker runs the files, which are the ones on disk.
func (s store) writeApplied(files render.Files, w Worker) error {
	a := applied{Hash: textHash(files), Files: []string{}, Worker: w}
	for _, f := range files[1:] {
		a.Files = append(a.Files, f.Name)
	}
	if err := s.makeWork(); err != nil {
		return err
	}
	return atomicfile.Write(s.note(), 0o644, func(out io.Writer) error {
		return json.NewEncoder(out).Encode(a)
	})
}

// readApplied returns the note; a missing or broken one is a zero note.
func (s store) readApplied() applied {
	var a applied
	text, err := readPlain(s.note(), readLimit)
	if err != nil || json.Unmarshal(text, &a) != nil || slices.ContainsFunc(a.Files, func(name string) bool { return !isPlainName(name) }) {
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
