package haproxy

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sidekick-proxy/sidekick/internal/certtest"
	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// put puts files in force as the driver does after a confirmed reload.
func put(s store, want render.Files) error {
	return errors.Join(candidate{store: s, files: want}.swap(), s.prune())
}

// leftOf are the hidden names beside a configuration but for the live link and the note of its starts.
func leftOf(tb testing.TB, path string) []string {
	tb.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		tb.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		if name := e.Name(); name[0] == '.' && name != "."+filepath.Base(path)+".live" && name != filepath.Base(startsName(path)) {
			left = append(left, name)
		}
	}
	return left
}

// set is a configuration with a map and a list of certificates, of which others may have one. Of two,
// HAProxy refuses the text of each with the map or the list of the other.
func set(tb testing.TB, method, key, certificate string, common render.File) render.Files {
	tb.Helper()
	text := fmt.Sprintf(`global
    default-path config
defaults web
    mode http
    timeout connect 2s
    timeout client 10s
    timeout server 10s
frontend fe from web
    bind 127.0.0.41:8443 ssl crt-list certs.list
    use_backend %%[src,%s(hosts.map,be_web)]
backend be_web from web
`, method)
	return append(files(text), file("hosts.map", key+" be_web\n"), file("certs.list", certificate+"\n"+common.Name+"\n"),
		file(certificate, certtest.Make(tb, 1, time.Hour).PEM()), common)
}

func file(name, text string) render.File {
	return render.File{Name: name, Blocks: []render.Block{render.NewBlock("", text)}}
}

// sets are two that must not be mixed. They have both.pem in common.
func sets(tb testing.TB) (one, two render.Files) {
	tb.Helper()
	common := file("both.pem", certtest.Make(tb, 1, time.Hour).PEM())
	return set(tb, "map_ip", "192.0.2.0/24", "one.pem", common), set(tb, "map_str", "no-address", "two.pem", common)
}

// plain writes files as earlier versions did, and operators do.
func plain(tb testing.TB, path string, want render.Files) {
	tb.Helper()
	for _, f := range want {
		if err := os.WriteFile(store{path: path}.at(filepath.Dir(path), f.Name), []byte(f.Text()), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
}

// before are the states of a live directory that a swap may find; each puts the set in force.
func before() map[string]func(tb testing.TB, s store, one render.Files) {
	return map[string]func(testing.TB, store, render.Files){
		"a set": func(tb testing.TB, s store, one render.Files) {
			tb.Helper()
			plant(tb, put(s, one), s.writeApplied(one, Worker{}, nil))
		},
		"plain files": func(tb testing.TB, s store, one render.Files) {
			tb.Helper()
			plain(tb, s.path, one)
			plant(tb, s.writeApplied(one, Worker{}, nil))
		},
		"a set with a plain configuration": func(tb testing.TB, s store, one render.Files) {
			tb.Helper()
			plant(tb, put(s, one), s.writeApplied(one, Worker{}, nil), os.Remove(s.path))
			plain(tb, s.path, one[:1])
		},
		"plain files beside another set": func(tb testing.TB, s store, one render.Files) {
			tb.Helper()
			plant(tb, put(s, files("# gone\n")))
			plain(tb, s.path, one[1:])
			plant(tb, os.Remove(s.path), s.writeApplied(one, Worker{}, nil))
			plain(tb, s.path, one[:1])
		},
	}
}

// eachState runs a test with every HAProxy and every state that a swap may find.
func eachState(t *testing.T, test func(t haproxytest.T, s store, one, two render.Files)) {
	t.Helper()
	haproxytest.Each(t, func(t haproxytest.T) {
		one, two := sets(t)
		for _, name := range slices.Sorted(maps.Keys(before())) {
			t.Run(name, func(sub *testing.T) {
				s := store{path: filepath.Join(sub.TempDir(), "haproxy.cfg"), work: sub.TempDir()}
				before()[name](sub, s, one)
				test(haproxytest.T{T: sub, Bin: t.Bin}, s, one, two)
			})
		}
	})
}

// whole fails the test unless what HAProxy reads is one of the sets, and HAProxy accepts it. It tells
// which.
func whole(t haproxytest.T, path, when string, choices ...render.Files) int {
	t.Helper()
	if err := check(t.Context(), t.Bin, path, path); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	return which(filepath.Dir(path), choices...)
}

// which tells which of the sets is the one in a directory, to the last byte; -1 if none is.
func which(dir string, choices ...render.Files) int {
	return slices.IndexFunc(choices, func(want render.Files) bool {
		for _, f := range want {
			got, err := os.ReadFile(store{path: "haproxy.cfg"}.at(dir, f.Name))
			if err != nil || string(got) != f.Text() {
				return false
			}
		}
		return true
	})
}

// TestMixturesAreRefused: the proof of the tests below is one: files of two sets side by side are what
// HAProxy refuses.
func TestMixturesAreRefused(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		one, two := sets(t)
		for culprit, mixed := range map[string]render.Files{
			"no-address": {one[0], two[1], one[2], one[3], one[4]},
			"two.pem":    {one[0], one[1], two[2], one[3], one[4]},
		} {
			path := filepath.Join(t.TempDir(), "haproxy.cfg")
			plain(t, path, mixed)
			if err := check(t.Context(), t.Bin, path, path); asRefused(err) == nil || !strings.Contains(err.Error(), culprit) {
				t.Errorf("with %s of another set: got %v, want a refusal", culprit, err)
			}
		}
	})
}

