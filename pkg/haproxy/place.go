package haproxy

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// place is the live directory, opened. A set of files is a directory in it, and the names that HAProxy
// reads lead there through one link, so that one rename changes all files together:
//
//	haproxy.cfg          -> .haproxy.cfg.live/haproxy.cfg
//	hosts.map            -> .haproxy.cfg.live/hosts.map
//	.haproxy.cfg.live    -> .haproxy.cfg.set-A
//	.haproxy.cfg.set-A/     haproxy.cfg, hosts.map
//	.haproxy.cfg.set-B/     the former set, until the new one is confirmed
//
// What two sets have alike is one file with a name in each.
//
// Others may write in the directory and put links there: an os.Root neither reads nor changes anything
// outside of it.
type place struct {
	root *os.Root
	name string // of the configuration
	step step
}

// step makes one change of the file system; a test looks after it or lets it fail.
type step func(words string, change func() error) error

// Links that a set is made with: a rename puts the first in the live link's place, or the second, which
// needs no room on the disk. The third becomes the link of a new name.
const (
	linkHere = ".live"
	linkBack = ".former"
	linkName = ".link"
)

// live is the one link through which all names lead.
func (p place) live() string { return "." + p.name + ".live" }

// target is where the link of a name leads.
func (p place) target(name string) string { return p.live() + "/" + name }

func (p place) prefix() string { return "." + p.name + ".set-" }

// isSet tells whether a directory's name is that of a set.
func (p place) isSet(name string) bool {
	id, ok := strings.CutPrefix(name, p.prefix())
	return ok && id != "" && !strings.ContainsAny(id, "/.")
}

func (p place) close() { p.root.Close() } // it was only looked through

// secretMode is for files with private keys and hashes of passwords. The group, which is that of the live
// directory if that hands its own on, is what HAProxy has in common with us where it is another user.
const secretMode = 0o640

// do makes one change and names what it was about if it fails.
func (p place) do(verb, name string, change func() error) error {
	words := verb + " " + filepath.Join(p.root.Name(), name)
	if p.step != nil {
		made := change
		change = func() error { return p.step(words, made) }
	}
	if err := change(); err != nil {
		return fmt.Errorf("%s: %w", words, bare(err))
	}
	return nil
}

// bare is the cause of an error without the path that the system call was given.
func bare(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		return e.Err
	}
	return err
}

// current is the set in force, "" if the live link is missing or is none of ours.
func (p place) current() (string, error) {
	set, err := p.root.Readlink(p.live())
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EINVAL): // the latter is no link
		return "", nil
	case err != nil:
		return "", fmt.Errorf("read %s: %w", filepath.Join(p.root.Name(), p.live()), bare(err))
	case !p.isDir(set):
		return "", nil
	}
	return set, nil
}

// isDir tells whether a name is that of a set that is there.
func (p place) isDir(set string) bool {
	if !p.isSet(set) {
		return false
	}
	info, err := p.root.Lstat(set)
	return err == nil && info.IsDir()
}

// linked tells whether a name is our link, of the one form that it has.
func (p place) linked(name string) bool {
	target, err := p.root.Readlink(name)
	return err == nil && target == p.target(name)
}

// read returns what HAProxy reads under a name: a file of the set, or what somebody else put in the
// place of our link.
func (p place) read(set, name string, limit int) ([]byte, fs.FileInfo, error) {
	if !p.linked(name) {
		return readPlain(p.root, name, limit)
	}
	if set == "" {
		return nil, nil, fmt.Errorf("%s leads to no set of files: remove it", filepath.Join(p.root.Name(), name))
	}
	return readPlain(p.root, set+"/"+name, limit)
}

// swap puts files in force, all at once. On an error the former ones are in force.
func (p place) swap(files render.Files, noted []string) error {
	names := []string{p.name}
	for _, f := range files[1:] {
		names = append(names, f.Name)
	}
	if err := p.settle(names, noted); err != nil {
		return err
	}
	former, err := p.current()
	if err != nil {
		return err
	}
	d, err := p.make(p.entries(files), former)
	if err != nil {
		return err
	}
	for _, name := range names {
		if p.linked(name) {
			continue
		}
		if err := p.link(d.set, name); err != nil {
			return err
		}
	}
	if err := p.flush(d); err != nil {
		return err
	}
	if err := p.point(d.set, linkHere); err != nil {
		if now, _ := p.current(); now == d.set { // only that it lasts is not certain
			err = errors.Join(err, p.restore())
		}
		return err
	}
	return nil
}

// settle makes the names links of ours without changing what HAProxy reads: what else stands there is
// copied into a set first. So are files of an earlier set, the noted ones, that were left as they were.
func (p place) settle(names, noted []string) error {
	set, err := p.current()
	if err != nil {
		return err
	}
	strays, err := p.strays(names, noted)
	if err != nil || set != "" && len(strays) == 0 {
		return err
	}
	linked, err := p.links()
	if err != nil {
		return err
	}
	base, err := p.make(p.asIs(set, append(linked, strays...)), set)
	if err == nil {
		err = p.flush(base)
	}
	if err == nil {
		err = p.point(base.set, linkHere)
	}
	if err != nil {
		return err
	}
	for _, name := range strays {
		if err := p.link(base.set, name); err != nil {
			return err
		}
	}
	return nil
}

