package confd

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/internal/holdoff"
)

// firstRetry is how long after a failure it is tried again for the first time.
const firstRetry = time.Second

// worker keeps the file of one resource as it should be.
type worker struct {
	*Server
	name     string
	owed     *owed
	resource *Resource // the director's
	in       chan *definition
	out      chan<- outcome
	end      context.CancelFunc
	done     chan struct{}
}

// outcome is how a worker does.
type outcome struct {
	name string
	err  error
}

// start starts a worker.
func (d *director) start(ctx context.Context, name string) *worker {
	ctx, end := context.WithCancel(ctx)
	w := &worker{Server: d.Server, name: name, owed: d.owed, in: make(chan *definition, 1), out: d.outcomes, end: end, done: make(chan struct{})}
	d.workers[name] = w
	d.states[name] = fmt.Errorf("%s: %w", name, errUnread)
	go func() {
		defer close(w.done)
		w.work(ctx)
	}()
	return w
}

// stop ends a worker and all that it has started.
func (d *director) stop(name string) {
	if w := d.workers[name]; w != nil {
		w.end()
		<-w.done
	}
	delete(d.workers, name)
	delete(d.states, name)
}

// give hands a definition over in the place of one that the worker has not taken yet.
func (w *worker) give(d *definition) {
	select {
	case <-w.in:
	default:
	}
	w.in <- d
}

// work is what a worker knows.
type work struct {
	def     *definition
	watch   *watch
	keys    map[string]string // nil while unknown
	used    map[string]content
	lookups *lookups
	retry   *time.Timer
	pause   *backoff.ExponentialBackOff
	rested  time.Time // when the next reload may be
	err     error     // of the last attempt
	unknown error     // why keys may be older than they look
}

func (w *worker) work(ctx context.Context) {
	st := &work{
		watch: &watch{}, lookups: newLookups(), retry: time.NewTimer(time.Hour),
		pause: &backoff.ExponentialBackOff{InitialInterval: cmp.Or(w.retry, firstRetry), RandomizationFactor: 0.3, Multiplier: 2, MaxInterval: time.Minute},
	}
	st.retry.Stop()
	st.pause.Reset()
	refresh := time.NewTicker(cmp.Or(w.Refresh, refreshEvery))
	defer refresh.Stop()
	defer func() { st.watch.stop() }()
	for ctx.Err() == nil {
		due := false
		select {
		case def := <-w.in:
			due = w.define(ctx, st, def)
		case st.keys = <-st.watch.keys:
			due = true
		case st.unknown = <-st.watch.reports:
			w.tell(ctx, st)
		case <-st.retry.C:
			due = true
		case <-refresh.C:
			due = !st.dated()
		case <-ctx.Done():
		}
		if rest := time.Until(st.rested); due && rest > 0 {
			st.retry.Reset(rest) // what changes until then is one more reload, not many
		} else if due && st.keys != nil {
			w.attempt(ctx, st)
		}
	}
}

// define takes a definition, and tells whether it may make another file.
func (w *worker) define(ctx context.Context, st *work, def *definition) (due bool) {
	before := st.def
	st.def = def
	if before == nil || !before.same(def) {
		if before == nil || !before.resource.sameKeys(def.resource) {
			st.keys = nil
			st.watch.stop()
			st.watch = w.follow(ctx, def.resource)
			if len(def.resource.Roots) == 0 {
				st.keys = map[string]string{}
			}
		}
		return true
	}
	for path, c := range st.used {
		if def.files[path] != c {
			return true
		}
	}
	return false
}

// dated tells whether the file holds the time, so that it would be another each time it is made.
func (st *work) dated() bool {
	for _, c := range st.used {
		if strings.Contains(c.text, "datetime") {
			return true
		}
	}
	return false
}

// attempt makes the file and puts it into its place. What fails is tried again, later each time.
func (w *worker) attempt(ctx context.Context, st *work) {
	text, used, err := w.render(ctx, st.def, st.keys, st.lookups)
	st.used = used
	reloaded := false
	if err == nil {
		reloaded, err = w.apply(ctx, st.def, text, w.owed)
	}
	if reloaded {
		st.rested = time.Now().Add(max(w.ReloadInterval, st.def.resource.reloadInterval))
	}
	if ctx.Err() != nil {
		return
	}
	st.err = err
	st.retry.Stop()
	if err != nil {
		st.retry.Reset(st.pause.NextBackOff())
	} else {
		st.pause.Reset()
	}
	w.tell(ctx, st)
}