// TestWholeAfterEachStep: wherever the agent is killed during a swap, on the disk is the former set or
// the new one, which HAProxy accepts, whatever was there before (P6, F8).
func TestWholeAfterEachStep(t *testing.T) {
	eachState(t, func(t haproxytest.T, s store, one, two render.Files) {
		now, steps, shared := 0, 0, 0
		s.step = func(words string, change func() error) error {
			if err := change(); err != nil {
				return err
			}
			steps++
			if strings.HasPrefix(words, "share ") {
				shared++
			}
			found := whole(t, s.path, "after "+words, one, two)
			if found != 0 && found != 1 || found < now {
				t.Fatalf("after %s: set %d, want one of 0 and 1, and not %d again", words, found, now)
			}
			now = found
			return nil
		}
		plant(t, put(s, two))
		if now != 1 || steps < 10 || shared == 0 && strings.Contains(t.Name(), "/a_set") {
			t.Errorf("at the end of %d steps, %d of them to share a file: set %d, want 1", steps, shared, now)
		}
		if _, err := os.Lstat(filepath.Join(s.dir(), "one.pem")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("one.pem, which the new set does not have: %v", err)
		}
		if got := leftOf(t, s.path); len(got) != 1 {
			t.Errorf("left: %v, want one set", got)
		}
	})
}

// copied is a directory like another one, to the owners and modes of its files.
func copied(tb testing.TB, dir string) string {
	tb.Helper()
	to := tb.TempDir()
	if out, err := exec.Command("cp", "-a", dir+"/.", to).CombinedOutput(); err != nil {
		tb.Fatalf("%v: %s", err, out)
	}
	return to
}

var errKilled = errors.New("killed")

// killedAt runs do with a store that ends at a step, and tells whether it was reached. As a kill does,
// the end leaves everything undone that would be done after it.
func killedAt(s store, step int, do func(s store) error) (reached bool, err error) {
	defer func() {
		if reason := recover(); reason != nil {
			if reason != errKilled { //nolint:errorlint // what was thrown below
				panic(reason)
			}
			reached = true
		}
	}()
	steps := 0
	s.step = func(_ string, change func() error) error {
		if steps == step {
			panic(errKilled)
		}
		steps++
		return change()
	}
	return false, do(s)
}

