package haproxy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

const (
	reloadLimit = 15 * time.Second // HAProxy tries for seconds to get an address that is taken
	finishLimit = 3 * time.Second  // what is begun may take this long when we are asked to stop

	retryRefused = time.Minute      // the same text, for the cause may lie outside of it
	retryProbe   = 10 * time.Second // an address may become free any time
)

// reload puts want in force by a checked and confirmed reload. A wait says that it is too soon for
// one. A text that was refused a short while ago is not tried again.
func (d *Driver) reload(ctx context.Context, want render.Files) (time.Duration, error) {
	if d.refusal.err != nil && d.refusal.hash == want.Hash() && time.Now().Before(d.refusal.until) {
		return 0, d.refusal.err
	}
	if soon := time.Until(d.reloaded.Add(d.cfg.ReloadInterval)); soon > 0 {
		return soon, nil
	}
	held, known := d.held()
	c, err := d.candidate(ctx, want, held, known)
	if err == nil {
		defer c.discard() //nolint:errcheck // tidied at the next start
		d.reloaded = time.Now()
		err = d.load(ctx, c)
	}
	d.remember(want, err)
	return 0, err
}

// remember keeps a refusal for as long as the text is not worth another try.
func (d *Driver) remember(want render.Files, err error) {
	d.refusal = refusal{}
	refused := asRefused(err)
	if refused == nil {
		return
	}
	d.refusal = refusal{hash: want.Hash(), err: refused, until: time.Now().Add(retryRefused)}
	if refused.Stage == StageProbe {
		d.refusal.until = time.Now().Add(retryProbe)
	}
}

// held is the text whose addresses HAProxy itself holds, if that is known.
func (d *Driver) held() (files render.Files, known bool) {
	if d.running != nil {
		return d.running, true
	}
	files, err := d.store.read(nil)
	return files, err == nil && files[0].Text() == MinimalConfig(d.cfg)
}

// candidate stages and judges a text. held is what HAProxy listens on; without knowing that there is
// no probe, for HAProxy's own addresses would look taken.
func (d *Driver) candidate(ctx context.Context, want, held render.Files, known bool) (candidate, error) {
	if !opensSocket(want, d.cfg.RuntimeSocket) {
		return candidate{}, &Refused{Stage: StageText, Words: fmt.Sprintf(
			"the global section does not open the driver's socket: add the line \"stats socket %s mode 600 level admin\"",
			d.cfg.RuntimeSocket)}
	}
	c, err := d.store.stage(want)
	if err != nil {
		return candidate{}, err
	}
	err = d.judge(ctx, c, d.foreign)
	if (d.cfg.Managed || d.cfg.SameNetwork) && err == nil && known {
		err = probe(ctx, held, want)
	}
	if err != nil {
		return candidate{}, errors.Join(err, c.discard())
	}
	return c, nil
}

// judge asks HAProxy's own check. If a foreign version runs, its master has the last word.
func (d *Driver) judge(ctx context.Context, c candidate, foreign bool) error {
	err := c.check(ctx, d.cfg.Bin)
	if foreign && asRefused(err) != nil {
		d.cfg.Log.WithError(err).Debug("another version of haproxy runs than the one that checks")
		return nil
	}
	return err
}

// load swaps a candidate in, reloads and confirms. On a failure the former files are put back; the
// former worker goes on serving.
func (d *Driver) load(ctx context.Context, c candidate) error {
	ctx, cancel := grace(ctx, finishLimit, reloadLimit)
	defer cancel()
	before := d.disk()
	d.epoch++
	mark := 0
	if d.child != nil {
		mark = d.child.alerts.mark()
	}
	err := c.swap()
	words := ""
	if err == nil {
		var pid int
		pid, words, err = d.master.reload(ctx)
		if err == nil {
			if err = d.confirm(ctx, pid, c.files); err != nil {
				err = fmt.Errorf("%w: %w", errUnconfirmed, err)
			}
		}
	}
	if err == nil {
		return d.loaded(before, c.files)
	}
	if !errors.Is(err, errReloadFailed) {
		d.forget(Reason{Kind: ReasonDrift, Detail: "a reload could not be confirmed"})
	}
	if before != nil {
		err = errors.Join(err, d.store.restore(before), d.store.prune(c.files, before))
	}
	return d.reloadError(err, words, mark)
}

// errUnconfirmed says that a worker was started with the new text but does not run it as wanted.
var errUnconfirmed = errors.New("the reload could not be confirmed")

// reloadError gives a failed reload HAProxy's own words. One that was not made is no refusal.
func (d *Driver) reloadError(err error, words string, mark int) error {
	if !errors.Is(err, errReloadFailed) && !errors.Is(err, errUnconfirmed) {
		return fmt.Errorf("reload: %w", err)
	}
	if words == "" && d.child != nil {
		words = strings.Join(d.child.alerts.since(mark), "; ")
	}
	switch {
	case errors.Is(err, errReloadFailed) && words == "":
		words = "see haproxy's own log for the reason"
	case !errors.Is(err, errReloadFailed):
		words = strings.TrimSuffix(err.Error()+": "+words, ": ")
	}
	return &Refused{Stage: StageReload, Words: words}
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
func (d *Driver) confirm(ctx context.Context, pid int, want render.Files) error {
	var i info
	for {
		var err error
		i, err = d.api.info(ctx)
		if err == nil && i.worker.Pid == pid && !i.stopping {
			break
		}
		if pause(ctx, pollEvery) != nil {
			return errors.Join(fmt.Errorf("the new worker %d does not answer at %s", pid, d.cfg.RuntimeSocket), err)
		}
	}
	d.worker, d.can, d.leaving = i.worker, i.capabilities(), map[string]*departure{}
	d.mu.Lock()
	d.view.Worker, d.view.Version = i.worker, i.version
	d.mu.Unlock()
	live, err := d.api.servers(ctx)
	if err != nil {
		return err
	}
	m := compare(want[0].Text(), live, d.can, d.isLeaving)
	if m.reload != "" {
		return errors.New("after the reload " + m.reload)
	}
	return d.change(ctx, m.repair)
}

// loaded notes what is in force after a confirmed reload.
func (d *Driver) loaded(before, now render.Files) error {
	d.running, d.reading, d.onDisk, d.unknown = now, nil, now, Reason{}
	d.diskTime, d.dirtied = time.Now(), time.Time{}
	if err := d.store.writeApplied(now, d.worker); err != nil {
		d.cfg.Log.WithError(err).Warn("cannot note what is applied; the next start will reload once")
	}
	if before != nil {
		if err := d.store.prune(before, now); err != nil {
			d.cfg.Log.WithError(err).Warn("cannot remove files that are not used any more")
		}
	}
	return nil
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
