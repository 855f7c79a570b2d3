package haproxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// Driver is the one writer of a HAProxy: nothing else changes its files, reloads it or sends it
// runtime commands. Rendered files go in by Run, or one set at a time by Apply.
type Driver struct {
	cfg    Config
	store  store
	master masterCLI
	api    runtimeAPI
	child  *Supervisor   // nil in external mode
	turn   chan struct{} // holding its one token is the right to act and to touch what follows
	wake   chan struct{} // tells Run that there is work in the background

	running  render.Files // in force, nil when not known
	reading  *reading     // of running, nil when not known
	unknown  Reason       // why running is nil, if that is more than the start
	worker   Worker       // the one that runs it
	can      Capabilities
	onDisk   render.Files // what we last saw or put on disk, nil when not known
	diskTime time.Time    // when we put it there
	epoch    int          // changes whenever what is on disk must not be touched by earlier plans
	dirtied  time.Time    // when running came to differ from the disk, zero when it does not
	changed  time.Time    // when running changed last
	unsure   bool         // the worker must be asked who it is before running is believed
	leaving  map[string]*departure
	reloaded time.Time // when the last reload was made
	refusal  refusal
	foreign  bool // another version than our own runs, so that the check is no proof

	mu    sync.Mutex
	view  State
	shown render.Files // running, for State
}

// departure is a server that is out of service and waits for its deletion.
type departure struct {
	Command
	since time.Time
}

// refusal is the last text that was refused.
type refusal struct {
	hash  [32]byte
	err   *Refused
	until time.Time // when it is worth another try
}

var _ Applier = (*Driver)(nil)

// NewDriver returns a driver that does nothing before Run or Apply. Every fault of cfg is reported.
func NewDriver(cfg Config) (*Driver, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	d := &Driver{
		cfg: cfg, store: store{cfg.Path}, master: masterCLI{cfg.MasterSocket}, api: runtimeAPI{cfg.RuntimeSocket},
		turn: make(chan struct{}, 1), wake: make(chan struct{}, 1), leaving: map[string]*departure{},
		view: State{Status: "waiting for the first configuration", Reloads: map[string]uint64{}},
	}
	d.turn <- struct{}{}
	if cfg.Managed {
		d.child = NewSupervisor(cfg)
	}
	return d, nil
}

// acquire waits for the right to act.
func (d *Driver) acquire(ctx context.Context) error {
	select {
	case <-d.turn: // also for a cancelled ctx, if nobody else is at work
		return nil
	default:
	}
	select {
	case <-d.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *Driver) release() { d.turn <- struct{}{} }

// Apply makes HAProxy run want, waiting for the reload interval if need be. What it leaves to the
// background, the file on disk after runtime commands and the deletion of servers in use, is done by
// Run. A refused text gives an error that wraps *Refused.
func (d *Driver) Apply(ctx context.Context, want render.Files) (Result, error) {
	for {
		res, wait, err := d.attempt(ctx, want)
		if err != nil || wait == 0 {
			return res, err
		}
		if err := pause(ctx, wait); err != nil {
			return res, err
		}
	}
}

// attempt is one try to make HAProxy run want. A wait says that a reload is due after it.
func (d *Driver) attempt(ctx context.Context, want render.Files) (Result, time.Duration, error) {
	if err := d.acquire(ctx); err != nil {
		return Result{How: HowNone}, 0, err
	}
	defer d.release()
	began := time.Now()
	res, wait, err := d.step(ctx, want)
	res.Took = time.Since(began)
	d.publish(res, wait, err)
	return res, wait, err
}

// step decides which path a change takes.
func (d *Driver) step(ctx context.Context, want render.Files) (Result, time.Duration, error) {
	none := Result{How: HowNone}
	if d.running != nil && !d.unsure && sameFiles(d.running, want) {
		d.running = want // its blocks may be cut better
		return none, 0, nil
	}
	if err := d.store.valid(want); err != nil {
		return none, 0, err
	}
	if err := d.connect(ctx); err != nil {
		return none, 0, errors.Join(err, d.leaveForStart(ctx, want))
	}
	old := d.running
	diff := diff(d.running, want, d.can, d.reading)
	if d.running == nil && d.unknown.needed() {
		diff.reason = d.unknown
	}
	res := none
	n, err := d.runtimePart(ctx, want, diff)
	if n > 0 {
		res = Result{How: HowRuntime, Commands: n}
	}
	if _, ok := errors.AsType[*commandError](err); ok {
		diff.reload(ReasonRefused, err.Error())
	} else if err != nil {
		return res, 0, err
	}
	if !diff.reason.needed() {
		return res, 0, nil
	}
	res.Reason = diff.reason
	wait, err := d.reload(ctx, want)
	if err != nil && d.running == nil && old != nil && !d.unknown.needed() {
		d.settle(ctx, old)
	}
	if err == nil && wait == 0 {
		res.How = HowReload
	}
	return res, wait, err
}

// runtimePart runs the commands of a difference on the worker and notes what is in force after them.
func (d *Driver) runtimePart(ctx context.Context, want render.Files, diff *difference) (int, error) {
	if d.running == nil {
		return 0, nil
	}
	cmds := diff.commands()
	if err := d.change(ctx, cmds); err != nil {
		d.forget(Reason{})
		return 0, err
	}
	after := diff.afterCommands(d.running, want)
	if len(cmds) > 0 || !sameFiles(after, d.running) {
		d.dirty()
	}
	d.running, d.reading = after, nil
	if !diff.reason.needed() {
		d.reading = diff.reading
	}
	return len(cmds), nil
}

// dirty notes that what is in force is not on disk.
func (d *Driver) dirty() {
	d.changed = time.Now()
	if d.dirtied.IsZero() {
		d.dirtied = d.changed
	}
	d.poke()
}

// forget notes that what runs is not known any more.
func (d *Driver) forget(why Reason) {
	d.running, d.reading, d.unknown = nil, nil, why
	d.dirtied = time.Time{}
	d.epoch++
}

// poke wakes the loop up, if there is one.
func (d *Driver) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// connect finds out which worker answers and whether it runs what we think. Without an answer from
// either socket it returns an error. When only the master answers, what runs is not known.
func (d *Driver) connect(ctx context.Context) error {
	i, err := d.api.info(ctx)
	switch {
	case err == nil && i.stopping:
		return fmt.Errorf("the worker that answers at %s is stopping", d.cfg.RuntimeSocket)
	case err == nil && i.worker == d.worker:
		d.unsure = false
		return nil
	case err == nil:
		return d.adopt(ctx, i)
	}
	d.unsure = true
	_, masterErr := d.master.processes(ctx)
	nobody := errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)
	if masterErr != nil || !nobody {
		return fmt.Errorf("haproxy does not answer: %w", err)
	}
	d.forget(Reason{})
	d.worker = Worker{}
	return nil
}