// TestTidyAfterAKill: after a kill at any step of a swap the next agent removes what is not in force, and
// nothing else, and swaps (P6, F8).
func TestTidyAfterAKill(t *testing.T) {
	eachState(t, func(t haproxytest.T, s store, one, two render.Files) {
		clean := s.dir()
		for step := 0; ; step++ {
			s.path = filepath.Join(copied(t, clean), "haproxy.cfg")
			reached, err := killedAt(s, step, func(s store) error { return put(s, two) })
			plant(t, err, s.tidy())
			found := whole(t, s.path, fmt.Sprintf("tidied after step %d", step), one, two)
			if found != 0 && found != 1 || len(leftOf(t, s.path)) > 1 {
				t.Fatalf("tidied after step %d: set %d, left %v", step, found, leftOf(t, s.path))
			}
			plant(t, put(s, two))
			if found := whole(t, s.path, "the next swap", one, two); found != 1 {
				t.Fatalf("swapped after step %d: set %d, want 1", step, found)
			}
			if !reached {
				return
			}
		}
	})
}

// TestFailureAtEachStep: an error at any step of a swap leaves the former set in force, and is mended by
// the next try; the path and the cause are told. A file that cannot be shared is written instead (F8).
func TestFailureAtEachStep(t *testing.T) {
	eachState(t, func(t haproxytest.T, s store, one, two render.Files) {
		clean := s.dir()
		for step, reached := 0, true; reached; step++ {
			s.path = filepath.Join(copied(t, clean), "haproxy.cfg")
			steps, failed, fails := 0, "", s
			fails.step = func(words string, change func() error) error {
				if steps++; steps == step+1 {
					failed = words
					return syscall.ENOSPC
				}
				return change()
			}
			err := candidate{store: fails, files: two}.swap()
			reached = failed != ""
			harmful := reached && !strings.HasPrefix(failed, "share ")
			if harmful != errors.Is(err, syscall.ENOSPC) || harmful && !strings.Contains(err.Error(), s.dir()) {
				t.Fatalf("step %d: %s: got %v, want an error with its path: %v", step, failed, err, harmful)
			}
			want := 1
			if harmful {
				want = 0
			}
			if found := whole(t, s.path, fmt.Sprintf("after an error at step %d", step), one, two); found != want || len(leftOf(t, s.path)) > 3 { // the former, that as it was settled, and the new one
				t.Fatalf("after an error at step %d: set %d, want %d; left %v", step, found, want, leftOf(t, s.path))
			}
		}
	})
}

// TestRestore: the set before the last swap can be put back in one step, until it is pruned.
func TestRestore(t *testing.T) {
	eachState(t, func(t haproxytest.T, s store, one, two render.Files) {
		plant(t, candidate{store: s, files: two}.swap(), s.restore())
		if found := whole(t, s.path, "put back", one, two); found != 0 {
			t.Errorf("put back: set %d, want 0", found)
		}
		plant(t, s.prune())
		if found := whole(t, s.path, "pruned", one, two); found != 0 {
			t.Errorf("pruned: set %d, want 0", found)
		}
		plant(t, put(s, two))
		if err := s.restore(); err == nil || !strings.Contains(err.Error(), s.dir()) {
			t.Errorf("put back a set that is pruned: got %v, want an error with its path", err)
		}
		if found := whole(t, s.path, "after it", one, two); found != 1 {
			t.Errorf("after it: set %d, want 1", found)
		}
	})
}

