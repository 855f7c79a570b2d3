package confd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Backend says where keys come from, as confd's flags and the table [backend] of a resource file do. The zero
// value is the registry.
type Backend struct {
	Name   string   `toml:"backend"` // "", etcd or etcdv3 for the registry; env; file
	Files  []string `toml:"file"`    // YAML and JSON, or directories with such
	Filter string   `toml:"filter"`  // of names in these directories, as in *.yaml; all if empty
}

// check tells what is wrong with a backend.
func (b Backend) check() error {
	switch _, err := path.Match(b.Filter, ""); {
	case !slices.Contains([]string{"", "etcd", "etcdv3", "env", "file"}, b.Name):
		return fmt.Errorf("backend %s: keys come from etcd by its v3 API, from the environment, or from files: give etcdv3, env or file", b.Name)
	case b.Name == "file" && len(b.Files) == 0:
		return errors.New("backend file: no file is named: give YAML or JSON files, or directories of such, by file")
	case err != nil:
		return fmt.Errorf("filter %q: %w", b.Filter, err)
	}
	return nil
}

// from is where a resource's keys come from.
func (s *Server) from(r *Resource) Source {
	b := r.backend
	if b.Name == "" {
		b = s.Backend
	}
	switch b.Name {
	case "env":
		return environ(s.Environ)
	case "file":
		return files{paths: b.Files, filter: b.Filter, every: cmp.Or(s.every, lookEvery), again: cmp.Or(s.again, lookAgain)}
	}
	return s.Keys
}

// environ is a Source of a process's variables: DATABASE_HOST is the key /database/host. It stays the same.
type environ []string

// Run implements Source.
func (e environ) Run(ctx context.Context, roots []string, out chan<- map[string]string, report func(error)) error {
	report(nil)
	select {
	case out <- e.read(roots):
		<-ctx.Done()
	case <-ctx.Done():
	}
	return ctx.Err()
}

func (e environ) read(roots []string) map[string]string {
	keys := map[string]string{}
	for _, entry := range e {
		name, value, _ := strings.Cut(entry, "=")
		asked := func(root string) bool {
			return strings.HasPrefix(name, strings.ToUpper(strings.ReplaceAll(strings.TrimPrefix(root, "/"), "/", "_")))
		}
		if slices.ContainsFunc(roots, asked) {
			keys["/"+strings.ToLower(strings.ReplaceAll(name, "_", "/"))] = value
		}
	}
	return keys
}

// get is the value of one variable.
func (e environ) get(name string) string {
	for _, entry := range e {
		if n, value, _ := strings.Cut(entry, "="); n == name {
			return value
		}
	}
	return ""
}
