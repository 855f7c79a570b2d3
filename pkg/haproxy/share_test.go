package haproxy

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// obstacle is what becomes of a file of the former set, at that path, before the swap or while it is shared.
type obstacle struct{ before, during func(path string) error }

func obstacles() map[string]obstacle {
	replace := func(path string) error {
		text, err := os.ReadFile(path)
		return errors.Join(err, os.WriteFile(path+"-other", text, secretMode), os.Rename(path+"-other", path))
	}
	return map[string]obstacle{
		"another text":  {before: func(path string) error { return os.WriteFile(path, []byte("PRIVATE KEY----- B"), secretMode) }},
		"another mode":  {before: func(path string) error { return os.Chmod(path, 0o660) }},
		"another user":  {before: func(path string) error { return os.Chown(path, agentUser, -1) }},
		"another group": {before: func(path string) error { return os.Chown(path, -1, sharedGroup) }},
		"it is gone":    {before: os.Remove},
		"a link": {before: func(path string) error {
			return errors.Join(os.Rename(path, path+"-away"), os.Symlink(filepath.Base(path)+"-away", path))
		}},
		"a pipe": {before: func(path string) error {
			return errors.Join(os.Remove(path), syscall.Mkfifo(path, secretMode))
		}},
		"replaced while it is shared": {during: replace},
		"no hard links":               {during: func(string) error { return syscall.EPERM }},
		"another file system":         {during: func(string) error { return syscall.EXDEV }},
	}
}

// TestUnchangedFilesAreShared: what two sets have alike is one file; whatever is in the way of that, the
// new set is as wanted, for whom it is meant (P6).
func TestUnchangedFilesAreShared(t *testing.T) {
	one := append(files("one"), file("a.pem", "PRIVATE KEY----- A"), file("hosts.map", "a b\n"))
	two := append(files("two"), one[1:]...)
	inode := func(s store, name string) os.FileInfo {
		info, err := os.Stat(s.at(s.dir(), name))
		plant(t, err)
		return info
	}
	all := obstacles()
	all["nothing"] = obstacle{}
	for name, o := range all {
		t.Run(name, func(t *testing.T) {
			if strings.HasPrefix(name, "another ") && os.Geteuid() != 0 {
				t.Skip("left out: only root can give a file away")
			}
			s := store{path: filepath.Join(t.TempDir(), "haproxy.cfg")}
			plant(t, put(s, one))
			path := filepath.Join(s.dir(), s.inForce(), "a.pem")
			former, other := inode(s, "a.pem"), inode(s, "hosts.map")
			plant(t, os.Link(path, filepath.Join(t.TempDir(), "kept"))) // its number is not another file's soon
			if o.before != nil {
				plant(t, o.before(path))
			}
			s.step = func(words string, change func() error) error {
				if strings.HasPrefix(words, "share ") && strings.HasSuffix(words, "/a.pem") && o.during != nil {
					if err := o.during(path); err != nil {
						return err
					}
				}
				return change()
			}
			plant(t, candidate{store: s, files: two}.swap())
			if which(s.dir(), two) != 0 {
				t.Error("the new set is not as wanted")
			}
			now := inode(s, "a.pem")
			owner := now.Sys().(*syscall.Stat_t)
			if now.Mode() != secretMode || int(owner.Uid) != os.Geteuid() || int(owner.Gid) != os.Getegid() {
				t.Errorf("got mode %v of %d:%d", now.Mode(), owner.Uid, owner.Gid)
			}
			if got, want := os.SameFile(former, now), name == "nothing"; got != want {
				t.Errorf("shared: %v, want %v", got, want)
			}
			if !os.SameFile(other, inode(s, "hosts.map")) {
				t.Error("hosts.map is not shared")
			}
		})
	}
}

