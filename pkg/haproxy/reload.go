package haproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

const (
	reloadLimit = 15 * time.Second // HAProxy tries for seconds to get an address that is taken
	finishLimit = 3 * time.Second  // what is begun may take this long when we are asked to stop
	spreadFor   = time.Minute      // in which a registry that is back has all its changes: registrations, and expiries
)

// reload puts want in force by a checked and confirmed reload. A wait says that it is too soon for
// one, whether the last was made or refused. A text that was refused a short while ago is not tried
// again.
func (d *Driver) reload(ctx context.Context, want render.Files) (time.Duration, error) {
	if err := d.refusal.holds(want); err != nil {
		return 0, err
	}
	if soon := time.Until(d.nextReload()); soon > 0 {
		return soon, nil
	}
	if err := d.reloadable(ctx); err != nil {
		return 0, err
	}
	held, known := d.listens(ctx)
	c, err := d.candidate(ctx, want, held, known)
	if err != nil {
		return 0, err
	}
	defer c.discard() //nolint:errcheck // tidied at the next start
	d.reloaded = time.Now()
	err = d.load(ctx, c)
	d.conclude(want, err)
	return 0, err
}

// Spread lets the next reload wait for a random part of the reload interval, if it comes within a
// minute. It is for the return of a registry, when all hosts see the same changes at the same moments:
// once the first reloads have come apart, the interval keeps the later ones apart too. What commands can
// do is not delayed, nor is the first text of a HAProxy. It may be called at any time, and does not block.
func (d *Driver) Spread() { d.together.Store(time.Now().Add(spreadFor).UnixNano()) }

// nextReload is when the next reload may be made, at the earliest.
func (d *Driver) nextReload() time.Time {
	now, next := time.Now(), d.reloaded.Add(d.cfg.ReloadInterval)
	if now.UnixNano() < d.together.Swap(0) && d.running != nil && d.cfg.ReloadInterval > 0 {
		d.apart = latest(now, next).Add(rand.N(d.cfg.ReloadInterval)) //nolint:gosec // spreads hosts, protects nothing
	}
	return latest(next, d.apart)
}

// reloadable asks for the master before anything is touched for a reload. One that executes itself anew
// is waited for.
func (d *Driver) reloadable(parent context.Context) error {
	ctx, cancel := context.WithTimeout(parent, lookLimit)
	defer cancel()
	for {
		_, err := d.master.processes(ctx)
		if err == nil {
			return nil
		}
		if pause(ctx, pollEvery) != nil {
			return cmp.Or[error](parent.Err(), &deaf{path: d.cfg.MasterSocket, cause: err, mend: d.cfg.restart()})
		}
	}
}

// listens is the text whose addresses HAProxy itself holds, if that is known for certain. That the file
// on disk listens nowhere is no proof: HAProxy may have been started before that was put back.
func (d *Driver) listens(ctx context.Context) (files render.Files, known bool) {
	if d.running != nil {
		return d.running, true
	}
	files, err := d.store.read(nil)
	return files, err == nil && files[0].Text() == MinimalConfig(d.cfg) && d.api.listensNowhere(ctx)
}

// candidate stages and judges a text, and remembers it if it is refused. held is what HAProxy listens
// on, if that is known.
func (d *Driver) candidate(ctx context.Context, want, held render.Files, known bool) (candidate, error) {
	c, err := d.judged(ctx, want, held, known)
	if err != nil {
		d.reloaded = time.Now() // it costs as much of HAProxy's program as a reload
		d.conclude(want, err)
	}
	return c, err
}

// conclude remembers how a text fared. HAProxy speaks of lines of one that it refuses, and the file on
// disk is the last good one: so it is kept elsewhere, and the words name that place.
func (d *Driver) conclude(want render.Files, err error) {
	refused := asRefused(err)
	if refused != nil && (refused.Stage == StageCheck || refused.Stage == StageReload) {
		refused.Files = want
		if d.store.keepRefused(want) {
			refused.Words = strings.ReplaceAll(refused.Words, d.cfg.Path, d.store.refused())
		}
	}
	d.refusal.note(want, err)
}

