package confd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// lookEvery is the time between two looks at the directory. It is looked at instead of subscribed to,
	// because what is mounted into a container changes without a notice.
	lookEvery = time.Second
	// lookAgain is the time until the next look while something changes: what is seen twice counts.
	lookAgain = 100 * time.Millisecond
	// refreshEvery is how often a file is made anew although no key changed, as confd's -interval does by
	// default: templates ask DNS and this host as well, and somebody may have changed the file.
	refreshEvery = 10 * time.Minute
)

// Source follows keys of a registry.
type Source interface {
	// Run sends the complete set of the keys that are one of the roots or lie below one, once all of it
	// was read, and after each change, until ctx is cancelled. What is sent belongs to the reader. A set
	// stays true, as far as is known, while report is given errors: unknown is not empty. There is at
	// least one root, and none lies below another.
	Run(ctx context.Context, roots []string, out chan<- map[string]string, report func(error)) error
}

// Server serves a directory.
type Server struct {
	Dir string
	// Config is the confd.toml, for whoever has acted on what it says of the registry, as [ParseLine] does;
	// if empty, it is Dir's, and all that it says of that is told to have no meaning.
	Config string
	// Options count before those in confd.toml.
	Options Options
	// JoinPrefix puts the prefix for all resources before a resource's own, as confd does since 0.32, instead of in its place.
	JoinPrefix bool
	// Reserved are files that no resource may write; the text says whose.
	Reserved map[string]string
	// Keys is the registry.
	Keys Source
	// Backend is where keys come from, if not from the registry; a resource may name another.
	Backend Backend
	// Final tells of an error of Keys whether waiting cannot mend it, so that Once does not wait. It may be nil.
	Final func(error) bool
	// Environ are variables, as os.Environ gives them: those that templates ask for, and the keys of the backend env.
	Environ []string
	// Settle and SettleMax hold bursts of changes off, as in package holdoff.
	Settle, SettleMax time.Duration
	// Memory is a file for the reloads that are still to come when the process ends. None if empty.
	Memory string
	// CheckLimit and ReloadLimit are how long commands may take; 30 s if zero.
	CheckLimit, ReloadLimit time.Duration
	// ReloadInterval is the least time between two reloads of one resource; a resource may ask for more.
	ReloadInterval time.Duration
	// FailFast lets Once end at the first resource that fails.
	FailFast bool
	// Refresh is how often a file is made anew without a change; 10 minutes if zero.
	Refresh time.Duration

	Log logrus.FieldLogger
	// Report is told how all resources do: nil, or what is wrong with which. It may be nil, and is called
	// from Run's goroutine.
	Report func(error)

	every, again, retry time.Duration // other than the usual, for tests
}

// definition is all that a worker works by, beside keys.
type definition struct {
	resource *Resource
	text     string // of the resource file
	options  Options
	keyring  string
	files    map[string]content
}

// same tells whether two definitions differ in templates at most.
func (d *definition) same(other *definition) bool {
	return d.text == other.text && d.options == other.options && d.keyring == other.keyring
}

// errUnread is what is wrong with a resource at first.
var errUnread = errors.New("its keys have not been read yet")

func (s *Server) folder() folder {
	return folder{dir: s.Dir, config: cmp.Or(s.Config, filepath.Join(s.Dir, "confd.toml"))}
}

// director is what Run knows.
type director struct {
	*Server
	folder   folder
	taken    *snapshot // what is in force; nil before the first look
	seen     *snapshot // at the last look, if that was something else
	options  *Options  // last good ones
	keyring  string
	named    []string // the files that resources name
	workers  map[string]*worker
	outcomes chan outcome
	faults   map[string]error // what is wrong, by resource file, confd.toml, or conf.d
	states   map[string]error // how workers do
	said     map[string]string
	noted    map[string]string
	owed     *owed
}

