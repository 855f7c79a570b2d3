package declared

import (
	"cmp"
	"context"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/internal/folder"
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
	w := s.watch()
	w.teller = folder.Teller{
		Log: s.Log.WithField("directory", s.Dir), Rejected: s.Rejected,
		Wrong: "services file is not taken as it is", Right: "services files are in order again",
	}
	return folder.Follow(ctx, cmp.Or(s.Every, folder.Every), w.files.Look, w.next, out)
}

// Faults says what is wrong with the services files of a directory as they are, or nil.
func Faults(dir string, h Host) error {
	w := (&Source{Dir: dir, Host: h}).watch()
	w.files.Now()
	_, rejected := w.assemble()
	return service.Reasons(rejected)
}