// judged is a candidate that passed everything that can be found out before HAProxy loads it.
func (d *Driver) judged(ctx context.Context, want, held render.Files, known bool) (candidate, error) {
	haproxy, self := d.cfg.haproxyUser(), os.Geteuid()
	if err := drivable(want, d.cfg.RuntimeSocket, self != 0 && self != haproxy); err != nil {
		return candidate{}, err
	}
	if err := permitted(want, haproxy); err != nil {
		return candidate{}, err
	}
	if err := d.probe(ctx, want, held, known); err != nil {
		return candidate{}, err
	}
	c, err := d.store.stage(want)
	if err != nil {
		return candidate{}, err
	}
	go c.proxies()
	d.provideStates(want)
	if err := d.judge(ctx, c, d.foreign); err != nil {
		return candidate{}, errors.Join(err, c.discard())
	}
	return c, nil
}

// probe finds out whether another program has an address that is wanted. Where it is not known what
// HAProxy listens on, its own addresses must not look taken: they do not if it is of our user, and shares
// them as it does unless it is told not to.
func (d *Driver) probe(ctx context.Context, want, held render.Files, known bool) error {
	if !d.cfg.Managed && !d.cfg.SameNetwork {
		return nil
	}
	shares := d.cfg.haproxyUser() == os.Geteuid() && !slices.ContainsFunc([]render.Files{want, d.disk()}, sharesNothing)
	switch {
	case known:
		return probe(ctx, held, want, shares)
	case shares:
		return probeBeside(want)
	default:
		return nil
	}
}

// Judge has HAProxy's own check judge files, without touching what is in force or waiting for what is being
// done. What it refuses gives an error that wraps *Refused. It is safe for concurrent use.
func (d *Driver) Judge(ctx context.Context, files render.Files) error {
	c, err := d.store.stage(files)
	if err != nil {
		return err
	}
	defer c.discard() //nolint:errcheck // tidied at the next start
	return c.check(ctx, d.cfg.Bin, d.cfg.checkLimit)
}

// judge asks HAProxy's own check. If a foreign version runs, its master has the last word.
func (d *Driver) judge(ctx context.Context, c candidate, foreign bool) error {
	err := c.check(ctx, d.cfg.Bin, d.cfg.checkLimit)
	if errors.Is(err, errHangs) {
		return &Refused{Stage: StageCheck, Words: err.Error(), slow: true}
	}
	if foreign && asRefused(err) != nil {
		d.cfg.Log.WithError(err).Debug("another version of haproxy runs than the one that checks")
		return nil
	}
	return err
}

// reloadFromDisk makes HAProxy load the last good text, which is on disk, if it may run another: one
// that was started with less while a text killed it, for instance.
func (d *Driver) reloadFromDisk(ctx context.Context, refused render.Files) error {
	files := d.disk()
	if files == nil || sameFiles(files, refused) || !d.ours(files) || time.Since(d.resorted) < retryMax {
		return nil
	}
	d.resorted = time.Now()
	c, err := d.judged(ctx, files, nil, false)
	if err != nil {
		return err
	}
	defer c.discard() //nolint:errcheck // tidied at the next start
	return d.load(ctx, c)
}