// TestSharedFilesFollowTheGroup: when the directory that agent and HAProxy have in common gets another group, so
// do the files with secrets, which are shared again after that.
func TestSharedFilesFollowTheGroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("left out: only root can give a directory away")
	}
	s := store{path: filepath.Join(t.TempDir(), "haproxy.cfg")}
	secret := file("a.pem", "PRIVATE KEY----- A")
	var former os.FileInfo
	for i, step := range []struct {
		group  int
		shared bool
	}{{group: sharedGroup}, {group: sharedGroup, shared: true}, {group: sharedGroup + 1}, {group: sharedGroup + 1, shared: true}} {
		plant(t, os.Chown(s.dir(), 0, step.group), os.Chmod(s.dir(), os.ModeSetgid|0o770))
		plant(t, candidate{store: s, files: append(files(strconv.Itoa(i)), secret)}.swap())
		now, err := os.Stat(s.at(s.dir(), "a.pem"))
		plant(t, err)
		if got := int(now.Sys().(*syscall.Stat_t).Gid); got != step.group || now.Mode() != secretMode {
			t.Errorf("step %d: got mode %v of group %d, want %d", i, now.Mode(), got, step.group)
		}
		if got := former != nil && os.SameFile(former, now); got != step.shared {
			t.Errorf("step %d: shared: %v, want %v", i, got, step.shared)
		}
		former = now
	}
}

// BenchmarkPlace is what it takes to put a set with 1,000 certificates in force: the first one, and one of
// which one certificate differs. Beside it, in turns, the least by hand.
func BenchmarkPlace(b *testing.B) {
	one, two := manyCertificates("one"), manyCertificates("two")
	var first, changed, barely, barelyChanged time.Duration
	timed := func(sum *time.Duration, err func() error) {
		began := time.Now()
		plant(b, err())
		*sum += time.Since(began)
	}
	for b.Loop() {
		s, hand := store{path: filepath.Join(b.TempDir(), "haproxy.cfg")}, b.TempDir()
		timed(&barely, func() error { return byHand(hand, "", "one", one) })
		timed(&first, func() error { return put(s, one) })
		timed(&barelyChanged, func() error { return byHand(hand, "one", "two", two) })
		timed(&changed, func() error { return put(s, two) })
	}
	each := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(b.N) }
	b.ReportMetric(each(first), "ms/first")
	b.ReportMetric(each(changed), "ms/change")
	b.ReportMetric(float64(first)/float64(barely), "first-of-bare")
	b.ReportMetric(float64(changed)/float64(barelyChanged), "change-of-bare")
}

// manyCertificates is a set with 1,000 files as large as certificates, one of which says so.
func manyCertificates(says string) render.Files {
	set := files("global\n")
	filler := strings.Repeat("x", 2<<10)
	for i := range 1000 {
		text := fmt.Sprintf("%d -----BEGIN PRIVATE KEY----- %s\n", i, filler)
		if i == 500 {
			text += says
		}
		set = append(set, file(fmt.Sprintf("cert-%d.pem", i), text))
	}
	return set
}

// byHand puts files in force as place does, but trusts that the former set is on the disk and differs in one
// file only, and brings everything to the disk with one flush of the file system.
func byHand(dir, former, set string, files render.Files) error {
	at := func(name string) string { return filepath.Join(dir, name) }
	errs := []error{os.Mkdir(at(set), 0o755)}
	for i, f := range files {
		name := cmp.Or(f.Name, "haproxy.cfg")
		if former != "" && i != 501 {
			errs = append(errs, os.Link(filepath.Join(at(former), name), filepath.Join(at(set), name)))
			continue
		}
		errs = append(errs, os.WriteFile(filepath.Join(at(set), name), []byte(f.Text()), secretMode))
		if former == "" {
			errs = append(errs, os.Symlink("live/"+name, at(name)))
		}
	}
	live, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer live.Close()
	errs = append(errs, os.Symlink(set, at("new")), unix.Syncfs(int(live.Fd())), os.Rename(at("new"), at("live")), live.Sync())
	if former != "" {
		errs = append(errs, os.RemoveAll(at(former)))
	}
	return errors.Join(errs...)
}
