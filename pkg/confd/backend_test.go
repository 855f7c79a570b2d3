package confd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A variable is the key that confd makes of it, and all that begin with a key are read.
func TestEnviron(t *testing.T) {
	env := environ{"DATABASE_HOST=db=1", "DATABASE_PORT=3306", "DATABASES=2", "KEY=", "lower=x", "WITH_UNDER_SCORES=u", "PATH=/bin"}
	for _, tt := range []struct {
		roots []string
		want  map[string]string
	}{
		{nil, map[string]string{}},
		{[]string{"/database"}, map[string]string{"/database/host": "db=1", "/database/port": "3306", "/databases": "2"}},
		{[]string{"/database/host", "/key"}, map[string]string{"/database/host": "db=1", "/key": ""}},
		{[]string{"/lower", "/with_under_scores"}, map[string]string{"/with/under/scores": "u"}},
		{[]string{"/"}, map[string]string{
			"/database/host": "db=1", "/database/port": "3306", "/databases": "2", "/key": "", "/lower": "x", "/with/under/scores": "u", "/path": "/bin",
		}},
	} {
		if diff := cmp.Diff(env.read(tt.roots), tt.want); diff != "" {
			t.Errorf("%v: (-got +want)\n%s", tt.roots, diff)
		}
	}
}

// Values of YAML and JSON files have the names that lead to them, and the texts that confd gives them. Of two
// files the later one counts.
func TestFilesRead(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"1":           "key: foobar\nservers:\n  - host: one\n    port: 80\n  - two\nempty: \"\"\nnone:\n",
		"2.yml":       "base: &base {a: x, b: y}\nuses:\n  <<: *base\n  b: z\n3: three\nday: 2024-01-02\n",
		"3.json":      `{"key": "later", "n": 8080, "f": 3.14, "big": 1234567890, "yes": true, "list": ["a", null, {"b": "c"}], "none": null}`,
		"sub/4.yaml":  "n2: 42\nf2: 2.50\nno: false\nquoted: \"007\"\ntext: |\n  one\n  two\n",
		"empty.yaml":  "",
		".hidden.yml": "hidden: x\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		f     files
		roots []string
		want  map[string]string
	}{
		"all": {files{paths: []string{dir}}, []string{"/"}, map[string]string{
			"/key": "later", "/servers/0/host": "one", "/servers/0/port": "80", "/servers/1": "two", "/empty": "",
			"/base/a": "x", "/base/b": "y", "/uses/a": "x", "/uses/b": "z", "/3": "three", "/day": "2024-01-02",
			"/n": "8080", "/f": "3.14", "/big": "1234567890", "/yes": "true", "/list/0": "a", "/list/2/b": "c",
			"/n2": "42", "/f2": "2.5", "/no": "false", "/quoted": "007", "/text": "one\ntwo\n",
		}},
		"by prefix":         {files{paths: []string{dir}}, []string{"/servers/0", "/ke"}, map[string]string{"/key": "later", "/servers/0/host": "one", "/servers/0/port": "80"}},
		"by name":           {files{paths: []string{dir}, filter: "*.yaml"}, []string{"/"}, map[string]string{"/n2": "42", "/f2": "2.5", "/no": "false", "/quoted": "007", "/text": "one\ntwo\n"}},
		"the order counts":  {files{paths: []string{dir + "/3.json", dir + "/1"}}, []string{"/key"}, map[string]string{"/key": "foobar"}},
		"nothing asked for": {files{paths: []string{dir}}, nil, map[string]string{}},
	} {
		if got, err := tt.f.read(tt.roots); err != nil || !cmp.Equal(got, tt.want) {
			t.Errorf("%s: %v, (-got +want)\n%s", name, err, cmp.Diff(got, tt.want))
		}
	}
}

