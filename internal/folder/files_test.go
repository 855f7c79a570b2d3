package folder

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// parts are the files NAME.a and NAME.b, or NAME/a and NAME/b, as the item NAME.
func parts(file string) string {
	dir, base := filepath.Split(file)
	if dir != "" && (base == "a" || base == "b") {
		return strings.Trim(dir, "/")
	}
	if ext := filepath.Ext(file); ext == ".a" || ext == ".b" {
		return strings.TrimSuffix(file, ext)
	}
	return ""
}

// both wants an item to have two lines.
func both(item, text string) (string, error) {
	if strings.Count(text, "\n") != 2 {
		return "", fmt.Errorf("%s: it has %q, want two lines", item, text)
	}
	return text, nil
}

func newParts(dir string) *Files[string] {
	return &Files[string]{
		Folder: Folder{Dir: dir, Item: parts, Below: true, Largest: 100, Advice: "split it", Make: "make it"},
		Parse:  both, Kind: "kind", What: "directory",
	}
}

func write(t *testing.T, dir, file, text string) {
	t.Helper()
	path := filepath.Join(dir, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, f *Files[string], good, faults map[string]string) {
	t.Helper()
	if got := maps.Collect(f.Good()); !maps.Equal(got, good) {
		t.Errorf("good: got %q, want %q", got, good)
	}
	if got := maps.Collect(f.Faults()); !maps.Equal(got, faults) {
		t.Errorf("faults: got %q, want %q", got, faults)
	}
}

// An item of several files is one text, and keeps the last good one while any of them is bad (P7).
func TestFilesOfOneItem(t *testing.T) {
	dir := t.TempDir()
	f := newParts(dir)
	write(t, dir, "x.a", "1\n")
	write(t, dir, "x.b", "2\n")
	write(t, dir, "deep/a", "3\n")
	write(t, dir, "deep/b", "4\n")
	write(t, dir, "README", "no item\n")
	write(t, dir, ".hidden/a", "no item\n")
	f.Now()
	good := map[string]string{"x": "1\n2\n", "deep": "3\n4\n"}
	want(t, f, good, map[string]string{})

	path := filepath.Join(dir, "x.a")
	for fault, spoil := range map[string]func() error{
		`x: it has "2\n", want two lines`:           func() error { return nil },
		"x.a: it has more than 100 bytes; split it": func() error { return os.WriteFile(path, make([]byte, 101), 0o600) },
		"x.a: no such file or directory":            func() error { return os.Symlink("nowhere", path) },
	} {
		if err := errors.Join(os.Remove(path), spoil()); err != nil {
			t.Fatal(err)
		}
		f.Now()
		want(t, f, good, map[string]string{"x": fault + "; its last good content stays in force"})
		os.Remove(path)
		write(t, dir, "x.a", "1\n")
		f.Now()
		want(t, f, good, map[string]string{})
	}
	for _, name := range []string{"x.a", "x.b"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	f.Now()
	want(t, f, map[string]string{"deep": "3\n4\n"}, map[string]string{})
}

// What counted in an earlier process counts until something else is seen.
func TestFilesRecall(t *testing.T) {
	dir := t.TempDir()
	f := newParts(dir)
	f.Recall(map[string]string{"x": "1\n2\n", "bad": "1\n"})
	want(t, f, map[string]string{"x": "1\n2\n"}, map[string]string{})
	f.Now()
	want(t, f, map[string]string{}, map[string]string{})
}

// A directory that cannot be read changes nothing, and what counts is not complete before the first look.
func TestFilesWithoutDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	f := newParts(dir)
	f.Now()
	if f.Known() || f.Away() != "it does not exist: make it" {
		t.Errorf("got known %v and away %q", f.Known(), f.Away())
	}
	write(t, dir, "x.a", "1\n2\n")
	f.Now()
	if !f.Known() || f.Away() != "" {
		t.Errorf("got known %v and away %q", f.Known(), f.Away())
	}
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	f.Now()
	want(t, f, map[string]string{"x": "1\n2\n"}, map[string]string{})
}

// One file may be followed by itself: that it is not there, or not any more, is its fault, and its last good
// content counts (P7).
func TestFilesOfOneFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, ".file")
	f := &Files[string]{Folder: Folder{File: path, Largest: 100, Advice: "split it", Make: "make it"}, Parse: both, Kind: "kind", What: "a setting"}
	f.Now()
	want(t, f, map[string]string{}, map[string]string{path: path + ": it does not exist: make it"})
	if !f.Settled() {
		t.Error("it is waited for")
	}
	write(t, dir, ".file", "1\n2\n")
	f.Now()
	want(t, f, map[string]string{path: "1\n2\n"}, map[string]string{})
	for fault, spoil := range map[string]func() error{
		path + ": it does not exist: make it":           func() error { return nil },
		path + `: it has "1\n", want two lines`:         func() error { return os.WriteFile(path, []byte("1\n"), 0o600) },
		path + ": it is no regular file":                func() error { return os.Mkdir(path, 0o700) },
		path + ": it has more than 100 bytes; split it": func() error { return os.WriteFile(path, make([]byte, 101), 0o600) },
	} {
		if err := errors.Join(os.Remove(path), spoil()); err != nil {
			t.Fatal(err)
		}
		f.Now()
		fault += "; its last good content stays in force"
		want(t, f, map[string]string{path: "1\n2\n"}, map[string]string{path: fault})
		rejected := []service.Rejection{{Kind: "kind", Node: "n", Name: path, Reason: "a setting: " + fault}}
		if got := f.Rejections("n"); !slices.Equal(got, rejected) {
			t.Errorf("got %+v, want %+v", got, rejected)
		}
		os.Remove(path)
		write(t, dir, ".file", "1\n2\n")
		f.Now()
	}
}

// A file that could not be read for what had nothing to do with it, such as too many open files, is read again
// although it did not change.
func TestFilesAreReadOnceTheyCanBe(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.a")
	f := &Files[string]{Folder: Folder{File: path, Largest: 100}, Parse: both} // to list a directory would fail first
	write(t, dir, "x.a", "1\n2\n")
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	withoutDescriptors(t, f.Now)
	want(t, f, map[string]string{}, map[string]string{path: path + ": too many open files"})
	f.Now()
	want(t, f, map[string]string{path: "1\n2\n"}, map[string]string{})
}

// withoutDescriptors lets do open no file.
func withoutDescriptors(t *testing.T, do func()) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 0
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
	}()
	do()
}
