package confd

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/sidekick-proxy/sidekick/internal/atomicfile"
)

// usual are the permissions of a new file without a mode.
const usual fs.FileMode = 0o644

// modeBits are those that a resource can ask for.
const modeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// target is a file as a resource wants it.
type target struct {
	path     string
	text     []byte
	mode     fs.FileMode
	uid, gid int
}

// target completes what the resource says by what counts where it says nothing: the mode of the file that
// is there, and whoever runs this.
func (r *Resource) target(text []byte) (target, error) {
	t := target{path: r.Dest, text: text, mode: r.Mode, uid: os.Geteuid(), gid: os.Getegid()}
	if !r.ModeGiven {
		t.mode = usual
		if info, err := os.Stat(r.Dest); err == nil {
			t.mode = info.Mode() & modeBits
		}
	}
	var err error
	switch {
	case r.UID >= 0:
		t.uid = r.UID
	case r.Owner != "":
		if t.uid, err = number(r.Owner, user.Lookup, func(u *user.User) string { return u.Uid }); err != nil {
			return t, fmt.Errorf("owner %q: %w", r.Owner, err)
		}
	}
	switch {
	case r.GID >= 0:
		t.gid = r.GID
	case r.Group != "":
		if t.gid, err = number(r.Group, user.LookupGroup, func(g *user.Group) string { return g.Gid }); err != nil {
			return t, fmt.Errorf("group %q: %w", r.Group, err)
		}
	}
	return t, nil
}

// number finds out the number of a user or a group.
func number[T any](name string, lookup func(string) (T, error), id func(T) string) (int, error) {
	found, err := lookup(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(id(found))
}

// difference is what a file on disk is not as it should be.
type difference struct {
	old   []byte // what it holds
	text  bool   // the content differs
	words []string
}

func (d difference) any() bool      { return len(d.words) > 0 }
func (d difference) String() string { return strings.Join(d.words, ", ") }

// compare looks at the file on disk. One that cannot be read is different.
func (t target) compare() (difference, error) {
	info, err := os.Stat(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return difference{text: true, words: []string{"new"}}, nil
	}
	if err != nil {
		return difference{}, err
	}
	if !info.Mode().IsRegular() {
		return difference{}, fmt.Errorf("%s: it is no regular file", t.path)
	}
	var d difference
	note := func(differs bool, format string, args ...any) {
		if differs {
			d.words = append(d.words, fmt.Sprintf(format, args...))
		}
	}
	if d.old, err = os.ReadFile(t.path); err != nil {
		note(true, "unreadable: %s", withoutPath(err))
	}
	d.text = err != nil || !bytes.Equal(d.old, t.text)
	note(d.text && err == nil, "content")
	note(info.Mode()&modeBits != t.mode, "mode %v instead of %v", info.Mode()&modeBits, t.mode)
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		note(int(stat.Uid) != t.uid, "uid %d instead of %d", stat.Uid, t.uid)
		note(int(stat.Gid) != t.gid, "gid %d instead of %d", stat.Gid, t.gid)
	}
	return d, nil
}

// stage writes the file under another name in the same directory, as it is to be in the end.
func (t target) stage() (string, error) {
	f, err := os.CreateTemp(filepath.Dir(t.path), "."+filepath.Base(t.path))
	if err != nil {
		return "", fmt.Errorf("stage %s: %s; its directory must be there and writable", t.path, withoutPath(err))
	}
	_, err = f.Write(t.text)
	if err := errors.Join(err, t.dress(f), f.Sync(), f.Close()); err != nil {
		os.Remove(f.Name())
		return "", renamed{err, f.Name(), t.path}
	}
	return f.Name(), nil
}

// dress gives a file its owner and its mode, in this order: a change of owner takes bits of the mode away.
func (t target) dress(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && (int(stat.Uid) != t.uid || int(stat.Gid) != t.gid) {
		if err := f.Chown(t.uid, t.gid); err != nil {
			return fmt.Errorf("%w; give uid and gid that this process (uid %d) may set, or none", err, os.Geteuid())
		}
	}
	return f.Chmod(t.mode)
}

// replace puts the staged file in the place of the target. A target that is a mount of its own cannot be
// replaced and is written in place, which a reader can see half done.
func (t target) replace(staged string) error {
	err := os.Rename(staged, t.path)
	switch {
	case err == nil:
		return atomicfile.SyncDir(filepath.Dir(t.path))
	case !errors.Is(err, syscall.EBUSY):
		return err
	}
	f, err := os.OpenFile(t.path, os.O_WRONLY|os.O_TRUNC, t.mode)
	if err != nil {
		return err
	}
	_, err = f.Write(t.text)
	return errors.Join(err, t.dress(f), f.Sync(), f.Close())
}