// Run serves the directory until ctx is cancelled. It returns after all that it started has ended.
func (s *Server) Run(ctx context.Context) error {
	d := &director{
		Server: s, folder: s.folder(), workers: map[string]*worker{}, outcomes: make(chan outcome),
		faults: map[string]error{}, states: map[string]error{}, said: map[string]string{}, noted: map[string]string{},
		owed: newOwed(s.Memory, s.Log),
	}
	defer func() {
		for name := range d.workers {
			d.stop(name)
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			next := cmp.Or(d.every, lookEvery)
			if d.look(ctx) {
				next = cmp.Or(d.again, lookAgain)
			}
			timer.Reset(next)
		case o := <-d.outcomes:
			d.states[o.name] = o.err
			d.tell(true)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// look looks at the directory, and tells whether something is changing there.
func (d *director) look(ctx context.Context) (moving bool) {
	now, err := d.folder.look(d.named)
	if err != nil {
		d.faults["conf.d"] = fmt.Errorf("directory cannot be read; what is served stays so: %w", err)
		d.tell(true)
		return false
	}
	delete(d.faults, "conf.d")
	switch {
	case d.taken == nil, d.seen != nil && d.seen.same(now) && !d.taken.same(now):
		d.taken, d.seen = now, nil
		d.take(ctx)
		d.tell(true)
		return d.more()
	case d.taken.same(now):
		d.seen = nil
		d.tell(false)
		return false
	}
	d.seen = now
	return true
}

// more finds out which files resources name, which may be hidden, or lie outside the directory of templates, and
// whether that changed.
func (d *director) more() bool {
	before := d.named
	d.named = nil
	for _, name := range slices.Sorted(maps.Keys(d.workers)) {
		d.named = append(d.named, d.source(d.workers[name].resource))
	}
	return !slices.Equal(before, d.named)
}

// take puts what was seen into force.
func (d *director) take(ctx context.Context) {
	clear(d.faults)
	d.takeOptions()
	if d.options == nil {
		return // without the prefix no key is known
	}
	if len(d.taken.resources) == 0 {
		d.Log.WithField("directory", d.Dir).Warn("conf.d has no resource file (*.toml)")
	}
	writers := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(d.taken.resources)) {
		d.takeResource(ctx, name, d.taken.resources[name], writers)
	}
	for name := range d.workers {
		if _, there := d.taken.resources[name]; !there {
			d.stop(name)
			d.Log.WithField("resource", name).Info("resource file is gone: its file stays as it is")
		}
	}
}

// takeOptions reads confd.toml. While it is bad, the last good one counts.
func (d *director) takeOptions() {
	o, keyring, notes, err := d.read(d.taken)
	if err != nil {
		d.faults["confd.toml"] = err
		return
	}
	d.options, d.keyring = &o, keyring
	d.note("confd.toml", notes)
}

// read reads a snapshot's confd.toml and the keyring that it names.
func (s *Server) read(now *snapshot) (o Options, keyring string, notes []string, err error) {
	if now.options.fault != "" {
		return o, "", nil, fmt.Errorf("confd.toml: %s", now.options.fault)
	}
	if o, notes, err = parseOptions(now.options.text, s.Config != ""); err != nil {
		return o, "", nil, err
	}
	o = s.Options.over(o)
	if o.Keyring != "" {
		c := (&folder{seen: map[string]sight{}}).read(nil, o.Keyring, largestTemplate)
		if c.fault != "" {
			return o, "", nil, fmt.Errorf("secret_keyring %s: %s", o.Keyring, c.fault)
		}
		keyring = c.text
	}
	return o, keyring, notes, nil
}

// takeResource gives a resource to its worker. While the file is bad, its last good content counts;
// a file that another resource writes already is left to that one.
func (d *director) takeResource(ctx context.Context, name string, c content, writers map[string]string) {
	def, notes, err := d.define(name, c, d.taken, *d.options, d.keyring)
	if err != nil {
		d.faults[name] = err
		if w := d.workers[name]; w != nil {
			writers[w.resource.Dest] = name
		}
		return
	}
	d.note(name, notes)
	if err := d.allowed(def.resource, writers); err != nil {
		d.faults[name] = err
		d.stop(name)
		return
	}
	w := d.workers[name]
	if w == nil {
		w = d.start(ctx, name)
	}
	w.resource = def.resource
	w.give(def)
}

// define makes a definition of a resource file.
func (s *Server) define(name string, c content, now *snapshot, o Options, keyring string) (*definition, []string, error) {
	if c.fault != "" {
		return nil, nil, fmt.Errorf("%s: %s", name, c.fault)
	}
	r, notes, err := parseResource(name, c.text, prefix{o.Prefix, s.JoinPrefix})
	if err != nil {
		return nil, nil, err
	}
	if s.Backend.Name != "" && strings.HasPrefix(r.backend.Name, "etcd") {
		return nil, nil, fmt.Errorf("%s: backend %s: there is no registry, since the keys come from the backend %s: start with -backend etcdv3", name, r.backend.Name, s.Backend.Name)
	}
	return &definition{resource: r, text: c.text, options: o, keyring: keyring, files: now.files}, notes, nil
}

// allowed refuses a file that somebody else writes.
func (s *Server) allowed(r *Resource, writers map[string]string) error {
	dest := place(r.Dest)
	if other, taken := writers[dest]; taken {
		return fmt.Errorf("%s: dest %s is that of %s already: give one of them another", r.Name, r.Dest, other)
	}
	for path, whose := range s.Reserved {
		if dest == place(path) {
			return fmt.Errorf("%s: dest %s is %s", r.Name, r.Dest, whose)
		}
	}
	writers[dest] = r.Name
	return nil
}

// place is where a file is, whatever links its directory is named by.
func place(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		dir = filepath.Dir(path)
	}
	return filepath.Join(dir, filepath.Base(path))
}

// note logs once what a file says that is not acted on.
func (d *director) note(name string, what []string) {
	text := strings.Join(what, ", ")
	if d.noted[name] != text {
		d.logNotes(name, what)
	}
	d.noted[name] = text
}

func (s *Server) logNotes(name string, what []string) {
	if len(what) > 0 {
		s.Log.WithFields(logrus.Fields{"file": name, "keys": strings.Join(what, ", ")}).
			Warn("nothing acts on these keys; docs/confd.md lists those that count")
	}
}

// tell logs what has become wrong or right, and reports how all do. What goes on failing is reported only
// when something happened, and waiting for the first keys is neither success nor failure.
func (d *director) tell(news bool) {
	wrong := maps.Clone(d.faults)
	for name, err := range d.states {
		if err != nil && wrong[name] == nil {
			wrong[name] = err
		}
	}
	var errs []error
	waiting := len(wrong) > 0
	for _, name := range slices.Sorted(maps.Keys(wrong)) {
		err := wrong[name]
		errs = append(errs, err)
		if errors.Is(err, errUnread) {
			continue
		}
		waiting = false
		if d.said[name] != err.Error() {
			d.said[name] = err.Error()
			d.Log.WithField("resource", name).Warn(err)
		}
	}
	for name := range d.said {
		if wrong[name] == nil {
			delete(d.said, name)
			d.Log.WithField("resource", name).Info("in order again")
		}
	}
	if d.Report != nil && !waiting && (news || len(errs) == 0) {
		d.Report(errors.Join(errs...))
	}
}
