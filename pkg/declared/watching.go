package declared

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/internal/folder"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// largest is the size of a services file, in bytes.
const largest = 1 << 20

// watching is the state of one Run.
type watching struct {
	*Source
	files  folder.Files[[]declaration]
	memory *memory

	declared map[string]string // id → where, of the last set
	sent     []service.Instance
	told     []service.Rejection
}

func (s *Source) watch() *watching {
	w := &watching{Source: s, memory: recall(s.Memory, s.Log), files: folder.Files[[]declaration]{
		Folder: folder.Folder{Dir: s.Dir, Item: servicesFile, Largest: largest, Advice: "spread its services over several files"},
		Parse:  parseFile,
		Make:   "make it, or leave --services-dir out",
	}}
	w.files.Recall(w.memory.Files)
	return w
}

// servicesFile tells which files are services files: each by itself.
func servicesFile(name string) string {
	if ext := filepath.Ext(name); ext == ".yaml" || ext == ".yml" {
		return name
	}
	return ""
}

func parseFile(name, text string) ([]declaration, error) {
	list, err := declarations(text)
	if err != nil {
		return nil, fmt.Errorf("%s:%w", name, err) // it begins with its place
	}
	return list, nil
}

// next returns the set to be sent if it differs from the last, and tells what is wrong.
func (w *watching) next() ([]service.Instance, bool) {
	set, rejected := w.assemble()
	w.tell(rejected)
	if !w.files.Known() || w.sent != nil && reflect.DeepEqual(set, w.sent) {
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
	if away := w.files.Away(); away != "" {
		rejected = append(rejected, w.rejection(w.Dir, "", fmt.Sprintf("services directory %s: %s", w.Dir, away)))
	}
	for name, fault := range w.files.Faults() {
		rejected = append(rejected, w.rejection(name, "", fault))
	}
	now := time.Now()
	w.declared = map[string]string{}
	for name, list := range w.files.Good() {
		for _, d := range list {
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
