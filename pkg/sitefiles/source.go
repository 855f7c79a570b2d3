package sitefiles

import (
	"context"
	"slices"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/sidekick-proxy/sidekick/internal/folder"
	"github.com/sidekick-proxy/sidekick/internal/newest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Source follows the folders.
//
// A file that is bad or cannot be read keeps its last good content, and hinders no other. A folder that
// cannot be read any more changes nothing.
type Source struct {
	Choices render.Choices
	Node    string // for what is rejected

	Log logrus.FieldLogger
	// Rejected is given the complete set of what is wrong, when it changes. It is called from Run's
	// goroutines, one call at a time, and may be nil.
	Rejected func([]service.Rejection)
}

// watching is the state of one Run.
type watching struct {
	*Source
	*folders
	sent *Set // nil before the first
	told []service.Rejection
}

// Run sends the complete set when it is first known and after each change, until ctx is cancelled; a reader
// that is slow gets the newest. A folder that cannot be read at first is an empty one, so that what does
// not need it does not wait.
func (s *Source) Run(ctx context.Context, out chan<- *Set) error {
	sets := make(chan *Set)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return newest.Run(ctx, sets, out) })
	g.Go(func() error {
		w := &watching{Source: s, folders: newFolders(s.Choices)}
		if err := w.send(ctx, sets); err != nil { // where there is no folder
			return err
		}
		return folder.Watch(ctx, folder.Every, w.look, func(changed bool) error {
			if !changed {
				return nil
			}
			w.tell()
			return w.send(ctx, sets)
		})
	})
	return g.Wait()
}

// send sends the set, unless it is the last one again or not known yet.
func (w *watching) send(ctx context.Context, sets chan<- *Set) error {
	set := w.set()
	if !w.known() || w.sent != nil && set.equal(w.sent) {
		return nil
	}
	w.sent = set
	select {
	case sets <- set:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tell logs what is newly wrong, and hands the whole over if it changed.
func (w *watching) tell() {
	rejected := w.rejections(w.Node)
	if w.told != nil && slices.Equal(rejected, w.told) {
		return
	}
	for _, r := range rejected {
		if !slices.Contains(w.told, r) {
			w.Log.WithField("reason", r.Reason).Warn("file of users, or page, is not taken as it is")
		}
	}
	if len(rejected) == 0 && len(w.told) > 0 {
		w.Log.Info("files of users and pages are in order again")
	}
	w.told = rejected
	if w.Rejected != nil {
		w.Rejected(slices.Clone(rejected))
	}
}
