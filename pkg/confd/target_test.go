package confd

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// owner returns who a file belongs to.
func owner(t *testing.T, path string) (uid, gid int, mode fs.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	stat := info.Sys().(*syscall.Stat_t)
	return int(stat.Uid), int(stat.Gid), info.Mode()
}

// Mode and owner are as the resource says; where it says nothing, the mode of the file that is there counts,
// 0644 for a new one, and whoever runs this. A wrong mode is a difference like any other.
func TestModeAndOwner(t *testing.T) {
	euid, egid := os.Geteuid(), os.Getegid()
	other, otherGroup := euid, egid
	if euid == 0 {
		other, otherGroup = 7171, 7172
	}
	path := filepath.Join(t.TempDir(), "f")
	steps := []struct {
		name     string
		resource Resource
		prepare  func() error
		uid, gid int
		mode     fs.FileMode
		change   string
	}{
		{"new", Resource{UID: -1, GID: -1}, nil, euid, egid, 0o644, "new"},
		{"the same", Resource{UID: -1, GID: -1}, nil, euid, egid, 0o644, ""},
		{"its mode is kept", Resource{UID: -1, GID: -1}, func() error { return os.Chmod(path, 0o604) }, euid, egid, 0o604, ""},
		{"another mode", Resource{UID: -1, GID: -1, ModeGiven: true, Mode: 0o600}, nil, euid, egid, 0o600, "mode -rw----r-- instead of -rw-------"},
		{"no mode at all", Resource{UID: -1, GID: -1, ModeGiven: true}, nil, euid, egid, 0, "mode -rw------- instead of ----------"},
		{"set-group-id", Resource{UID: other, GID: otherGroup, ModeGiven: true, Mode: 0o755 | fs.ModeSetgid}, nil, other, otherGroup, 0o755 | fs.ModeSetgid, "mode"},
		{"by name", Resource{UID: -1, GID: -1, Owner: "root", Group: "root", ModeGiven: true, Mode: 0o644}, nil, 0, 0, 0o644, "mode"},
	}
	for _, tt := range steps {
		if euid != 0 && tt.resource.Owner != "" {
			continue // root alone gives files away
		}
		if tt.prepare != nil {
			if err := tt.prepare(); err != nil {
				t.Fatal(err)
			}
		}
		tt.resource.Dest = path
		target, err := tt.resource.target([]byte("text"))
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		d, err := target.compare()
		if err != nil || !strings.HasPrefix(d.String(), tt.change) || (tt.change == "") != !d.any() {
			t.Errorf("%s: differs %q, %v; want %q", tt.name, d, err, tt.change)
		}
		staged, err := target.stage()
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if uid, gid, mode := owner(t, staged); uid != tt.uid || gid != tt.gid || mode != tt.mode {
			t.Errorf("%s: staged as %d:%d %v, want %d:%d %v", tt.name, uid, gid, mode, tt.uid, tt.gid, tt.mode)
		}
		if err := target.replace(staged); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if d, err := target.compare(); err != nil || d.any() {
			t.Errorf("%s: still differs after it was replaced: %q, %v", tt.name, d, err)
		}
	}
}

func TestTargetFaults(t *testing.T) {
	dir := t.TempDir()
	if _, err := (&Resource{Dest: dir, UID: -1, GID: -1}).target(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := (target{path: dir}).compare(); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("a directory: got %v", err)
	}
	if _, err := (&Resource{Dest: dir + "/f", UID: -1, GID: -1, Owner: "nobody-has-this-name"}).target(nil); err == nil || !strings.Contains(err.Error(), `owner "nobody-has-this-name"`) {
		t.Errorf("an owner that is not there: got %v", err)
	}
}

// A file that is a mount of its own, as a single file mounted into a container is, cannot be replaced: it
// is written in place.
func TestMountedFile(t *testing.T) {
	dir := t.TempDir()
	source, dest := filepath.Join(dir, "source"), filepath.Join(dir, "dest")
	for _, path := range []string{source, dest} {
		if err := os.WriteFile(path, []byte("old, and longer than what comes"), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mount(source, dest, "", syscall.MS_BIND, ""); err != nil {
		t.Fatalf("mount a file: %v: the tests run as root", err)
	}
	defer func() {
		if err := syscall.Unmount(dest, 0); err != nil {
			t.Error(err)
		}
	}()
	b := newBed(t, newRegistry("/app/a", "new"), "templates/app.tmpl", appText,
		"conf.d/app.toml", fmt.Sprintf("[template]\nsrc = \"app.tmpl\"\ndest = %q\nkeys = [\"/app\"]\nmode = \"0600\"\nreload_cmd = \"cat {{.dest}} >>OUT/reloaded\"\n", dest))
	b.run()
	b.holds("reloaded", "new ")
	b.says("")
	text, err := os.ReadFile(source)
	if err != nil || string(text) != "new " {
		t.Errorf("behind the mount: %q, %v", text, err)
	}
	if _, _, mode := owner(t, source); mode != 0o600 {
		t.Errorf("mode %v", mode)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("left behind: %v", entries)
	}
}