// strays are the names at which something else than our link stands.
func (p place) strays(names, noted []string) ([]string, error) {
	var strays []string
	for i, name := range append(slices.Clone(names), noted...) {
		info, err := p.root.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist), p.linked(name), slices.Contains(strays, name):
		case i >= len(names) && (err != nil || !info.Mode().IsRegular()): // nobody needs it gone
		case err != nil:
			return nil, fmt.Errorf("look at %s: %w", filepath.Join(p.root.Name(), name), bare(err))
		case info.IsDir():
			return nil, fmt.Errorf("%s is a directory: remove it", filepath.Join(p.root.Name(), name))
		default:
			strays = append(strays, name)
		}
	}
	return strays, nil
}

// entry is a file of a set. It gets the rights of another one, or those that let HAProxy read it.
type entry struct {
	render.File
	like fs.FileInfo
}

// entries are the files under the names that they have in the directory.
func (p place) entries(files render.Files) []entry {
	var all []entry
	for _, f := range files {
		if f.Name == "" {
			f.Name = p.name
		}
		all = append(all, entry{File: f})
	}
	return all
}

// asIs is what HAProxy reads now under these names. In the place of what cannot be read back stands what
// the set has there, if anything.
func (p place) asIs(set string, names []string) []entry {
	var all []entry
	left := readLimit
	for _, name := range names {
		text, info, err := p.read(set, name, left)
		if err != nil && set != "" {
			text, info, err = readPlain(p.root, set+"/"+name, left)
		}
		if err != nil {
			continue
		}
		left -= len(text)
		all = append(all, entry{render.File{Name: name, Blocks: []render.Block{render.NewBlock("", string(text))}}, info})
	}
	return all
}

// mode is who may read and write a file. We may read it: it is flushed by its name.
func (f entry) mode() fs.FileMode {
	switch {
	case f.like != nil:
		return f.like.Mode().Perm() | 0o400
	case f.Secret():
		return secretMode
	default:
		return 0o644
	}
}

// draft is a set that nothing leads to yet.
type draft struct {
	set   string
	fresh []string // its files that no other set has
}

// make makes a draft that leads back to the former set. What both have alike is on the disk since that was
// put in force, and is not written again.
func (p place) make(files []entry, former string) (draft, error) {
	d := draft{set: p.prefix() + rand.Text()}
	if err := p.do("make", d.set, func() error { return p.root.Mkdir(d.set, 0o700) }); err != nil {
		return d, err
	}
	home, err := p.root.Lstat(d.set)
	if err != nil {
		return d, err
	}
	for _, f := range files {
		path := d.set + "/" + f.Name
		if was := p.alike(former, f, home); was != nil && p.do("share", path, func() error { return p.share(was, former, path, f) }) == nil {
			continue // else it is written: not every file system has files with two names
		}
		if err := p.do("write", path, func() error { return p.write(path, f) }); err != nil {
			return d, err
		}
		d.fresh = append(d.fresh, path)
	}
	if err := p.symlink(d.set, d.set, linkHere); err != nil {
		return d, err
	}
	if former == "" {
		return d, nil
	}
	return d, p.symlink(former, d.set, linkBack)
}

// alike returns a file of the former set if a new one would be like it: the same text, and the owner and
// the mode that it would get in its home, the new set. Others may have put anything there.
func (p place) alike(former string, f entry, home fs.FileInfo) fs.FileInfo {
	if former == "" {
		return nil
	}
	text, owner := f.Text(), home
	if f.like != nil {
		owner = f.like
	}
	got, info, err := readPlain(p.root, former+"/"+f.Name, len(text))
	if err != nil || info.Mode() != f.mode() || !sameOwner(info, owner) || string(got) != text {
		return nil
	}
	return info
}

// sameOwner tells whether two files belong to the same user and the same group.
func sameOwner(a, b fs.FileInfo) bool {
	one, ok1 := a.Sys().(*syscall.Stat_t)
	two, ok2 := b.Sys().(*syscall.Stat_t)
	return ok1 && ok2 && one.Uid == two.Uid && one.Gid == two.Gid
}

// share gives a file of the former set a second name, if it is still the one that was looked at.
func (p place) share(was fs.FileInfo, former, to string, f entry) error {
	if err := p.root.Link(former+"/"+f.Name, to); err != nil {
		return err
	}
	now, err := p.root.Lstat(to)
	if err == nil && !os.SameFile(was, now) {
		err = errors.New("it was replaced while it was read")
	}
	if err != nil {
		return errors.Join(err, p.root.Remove(to))
	}
	return nil
}

// write makes one file of a set.
func (p place) write(path string, f entry) error {
	out, err := p.root.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteTo(out)
	if f.like != nil {
		if owner, ok := f.like.Sys().(*syscall.Stat_t); ok {
			out.Chown(int(owner.Uid), int(owner.Gid)) //nolint:errcheck // only root can, and only root needs to
		}
	}
	return errors.Join(err, out.Chmod(f.mode()), out.Close())
}

