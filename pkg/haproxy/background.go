package haproxy

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"
)

// delete tries to delete the servers that are out of service, and comes back less and less often.
func (l *loop) delete(ctx context.Context) {
	if l.acquire(ctx) != nil {
		return
	}
	defer l.release()
	if err := l.deleteLeaving(ctx); err != nil {
		l.cfg.Log.WithError(err).Debug("servers cannot be deleted yet")
	}
	if len(l.leaving) > 0 {
		l.deleteEvery = min(2*l.deleteEvery, deleteMax)
		l.deleteAt = time.Now().Add(l.deleteEvery)
	}
}

// look asks who serves: cheap, and enough to see that HAProxy was started anew, or that its master's
// socket is another one than the one that named the worker.
func (l *loop) look(ctx context.Context) {
	if l.acquire(ctx) != nil {
		return
	}
	i, err := l.api.info(ctx)
	p, masterErr := l.askMaster(ctx)
	switch {
	case err != nil && ctx.Err() == nil:
		l.silent(err, masterErr) //nolint:errcheck // an attempt tells it
		if !l.unsure {           // else it is being retried
			l.unsure, l.retryAt = true, time.Now()
		}
	case err == nil:
		l.told(ctx, masterErr)
		l.answered(i.worker)
		if l.unsure || i.worker != l.worker || l.master.seat() != l.seat {
			l.unsure, l.retryAt = true, time.Now()
		}
	}
	l.release()
	if masterErr == nil {
		l.countOld(ctx, p)
	}
}

// askMaster asks for the processes, for a short time.
func (d *Driver) askMaster(ctx context.Context) (processes, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	return d.master.processes(ctx)
}

// told reports a master that fell silent beside a worker that answers, and its return.
func (l *loop) told(ctx context.Context, masterErr error) {
	if ctx.Err() != nil || !l.heard(masterErr) {
		return
	}
	deaf := l.hearing()
	if deaf == nil {
		l.cfg.Log.Info("haproxy's master answers again")
	} else {
		l.cfg.Log.WithError(deaf).Warn("haproxy cannot be reloaded")
	}
	if deaf != nil || l.inStep {
		l.report(deaf)
	}
}

// audit holds what runs against the text in force and repairs what differs.
func (l *loop) audit(ctx context.Context) {
	if l.acquire(ctx) != nil {
		return
	}
	defer l.release()
	if l.running == nil {
		return
	}
	m, err := l.compared(ctx, l.running)
	if err != nil {
		return // look finds out more
	}
	l.mu.Lock()
	l.view.Differences = len(m.what)
	l.mu.Unlock()
	if err := l.change(ctx, m.left); err != nil {
		l.cfg.Log.WithError(err).Debug("servers cannot be deleted yet")
	}
	if len(m.what) == 0 {
		return
	}
	l.cfg.Log.WithFields(logrus.Fields{"differences": len(m.what), "what": some(m.what)}).Warn("haproxy differs from its configuration; repairing it")
	if m.reload != "" || l.change(ctx, m.repair) != nil {
		l.forget(Reason{Kind: ReasonDrift, Detail: m.reload})
		l.retryAt = time.Now()
		return
	}
	l.auditAt = time.Now().Add(lookEvery) // to see that it helped
}

// followed is a candidate with the text in force, checked.
type followed struct {
	candidate candidate
	epoch     int
	unseen    int // see Driver
	began     time.Time
	spent     time.Duration // on it so far: by the clock, but for HAProxy's check its processor time
	err       error
}

// follow writes and checks the text in force away from the live file, without holding up other changes.
func (l *loop) follow(ctx context.Context) {
	if l.acquire(ctx) != nil {
		return
	}
	defer l.release()
	if l.running == nil || l.dirtied.IsZero() {
		return
	}
	f := followed{epoch: l.epoch, unseen: l.unseen, began: time.Now()}
	running, foreign := l.running, l.foreign
	l.dirtied = time.Time{}
	l.provideStates(running)
	result := make(chan followed, 1)
	l.following = result
	go func() {
		f.candidate, f.err = l.store.stage(running)
		f.spent = time.Since(f.began)
		if f.err == nil {
			before := checksCPU()
			f.err = l.judge(ctx, f.candidate, foreign)
			f.spent += checksCPU() - before
		}
		result <- f
	}()
}

// followed puts the checked candidate in place, unless a reload was quicker.
func (l *loop) followed(ctx context.Context, f followed) {
	l.following = nil
	if l.acquire(context.WithoutCancel(ctx)) != nil {
		return
	}
	defer l.release()
	current, began := f.epoch == l.epoch, time.Now()
	err := l.keep(f)
	l.followAfter = f.began.Add(followShare * (f.spent + time.Since(began)))
	if err != nil && ctx.Err() == nil {
		if !l.followFailed {
			l.cfg.Log.WithError(err).Warn("the file of haproxy's configuration does not follow what runs; it is tried again")
		}
		l.report(err)
		l.followHold, l.followFailed = time.Now().Add(retryMax), true
		l.stuck(err)
	}
	// A reload that failed has put back what was there before, not what runs.
	if err != nil && current || !current && l.running != nil && (l.onDisk == nil || !sameFiles(l.running, l.onDisk)) {
		l.dirty()
	}
	if err == nil && current && l.followFailed {
		l.followFailed = false
		l.stuck(nil)
		l.cfg.Log.Info("the file of haproxy's configuration follows again")
		if l.inStep {
			l.report(nil)
		}
	}
}

// stuck makes it visible that the file on disk does not follow, and why, or that it does.
func (d *Driver) stuck(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unfollowed = err
}

// keep swaps a followed candidate in and notes it.
func (d *Driver) keep(f followed) error {
	if f.candidate.dir == "" {
		return f.err
	}
	defer f.candidate.discard() //nolint:errcheck // tidied at the next start
	if f.err != nil || f.epoch != d.epoch {
		return f.err
	}
	if err := f.candidate.swap(); err != nil {
		return err
	}
	d.onDisk, d.diskTime = f.candidate.files, time.Now()
	if d.dirtied.IsZero() { // else some left after these files were made
		clear(d.parted)
	}
	d.prune()
	if f.unseen != d.unseen {
		return nil // what ran since cannot be read back: the next time
	}
	return d.store.writeApplied(f.candidate.files, d.worker, d.leaving)
}

// finish lets the file follow a last time, so that the next start finds what runs.
func (l *loop) finish(ctx context.Context) {
	ctx, cancel := grace(ctx, finishLimit, finishLimit)
	defer cancel()
	if l.following != nil {
		l.followed(ctx, <-l.following)
	}
	l.follow(ctx)
	if l.following != nil {
		l.followed(ctx, <-l.following)
	}
	l.asking <- struct{}{} // who asks has ended
}
