package declared

import (
	"cmp"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

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
	teller folder.Teller

	declared map[string]string // id → where, of the last set
	sent     []service.Instance
}

func (s *Source) watch() *watching {
	w := &watching{Source: s, memory: recall(s.Memory, s.Log), files: folder.Files[[]declaration]{
		Folder: folder.Folder{
			Dir: s.Dir, Item: servicesFile, Largest: largest,
			Advice: "spread its services over several files", Make: "make it, or leave --services-dir out",
		},
		Parse: parseFile,
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

// next returns the set to be sent if it is known and differs from the last, tells what is wrong, and keeps
// the memory.
func (w *watching) next(changed bool) (set []service.Instance, differs bool) {
	if changed {
		var rejected []service.Rejection
		set, rejected = w.assemble()
		w.teller.Tell(rejected)
		differs = w.files.Known() && (w.sent == nil || !reflect.DeepEqual(set, w.sent))
	}
	if differs {
		w.sent = set
	}
	if w.files.Known() {
		w.memory.Files = w.files.Texts()
		w.memory.keep(w.declared, time.Now())
	}
	return set, differs
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