// A file that cannot be used is named.
func TestFilesFaults(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct{ text, want string }{
		"a.yaml": {"key: value\n  bad: x\n", "a.yaml: line "},
		"b.json": {`{key: "x"}`, "b.json: invalid character"},
		"c.yml":  {"- a\n- b\n", "c.yml: line 1, column 1: "},
		"none":   {"", "none: no such file"},
	} {
		path := filepath.Join(dir, name)
		if tt.text != "" {
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := (files{paths: []string{path}}).read([]string{"/"}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, %v; want an error with %q", name, got, err, tt.want)
		}
	}
}

// FuzzFiles: no file of keys ends the agent, and each key is a clean one (P7).
func FuzzFiles(f *testing.F) {
	for _, text := range []string{"a: {b: [1, 2.5, true, ~, x]}", "a: &a [*a]", "<<: *x", "? [a]\n: b", "a: !!binary x\n", "{\"a\": {\"\": 1, \"../b\": 2}}", "a: |\n b\n--- c", "\t", "1: 2\n1: 3"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, name := range []string{"a.yaml", "a.json"} {
			keys, err := pick([]sheet{{name, text}}, []string{"/"})
			for key := range keys {
				if err == nil && filepath.Clean(key) != key {
					t.Errorf("%q has the key %q", text, key)
				}
			}
		}
	})
}

// A resource's keys may come from elsewhere than those of the others (P7), and files are followed: what is wrong
// with one takes nothing away that was known.
func TestBackends(t *testing.T) {
	const text = "{{range gets \"/app/*\"}}{{.Value}} {{end}}"
	b := newBed(t, newRegistry("/app/a", "registry"), "templates/app.tmpl", text, "conf.d/app.toml", appFile,
		"conf.d/env.toml", "[template]\nsrc = \"app.tmpl\"\ndest = \"OUT/env\"\nkeys = [\"/app\"]\n[backend]\nbackend = \"env\"\n",
		"conf.d/file.toml", "[template]\nsrc = \"app.tmpl\"\ndest = \"OUT/file\"\nprefix = \"/p\"\nkeys = [\"/app\"]\n[backend]\nbackend = \"file\"\nfile = [\"OUT/../confd/keys\"]\n",
		"keys/a.yaml", "p: {app: {a: 1}}\n")
	b.server.Environ = []string{"APP_A=variable"}
	b.run()
	b.holds("app", "registry ")
	b.holds("env", "variable ")
	b.holds("file", "1 ")
	b.says("")
	b.write("keys/b.json", `{"p": {"app": {"b": 2}}}`)
	b.holds("file", "1 2 ")
	b.write("keys/a.yaml", "p: {app")
	b.says("conf.d/file.toml: its keys cannot be followed: ")
	b.write("keys/b.json", `{"p": {"app": {"b": 3}}}`)
	b.write("keys/a.yaml", "p: {app: {a: 2}}\n")
	b.holds("file", "2 3 ")
	b.says("")
	b.write("conf.d/file.toml", "[template]\nsrc = \"app.tmpl\"\ndest = \"OUT/file\"\nkeys = [\"/app\"]\n")
	b.holds("file", "registry ")
}

// Without a registry, keys come from where the command says, and a file that is not there is told of at once.
func TestOnceWithoutRegistry(t *testing.T) {
	b := newBed(t, nil, "templates/app.tmpl", appText, "conf.d/app.toml", appFile,
		"conf.d/etcd.toml", strings.ReplaceAll(appFile, "OUT/app", "OUT/etcd")+"[backend]\nbackend = \"etcd\"\n",
		"conf.d/file.toml", strings.ReplaceAll(appFile, "OUT/app", "OUT/file")+"[backend]\nbackend = \"file\"\nfile = [\"OUT/none\"]\n")
	b.server.Environ, b.server.Backend = []string{"APP_A=1"}, Backend{Name: "env"}
	_, err := b.once(false)
	for _, part := range []string{"conf.d/etcd.toml: backend etcd: there is no registry", "conf.d/file.toml: its keys cannot be read: file " + b.out("none") + ": no such file"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("got the error %v, want %q in it", err, part)
		}
	}
	if got := b.read("app"); got != "1 " {
		t.Errorf("app: got %q", got)
	}
}