// TestForeignConfigurationIsRead: what somebody puts in the place of our link is read as what it is, not
// as what we left (P6).
func TestForeignConfigurationIsRead(t *testing.T) {
	s := store{path: filepath.Join(t.TempDir(), "haproxy.cfg")}
	want := append(files("ours"), render.File{Name: "hosts.map", Blocks: []render.Block{render.NewBlock("", "a b\n")}})
	plant(t, put(s, want))
	if got, err := s.read([]string{"hosts.map"}); err != nil || !sameFiles(got, want) {
		t.Errorf("ours: got %v, %v, want %v", got, err, want)
	}
	plant(t, os.Remove(s.path), os.WriteFile(s.path, []byte("foreign"), 0o600))
	if got, err := s.read(nil); err != nil || got[0].Text() != "foreign" {
		t.Errorf("foreign: got %v, %v", got, err)
	}
	set, _ := os.Readlink(filepath.Join(s.dir(), ".haproxy.cfg.live"))
	for _, target := range []string{"/etc/hostname", set + "/haproxy.cfg", "./.haproxy.cfg.live/haproxy.cfg", ".haproxy.cfg.live/hosts.map"} {
		plant(t, os.Remove(s.path), os.Symlink(target, s.path))
		if got, err := s.read(nil); err == nil {
			t.Errorf("a link to %s: read %v", target, got)
		}
	}
}

// TestSwapDuringTheLastCheck: files that change while a start looks at them are looked at again, and not
// set aside for a mixture that was never on the disk (P6).
func TestSwapDuringTheLastCheck(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		cfg := configFor(t, t.Bin)
		s := store{path: cfg.Path, work: t.TempDir()}
		text := MinimalConfig(cfg)
		plant(t, put(s, files(text)))
		former := s.inForce()
		plant(t, candidate{store: s, files: files(text + "    maxconn 77\n")}.swap())
		second := s.inForce()
		plant(t, s.restore())
		live := filepath.Join(s.dir(), ".haproxy.cfg.live")
		cfg.Bin = filepath.Join(t.TempDir(), "haproxy")
		script := fmt.Sprintf("#!/bin/sh\nif [ $(readlink %[1]s) = %[2]s ]; then ln -sfn %[3]s %[1]s; echo '[ALERT] (1) : config : mixed'; exit 1; fi\nexec %[4]s \"$@\"\n",
			live, former, second, t.Bin)
		plant(t, os.WriteFile(cfg.Bin, []byte(script), 0o700))
		if err := Prepare(t.Context(), cfg); err != nil {
			t.Errorf("got %v, want nothing amiss", err)
		}
		if got, err := os.ReadFile(cfg.Path); err != nil || string(got) != text+"    maxconn 77\n" {
			t.Errorf("on disk: %q, %v, want the new set", got, err)
		}
	})
}

// hostileLinks are what a neighbour may put in the places of our links and directories.
func hostileLinks() map[string]func(dir, set, outside string) error {
	return map[string]func(dir, set, outside string) error{
		"the live link": func(dir, _, outside string) error {
			live := filepath.Join(dir, ".haproxy.cfg.live")
			return errors.Join(os.Remove(live), os.Symlink(outside, live))
		},
		"the live set": func(dir, set, outside string) error {
			return errors.Join(os.RemoveAll(filepath.Join(dir, set)), os.Symlink(outside, filepath.Join(dir, set)))
		},
		"a file": func(dir, set, outside string) error {
			path := filepath.Join(dir, set, "haproxy.cfg")
			return errors.Join(os.Remove(path), os.Symlink(filepath.Join(outside, "haproxy.cfg"), path))
		},
		"another set": func(dir, _, outside string) error {
			return os.Symlink(outside, filepath.Join(dir, ".haproxy.cfg.set-X"))
		},
	}
}

