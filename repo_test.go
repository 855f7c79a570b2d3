package sidekick_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sidekick-proxy/sidekick"

// pkg is what these tests need to know of a package.
type pkg struct {
	ImportPath   string
	Dir          string
	Standard     bool
	Imports      []string
	TestImports  []string
	XTestImports []string
	GoFiles      []string
	Deps         []string
}

// tree lists the packages of the module by their path within it, and which imported packages belong
// to the standard library.
func tree(t *testing.T) (ours map[string]pkg, standard map[string]bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-test=false",
		"-json=ImportPath,Dir,Standard,Imports,TestImports,XTestImports,GoFiles,Deps", "./...")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	ours, standard = map[string]pkg{}, map[string]bool{"C": true}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return ours, standard
		}
		if err != nil {
			t.Fatal(err)
		}
		if p.Standard {
			standard[p.ImportPath] = true
		}
		if p.ImportPath == module || strings.HasPrefix(p.ImportPath, module+"/") {
			ours[strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")] = p
		}
	}
}

// inside says whether a package, by import path or by path within the module, is one of these or
// below one.
func inside(path string, trees ...string) bool {
	return slices.ContainsFunc(trees, func(t string) bool {
		return path == t || strings.HasPrefix(path, t+"/")
	})
}

// TestDeps checks the import rules of ARCHITECTURE.md.
func TestDeps(t *testing.T) {
	rules := []struct {
		why     string
		what    []string // who imports one of these …
		only    []string // … must be one of these,
		inTests []string // or, in its tests, one of these
	}{
		{
			why:     "the Docker engine is known to one package",
			what:    []string{"github.com/moby/moby", "github.com/docker/docker"},
			only:    []string{"pkg/docker", "internal/enginetest", "internal/fakeengine"},
			inTests: []string{"e2e"},
		},
		{
			why:     "the etcd client is known to the registries, and to commands that configure it",
			what:    []string{"go.etcd.io/etcd/client", "go.etcd.io/etcd/api"},
			only:    []string{"pkg/registry", "cmd", "bench"},
			inTests: []string{"e2e"},
		},
		{
			why:     "YAML is what people write: settings, services files, compose files, files of confd's keys",
			what:    []string{"github.com/goccy/go-yaml"},
			only:    []string{"pkg/declared", "pkg/confd", "internal/compose", "cmd"},
			inTests: []string{"deploy"},
		},
		{
			why:  "confd's format is known to one package",
			what: []string{"github.com/BurntSushi/toml", "github.com/kelseyhightower/memkv", "github.com/ProtonMail/go-crypto"},
			only: []string{"pkg/confd"},
		},
		{
			why:     "the etcd server is known to one package; the gRPC proxy before it is measured",
			what:    []string{"go.etcd.io/etcd/server"},
			only:    []string{"pkg/registry/embedded", "bench"},
			inTests: []string{"pkg/registry", "e2e", "cmd"},
		},
		{
			why:     "only commands choose a registry",
			what:    []string{module + "/pkg/registry"},
			only:    []string{"cmd", "pkg/registry", "bench"},
			inTests: []string{"e2e", "pkg/register", "pkg/catalog"},
		},
		{
			why:     "what only tests and the demo need stays out of the product",
			what:    []string{module + "/internal/certtest", module + "/internal/enginetest", module + "/internal/hosttest", module + "/internal/load", module + "/internal/fakeengine", module + "/internal/haproxytest", module + "/internal/proctest", module + "/pkg/registry/registrytest"},
			only:    []string{"examples", "e2e", "bench", "internal/enginetest", "internal/hosttest", "internal/load", "internal/fakeengine", "internal/certtest", "internal/haproxytest", "pkg/registry/registrytest"},
			inTests: []string{"pkg", "cmd", "internal"},
		},
		{
			why:  "agents are asked by commands, and answer by what a registry writes",
			what: []string{module + "/pkg/ask"},
			only: []string{"cmd", "pkg/registry"},
		},
		{
			why:  "commands are wiring; nothing imports them",
			what: []string{module + "/cmd"},
			only: []string{"cmd"},
		},
	}
	ours, _ := tree(t)
	for path, p := range ours {
		for _, rule := range rules {
			check := func(kind string, imports, allowed []string) {
				for _, i := range imports {
					if inside(i, rule.what...) && !inside(path, allowed...) {
						t.Errorf("%s%s imports %s: %s; only %v may", path, kind, i, rule.why, allowed)
					}
				}
			}
			check("", p.Imports, rule.only)
			check(" (test)", append(p.TestImports, p.XTestImports...), append(slices.Clone(rule.only), rule.inTests...))
		}
	}
}

