package haproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
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
	unmet    string       // since when it is nil, in words
	former   render.Files // in force before commands failed half way, nil if none did
	worker   Worker       // the one that runs it
	seat     seat         // of the master that last named this worker as its own
	can      Capabilities
	learned  learned
	onDisk   render.Files // what we last saw or put on disk, nil when not known
	diskTime time.Time    // when we put it there
	epoch    int          // changes whenever what is on disk must not be touched by earlier plans
	unseen   int          // how often commands ran whose effect cannot be read back
	dirtied  time.Time    // when running came to differ from the disk, zero when it does not
	changed  time.Time    // when running changed last
	unsure   bool         // the worker must be asked who it is before running is believed
	leaving  map[string]*departure
	parted   map[string]Command // servers that were removed since the file on disk said so
	reloaded time.Time          // when the last reload was made or its text refused
	apart    time.Time          // before which no reload is made, so that hosts do not make it together
	resorted time.Time          // when the last good text was loaded for want of the wanted one
	leaveAt  time.Time          // for a HAProxy that does not run, no text is left earlier
	refusal  refusal
	foreign  bool // another version than our own runs, so that the check is no proof
	warned   bool // that old workers are not bounded
	bulky    bool // the whole text and all servers were read, which takes much memory for a moment

	mu     sync.Mutex
	view   State
	shown  render.Files // running, for State
	behind bool         // the last attempt did not end with what was wanted in force
	here   presence
	// unfollowed is why the file on disk does not say what runs, nil if it does or soon will.
	unfollowed error

	bound lastBound // for Held

	together atomic.Int64 // until when, in Unix nanoseconds, a reload is one that all hosts make; 0 if none is
}

// departure is a server that is out of service and waits for its deletion.
type departure struct {
	Command

	Since time.Time
}

var _ Applier = (*Driver)(nil)