// flushers is how many files are brought to the disk at a time: of what comes together a file system makes
// one.
const flushers = 16

// flush makes a draft and the names in the directory last over a power loss. HAProxy may look into it then, and
// whoever may write in the live directory may remove it.
func (p place) flush(d draft) error {
	return p.do("flush", d.set, func() error {
		info, err := p.root.Stat(".")
		if err != nil {
			return err
		}
		dir, err := p.directory(d.set)
		if err != nil {
			return err
		}
		defer dir.Close() // synced
		if err := dir.Chmod(info.Mode()&(fs.ModePerm|fs.ModeSetgid) | 0o755); err != nil {
			return err
		}
		var g errgroup.Group
		g.SetLimit(flushers)
		for _, path := range d.fresh {
			g.Go(func() error { return p.sync(path) })
		}
		g.Go(dir.Sync)
		g.Go(func() error { return p.sync(".") })
		return g.Wait()
	})
}

// symlink makes one of the links in a set.
func (p place) symlink(target, set, name string) error {
	return p.do("link", set+"/"+name, func() error { return p.root.Symlink(target, set+"/"+name) })
}

// link makes a name lead through the live link, whatever stands there.
func (p place) link(set, name string) error {
	if err := p.symlink(p.target(name), set, linkName); err != nil {
		return err
	}
	return p.do("replace", name, func() error { return p.root.Rename(set+"/"+linkName, name) })
}

// point makes the live link one of the links in a set, which is on the disk.
func (p place) point(set, link string) error {
	if err := p.do("replace", p.live(), func() error { return p.root.Rename(set+"/"+link, p.live()) }); err != nil {
		return err
	}
	return p.do("sync", ".", func() error { return p.sync(".") })
}

// sync makes a file, or the names in a directory, last over a power loss.
func (p place) sync(name string) error {
	f, err := p.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// restore puts the set before the one in force back.
func (p place) restore() error {
	set, err := p.current()
	if err != nil {
		return err
	}
	former, err := p.root.Readlink(filepath.Join(set, linkBack))
	if err != nil || !p.isDir(former) {
		return fmt.Errorf("%s has no former set of files", filepath.Join(p.root.Name(), p.live()))
	}
	return p.point(set, linkBack)
}

// links are the names in the directory that are links of ours.
func (p place) links() ([]string, error) {
	entries, err := p.list(".")
	var names []string
	for _, e := range entries {
		if e.Type() == fs.ModeSymlink && isPlainName(e.Name()) && p.linked(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// list reads a directory.
func (p place) list(name string) ([]fs.DirEntry, error) {
	dir, err := p.directory(name)
	if err != nil {
		return nil, err
	}
	defer dir.Close() // only read
	return dir.ReadDir(-1)
}

// directory opens a directory, and nothing that somebody put in its place: to open a pipe would wait for
// its other end, for ever.
func (p place) directory(name string) (*os.File, error) {
	return p.root.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
}

// prune removes the sets that are not in force, and the links that lead to no file of the one that is.
// Without knowing which that is, it removes nothing.
func (p place) prune() error {
	current, err := p.current()
	if err != nil {
		return err
	}
	if _, err := p.root.Lstat(p.live()); current == "" && !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	entries, err := p.list(".")
	errs := []error{err}
	for _, e := range entries {
		if e.IsDir() && p.isSet(e.Name()) && e.Name() != current {
			errs = append(errs, p.remove(e.Name()))
		}
	}
	names, err := p.links()
	errs = append(errs, err)
	for _, name := range names {
		if _, err := p.root.Lstat(current + "/" + name); current != "" && errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, p.do("remove", name, func() error { return p.root.Remove(name) }))
		}
	}
	return errors.Join(errs...)
}

// remove removes a set. Ours have no directories; one that has is left alone, for it may be as deep as
// somebody likes.
func (p place) remove(set string) error {
	return p.do("remove", set, func() error {
		entries, err := p.list(set)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := p.root.Remove(set + "/" + e.Name()); err != nil {
				return err
			}
		}
		return p.root.Remove(set)
	})
}

// readPlain reads a file in a directory where others write: it follows no link, waits for nobody, as
// opening a pipe would, and does not grow without end.
func readPlain(root *os.Root, name string, limit int) ([]byte, fs.FileInfo, error) {
	path := filepath.Join(root.Name(), name)
	info, err := root.Lstat(name)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path, bare(err))
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is no plain file: put one there or remove it", path)
	}
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path, bare(err))
	}
	defer f.Close() // only read
	opened, err := f.Stat()
	if err != nil || !os.SameFile(info, opened) {
		return nil, nil, fmt.Errorf("%s was replaced while it was read", path)
	}
	tooLarge := fmt.Errorf("%s is too large: all files together may have %d MiB", path, readLimit>>20)
	if opened.Size() > int64(limit) {
		return nil, nil, tooLarge
	}
	text, err := io.ReadAll(io.LimitReader(f, int64(limit)+1)) // it may grow meanwhile
	if err == nil && len(text) > limit {
		err = tooLarge
	}
	return text, info, err
}