// TestHostileSets: a neighbour's links in the places of our links and directories lead to nothing outside
// of the directory, neither when it is read nor when it is changed or tidied.
func TestHostileSets(t *testing.T) {
	for name, hostile := range hostileLinks() {
		t.Run(name, func(t *testing.T) {
			s := store{path: filepath.Join(t.TempDir(), "haproxy.cfg")}
			outside := t.TempDir()
			precious := filepath.Join(outside, "haproxy.cfg")
			plant(t, put(s, files("ours")), os.WriteFile(precious, []byte("precious"), 0o600))
			set, err := os.Readlink(filepath.Join(s.dir(), ".haproxy.cfg.live"))
			plant(t, err, hostile(s.dir(), set, outside))
			if got, err := s.read(nil); name != "another set" && err == nil || err == nil && got[0].Text() != "ours" {
				t.Errorf("read %v, %v", got, err)
			}
			s.tidy() // it may fail, but not do harm
			s.restore()
			plant(t, put(s, files("new")))
			if got, err := s.read(nil); err != nil || got[0].Text() != "new" {
				t.Errorf("afterwards: read %v, %v, want the new one", got, err)
			}
			if got, err := os.ReadFile(precious); string(got) != "precious" {
				t.Errorf("outside of the directory: got %q, %v", got, err)
			}
			entries, err := os.ReadDir(outside)
			if err != nil || len(entries) != 1 {
				t.Errorf("outside of the directory: %v, %v", entries, err)
			}
		})
	}
}

// TestDeepSetsAreLeftAlone: what a neighbour made to look like a set, without an end, holds nobody up.
func TestDeepSetsAreLeftAlone(t *testing.T) {
	s := store{path: filepath.Join(t.TempDir(), "haproxy.cfg")}
	plant(t, os.MkdirAll(filepath.Join(s.dir(), ".haproxy.cfg.set-X", "a", "b"), 0o700), candidate{store: s, files: files("ours")}.swap())
	if err := s.prune(); err == nil || !strings.Contains(err.Error(), ".haproxy.cfg.set-X") {
		t.Errorf("got %v, want an error with its path", err)
	}
	if got, err := s.read(nil); err != nil || got[0].Text() != "ours" {
		t.Errorf("read %v, %v, want ours", got, err)
	}
}

// TestPipeInThePlaceOfASet: a neighbour that puts a pipe where a set was a moment ago holds nobody up: the
// change fails and names it (P6).
func TestPipeInThePlaceOfASet(t *testing.T) {
	for _, verb := range []string{"flush", "remove"} {
		t.Run(verb, func(t *testing.T) {
			s := store{path: filepath.Join(t.TempDir(), "haproxy.cfg")}
			plant(t, put(s, files("former")))
			pipe := make(chan string, 1)
			var once sync.Once
			s.step = func(words string, change func() error) error {
				if set, ok := strings.CutPrefix(words, verb+" "); ok {
					once.Do(func() {
						if err := errors.Join(os.Rename(set, set+"-away"), syscall.Mkfifo(set, 0o600)); err != nil {
							t.Error(err)
						}
						pipe <- set
					})
				}
				return change()
			}
			done := make(chan error, 1)
			go func() { done <- errors.Join(candidate{store: s, files: files("new")}.swap(), s.prune()) }()
			set := <-pipe
			haproxytest.Until(t, "the change to end", func() bool {
				select {
				case err := <-done:
					if err == nil || !strings.Contains(err.Error(), set) {
						t.Errorf("got %v, want an error with the path of the pipe", err)
					}
					return true
				default:
				}
				// The other end of a pipe opens at once only if somebody waits, who then goes on.
				if f, err := os.OpenFile(set, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
					f.Close()
					t.Error("it waits for the other end of the pipe")
				}
				return false
			})
		})
	}
}

// mounted mounts something on a directory until the test ends.
func mounted(tb testing.TB, source, dir, kind string, flags uintptr, options string) {
	tb.Helper()
	if err := unix.Mount(source, dir, kind, flags, options); err != nil {
		tb.Fatalf("mount on %s: %v", dir, err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			tb.Errorf("unmount %s: %v", dir, err)
		}
	})
}

// fill leaves no room in a directory's file system, and returns what makes room again.
func fill(tb testing.TB, dir string) (free func()) {
	tb.Helper()
	name := filepath.Join(dir, "ballast")
	f, err := os.Create(name)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		tb.Fatal(err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			tb.Fatal(err)
		}
	}
}

