package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
	"github.com/sidekick-proxy/sidekick/templates"
)

// Files of a case.
const (
	caseCatalog  = "catalog.json"
	caseTemplate = "template.tmpl"
	caseSettings = "settings.yaml"
	caseChanges  = "changes.diff" // in place of what begins with "want."
	wantPrefix   = "want."        // and then "cfg", or the name of a file beside the configuration
	wantConfig   = wantPrefix + "cfg"
	caseNode     = "host1" // where settings.yaml names no other: a case is the same on every host
)

// cases runs the cases of a directory.
type cases struct {
	template, haproxyBin string
	update, check        bool
}

// A case ends well or with one of these.
type (
	caseFailed struct{ differences string } // the template gives something else
	caseBad    struct{ error }              // it is no case
)

func (f caseFailed) Error() string { return f.differences }

func (b caseBad) Unwrap() error { return b.error }

func testCommand() *cobra.Command {
	s := newSettings()
	var c cases
	cmd := &cobra.Command{
		Use: "test DIR", Short: "Whether a template gives the wanted text for given catalogs",
		Long: "Runs every case in DIR: a directory with catalog.json, as `sidekick services -o catalog` prints it, and want.cfg, the text\n" +
			"that the template has to give for it. It may have template.tmpl (else --template counts, else the built-in one),\n" +
			"settings.yaml with the settings of the host, as for --config, and want.NAME for each file NAME beside the configuration.\n" +
			"In place of the wanted text it may have changes.diff: the lines by which the text differs from the built-in template's.\n" +
			"Exit code 1 when a case fails, 2 when one is no case. The environment does not count.",
		Args: oneDirectory,
		RunE: func(cmd *cobra.Command, args []string) error {
			c.template, c.haproxyBin = s.template, s.haproxyBin
			return c.run(cmd.Context(), cmd.OutOrStdout(), args[0])
		},
	}
	cmd.Flags().BoolVar(&c.update, "update", false, "write the wanted files anew; look at what changed before you keep it")
	cmd.Flags().BoolVar(&c.check, "check", false, "have HAProxy check each text as well")
	cmd.Flags().AddFlag(s.all.Lookup("template"))
	cmd.Flags().AddFlag(s.all.Lookup("haproxy-bin"))
	return cmd
}

// oneDirectory wants the directory with the cases.
func oneDirectory(cmd *cobra.Command, args []string) error {
	if len(args) == 1 {
		return nil
	}
	return usageError{fmt.Errorf("%s takes one directory with cases; see %s --help", cmd.CommandPath(), cmd.CommandPath())}
}

// run runs all cases below a directory, and says of each how it ended.
func (c cases) run(ctx context.Context, out io.Writer, dir string) error {
	found, err := findCases(dir)
	if err != nil {
		return usageError{err}
	}
	var bad []error
	failed := 0
	for _, at := range found {
		word, err := c.one(ctx, at)
		switch why := (caseFailed{}); {
		case err == nil:
			fmt.Fprintln(out, word, at)
		case errors.As(err, &why):
			failed++
			fmt.Fprintf(out, "FAIL %s\n%s\n", at, strings.TrimRight(why.differences, "\n"))
		case errors.As(err, &caseBad{}): // told of at the end, with what is wrong
			bad = append(bad, fmt.Errorf("%s: %w", at, err))
			fmt.Fprintf(out, "BAD  %s\n", at)
		default:
			return fmt.Errorf("%s: %w", at, err)
		}
	}
	switch {
	case len(bad) > 0:
		return usageError{errors.Join(bad...)}
	case failed > 0:
		return fmt.Errorf("%d of %s failed", failed, count(len(found), "case"))
	}
	fmt.Fprintln(out, "all passed:", count(len(found), "case"))
	return nil
}

// findCases are the directories that hold any file of a case but a template or settings alone.
func findCases(dir string) ([]string, error) {
	var found []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at := filepath.Dir(path)
		if name := e.Name(); !e.IsDir() && (name == caseCatalog || name == wantConfig || name == caseChanges) && !slices.Contains(found, at) {
			found = append(found, at)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s has no case: make a directory there with %s and %s", dir, caseCatalog, wantConfig)
	}
	slices.Sort(found)
	return found, nil
}

// one runs a case, and says in a word how it went if that is well.
func (c cases) one(ctx context.Context, dir string) (word string, err error) {
	s, err := c.settings(dir)
	if err != nil {
		return "", caseBad{err}
	}
	catalog, err := readCase(dir)
	if err != nil {
		return "", caseBad{err}
	}
	renderer, err := s.newRenderer()
	if errors.As(err, &usageError{}) {
		return "", caseBad{err}
	}
	if err != nil {
		return "", caseFailed{err.Error()}
	}
	in, err := s.inputOf(catalog)
	if err != nil {
		return "", caseBad{err}
	}
	files, _, err := renderer.Render(in)
	if err != nil {
		return "", caseFailed{err.Error()}
	}
	builtin, err := s.builtinFiles(in)
	if err != nil {
		return "", err
	}
	if word, err = c.compare(dir, files, builtin); err != nil || !c.check {
		return word, err
	}
	err = s.checkFiles(ctx, files)
	if errors.As(err, &refusedError{}) {
		return "", caseFailed{err.Error()}
	}
	return word, err
}