// tell tells the director how things are.
func (w *worker) tell(ctx context.Context, st *work) {
	err := st.err
	if err == nil && st.unknown != nil {
		err = fmt.Errorf("%s: its keys cannot be followed: %w", w.name, st.unknown)
	}
	if err == nil && st.keys == nil {
		err = fmt.Errorf("%s: %w", w.name, errUnread)
	}
	select {
	case w.out <- outcome{name: w.name, err: err}:
	case <-ctx.Done():
	}
}

// apply makes a target what it should be: checked, replaced, announced. It tells whether it was announced.
func (s *Server) apply(ctx context.Context, d *definition, text []byte, owed *owed) (reloaded bool, err error) {
	if reloaded, err = s.put(ctx, d, text, owed); err != nil {
		return false, fmt.Errorf("%s: %w", d.resource.Name, err)
	}
	return reloaded, nil
}

func (s *Server) put(ctx context.Context, d *definition, text []byte, owed *owed) (reloaded bool, err error) {
	r := d.resource
	t, err := r.target(text)
	if err != nil {
		return false, err
	}
	differs, err := t.compare()
	if err != nil {
		return false, err
	}
	log := s.Log.WithFields(logrus.Fields{"resource": r.Name, "dest": r.Dest, "change": differs.String()})
	switch {
	case d.options.Noop && differs.any():
		log.Warn("would be written, without noop")
		return false, nil
	case d.options.Noop:
		return false, nil
	case differs.any():
		if err := s.write(ctx, d, t, owed); err != nil {
			return false, err
		}
		log.Info("file written")
	}
	if d.options.SyncOnly || r.reload == "" || !owed.has(r.Dest) {
		return false, nil
	}
	if err := s.reload(ctx, r); err != nil {
		return false, err
	}
	owed.set(r.Dest, false)
	return true, nil
}

// write stages the target, has it checked, and puts it into its place.
func (s *Server) write(ctx context.Context, d *definition, t target, owed *owed) error {
	staged, err := t.stage()
	if err != nil {
		return err
	}
	defer os.Remove(staged) // gone already after the rename
	r, commands := d.resource, !d.options.SyncOnly
	if commands && r.check != nil {
		if err := s.check(ctx, r, staged); err != nil {
			return renamed{err, staged, r.Dest}
		}
	}
	if commands && r.reload != "" {
		owed.set(r.Dest, true) // before the file can be seen: what ends us in between costs no reload
	}
	return t.replace(staged)
}

// renamed is an error about a staged file, by its later name: its own is another each time, and gone by the
// time it is read.
type renamed struct {
	error
	staged, dest string
}

func (r renamed) Error() string { return strings.ReplaceAll(r.error.Error(), r.staged, r.dest) }
func (r renamed) Unwrap() error { return r.error }

// watch follows the keys of one resource.
type watch struct {
	keys    chan map[string]string // nil without roots
	reports chan error             // how the registry does, whenever that is something else
	end     context.CancelFunc
	ended   sync.WaitGroup
}

func (w *worker) follow(ctx context.Context, r *Resource) *watch {
	ctx, end := context.WithCancel(ctx)
	f := &watch{end: end}
	if len(r.Roots) == 0 {
		return f
	}
	f.keys, f.reports = make(chan map[string]string), make(chan error)
	sets := make(chan map[string]string)
	failing := false
	report := func(err error) {
		if failing == (err != nil) {
			return
		}
		failing = err != nil
		select {
		case f.reports <- err:
		case <-ctx.Done():
		}
	}
	source, settle := w.from(r), cmp.Or(r.settle, w.Settle)
	f.ended.Go(func() { _ = source.Run(ctx, r.Roots, sets, report) })
	f.ended.Go(func() { _ = holdoff.Run(ctx, settle, max(settle, w.SettleMax), sets, f.keys) })
	return f
}

func (f *watch) stop() {
	if f.end != nil {
		f.end()
	}
	f.ended.Wait()
}
