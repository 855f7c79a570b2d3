package declared

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/sidekick-proxy/sidekick/internal/folder"
	"github.com/sidekick-proxy/sidekick/internal/newest"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Source follows a directory of services files. It implements register.Source.
//
// A file that is bad or cannot be read keeps its last good content; a bad entry is left out alone. A
// directory that is not there, or cannot be read, changes nothing: before its first look has
// succeeded a Source sends nothing. What is deleted goes, and an empty file is an empty list.
type Source struct {
	Dir  string
	Host Host
	// Every is the time between two looks; folder.Every if zero.
	Every time.Duration
	// Memory is a file for what outlasts the process: each file's last good content, and since when
	// each instance is declared. None if empty.
	Memory string

	Log logrus.FieldLogger
	// Rejected is given the complete set of what is wrong, when it changes. It is called from Run's
	// goroutines, one call at a time, and may be nil.
	Rejected func([]service.Rejection)
}

// Run sends the complete set of the instances that are declared, sorted, when it is first known and
// after each change, until ctx is cancelled; a reader that is slow gets the newest.
func (s *Source) Run(ctx context.Context, out chan<- []service.Instance) error {
	sets := make(chan []service.Instance)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return newest.Run(ctx, sets, out) })
	g.Go(func() error { return s.keep(ctx, sets) })
	return g.Wait()
}

// keep looks and sends for ever.
func (s *Source) keep(ctx context.Context, sets chan<- []service.Instance) error {
	w := s.watch()
	return w.files.Run(ctx, cmp.Or(s.Every, folder.Every), func(changed bool) error {
		if changed {
			if err := w.send(ctx, sets); err != nil {
				return err
			}
		}
		if w.files.Known() {
			w.memory.Files = w.files.Texts()
			w.memory.keep(w.declared, time.Now())
		}
		return nil
	})
}

// Faults says what is wrong with the services files of a directory as they are, or nil.
func Faults(dir string, h Host) error {
	w := (&Source{Dir: dir, Host: h}).watch()
	w.files.Now()
	_, rejected := w.assemble()
	var errs []error
	for _, r := range rejected {
		errs = append(errs, errors.New(r.Reason))
	}
	return errors.Join(errs...)
}