// settings are those of a case.
func (c cases) settings(dir string) (*settings, error) {
	s := newSettings()
	s.node, s.haproxyBin = caseNode, c.haproxyBin
	if path := filepath.Join(dir, caseSettings); exists(path) {
		s.config = path
	}
	if err := s.load(nil); err != nil {
		return nil, err
	}
	s.relativeTo(dir)
	if s.certs != "" && !filepath.IsAbs(s.certs) {
		s.certs = filepath.Join(dir, s.certs)
	}
	switch own := filepath.Join(dir, caseTemplate); {
	case exists(own):
		s.template = own
	case s.template == "":
		s.template = c.template
	case !filepath.IsAbs(s.template):
		s.template = filepath.Join(dir, s.template)
	}
	return s, nil
}

// relativeTo makes the paths of --set those below a directory.
func (s *settings) relativeTo(dir string) {
	for _, name := range []string{"auth-dir", "error-dir", "server-ca", "server-cert"} {
		if path, ok := s.set[name]; ok && !filepath.IsAbs(path) {
			s.set[name] = filepath.Join(dir, path)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// readCase reads a case's catalog. No clock counts: an override in it is in force for ever.
func readCase(dir string) (*service.Catalog, error) {
	text, err := os.ReadFile(filepath.Join(dir, caseCatalog))
	if err != nil {
		return nil, err
	}
	catalog, err := service.ParseFile(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", caseCatalog, err)
	}
	if len(catalog.Rejected) > 0 {
		r := catalog.Rejected[0]
		return nil, fmt.Errorf("%s: %s: %s", caseCatalog, r.Name, r.Reason)
	}
	return catalog, nil
}

// builtinFiles are what the built-in template makes of an input.
func (s *settings) builtinFiles(in render.Input) (render.Files, error) {
	renderer, err := render.New(templates.Name, templates.HAProxy, s.renderSettings())
	if err != nil {
		return nil, err
	}
	files, _, err := renderer.Render(in)
	return files, err
}

// compare holds the files, and how they differ from the built-in template's, against what is wanted, or
// makes them that.
func (c cases) compare(dir string, files, builtin render.Files) (word string, err error) {
	want, err := readWanted(dir)
	if err != nil {
		return "", caseBad{err}
	}
	got := map[string][]byte{}
	_, wholly := want[wantConfig]
	if _, partly := want[caseChanges]; partly {
		got[caseChanges] = changes(builtin, files)
	} else {
		wholly = true
	}
	if wholly {
		if err := addWhole(got, files); err != nil {
			return "", caseBad{err}
		}
	}
	if maps.EqualFunc(want, got, bytes.Equal) {
		return "PASS", nil
	}
	if c.update {
		return "WROTE", writeWanted(dir, want, got)
	}
	if _, known := want[wantConfig]; wholly && !known {
		return "", caseBad{fmt.Errorf("%s is missing: write it, or have it written by --update", wantConfig)}
	}
	return "", caseFailed{differences(dir, want, got)}
}

// addWhole adds the texts of files, by the names that they have in a case.
func addWhole(got map[string][]byte, files render.Files) error {
	for _, f := range files {
		name := wantPrefix + cmp.Or(f.Name, "cfg")
		if got[name] != nil {
			return fmt.Errorf("the template makes a file %q, whose wanted text would be that of the configuration: name it differently", f.Name)
		}
		got[name] = []byte(f.Shown())
	}
	return nil
}

// differences are those between two sets of files.
func differences(dir string, want, got map[string][]byte) string {
	var out bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(got)) {
		out.Write(diff.Diff(filepath.Join(dir, name), want[name], "what the template gives", got[name]))
		if _, known := want[name]; !known && len(got[name]) == 0 {
			fmt.Fprintf(&out, "%s is missing: the template gives that file, empty\n", filepath.Join(dir, name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if _, given := got[name]; !given {
			fmt.Fprintf(&out, "%s: the template gives no such file\n", filepath.Join(dir, name))
		}
	}
	return out.String()
}

// writeWanted makes the wanted files those that the template gives.
func writeWanted(dir string, want, got map[string][]byte) error {
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if err := os.WriteFile(filepath.Join(dir, name), got[name], 0o644); err != nil { //nolint:gosec // part of a source tree
			return err
		}
	}
	for name := range want {
		if _, given := got[name]; given {
			continue
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// readWanted reads the wanted files of a case, by their names there.
func readWanted(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	want := map[string][]byte{}
	for _, e := range entries {
		if e.IsDir() || !strings.HasPrefix(e.Name(), wantPrefix) && e.Name() != caseChanges {
			continue
		}
		if want[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	return want, nil
}