// load swaps a candidate in, reloads and confirms. On a failure the former files are put back; the
// former worker goes on serving. HAProxy's time begins when all is in place: how long a slow disk takes
// for many files says nothing about HAProxy.
func (d *Driver) load(ctx context.Context, c candidate) error {
	before := d.disk()
	d.epoch++
	held := d.mayHold(before, c.files)
	mark := 0
	if d.child != nil {
		mark = d.child.alerts.mark()
	}
	seat := d.master.seat()
	former, err := d.master.processes(ctx)
	former.seat = seat
	if err == nil {
		err = c.swap()
	}
	if err != nil { // nothing has changed
		d.holds(held)
		return fmt.Errorf("reload: %w", err)
	}
	ctx, cancel := grace(ctx, finishLimit, patience(reloadLimit, len(c.files)-1))
	defer cancel()
	defer d.carryStates(ctx, c.files)()
	words, err := d.exchange(ctx, c, former)
	if err == nil {
		d.loaded(c.files)
		return nil
	}
	if errors.Is(err, errReloadFailed) {
		d.holds(held)
	} else {
		d.forget(Reason{Kind: ReasonDrift, Detail: "a reload could not be confirmed"})
	}
	if err := d.putBack(before); err != nil {
		d.cfg.Log.WithError(err).Warn("cannot put the former configuration back")
	}
	return d.reloadError(err, words, mark)
}

// exchange makes the master, whose processes were the former ones, load the candidate that is in place.
// On errReloadFailed words is what the master tells about it.
func (d *Driver) exchange(ctx context.Context, c candidate, former processes) (words string, err error) {
	pid, words, err := d.master.reload(ctx)
	if err == nil {
		if err = d.confirm(ctx, pid, c); err != nil {
			err = fmt.Errorf("%w: %w", errUnconfirmed, err)
		}
	}
	if err != nil && !errors.Is(err, errReloadFailed) && d.died(ctx, former, err) {
		return "", errDied
	}
	return words, err
}

// died tells whether HAProxy ended in a reload that was asked of the former processes. It did not if
// two of them answer, if it was us who gave up, or if they go on as if nobody had asked.
func (d *Driver) died(ctx context.Context, former processes, why error) bool {
	if errors.Is(why, errTwo) || errors.Is(why, errOtherWorker) || errors.Is(ctx.Err(), context.Canceled) {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookLimit)
	defer cancel()
	for {
		seat := d.master.seat() // first, so that the answer is not from before it
		now, err := d.master.processes(ctx)
		if err == nil {
			return now.after(former, seat) || now.current() == 0
		}
		// A master that loads listens nowhere, for seconds with thousands of certificates; its worker goes on.
		_, lost := d.api.info(ctx)
		if unserved(err) && unserved(lost) {
			return true
		}
		if pause(ctx, pollEvery) != nil {
			return false
		}
	}
}

// errDied says that nobody was left of the HAProxy that was to load a text: its start with it goes
// beyond what its check and its master find out.
var errDied = errors.New("haproxy ended while it loaded the configuration, or was restarted just then")

// putBack restores the files from before a failed reload. Only a worker that is started after this
// surely runs them. They are not taken for what runs if they are none of ours: what runs is checked
// again with our rights when the file follows it.
func (d *Driver) putBack(before render.Files) error {
	ours := d.ours(before)
	d.onDisk = nil
	if before == nil {
		return nil
	}
	err := d.store.restore()
	if now, unread := d.store.read(namesOf(before)); err != nil || unread != nil || !sameFiles(now, before) {
		err = candidate{store: d.store, files: before}.swap() // HAProxy's start has set a file aside meanwhile
	}
	if err != nil {
		return err
	}
	if ours {
		d.onDisk, d.diskTime = before, time.Now()
	}
	d.prune()
	return nil
}

// prune removes the files that are not in force. What cannot be removed is in nobody's way.
func (d *Driver) prune() {
	if err := d.store.prune(); err != nil {
		d.cfg.Log.WithError(err).Warn("cannot remove files that are not used any more")
	}
}

// ours tells whether files that were read back are what the driver put there, or an agent before it.
func (d *Driver) ours(files render.Files) bool {
	return d.onDisk != nil && sameFiles(files, d.onDisk) || d.store.readApplied().Hash == textHash(files)
}

// errUnconfirmed says that a worker was started with the new text but does not run it as wanted.
var errUnconfirmed = errors.New("the reload could not be confirmed")