// TestVocabularyImportsOnlyTheStandardLibrary: everything stands on pkg/service, so it stands on
// nothing.
func TestVocabularyImportsOnlyTheStandardLibrary(t *testing.T) {
	ours, standard := tree(t)
	for _, i := range ours["pkg/service"].Imports {
		if !standard[i] {
			t.Errorf("pkg/service imports %s, which is not of the standard library", i)
		}
	}
}

// TestConventionsImportTheVocabularyAlone: they read what a container says and know no engine.
func TestConventionsImportTheVocabularyAlone(t *testing.T) {
	ours, standard := tree(t)
	for _, i := range ours["pkg/convention"].Imports {
		if !standard[i] && i != module+"/pkg/service" {
			t.Errorf("pkg/convention imports %s: of others it may import pkg/service alone", i)
		}
	}
}

// TestPureParts: rendering and planning are pure functions, so that what they give can be compared
// and tested without a machine around them. Of package net they may take what only reads text.
func TestPureParts(t *testing.T) {
	harmless := []string{"net.SplitHostPort", "net.JoinHostPort"}
	for _, pattern := range []string{"pkg/render/*.go", "pkg/haproxy/plan*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: got %v (%v), want files", pattern, files, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, used := range usesOf(parsed, "os", "net", "syscall", "os/exec", "net/http") {
				if !slices.Contains(harmless, used) {
					t.Errorf("%s uses %s: rendering and planning do no I/O", file, used)
				}
			}
		}
	}
}

// usesOf lists what a file takes from these packages.
func usesOf(file *ast.File, packages ...string) []string {
	names := map[string]bool{}
	for _, i := range file.Imports {
		path := strings.Trim(i.Path.Value, `"`)
		if slices.Contains(packages, path) {
			names[path[strings.LastIndexByte(path, '/')+1:]] = true
		}
	}
	var uses []string
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && names[x.Name] {
				uses = append(uses, x.Name+"."+s.Sel.Name)
			}
		}
		return true
	})
	return uses
}

// TestEveryPackageHasOneDocComment: one, since two of them are shown run together.
func TestEveryPackageHasOneDocComment(t *testing.T) {
	ours, _ := tree(t)
	for path, p := range ours {
		var with []string
		for _, name := range p.GoFiles {
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if parsed.Doc != nil {
				with = append(with, name)
			}
		}
		if len(p.GoFiles) > 0 && len(with) != 1 {
			t.Errorf("package %q has %d doc comments %v, want one", path, len(with), with)
		}
	}
}

// TestGoModHasNoReplace: `go install` refuses a module with replace directives.
func TestGoModHasNoReplace(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json").Output()
	if err != nil {
		t.Fatalf("go mod edit: %v", err)
	}
	var mod struct {
		Module  struct{ Path string }
		Replace []any
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	if mod.Module.Path != module {
		t.Errorf("module path: got %q, want %q", mod.Module.Path, module)
	}
	if len(mod.Replace) > 0 {
		t.Errorf("go.mod has replace directives: %v", mod.Replace)
	}
}

// TestHouseFilesAreThere: what a reader of a repository looks for.
func TestHouseFilesAreThere(t *testing.T) {
	for _, name := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "Makefile", ".ci/run", "tools/go.mod"} {
		info, err := os.Stat(name)
		if err != nil || info.Size() == 0 {
			t.Errorf("%s: missing or empty (%v)", name, err)
		}
	}
}