// TestDiskFull: a full disk leaves the former set in force, is told with the path, and costs no more than
// that; what was in force can be put back without room (F8).
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("left out: only root can mount")
	}
	haproxytest.Each(t, func(t haproxytest.T) {
		dir := t.TempDir()
		mounted(t, "tmpfs", dir, "tmpfs", 0, "size=128k,nr_inodes=64")
		s := store{path: filepath.Join(dir, "haproxy.cfg"), work: t.TempDir()}
		one, two := sets(t)
		plant(t, put(s, one))
		free := fill(t, dir)
		err := candidate{store: s, files: two}.swap()
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), dir) {
			t.Errorf("full: got %v, want an error with the path", err)
		}
		if found := whole(t, s.path, "full", one, two); found != 0 || len(leftOf(t, s.path)) != 1 {
			t.Errorf("full: set %d, want 0; left %v", found, leftOf(t, s.path))
		}
		free()
		plant(t, candidate{store: s, files: two}.swap())
		fill(t, dir)
		noInodes(t, dir)
		plant(t, s.restore(), s.prune())
		if found := whole(t, s.path, "put back on a full disk", one, two); found != 0 {
			t.Errorf("put back on a full disk: set %d, want 0", found)
		}
	})
}

// noInodes leaves no room for another name.
func noInodes(tb testing.TB, dir string) {
	tb.Helper()
	for i := range 1000 {
		if err := os.Mkdir(filepath.Join(dir, fmt.Sprint("ballast", i)), 0o700); err != nil {
			return
		}
	}
	tb.Fatal("there is always room for another name")
}

// TestReadOnlyDirectory: while nothing can be written, the reason is told with the path, HAProxy goes on
// and what needs no file is still done; when it can be, what is wanted is put in force without help (P6).
func TestReadOnlyDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("left out: only root can mount")
	}
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		dir := filepath.Join(filepath.Dir(b.cfg.Path), "live")
		plant(t, os.Mkdir(dir, 0o755))
		mounted(t, dir, dir, "", unix.MS_BIND, "")
		b.cfg.Path, b.cfg.WorkDir = filepath.Join(dir, "haproxy.cfg"), t.TempDir()
		b.start(t)
		b.run(t)
		one, two := haproxytest.Server(t, "one"), haproxytest.Server(t, "two")
		b.apply(t, b.text("", "s1 "+one))
		remount := func(flags uintptr) error { return unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|flags, "") }
		plant(t, remount(unix.MS_RDONLY))
		b.send(t, b.text("    timeout http-request 9s\n", "s1 "+one))
		haproxytest.Until(t, "the reason to be told", func() bool {
			reason := b.driver.State().LastError
			return strings.Contains(reason, dir) && strings.Contains(reason, syscall.EROFS.Error())
		})
		b.send(t, b.text("    timeout http-request 9s\n", "s2 "+two))
		haproxytest.Until(t, "the server to be changed all the same", answers(b.addr, "two"))
		b.accepted(t)
		plant(t, remount(0))
		last := b.text("    timeout http-request 9s\n", "s2 "+two)
		haproxytest.Until(t, "the file to be as wanted", func() bool {
			got, err := os.ReadFile(b.cfg.Path)
			return err == nil && string(got) == last && b.driver.State().Status == "in step"
		})
		b.inStep(t, last)
	})
}

// What has hashes of passwords is for HAProxy and its group alone, as long as it has some.
func TestSecretsAreNotForAll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	s := store{path: path}
	for _, step := range []struct {
		text string
		want fs.FileMode
	}{
		{"global\n", 0o644}, {"userlist l\n    user a password $5$x\n", secretMode}, {"global\n", 0o644},
	} {
		if err := put(s, files(step.text)); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != step.want {
			t.Errorf("%q has mode %v, %v, want %v", step.text, info.Mode(), err, step.want)
		}
	}
}