// reloadError gives a failed reload HAProxy's own words. One that was not made is no refusal, nor is
// one that cannot be confirmed because another HAProxy came in between: the text is not to blame.
func (d *Driver) reloadError(err error, words string, mark int) error {
	if errors.Is(err, errDied) {
		return &Refused{Stage: StageReload, Words: d.said(words, mark, err.Error()), deadly: true}
	}
	if !errors.Is(err, errReloadFailed) && !errors.Is(err, errUnconfirmed) || errors.Is(err, errTwo) || errors.Is(err, errOtherWorker) {
		return fmt.Errorf("reload: %w", err)
	}
	if !errors.Is(err, errReloadFailed) {
		return &Refused{Stage: StageConfirm, Words: d.said(words, mark, err.Error())}
	}
	said := d.said(words, mark, "")
	return &Refused{Stage: StageReload, Words: said, Lines: linesIn(said, d.cfg.Path)}
}

// said puts what HAProxy says, or where it says it, behind what is known.
func (d *Driver) said(words string, mark int, known string) string {
	if words == "" && d.child != nil {
		words = strings.Join(d.child.alerts.since(mark), "; ")
	}
	if words == "" {
		words = "see haproxy's own log for the reason"
	}
	if known == "" {
		return words
	}
	return known + ": " + words
}

// disk is what the live files say now, nil if there are none.
func (d *Driver) disk() render.Files {
	if d.onDisk != nil {
		if files, err := d.store.read(namesOf(d.onDisk)); err == nil && sameFiles(files, d.onDisk) {
			return d.onDisk
		}
	}
	files, err := d.store.read(d.store.readApplied().Files)
	if err != nil {
		files, err = d.store.read(nil)
	}
	if err != nil {
		return nil
	}
	return files
}

// confirm asks the worker that answers at the runtime socket whether it is the new one, and whether
// it runs the servers of the text.
func (d *Driver) confirm(ctx context.Context, pid int, c candidate) error {
	var i info
	for {
		var err error
		i, err = d.api.info(ctx)
		if err == nil && i.worker.Pid == pid && !i.stopping {
			if err = d.verify(ctx, i.worker); err == nil {
				break
			}
		}
		if p, masterErr := d.master.processes(ctx); masterErr == nil && p.current() != pid {
			return fmt.Errorf("the new worker %d is gone: %w", pid, cmp.Or(err, errOtherMaster))
		}
		if pause(ctx, pollEvery) != nil {
			return errors.Join(fmt.Errorf("the new worker %d does not answer at %s: if its socket is gone, %s", pid, d.cfg.RuntimeSocket, d.cfg.restart()), err)
		}
	}
	d.meet(i)
	live, err := d.api.servers(ctx, d.worker)
	if err != nil {
		return err
	}
	d.learn(ctx, c.files[0].Text())
	m := hold(c.proxies(), live, d.can, d.leaving)
	if m.reload != "" {
		return errors.New("after the reload " + m.reload)
	}
	return d.change(ctx, m.repair)
}

// loaded notes what is in force after a confirmed reload.
func (d *Driver) loaded(now render.Files) {
	d.inForce(now, nil)
	d.warnOfBoundless(now)
	d.onDisk, d.diskTime, d.dirtied = now, time.Now(), time.Time{}
	clear(d.parted)
	d.stuck(nil)
	d.note(now)
	d.prune()
}

// note remembers for the next start what the worker runs.
func (d *Driver) note(files render.Files) {
	if err := d.store.writeApplied(files, d.worker, d.leaving); err != nil {
		d.cfg.Log.WithError(err).Warn("cannot note what is applied; the next start will reload once")
	}
	if d.cfg.Managed { // its starts are seen
		return
	}
	if err := ran(d.cfg.Path, files); err != nil {
		d.cfg.Log.WithError(err).Warn("cannot note that haproxy runs its configuration; if it is restarted often, it is set aside")
	}
}

// grace is a context that outlives its parent's end by a short time and has a limit of its own.
func grace(parent context.Context, after, limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(parent), limit)
	stop := context.AfterFunc(parent, func() {
		t := time.NewTimer(after)
		defer t.Stop()
		select {
		case <-t.C:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		stop()
		cancel()
	}
}
