package haproxy

import (
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// disk is a file system in a file. What that holds at a moment is what a power cut would leave: the file
// system brings nothing there by itself for as long as a test takes.
type disk struct{ image, dir string }

func newDisk(tb testing.TB) disk {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("left out: only root can mount")
	}
	d := disk{image: filepath.Join(tb.TempDir(), "disk"), dir: tb.TempDir()}
	command(tb, "mkfs.ext4", "-q", d.image, "16M")
	// A rename does not flush the file on the side.
	command(tb, "mount", "-o", "loop,commit=600,noauto_da_alloc", d.image, d.dir)
	tb.Cleanup(func() { command(tb, "umount", d.dir) })
	return d
}

func command(tb testing.TB, words ...string) {
	tb.Helper()
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		tb.Fatalf("%s: %v: %s", strings.Join(words, " "), err, out)
	}
}

// sync brings all to the disk.
func (d disk) sync(tb testing.TB) {
	tb.Helper()
	dir, err := os.Open(d.dir)
	if err != nil {
		tb.Fatal(err)
	}
	defer dir.Close()
	plant(tb, unix.Syncfs(int(dir.Fd())))
}

// cut shows what a power cut would leave now.
func (d disk) cut(tb testing.TB, look func(dir string)) {
	tb.Helper()
	left := disk{image: filepath.Join(tb.TempDir(), "disk"), dir: tb.TempDir()}
	from, err := os.Open(d.image)
	if err != nil {
		tb.Fatal(err)
	}
	defer from.Close()
	to, err := os.Create(left.image)
	if err != nil {
		tb.Fatal(err)
	}
	_, err = io.Copy(to, from)
	plant(tb, err, to.Close())
	command(tb, "mount", "-o", "loop", left.image, left.dir)
	defer command(tb, "umount", left.dir)
	look(left.dir)
}

// TestWholeAfterAPowerCut: whenever the power is cut during a swap, what is on the disk is the former set
// or the new one, and at the end the new one (P6, F8).
func TestWholeAfterAPowerCut(t *testing.T) {
	one, two := sets(t)
	for _, name := range slices.Sorted(maps.Keys(before())) {
		t.Run(name, func(t *testing.T) {
			d := newDisk(t)
			s := store{path: filepath.Join(d.dir, "haproxy.cfg"), work: t.TempDir()}
			before()[name](t, s, one)
			d.sync(t)
			now := 0
			s.step = func(words string, change func() error) error {
				if err := change(); err != nil {
					return err
				}
				d.cut(t, func(dir string) {
					found := which(dir, one, two)
					if found < now {
						t.Errorf("after %s: set %d, want one of 0 and 1, and not %d again", words, found, now)
					}
					now = found
				})
				return nil
			}
			plant(t, put(s, two))
			if now != 1 {
				t.Errorf("at the end: set %d, want 1", now)
			}
		})
	}
}

// TestPowerCutsLoseWhatIsNotFlushed: the proof of the test above is one: without its flush a set that was
// put in force is not whole after a cut.
func TestPowerCutsLoseWhatIsNotFlushed(t *testing.T) {
	one, two := sets(t)
	d := newDisk(t)
	s := store{path: filepath.Join(d.dir, "haproxy.cfg"), work: t.TempDir()}
	plant(t, put(s, one))
	d.sync(t)
	s.step = func(words string, change func() error) error {
		if strings.HasPrefix(words, "flush ") {
			return nil
		}
		return change()
	}
	plant(t, put(s, two))
	d.cut(t, func(dir string) {
		if found := which(dir, one, two); found != -1 {
			t.Errorf("got set %d, want a broken one", found)
		}
	})
}
