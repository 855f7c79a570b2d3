package haproxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// plant makes what a neighbour leaves in a directory that it can write as well.
func plant(tb testing.TB, steps ...error) {
	tb.Helper()
	if err := errors.Join(steps...); err != nil {
		tb.Fatal(err)
	}
}

// forge leaves a note as an agent would, about files that no agent wrote.
func forge(tb testing.TB, dir string, note applied) {
	tb.Helper()
	text, err := json.Marshal(note)
	plant(tb, err, os.WriteFile(filepath.Join(dir, appliedName), text, 0o600))
}

// TestHostileNames: names that a neighbour noted lead to nothing outside of the directory, whether
// the note lies where it can write or the names come from elsewhere.
func TestHostileNames(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	id := filepath.Join(state, "agent-id")
	s := store{path: filepath.Join(dir, "haproxy.cfg")}
	plant(
		t, os.WriteFile(s.path, nil, 0o600), os.WriteFile(id, []byte("precious"), 0o600),
		os.Symlink(state, filepath.Join(dir, "d")), os.Symlink(id, filepath.Join(dir, "link")),
		os.Mkdir(filepath.Join(dir, "empty"), 0o700), os.WriteFile(filepath.Join(dir, "plain"), nil, 0o600),
	)
	for _, name := range []string{"d/agent-id", "../" + filepath.Base(state) + "/agent-id", id, "link", "d", "empty", ".", "..", "", ".x", "x\x00y"} {
		forge(t, dir, applied{Hash: "x", Files: []string{name}})
		if note := s.readApplied(); !slices.Contains([]string{"link", "d", "empty"}, name) && note.Hash != "" {
			t.Errorf("%q: the note %v is believed", name, note)
		}
		if got, err := s.read([]string{name}); err == nil {
			t.Errorf("%q: read %v", name, got)
		}
		if err := put(s, files("")); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		if err := s.tidy(); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	forge(t, dir, applied{Hash: "x", Files: []string{"plain"}})
	plant(t, put(s, append(files("text"), render.File{Name: "link"})))
	if got, err := os.ReadFile(id); string(got) != "precious" {
		t.Errorf("outside of the directory: got %q, %v", got, err)
	}
	left, err := os.ReadDir(dir)
	var names []string
	for _, e := range left {
		if e.Name()[0] != '.' {
			names = append(names, e.Name())
		}
	}
	if want := []string{appliedName, "d", "empty", "haproxy.cfg", "link"}; !slices.Equal(names, want) {
		t.Errorf("left: %v, %v, want %v", names, err, want)
	}
}

// hostileFiles are what a neighbour may put in the configuration's place.
func hostileFiles(target string) map[string]func(path string) error {
	return map[string]func(string) error{
		"pipe":      func(path string) error { return syscall.Mkfifo(path, 0o666) },
		"link":      func(path string) error { return os.Symlink(target, path) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"endless": func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, readLimit+1))
		},
	}
}

// TestHostileFiles: whatever stands in the configuration's place, reading it neither waits nor leaves
// the directory, and the next reload puts the right one there.
func TestHostileFiles(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		t.Parallel() // it waits most of the time
		b := external(t, t.Bin)
		b.cfg.WorkDir = t.TempDir()
		b.start(t)
		b.run(t)
		one := "s1 " + haproxytest.Server(t, "one")
		b.apply(t, b.text("", one))
		target := filepath.Join(t.TempDir(), "precious")
		plant(t, os.WriteFile(target, []byte("precious"), 0o600))
		kinds := hostileFiles(target)
		for i, kind := range slices.Sorted(maps.Keys(kinds)) {
			plant(t, os.Remove(b.cfg.Path), kinds[kind](b.cfg.Path))
			if got, err := b.driver.store.read(nil); err == nil {
				t.Errorf("%s: read %v", kind, got)
			}
			want := b.text(fmt.Sprintf("    timeout http-request %ds\n", i+1), one)
			if kind == "directory" { // nothing can be put there; it is told, and HAProxy goes on
				if _, err := b.driver.Apply(t.Context(), files(want)); err == nil || asRefused(err) != nil {
					t.Errorf("%s: got %v, want an error that is no refusal", kind, err)
				}
				plant(t, os.Remove(b.cfg.Path))
			}
			b.apply(t, want)
			if got, err := os.ReadFile(b.cfg.Path); string(got) != want {
				t.Errorf("%s: on disk %q, %v, want %q", kind, got, err, want)
			}
		}
		if got, err := os.ReadFile(target); string(got) != "precious" {
			t.Errorf("outside of the directory: got %q, %v", got, err)
		}
	})
}

