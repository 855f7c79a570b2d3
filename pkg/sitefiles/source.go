package sitefiles

import (
	"context"

	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/internal/folder"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Source follows the files.
//
// A file that is bad or cannot be read keeps its last good content, and hinders no other. A folder that
// cannot be read any more changes nothing, and neither does it that a file about servers is gone.
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
	*site
	teller folder.Teller
	sent   *Set // nil before the first
}

// Run sends the complete set when it is first known and after each change, until ctx is cancelled; a reader
// that is slow gets the newest. What cannot be read at first is as good as none, so that what does not need
// it does not wait.
func (s *Source) Run(ctx context.Context, out chan<- *Set) error {
	w := &watching{Source: s, site: newSite(s.Choices), teller: folder.Teller{
		Log: s.Log, Rejected: s.Rejected, Wrong: "file of --set is not taken as it is", Right: "files of --set are in order again",
	}}
	return folder.Follow(ctx, folder.Every, w.look, w.next, out)
}

// next returns the set to be sent if it is known and differs from the last, and tells what is wrong.
func (w *watching) next(changed bool) (*Set, bool) {
	if !changed && w.sent != nil {
		return nil, false
	}
	w.teller.Tell(w.rejections(w.Node))
	set := w.set()
	if !w.settled() || w.sent != nil && set.equal(w.sent) {
		return nil, false
	}
	w.sent = set
	return set, true
}
