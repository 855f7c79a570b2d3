package certificates

import (
	"context"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/internal/folder"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Source follows a directory of certificates.
//
// A certificate that is bad or cannot be read keeps its last good content, and hinders no other; one that
// has expired is warned of. A directory that cannot be read any more changes nothing.
type Source struct {
	Dir  string
	Node string // for what is rejected

	Log logrus.FieldLogger
	// Rejected is given the complete set of what is wrong, when it changes. It is called from Run's
	// goroutines, one call at a time, and may be nil.
	Rejected func([]service.Rejection)
}

// watching is the state of one Run.
type watching struct {
	*Source
	files  folder.Files[render.Certificate]
	teller folder.Teller
	sent   []render.Certificate // nil before the first set
	warned map[string]time.Time // by certificate: of which expiry it was warned
}

func (s *Source) watch() *watching {
	return &watching{Source: s, files: filesOf(s.Dir), warned: map[string]time.Time{}, teller: folder.Teller{
		Log: s.Log.WithField("directory", s.Dir), Rejected: s.Rejected,
		Wrong: "certificate is not taken as it is", Right: "certificates are in order again",
	}}
}

func filesOf(dir string) folder.Files[render.Certificate] {
	return folder.Files[render.Certificate]{
		Folder: folder.Folder{
			Dir: dir, Item: nameOf, Below: true, Largest: largest,
			Advice: "no certificate is that large: remove it", Make: "make it, or leave --certs out",
		},
		Parse: parse, Kind: service.RejectedCertificate, What: "directory of certificates",
	}
}

// Read looks at a directory once. The error says what is wrong there; the certificates are the others.
func Read(dir string) ([]render.Certificate, error) {
	files := filesOf(dir)
	files.Now()
	return all(&files), service.Reasons(files.Rejections(""))
}

// Run sends the complete set of certificates, sorted by name, when it is first known and after each
// change, until ctx is cancelled; a reader that is slow gets the newest. A directory that cannot be read
// at first is an empty set, so that what needs no certificate does not wait.
func (s *Source) Run(ctx context.Context, out chan<- []render.Certificate) error {
	w := s.watch()
	return folder.Follow(ctx, folder.Every, w.files.Look, w.next, out)
}

// next returns the set to be sent if it is known and differs from the last, and tells what is wrong.
func (w *watching) next(changed bool) ([]render.Certificate, bool) {
	w.warn(time.Now())
	if !changed {
		return nil, false
	}
	w.teller.Tell(w.files.Rejections(w.Node))
	set := all(&w.files)
	if !w.files.Settled() || w.sent != nil && slices.EqualFunc(set, w.sent, same) {
		return nil, false
	}
	w.note(set)
	w.sent = set
	return set, true
}

// all are the certificates that count, in the order of their names.
func all(files *folder.Files[render.Certificate]) []render.Certificate {
	set := []render.Certificate{}
	for _, c := range files.Good() {
		set = append(set, c)
	}
	return set
}

func same(a, b render.Certificate) bool { return a.Name == b.Name && a.Text == b.Text }

// note logs which certificates came, changed or went.
func (w *watching) note(set []render.Certificate) {
	at := func(list []render.Certificate, name string) int {
		return slices.IndexFunc(list, func(c render.Certificate) bool { return c.Name == name })
	}
	for _, c := range set {
		log := w.Log.WithFields(logrus.Fields{"certificate": c.Name, "names": c.Names, "expires": c.NotAfter.Format(time.RFC3339)})
		switch i := at(w.sent, c.Name); {
		case i < 0:
			log.Info("certificate is read")
		case !same(w.sent[i], c):
			log.Info("certificate is renewed")
		}
	}
	for _, c := range w.sent {
		if at(set, c.Name) < 0 {
			w.Log.WithField("certificate", c.Name).Info("certificate is gone")
		}
	}
}

// warn warns once of each certificate that has expired.
func (w *watching) warn(now time.Time) {
	for name, c := range w.files.Good() {
		if now.After(c.NotAfter) && !w.warned[name].Equal(c.NotAfter) {
			w.warned[name] = c.NotAfter
			w.Log.WithFields(logrus.Fields{"certificate": name, "expired": c.NotAfter.Format(time.RFC3339)}).
				Warn("certificate has expired: clients refuse it; put a new one in its place")
		}
	}
}
