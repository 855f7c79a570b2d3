package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
	"github.com/sidekick-proxy/sidekick/pkg/quarantine"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

const (
	// Exams may take examBurst at once, so that a few faults one after another are found at once, and else a
	// share of 1/examShare of the time, whatever somebody's labels do.
	examBurst = 10 * time.Second
	examShare = 20

	examPause    = time.Second      // the least between two
	examPauseMax = 10 * time.Minute // the most, after ones of one text that found nobody
)

// examining is what a renderStage knows of services that cannot be served as they ask.
type examining struct {
	ward   quarantine.Ward
	told   map[string]string // what was logged of those that are held
	result chan examined     // of the exam that is under way, nil if none is
	ended  time.Time         // the last exam
	debt   time.Duration     // what exams took then, less their share of the time
	nobody int               // exams in a row that found nobody to blame
	alike  int               // of these, those since the text changed last
	unkept bool              // it was logged that who is held cannot be saved
}

// examined is what an exam came to.
type examined struct {
	renderer *render.Renderer // that was examined
	refused  *haproxy.Refused // why, nil if it was not for a refusal
	verdict  quarantine.Verdict
	err      error
	took     time.Duration
}

// examine begins an exam if HAProxy has refused a text, or a service that is held is due. It does not hold up
// the stage: what can be done without a reload is done meanwhile. wake is set for one that is too early.
func (r *renderStage) examine(ctx context.Context, group *errgroup.Group, now *rendering, wake *time.Timer) {
	if now.exam.result != nil || r.judge == nil || r.ports.unloaded.Load() != nil || now.input.Catalog == nil || now.renderer == nil {
		return
	}
	refused, due := r.refusal.Load(), now.exam.ward.Due(time.Now())
	if refused == nil && len(due) == 0 {
		return
	}
	if wait := time.Until(now.exam.next()); wait > 0 {
		wake.Reset(wait)
		return
	}
	r.refusal.CompareAndSwap(refused, nil)
	name, text := now.renderer.Source()
	renderer, err := render.New(name, text, r.renderSettings())
	if err != nil {
		return // it parsed before
	}
	good, proven := r.passage.accepted()
	exam := &quarantine.Exam{
		Renderer: renderer, Judge: r.judge, Input: now.input, Retry: due,
		Good: good, Cold: proven == nil, Unproven: proven != now.renderer,
	}
	if refused != nil && refused.Stage == haproxy.StageReload {
		exam.Told = refused // our own check has accepted that
	}
	result, examinee := make(chan examined, 1), now.renderer
	now.exam.result = result
	group.Go(func() error {
		began := time.Now()
		verdict, err := exam.Run(ctx)
		result <- examined{renderer: examinee, refused: refused, verdict: verdict, err: err, took: time.Since(began)}
		return nil
	})
}

// next is when the next exam may begin.
func (x *examining) next() time.Time {
	pause := min(examPause<<min(x.alike, 20), examPauseMax)
	return x.ended.Add(max(pause, examShare*(x.debt-examBurst)))
}

// spend notes what an exam took.
func (x *examining) spend(took time.Duration) {
	now := time.Now()
	x.debt = max(0, x.debt-now.Sub(x.ended)/examShare) + took
	x.ended = now
}

// conclude does as an exam found out, and tells whether that changes the text.
func (r *renderStage) conclude(now *rendering, e examined) bool {
	x := &now.exam
	x.result = nil
	x.spend(e.took)
	v := e.verdict
	switch {
	case e.renderer != now.renderer: // there is another template by now, of which the driver may say nothing new
		r.refusal.CompareAndSwap(nil, e.refused)
		return false
	case e.err != nil || v.Nobody != nil:
		err := errors.Join(e.err, v.Nobody)
		x.alike++
		if x.nobody++; x.nobody == 1 {
			r.log.WithError(err).Warn("it was not found out which service HAProxy refuses; the last good configuration stays in force")
		}
		return false
	case v.Template != nil:
		return r.resume(now, v.Template)
	}
	x.nobody, x.alike = 0, 0
	x.ward.Take(v, time.Now())
	return len(v.Findings) > 0 || len(v.Cleared) > 0
}

// resume goes back to the template that was in force last, for HAProxy refuses what the one of now makes of the
// services that were in force.
func (r *renderStage) resume(now *rendering, words error) bool {
	_, proven := r.passage.accepted()
	if proven == nil || proven == now.renderer {
		return false
	}
	err := refusedTemplate{words}
	r.complain(now, err)
	now.refused, now.renderer, now.good = err, proven, proven
	_, text := proven.Source()
	now.exam.ward.Under(text)
	return true
}

// refusedTemplate says that HAProxy refuses what a template makes.
type refusedTemplate struct{ error }

func (e refusedTemplate) Error() string {
	return "the template is not used, for HAProxy refuses what it makes of the services in force: " + e.error.Error()
}

// blame holds the services that a template fails for, and tells whether it did: a template that is new, or that
// fails for most services, is to blame itself.
func (r *renderStage) blame(now *rendering, faults render.ServiceErrors) bool {
	c := now.snapshot.Catalog
	if now.good != now.renderer && (now.good != nil || 2*faults.Services() > len(c.Services)) {
		return false
	}
	good, _ := r.passage.accepted()
	now.exam.ward.Fail(faults, c, good, time.Now())
	return true
}

// tellHeld logs who cannot be served as it asks, once, and who is again.
func (r *renderStage) tellHeld(now *rendering) {
	x := &now.exam
	names := x.ward.Names()
	told := make(map[string]string, len(names))
	for _, name := range names {
		told[name] = x.ward.Why(name)
		if x.told[name] == "" {
			r.log.WithFields(logrus.Fields{"service": name, "why": told[name]}).Warn("a service cannot be served as it asks; all others are")
		}
	}
	var again []string
	for name := range x.told {
		if told[name] == "" {
			again = append(again, name)
		}
	}
	slices.Sort(again)
	for _, name := range again {
		r.log.WithField("service", name).Info("a service is served as it asks again, or is gone")
	}
	x.told = told
	r.keep(x)
}

// keep saves who is held, and logs once that it cannot be done.
func (r *renderStage) keep(x *examining) {
	err := x.ward.Save(r.memory)
	if err != nil && !x.unkept {
		r.log.WithError(err).Warn("a restart of the agent will look for services that HAProxy refuses anew; make room for the file, or let the agent write it")
	}
	x.unkept = err != nil
}

// noteRefusal notes what the driver has refused, for the render stage to examine, or that all is in force.
func (a *agent) noteRefusal(err error) {
	refused, ok := errors.AsType[*haproxy.Refused](err)
	if ok && len(refused.Unbound()) > 0 { // first, lest an exam begins, which would blame a service for a port
		a.ports.unloaded.Store(refused)
	}
	switch {
	case err == nil:
		a.refusal.Store(nil)
	case ok && refused.OfText():
		a.refusal.Store(refused)
	}
}
