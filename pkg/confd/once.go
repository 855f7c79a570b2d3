package confd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Result is what was done for one resource, or would be.
type Result struct {
	Resource, Dest string
	Change         string // in words, "" if nothing differs
	Text           bool   // the content differs
	Old, New       []byte
	Shown          bool // nothing was touched
	Err            error
}

// Once does what Run does, once: it makes each file and runs its commands, one resource after the other. With
// show it touches nothing. It tells the result of each resource, in the order of their names, and returns
// what went wrong. Patience is for the keys, of all resources together.
func (s *Server) Once(ctx context.Context, patience time.Duration, show bool, each func(Result)) error {
	results, defs, err := s.definitions()
	if err != nil {
		return err
	}
	keys, unread := s.readAll(ctx, patience, defs)
	owed := newOwed("", s.Log)
	for i := range results {
		r := &results[i]
		if def := defs[i]; def != nil && r.Err == nil {
			if r.Err = unread[i]; r.Err == nil {
				s.once(ctx, r, def, keys[i], show, owed)
			}
		}
		each(*r)
		if err = errors.Join(err, r.Err); err != nil && s.FailFast {
			break
		}
	}
	return err
}

// definitions reads the directory. A bad resource is a result with an error, and no definition.
func (s *Server) definitions() ([]Result, []*definition, error) {
	f := s.folder()
	now, err := f.look(nil)
	if err != nil {
		return nil, nil, err
	}
	o, keyring, notes, err := s.read(now)
	if err != nil {
		return nil, nil, err
	}
	s.logNotes("confd.toml", notes)
	results := make([]Result, 0, len(now.resources))
	defs := make([]*definition, 0, len(now.resources))
	writers := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(now.resources)) {
		def, notes, err := s.define(name, now.resources[name], now, o, keyring)
		r := Result{Resource: name, Err: err}
		if err == nil {
			s.logNotes(name, notes)
			r.Dest, r.Err = def.resource.Dest, s.allowed(def.resource, writers)
			f.add(now, nil, s.source(def.resource))
		}
		results, defs = append(results, r), append(defs, def)
	}
	return results, defs, nil
}

// Faults says what is wrong with the directory's files, as far as that shows without keys.
func (s *Server) Faults(ctx context.Context) error {
	results, defs, err := s.definitions()
	if err != nil {
		return err
	}
	var errs []error
	for i, r := range results {
		errs = append(errs, r.Err)
		if r.Err != nil {
			continue
		}
		if _, err := s.rendering(ctx, defs[i], nil, newLookups()).parse(s.source(defs[i].resource)); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.Resource, err))
		}
	}
	return errors.Join(errs...)
}

// readAll reads the keys of all resources at the same time.
func (s *Server) readAll(ctx context.Context, patience time.Duration, defs []*definition) (keys []map[string]string, errs []error) {
	keys, errs = make([]map[string]string, len(defs)), make([]error, len(defs))
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var wg sync.WaitGroup
	for i, def := range defs {
		if def == nil {
			continue
		}
		wg.Go(func() {
			keys[i], errs[i] = s.readOnce(ctx, def.resource)
			switch {
			case errs[i] != nil && ctx.Err() == nil:
				errs[i] = fmt.Errorf("%s: its keys cannot be read: %w", def.resource.Name, errs[i])
			case errs[i] != nil:
				errs[i] = fmt.Errorf("%s: its keys were not read within %s: %w", def.resource.Name, patience, errs[i])
			}
		})
	}
	wg.Wait()
	return keys, errs
}

// readOnce returns the first set that the source of a resource's keys gives, or what it complained of last.
func (s *Server) readOnce(ctx context.Context, r *Resource) (map[string]string, error) {
	source := s.from(r)
	switch here := source.(type) { // nobody has to be waited for
	case environ:
		return here.read(r.Roots), nil
	case files:
		return here.read(r.Roots)
	}
	if len(r.Roots) == 0 {
		return map[string]string{}, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var last error // the source's, until it has ended
	sets, done := make(chan map[string]string), make(chan error, 1)
	go func() {
		done <- source.Run(ctx, r.Roots, sets, func(err error) {
			if err != nil && ctx.Err() == nil {
				last = err
				if s.Final != nil && s.Final(err) {
					cancel()
				}
			}
		})
	}()
	select {
	case keys := <-sets:
		cancel()
		<-done //nolint:errcheck // it was told to end
		return keys, nil
	case err := <-done:
		if last != nil {
			err = last
		}
		return nil, err
	}
}

// once makes one file, or shows what it would be.
func (s *Server) once(ctx context.Context, r *Result, d *definition, keys map[string]string, show bool, owed *owed) {
	text, _, err := s.render(ctx, d, keys, newLookups())
	if err != nil {
		r.Err = err
		return
	}
	t, err := d.resource.target(text)
	if err != nil {
		r.Err = fmt.Errorf("%s: %w", d.resource.Name, err)
		return
	}
	differs, err := t.compare()
	if err != nil {
		r.Err = fmt.Errorf("%s: %w", d.resource.Name, err)
		return
	}
	r.Change, r.Text, r.Old, r.New = differs.String(), differs.text, differs.old, text
	if r.Shown = show || d.options.Noop; !r.Shown {
		_, r.Err = s.apply(ctx, d, text, owed)
	}
}