// adopt takes over a worker that was not known. If it is certain that it runs the files on disk, no
// reload is needed.
func (d *Driver) adopt(ctx context.Context, i info) error {
	d.forget(Reason{})
	d.unsure = false
	d.worker, d.can, d.leaving = i.worker, i.capabilities(), map[string]*departure{}
	d.foreign = d.ownVersion(ctx) != i.version
	d.mu.Lock()
	d.view.Worker, d.view.Version, d.view.Verified = i.worker, i.version, !d.foreign
	d.mu.Unlock()
	files, certain := d.believed(i.worker)
	if !certain {
		return nil
	}
	live, err := d.api.servers(ctx)
	if err != nil {
		return err
	}
	m := compare(files[0].Text(), live, d.can, d.isLeaving)
	if m.count > 0 {
		return nil
	}
	if err := d.change(ctx, m.left); err != nil {
		return err
	}
	d.running, d.reading, d.onDisk = files, nil, files
	return d.store.writeApplied(files, i.worker)
}

// believed returns the files on disk if the worker surely runs them: it did so when we last looked,
// or it was started after we put them there.
func (d *Driver) believed(w Worker) (render.Files, bool) {
	note := d.store.readApplied()
	names := note.Files
	if d.onDisk != nil {
		names = namesOf(d.onDisk)
	}
	files, err := d.store.read(names)
	if err != nil {
		return nil, false
	}
	if note.Worker == w && note.Hash == textHash(files) {
		return files, true
	}
	later := d.onDisk != nil && sameFiles(files, d.onDisk) && w.Start > d.diskTime.Unix()
	return files, later
}

// namesOf are the names of the files besides the configuration.
func namesOf(files render.Files) []string {
	var names []string
	for _, f := range files[1:] {
		names = append(names, f.Name)
	}
	return names
}

// ownVersion is the version of the program that does our checks, "" if it does not say.
func (d *Driver) ownVersion(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, d.cfg.Bin, "-v").Output() // the operator names it
	if err != nil {
		return ""
	}
	words := strings.Fields(string(out))
	for i, w := range words {
		if strings.EqualFold(w, "version") && i+1 < len(words) {
			return words[i+1]
		}
	}
	return ""
}

// leaveForStart puts want on disk for an external HAProxy that does not run, so that it starts with
// it. A managed one is started with what was last in force.
func (d *Driver) leaveForStart(ctx context.Context, want render.Files) error {
	if d.cfg.Managed || (d.onDisk != nil && sameFiles(d.onDisk, want)) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(d.cfg.Path), 0o755); err != nil { //nolint:gosec // HAProxy runs as another user
		return err
	}
	c, err := d.candidate(ctx, want, nil, true)
	if err != nil {
		return err
	}
	defer c.discard() //nolint:errcheck // tidied at the next start
	if err := c.swap(); err != nil {
		return err
	}
	d.onDisk, d.diskTime = want, time.Now()
	d.epoch++
	return nil
}

// settle brings servers back to an earlier text after commands that failed half way and a reload
// that was refused, so that later changes have something to start from.
func (d *Driver) settle(ctx context.Context, files render.Files) {
	live, err := d.api.servers(ctx)
	if err != nil {
		return
	}
	m := compare(files[0].Text(), live, d.can, d.isLeaving)
	if m.reload != "" || d.change(ctx, m.repair) != nil {
		return
	}
	d.running, d.reading = files, nil
	d.dirty()
}

func (d *Driver) isLeaving(target string) bool {
	_, leaving := d.leaving[target]
	return leaving
}
