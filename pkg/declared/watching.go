package declared

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// patience is for how many looks what moves is waited for before the first set: a file that changes
// all the time holds up no other.
const patience = 20

// watching is the state of one Run.
type watching struct {
	*Source
	folder folder
	memory *memory
	good   map[string][]declaration // by file: what counts, of the texts in memory
	faults map[string]string        // by file: why its newest content does not count
	away   string                   // why the directory cannot be read, "" if it can
	looks  int                      // that succeeded
	known  bool                     // what counts is complete

	declared map[string]string // id → where, of the last set
	sent     []service.Instance
	told     []service.Rejection
}

func (s *Source) watch() *watching {
	w := &watching{
		Source: s, folder: folder{dir: s.Dir}, memory: recall(s.Memory, s.Log),
		good: map[string][]declaration{}, faults: map[string]string{},
	}
	for name, text := range w.memory.Files {
		if list, err := declarations(text); err == nil {
			w.good[name] = list
		} else { // written by another version, or by hand
			delete(w.memory.Files, name)
		}
	}
	return w
}

// look takes the directory's files in. changed tells that they say something else now, moving that it
// should be looked again soon.
func (w *watching) look() (changed, moving bool) {
	s, err := w.folder.look()
	if err != nil {
		away := missing(err)
		changed, w.away = away != w.away, away
		return changed, false
	}
	changed, w.away = w.away != "", ""
	for name, c := range s.settled {
		changed = w.take(name, c) || changed
	}
	for name := range w.memory.Files {
		changed = s.gone(name) && w.forget(name) || changed
	}
	for name := range w.faults {
		changed = s.gone(name) && w.forget(name) || changed
	}
	w.looks++
	moving = s.first || len(s.moving) > 0
	if !w.known && (!moving || w.looks > patience) {
		w.known, changed = true, true
	}
	return changed, moving
}

func missing(err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return "it does not exist: make it, or leave --services-dir out"
	}
	return withoutPath(err)
}

// take makes a file's content count if it is good, and tells whether that changes anything.
func (w *watching) take(name string, c content) bool {
	fault := name + ": " + c.fault
	if c.fault == "" {
		if _, ok := w.good[name]; ok && w.memory.Files[name] == c.text {
			changed := w.faults[name] != ""
			delete(w.faults, name)
			return changed
		}
		list, err := declarations(c.text)
		if err == nil {
			w.good[name], w.memory.Files[name] = list, c.text
			delete(w.faults, name)
			return true
		}
		fault = name + ":" + err.Error()
	}
	if _, ok := w.good[name]; ok {
		fault += "; its last good content stays in force"
	}
	changed := w.faults[name] != fault
	w.faults[name] = fault
	return changed
}

func (w *watching) forget(name string) bool {
	delete(w.memory.Files, name)
	delete(w.good, name)
	delete(w.faults, name)
	return true
}

// next returns the set to be sent if it differs from the last, and tells what is wrong.
func (w *watching) next() ([]service.Instance, bool) {
	set, rejected := w.assemble()
	w.tell(rejected)
	if !w.known || w.sent != nil && reflect.DeepEqual(set, w.sent) {
		return nil, false
	}
	w.sent = set
	return set, true
}

// send sends the next set if there is one.
func (w *watching) send(ctx context.Context, sets chan<- []service.Instance) error {
	set, ok := w.next()
	if !ok {
		return nil
	}
	select {
	case sets <- set:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// assemble makes the set of all files in the order of their names, and lists what is not in it.
func (w *watching) assemble() ([]service.Instance, []service.Rejection) {
	set, rejected := []service.Instance{}, []service.Rejection{}
	if w.away != "" {
		rejected = append(rejected, w.rejection(w.Dir, "", fmt.Sprintf("services directory %s: %s", w.Dir, w.away)))
	}
	for _, name := range sortedNames(w.faults) {
		rejected = append(rejected, w.rejection(name, "", w.faults[name]))
	}
	now := time.Now()
	w.declared = map[string]string{}
	for _, name := range sortedNames(w.good) {
		for _, d := range w.good[name] {
			at := fmt.Sprintf("%s:%d:%d", name, d.at.line, d.at.column)
			i, err := w.instance(&d, now)
			if err != nil {
				rejected = append(rejected, w.rejection(at, d.service, eachLine(name, err)))
				continue
			}
			w.declared[i.ID] = at
			set = append(set, i)
		}
	}
	slices.SortFunc(set, func(a, b service.Instance) int { return cmp.Compare(a.ID, b.ID) })
	return set, rejected
}

// instance is what a declaration comes to, unless another one says the same.
func (w *watching) instance(d *declaration, now time.Time) (service.Instance, error) {
	if d.err != nil {
		return service.Instance{}, d.err
	}
	id := service.DeclaredID(service.FromFile, d.service, d.endpoint)
	if other, ok := w.declared[id]; ok {
		return service.Instance{}, d.at.wrong(fmt.Errorf("service %s has %s already, from %s: remove one of the two", d.service, d.endpoint, other))
	}
	i, err := w.Host.Instance(service.FromFile, &d.def, d.endpoint, w.memory.since(id, now))
	if err != nil {
		return service.Instance{}, d.at.wrong(err)
	}
	return i, nil
}

// rejection reports a file or an entry that is left out, in one sentence of bounded length without
// what a terminal would obey.
func (w *watching) rejection(what, name, reason string) service.Rejection {
	const most = 1000
	reason = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(reason, ""))
	if len(reason) > most {
		reason = strings.ToValidUTF8(reason[:most], "") + "…"
	}
	return service.Rejection{Kind: service.RejectedFile, Service: name, Node: w.Host.Node, Name: what, Reason: reason}
}

// eachLine puts the file's name before each of joined errors, which begin with their place in it.
func eachLine(name string, err error) string {
	return name + ":" + strings.ReplaceAll(err.Error(), "\n", "; "+name+":")
}

// tell logs what is newly wrong, and hands the whole over if it changed.
func (w *watching) tell(rejected []service.Rejection) {
	if w.told != nil && slices.Equal(rejected, w.told) {
		return
	}
	for _, r := range rejected {
		if !slices.Contains(w.told, r) {
			w.Log.WithFields(logrus.Fields{"directory": w.Dir, "service": r.Service, "reason": r.Reason}).Warn("services file is not taken as it is")
		}
	}
	if len(rejected) == 0 && len(w.told) > 0 {
		w.Log.WithField("directory", w.Dir).Info("services files are in order again")
	}
	w.told = rejected
	if w.Rejected != nil {
		w.Rejected(slices.Clone(rejected))
	}
}
