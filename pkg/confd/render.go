package confd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/kelseyhightower/memkv"
)

// deepest is how far templates may include each other.
const deepest = 10

// rendering makes one text of one resource.
type rendering struct {
	ctx    context.Context //nolint:containedctx // a rendering ends with the call that it is for
	dir    string          // of templates
	files  map[string]content
	used   map[string]content // which of the files the text was made of, also those that are not there
	funcs  template.FuncMap
	inside []string // the templates that include each other at the moment
}

// render makes a resource's text, and tells which files it was made of.
func (s *Server) render(ctx context.Context, d *definition, keys map[string]string, l *lookups) (text []byte, used map[string]content, err error) {
	r := s.rendering(ctx, d, keys, l)
	text, err = r.execute(s.source(d.resource), nil)
	if err == nil {
		err = wellFormed(text, d.resource.format)
	}
	if err != nil {
		return nil, r.used, fmt.Errorf("%s: %w", d.resource.Name, err)
	}
	return text, r.used, nil
}

func (s *Server) rendering(ctx context.Context, d *definition, keys map[string]string, l *lookups) *rendering {
	r := &rendering{ctx: ctx, dir: s.templates(), files: d.files, used: map[string]content{}, funcs: s.functions(ctx, d.resource.store(keys), d.keyring, l)}
	r.funcs["include"] = r.include
	return r
}

// functions are all that templates can call, over the keys of one resource.
func (s *Server) functions(ctx context.Context, store *memkv.Store, keyring string, l *lookups) template.FuncMap {
	all := laterFunctions()
	for _, some := range []template.FuncMap{functions(), store.FuncMap, keyFunctions(store), cryptFunctions(store, keyring), l.functions(ctx)} {
		maps.Copy(all, some)
	}
	all["datetime"] = time.Now
	all["getenv"] = s.getenv
	return all
}

// getenv returns a variable's value, or the first of others if it has none.
func (s *Server) getenv(name string, others ...string) string {
	if value := environ(s.Environ).get(name); value != "" || len(others) == 0 {
		return value
	}
	return others[0]
}

// execute makes the text of one template. In messages it goes by its file's name, as in confd.
func (r *rendering) execute(path string, data any) ([]byte, error) {
	r.used[path] = r.files[path]
	t, err := r.parse(path)
	if err != nil {
		return nil, err
	}
	out := text{end: r.ctx.Err}
	if err := t.Execute(&out, data); err != nil {
		return nil, err
	}
	return out.made.Bytes(), nil
}

// text is what a template has made so far. It ends with whoever waits for it, and where it is too long.
type text struct {
	made bytes.Buffer
	end  func() error
}

func (t *text) Write(p []byte) (int, error) {
	if t.made.Len()+len(p) > longest {
		return 0, errLong
	}
	if err := t.end(); err != nil {
		return 0, err
	}
	return t.made.Write(p)
}

func (r *rendering) parse(path string) (*template.Template, error) {
	c, ok := r.files[path]
	if !ok {
		c.fault = "there is no such template"
	}
	if c.fault != "" {
		return nil, fmt.Errorf("%s: %s", path, c.fault)
	}
	return template.New(filepath.Base(path)).Funcs(r.funcs).Parse(c.text) // an error says file and line
}

// include makes the text of another template in the same directory.
func (r *rendering) include(name string, data ...any) (string, error) {
	switch {
	case !filepath.IsLocal(name):
		return "", fmt.Errorf("%s lies outside the directory of templates", name)
	case len(data) > 1:
		return "", errors.New("include takes a template's name and one value")
	case slices.Contains(r.inside, name):
		return "", fmt.Errorf("%s includes itself: %s", name, strings.Join(append(r.inside, name), " > "))
	case len(r.inside) == deepest:
		return "", fmt.Errorf("templates include each other more than %d deep", deepest)
	}
	r.inside = append(r.inside, name)
	defer func() { r.inside = r.inside[:len(r.inside)-1] }()
	var value any
	if len(data) > 0 {
		value = data[0]
	}
	text, err := r.execute(filepath.Join(r.dir, name), value)
	return string(text), err
}

// source is the path of a resource's template.
func (s *Server) source(r *Resource) string { return filepath.Join(s.templates(), r.Src) }

func (s *Server) templates() string { return filepath.Join(s.Dir, "templates") }

// withoutPath is an error's cause, for messages that name the file themselves.
func withoutPath(err error) string {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err.Error()
	}
	return err.Error()
}