// FailFast ends at the first resource that fails.
func TestFailFast(t *testing.T) {
	b := newBed(t, newRegistry("/app/a", "1"), "templates/app.tmpl", appText, "templates/bad.tmpl", "{{getv \"/no\"}}",
		"conf.d/a.toml", strings.ReplaceAll(appFile, "OUT/app", "OUT/a"), "conf.d/b.toml", "[template]\nsrc = \"bad.tmpl\"\ndest = \"OUT/b\"\n", "conf.d/c.toml", appFile)
	b.server.FailFast = true
	if _, err := b.once(false); err == nil || !strings.Contains(err.Error(), "conf.d/b.toml") {
		t.Errorf("got the error %v", err)
	}
	if b.read("a") != "1 " || b.read("app") != "-" {
		t.Errorf("a %q, app %q", b.read("a"), b.read("app"))
	}
}

// What is written while the first look is taken does not count either: half of a YAML file is one that says less
// (unknown is not empty). Nor does a directory that was not there, and is empty for a moment.
func TestFilesThatAreJustWritten(t *testing.T) {
	for name, begin := range map[string]func(dir string) error{
		"half of it":   func(dir string) error { return os.WriteFile(filepath.Join(dir, "a.yaml"), []byte("a: 1\n"), 0o600) },
		"no file":      func(string) error { return nil },
		"no directory": func(dir string) error { return os.Remove(dir) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "keys")
				if err := errors.Join(os.Mkdir(dir, 0o700), begin(dir)); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				sets, ended := make(chan map[string]string), make(chan error, 1)
				f := files{paths: []string{dir}, every: lookEvery, again: lookAgain}
				go func() { ended <- f.Run(ctx, []string{"/"}, sets, func(error) {}) }()
				synctest.Wait() // it has looked
				if name == "no directory" {
					if err := os.Mkdir(dir, 0o700); err != nil {
						t.Fatal(err)
					}
					time.Sleep(lookEvery)
					synctest.Wait()
				}
				if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte("a: 1\nb: 2\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(<-sets, map[string]string{"/a": "1", "/b": "2"}); diff != "" {
					t.Errorf("-got +want\n%s", diff)
				}
				cancel()
				<-ended
			})
		})
	}
}

// A few lines whose aliases stand for more than any memory holds are a fault, and so are values; what is repeated
// with measure is none.
func TestFilesWithAliases(t *testing.T) {
	lines := []string{"x: &x0 [" + strings.Repeat("v,", 10) + "]"}
	for n := range 20 {
		lines = append(lines, fmt.Sprintf("a%d: &x%d [%s]", n, n+1, strings.Repeat(fmt.Sprintf("*x%d,", n), 10)))
	}
	large := "x: &x " + strings.Repeat("v", 1<<20) + "\na: [" + strings.Repeat("*x,", 1000) + "]\n"
	for name, text := range map[string]string{"keys": strings.Join(lines, "\n"), "values": large} {
		if _, err := pick([]sheet{{"a.yaml", text}}, []string{"/"}); err == nil || !strings.Contains(err.Error(), "file a.yaml: its keys and values take more than 64 MiB") {
			t.Errorf("%s: got the error %v", name, err)
		}
	}
	if keys, err := pick([]sheet{{"a.yaml", strings.Join(lines[:4], "\n")}}, []string{"/"}); err != nil || len(keys) != 11110 {
		t.Errorf("got %d keys, %v, want all 11110", len(keys), err)
	}
}

// A file that could not be read for what had nothing to do with it is read again although it did not change.
func TestFilesAreReadOnceTheyCanBe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.yaml")
	if err := errors.Join(os.WriteFile(path, []byte("a: 1\n"), 0o600), os.Chtimes(path, time.Time{}, time.Now().Add(-time.Hour))); err != nil {
		t.Fatal(err)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	known := folder{}
	for _, step := range []struct {
		files uint64 // that may be open
		bad   bool
	}{{0, true}, {limit.Cur, false}} {
		err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: step.files, Max: limit.Max})
		_, looked := files{paths: []string{path}}.look(&known)
		if err = errors.Join(err, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)); err != nil || (looked != nil) != step.bad {
			t.Errorf("with %d files: %v, got the error %v", step.files, err, looked)
		}
	}
}