// NewDriver returns a driver that does nothing before Run or Apply. Every fault of cfg is reported.
func NewDriver(cfg Config) (*Driver, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	d := &Driver{
		cfg: cfg, store: store{path: cfg.Path, work: cfg.WorkDir}, master: masterCLI{cfg.MasterSocket}, api: runtimeAPI{cfg.RuntimeSocket},
		turn: make(chan struct{}, 1), wake: make(chan struct{}, 1), leaving: map[string]*departure{}, parted: map[string]Command{},
		view: State{Status: "waiting for the first configuration", Reloads: map[string]uint64{}},
		here: presence{since: time.Now()},
	}
	d.turn <- struct{}{}
	if cfg.Managed {
		d.child = NewSupervisor(cfg)
		d.child.ended = d.childEnded
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
	if err == nil && wait == 0 {
		d.store.dropRefused()
		if d.cfg.InForce != nil {
			d.cfg.InForce(want)
		}
	}
	res.Took = time.Since(began)
	d.publish(res, wait, err)
	return res, wait, err
}

// step decides which path a change takes.
func (d *Driver) step(ctx context.Context, want render.Files) (Result, time.Duration, error) {
	none := Result{How: HowNone}
	if d.running != nil && !d.unsure && sameFiles(d.running, want) {
		d.inForce(want, d.reading) // its blocks may be cut better
		return none, 0, nil
	}
	if err := d.store.valid(want); err != nil {
		return none, 0, err
	}
	if err := d.connect(ctx); err != nil {
		return none, 0, d.unconnected(ctx, want, err)
	}
	res, reason, err := d.byCommands(ctx, want)
	if err != nil || !reason.needed() {
		return res, 0, err
	}
	res.Reason = reason
	wait, err := d.reload(ctx, want)
	switch {
	case err != nil && d.running == nil:
		d.resort(ctx, want, err)
	case asRefused(err) != nil && !isSilence(err):
		n, more := d.serversAlone(ctx, want)
		res.Commands += n
		err = errors.Join(err, more)
	}
	if err == nil && wait == 0 {
		res.How = HowReload
	}
	return res, wait, err
}

// serversAlone makes the changes of servers within a text that is refused: those that were left to its
// reload because they are many, and those in sections, or below defaults, that cannot be changed.
func (d *Driver) serversAlone(ctx context.Context, want render.Files) (commands int, err error) {
	_, n, err := d.runtimePart(ctx, want, false)
	if err != nil {
		return n, err
	}
	_, more, err := d.runtimePart(ctx, onlyServers(d.running, want), false)
	return n + more, err
}

// byCommands does what commands can, and says why the rest needs a reload.
func (d *Driver) byCommands(ctx context.Context, want render.Files) (Result, Reason, error) {
	if n, ok := d.catchUp(ctx, want); ok {
		return commanded(n), Reason{}, nil
	}
	refused, _ := d.refusal.of(want)
	diff, n, err := d.runtimePart(ctx, want, refused == nil && d.hearing() == nil)
	if !isRefusal(err) {
		return commanded(n), diff.reason, err
	}
	if n, ok := d.catchUp(ctx, want); ok { // what ran was perhaps not what we thought
		return commanded(n), Reason{}, nil
	}
	diff.reload(ReasonRefused, err.Error())
	d.unknown = diff.reason // also if the reload has to wait
	return commanded(0), diff.reason, nil
}

// commanded is the result of so many commands.
func commanded(n int) Result {
	if n == 0 {
		return Result{How: HowNone}
	}
	return Result{How: HowRuntime, Commands: n}
}

// unconnected leaves want to the start of a HAProxy that is not there, and adds to err what is in its
// way.
func (d *Driver) unconnected(ctx context.Context, want render.Files, err error) error {
	if silence, ok := errors.AsType[*silence](err); !ok || !silence.gone {
		return err
	}
	if obstacle := d.leaveForStart(ctx, want); obstacle != nil {
		return fmt.Errorf("%w; %w", err, obstacle)
	}
	return err
}

// isRefusal tells whether HAProxy refused a command.
func isRefusal(err error) bool {
	_, refused := errors.AsType[*commandError](err)
	return refused
}

// runtimePart finds out how want differs from what runs, does by commands what they can do, and notes
// what is in force after them. Many are left to a reload that is cheaper, if one may be had.
func (d *Driver) runtimePart(ctx context.Context, want render.Files, reloads bool) (*difference, int, error) {
	diff := diff(d.running, want, d.can, d.reading)
	if d.running == nil {
		diff.reason = cmp.Or(d.unknown, Reason{Kind: ReasonStart, Detail: diff.reason.Detail + d.unmet})
		return diff, 0, nil
	}
	if reloads {
		diff.preferReload(want)
	}
	cmds := diff.commands()
	unseen := d.before(cmds)
	if err := d.change(ctx, cmds); err != nil {
		former := d.running
		d.forget(Reason{})
		d.unmet = " since commands failed half way"
		if !unseen {
			d.former = former
		}
		return diff, 0, err
	}
	after := diff.afterCommands(d.running, want)
	if len(cmds) > 0 || !sameFiles(after, d.running) {
		d.dirty()
	}
	d.inForce(after, diff.reading)
	return diff, len(cmds), nil
}

// before prepares for commands whose effect cannot be read back, and tells whether there are any: if we
// are killed after them, the next agent must not take for known what this worker runs.
func (d *Driver) before(cmds []Command) (unseen bool) {
	for _, c := range cmds {
		unseen = c.unseen() || d.renewed(c) || unseen
		if c.Op == OpRemove {
			d.parted[c.target()] = c
		}
	}
	if unseen {
		d.unseen++
		d.store.dropApplied()
	}
	return unseen
}

// renewed tells whether a command adds a server whose name another one has in the file on disk: what
// HAProxy tells of a server does not show its words.
func (d *Driver) renewed(c Command) bool {
	old, ok := d.parted[c.target()]
	return ok && c.Op == OpAdd && !sameServer(old, c)
}

// inForce notes what runs.
func (d *Driver) inForce(files render.Files, r *reading) {
	d.running, d.reading, d.unknown, d.former = files, r, Reason{}, nil
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shown, d.here.texts = files, []render.Files{files}
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
	d.running, d.reading, d.unknown, d.former = nil, nil, why, nil
	d.dirtied = time.Time{}
	d.epoch++
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shown = nil
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
	case err == nil:
		return d.connected(ctx, i)
	}
	d.unsure = true
	_, masterErr := d.master.processes(ctx)
	if masterErr != nil || !unserved(err) {
		return d.silent(err, masterErr)
	}
	if w, lost := d.master.worker(ctx); lost == nil && w == d.worker {
		return &silence{cause: &unreachable{cause: err, mend: d.cfg.restart()}} // a reload would not bring its socket back
	}
	d.answered(Worker{})
	d.forget(Reason{})
	d.worker, d.unmet = Worker{}, ", for haproxy's master answers and its worker does not"
	return nil
}

