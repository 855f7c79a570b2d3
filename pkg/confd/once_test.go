package confd

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// once runs Once and prints what it tells.
func (b *bed) once(show bool) (string, error) {
	var out strings.Builder
	err := b.server.Once(b.Context(), 2*time.Second, show, func(r Result) {
		fmt.Fprintf(&out, "%s %s %q %q->%q shown=%v err=%v\n", r.Resource, strings.TrimPrefix(r.Dest, b.dir), r.Change, r.Old, r.New, r.Shown, r.Err != nil)
	})
	return out.String(), err
}

// Once does in the order of the names what Run does, goes on after a failure, and tells of it in the end;
// shown, nothing is touched.
func TestOnce(t *testing.T) {
	b := newBed(t, newRegistry("/app/a", "1", "/db", "d"), "templates/app.tmpl", appText, "templates/db.tmpl", dbText,
		"conf.d/a.toml", "[template]\nsrc = \"../mine.tmpl\"\ndest = \"OUT/none/a\"\n", "mine.tmpl", "x",
		"conf.d/app.toml", appFile+"reload_cmd = \"echo app >>OUT/reloads; false\"\n", "conf.d/b.toml", "[",
		"conf.d/db.toml", dbFile+"reload_cmd = \"echo db >>OUT/reloads\"\n")
	const shown = `conf.d/a.toml /out/none/a "new" ""->"x" shown=%[1]v err=%[2]v
conf.d/app.toml /out/app "new" ""->"1 " shown=%[1]v err=%[2]v
conf.d/b.toml  "" ""->"" shown=false err=true
conf.d/db.toml /out/db "new" ""->"d" shown=%[1]v err=false
`
	got, err := b.once(true)
	if want := fmt.Sprintf(shown, true, false); got != want || err == nil {
		t.Errorf("shown:\n%s\n%v; want\n%s", got, err, want)
	}
	if b.read("app")+b.read("reloads")+b.read("db.rendered") != "---" {
		t.Error("something was touched")
	}
	got, err = b.once(false)
	if want := fmt.Sprintf(shown, false, true); got != want {
		t.Errorf("done:\n%s\nwant\n%s", got, want)
	}
	for _, part := range []string{"conf.d/a.toml: stage", "conf.d/app.toml: reload_cmd", "conf.d/b.toml: line 1"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("got the error %v, want %q in it", err, part)
		}
	}
	if b.read("app") != "1 " || b.read("reloads") != "app\ndb\n" {
		t.Errorf("app %q, reloads %q", b.read("app"), b.read("reloads"))
	}
}

// Faults finds without any key what is wrong with the files.
func TestFaults(t *testing.T) {
	b := newBed(t, nil, "templates/app.tmpl", appText, "conf.d/app.toml", appFile)
	if err := b.server.Faults(t.Context()); err != nil {
		t.Errorf("a good directory: got %v", err)
	}
	b.write("templates/db.tmpl", "{{getv}")
	b.write("conf.d/db.toml", dbFile)
	b.write("conf.d/other.toml", "[template]\nsrc = \"no.tmpl\"\ndest = \"OUT/x\"\n")
	b.write("conf.d/second.toml", appFile)
	err := b.server.Faults(t.Context())
	for _, part := range []string{"conf.d/db.toml: template: db.tmpl:1: ", "conf.d/other.toml: ", "no.tmpl: there is no such template", "conf.d/second.toml: dest "} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("got %v, want %q in it", err, part)
		}
	}
}

// Without an answer of the registry nothing is made, and it is said which resource waited for what.
func TestOnceWithoutTheRegistry(t *testing.T) {
	keys := newRegistry("/app/a", "1")
	keys.fail(errors.New("connection refused"))
	b := newBed(t, keys, "templates/app.tmpl", appText, "conf.d/app.toml", appFile)
	err := b.server.Once(t.Context(), 20*time.Millisecond, false, func(Result) {})
	if err == nil || !strings.Contains(err.Error(), "conf.d/app.toml: its keys were not read within 20ms: connection refused") {
		t.Errorf("got %v", err)
	}
	if b.read("app") != "-" {
		t.Error("a file was made of nothing")
	}
}

// A directory that is none is an error as a whole; so is a confd.toml that hides the prefix.
func TestOnceWithoutADirectory(t *testing.T) {
	b := newBed(t, newRegistry(), "confd.toml", "prefix = [")
	if _, err := b.once(true); err == nil || !strings.Contains(err.Error(), "confd.toml: line 1") {
		t.Errorf("a bad confd.toml: got %v", err)
	}
	b.server.Dir = "/no/such"
	if _, err := b.once(true); err == nil || !strings.Contains(err.Error(), "/no/such/conf.d") {
		t.Errorf("no directory: got %v", err)
	}
}

// What is as it should be is left alone and not announced; a change by hand of content or mode is set right, and
// announced, as in confd. A link in the place of the file is replaced, and what it leads to is not touched.
func TestOnceSetsRight(t *testing.T) {
	b := newBed(t, newRegistry("/app/a", "1"), "templates/app.tmpl", appText,
		"conf.d/app.toml", appFile+"mode = \"0640\"\nreload_cmd = \"echo r >>OUT/reloads\"\n")
	reloads := ""
	for _, step := range []struct {
		name    string
		prepare func() error
		quiet   bool
	}{
		{"new", func() error { return nil }, false},
		{"the same", func() error { return nil }, true},
		{"another content", func() error { return os.WriteFile(b.out("app"), []byte("mine"), 0o640) }, false},
		{"another mode", func() error { return os.Chmod(b.out("app"), 0o600) }, false},
		{"gone", func() error { return os.Remove(b.out("app")) }, false},
		{"a link", func() error {
			return errors.Join(os.WriteFile(b.out("other"), []byte("other"), 0o644), os.Remove(b.out("app")), os.Symlink("other", b.out("app")))
		}, false},
	} {
		if err := step.prepare(); err != nil {
			t.Fatal(err)
		}
		if _, err := b.once(false); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if !step.quiet {
			reloads += "r\n"
		}
		info, err := os.Lstat(b.out("app"))
		if err != nil || info.Mode() != 0o640 || b.read("app") != "1 " || b.read("reloads") != reloads {
			t.Errorf("%s: %v, %v, %q; reloads %q, want %q", step.name, info.Mode(), err, b.read("app"), b.read("reloads"), reloads)
		}
	}
	if b.read("other") != "other" {
		t.Error("what the link led to was written")
	}
}
