package certificates

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/sidekick-proxy/sidekick/internal/folder"
	"github.com/sidekick-proxy/sidekick/internal/newest"
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
	sent   []render.Certificate // nil before the first set
	told   []service.Rejection
	warned map[string]time.Time // by certificate: of which expiry it was warned
}

func filesOf(dir string) folder.Files[render.Certificate] {
	return folder.Files[render.Certificate]{
		Folder: folder.Folder{Dir: dir, Item: nameOf, Below: true, Largest: largest, Advice: "no certificate is that large: remove it"},
		Parse:  parse,
		Make:   "make it, or leave --certs out",
	}
}

// Read looks at a directory once. The error says what is wrong there; the certificates are the others.
func Read(dir string) ([]render.Certificate, error) {
	files := filesOf(dir)
	files.Now()
	var errs []error
	for _, r := range rejections(&files, dir, "") {
		errs = append(errs, errors.New(r.Reason))
	}
	return all(&files), errors.Join(errs...)
}

// Run sends the complete set of certificates, sorted by name, when it is first known and after each
// change, until ctx is cancelled; a reader that is slow gets the newest. A directory that cannot be read
// at first is an empty set, so that what needs no certificate does not wait.
func (s *Source) Run(ctx context.Context, out chan<- []render.Certificate) error {
	sets := make(chan []render.Certificate)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return newest.Run(ctx, sets, out) })
	g.Go(func() error {
		w := &watching{Source: s, files: filesOf(s.Dir), warned: map[string]time.Time{}}
		return w.files.Run(ctx, folder.Every, func(changed bool) error {
			w.warn(time.Now())
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
func (w *watching) send(ctx context.Context, sets chan<- []render.Certificate) error {
	set := all(&w.files)
	if !w.files.Known() && w.files.Away() == "" || w.sent != nil && slices.EqualFunc(set, w.sent, same) {
		return nil
	}
	w.note(set)
	w.sent = set
	select {
	case sets <- set:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
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

// rejections are what is wrong in a directory.
func rejections(files *folder.Files[render.Certificate], dir, node string) []service.Rejection {
	list := []service.Rejection{}
	add := func(name, reason string) {
		list = append(list, service.Rejection{Kind: service.RejectedCertificate, Node: node, Name: name, Reason: reason})
	}
	if away := files.Away(); away != "" {
		add(dir, "directory of certificates "+dir+": "+away)
	}
	for name, fault := range files.Faults() {
		if strings.Contains(fault, syscall.EACCES.Error()) {
			fault += "; let the agent's user read it"
		}
		add(name, dir+": "+fault)
	}
	return list
}

// tell logs what is newly wrong, and hands the whole over if it changed.
func (w *watching) tell() {
	rejected := rejections(&w.files, w.Dir, w.Node)
	if slices.Equal(rejected, w.told) {
		return
	}
	for _, r := range rejected {
		if !slices.Contains(w.told, r) {
			w.Log.WithFields(logrus.Fields{"directory": w.Dir, "reason": r.Reason}).Warn("certificate is not taken as it is")
		}
	}
	if len(rejected) == 0 {
		w.Log.WithField("directory", w.Dir).Info("certificates are in order again")
	}
	w.told = rejected
	if w.Rejected != nil {
		w.Rejected(slices.Clone(rejected))
	}
}