// recorder is HAProxy's program with a record of the texts that it was given to check, and of where.
func recorder(tb testing.TB, bin string) (program, record string) {
	tb.Helper()
	dir := tb.TempDir()
	program, record = filepath.Join(dir, "haproxy"), filepath.Join(dir, "record")
	script := "#!/bin/sh\nif [ \"$1\" = -c ]; then echo \"checked $3\" >>" + record + "; cat \"$3\" >>" + record + "; fi\nexec " + bin + " \"$@\"\n"
	plant(tb, os.WriteFile(record, nil, 0o600), os.WriteFile(program, []byte(script), 0o700))
	return program, record
}

// end stops the driver; the file follows a last time.
func (b *bench) end(tb testing.TB) {
	tb.Helper()
	if err := b.stop(); !errors.Is(err, context.Canceled) {
		tb.Errorf("run: got %v, want %v", err, context.Canceled)
	}
}

// TestOnlyRenderedTextIsChecked: HAProxy's program, which has our rights when it checks, is given what
// was rendered and nothing that a neighbour put into the directory, also not after a note that the
// neighbour forged.
func TestOnlyRenderedTextIsChecked(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.cfg.WorkDir = filepath.Join(t.TempDir(), "work")
		b.start(t)
		var record string
		b.cfg.Bin, record = recorder(t, t.Bin)
		one := "s1 " + haproxytest.Server(t, "one")
		two := "s2 127.0.0.1:9 disabled"
		texts := []string{b.text("", one), b.text("", one, two), b.text("    nonsense\n", one, two)}
		b.run(t)
		b.apply(t, texts[0])
		b.end(t)
		hostile := strings.Replace(texts[0], "global\n", "global\n    maxconn 77\n", 1)
		plant(t, os.WriteFile(b.cfg.Path, []byte(hostile), 0o600))
		forge(t, filepath.Dir(b.cfg.Path), applied{Hash: textHash(files(hostile)), Files: []string{}, Worker: b.worker(t)})
		b.run(t)
		// Servers of a refused text are in force on top of what was there before, and the file follows.
		if _, err := b.driver.Apply(t.Context(), files(texts[2])); asRefused(err) == nil {
			t.Errorf("got %v, want a refusal", err)
		}
		b.end(t)
		b.run(t)
		b.apply(t, texts[1])
		b.apply(t, texts[0])
		b.end(t)
		got, err := os.ReadFile(record)
		plant(t, err)
		checks := strings.Split(string(got), "checked ")[1:]
		if len(checks) < 2 {
			t.Errorf("%d checks, want some", len(checks))
		}
		for _, c := range checks {
			path, text, _ := strings.Cut(c, "\n")
			if !slices.Contains(texts, text) || !strings.HasPrefix(path, b.cfg.WorkDir+"/") {
				t.Errorf("checked %s: %q, want a rendered text in %s", path, text, b.cfg.WorkDir)
			}
		}
		info, err := os.Stat(b.cfg.WorkDir)
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("the directory of our own: %v, %v, want mode 700", info, err)
		}
	})
}

// TestForeignTextIsNotTakenForOurs: a text that somebody else left, and that is put back after a failed
// reload, is not what the next worker is believed to run.
func TestForeignTextIsNotTakenForOurs(t *testing.T) {
	cfg := configFor(t, "haproxy")
	cfg.WorkDir = t.TempDir()
	d, err := NewDriver(cfg)
	plant(t, err, os.WriteFile(cfg.Path, []byte("hostile"), 0o600))
	later := Worker{Pid: 7, Start: 1 << 40}
	failed := func() error {
		before := d.disk()
		return errors.Join(candidate{store: d.store, files: files("failed")}.swap(), d.putBack(before))
	}
	plant(t, failed())
	if got, certain := d.believed(later); certain {
		t.Errorf("believed to run: %q", got[0].Text())
	}
	plant(t, put(d.store, files("ours")), d.store.writeApplied(files("ours"), Worker{Pid: 6}, nil), failed())
	if got, certain := d.believed(later); !certain || got[0].Text() != "ours" {
		t.Errorf("believed to run: %v, %v, want ours", got, certain)
	}
}