// connected goes on with the worker that answers, if no other one has its place.
func (d *Driver) connected(ctx context.Context, i info) error {
	if err := d.verify(ctx, i.worker); err != nil {
		d.unsure = true
		if d.silentFor(0) {
			d.answered(i.worker) // it holds its addresses all the same
		}
		return err
	}
	if i.worker != d.worker {
		return d.adopt(ctx, i)
	}
	d.answered(i.worker)
	d.unsure = false
	return nil
}

// meet notes who the worker is.
func (d *Driver) meet(i info) {
	d.worker, d.can, d.leaving, d.bulky = i.worker, d.learned.by(i.version), map[string]*departure{}, true
	d.answered(i.worker)
	started(d.cfg.Path) //nolint:errcheck // there seldom is a note, and it does little harm
	d.mu.Lock()
	defer d.mu.Unlock()
	d.view.Version = i.version
}

// adopt takes over a worker that was not known. If it is certain that it runs the files on disk, no
// reload is needed.
func (d *Driver) adopt(ctx context.Context, i info) error {
	d.forget(Reason{})
	d.unsure, d.unmet = false, unmet(d.worker == (Worker{}) && d.unmet == "", d.child != nil)
	d.meet(i)
	d.refusal.lift(i.worker)
	d.foreign = d.ownVersion(ctx) != i.version
	files, certain := d.believed(i.worker)
	d.recall(i.worker)
	if !certain {
		return nil
	}
	d.learn(ctx, files[0].Text())
	m, err := d.compared(ctx, files)
	if err != nil {
		return err
	}
	if len(m.what) > 0 {
		d.former = files // and what an agent before us did since
		d.unmet = ": it is not what is on disk: " + some(m.what)
		return nil
	}
	if err := d.change(ctx, m.left); err != nil {
		return err
	}
	d.inForce(files, nil)
	d.onDisk = files
	d.note(files)
	return nil
}

// recall takes over the servers that an agent before us has left waiting for their deletion: their
// sessions go on for as long as their lines said.
func (d *Driver) recall(w Worker) {
	note := d.store.readApplied()
	if note.Worker != w {
		return
	}
	for target, gone := range note.Leaving {
		if gone != nil && gone.target() == target {
			d.leaving[target] = gone
		}
	}
	d.poke()
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
	ctx, cancel := context.WithTimeout(ctx, versionLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, d.cfg.Bin, "-v") // the operator names it
	cmd.WaitDelay = pipeLimit
	out, err := cmd.Output()
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

// leaveShare bounds what is spent on texts for a HAProxy that does not run, each of which costs a check and
// a write of everything: 1/10 of a core while changes go on.
const leaveShare = 10

// leaveForStart puts want on disk for a HAProxy that does not run, so that it starts with it, and says
// why it may not. A managed one is first started with what was last in force.
func (d *Driver) leaveForStart(ctx context.Context, want render.Files) error {
	overdue := d.silentFor(startGrace)
	if d.cfg.Managed && !overdue {
		return nil
	}
	if err := d.refusal.holds(want); err != nil {
		return err
	}
	disk := d.disk()
	held := disk
	if overdue {
		held = nil
	}
	if disk != nil && sameFiles(disk, want) {
		return d.startable(ctx, held, want)
	}
	began := time.Now()
	if began.Before(d.leaveAt) {
		return nil // the next attempt that is not too early does it
	}
	defer func() { d.leaveAt = began.Add(leaveShare * time.Since(began)) }()
	c, err := d.candidate(ctx, want, held, true)
	if err != nil {
		return err
	}
	defer c.discard() //nolint:errcheck // tidied at the next start
	if err := c.swap(); err != nil {
		return err
	}
	d.onDisk, d.diskTime = want, time.Now()
	d.epoch++
	d.prune()
	return nil
}

// startable finds out whether another program has what HAProxy needs for its start.
func (d *Driver) startable(ctx context.Context, held, want render.Files) error {
	if !d.cfg.Managed && !d.cfg.SameNetwork {
		return nil
	}
	return probe(ctx, held, want, false)
}
