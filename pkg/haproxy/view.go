package haproxy

import (
	"errors"
	"maps"
	"time"

	"github.com/sirupsen/logrus"
)

// State returns what the driver knows now.
func (d *Driver) State() State {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.view
	s.Reloads = maps.Clone(d.view.Reloads)
	if d.shown != nil {
		s.Hash = textHash(d.shown)
	}
	if d.behind {
		s.Differences = max(1, s.Differences)
	}
	switch {
	case s.LastError != "":
	case d.here.deaf != nil:
		s.Status, s.LastError = "in step, but cannot be reloaded", d.here.deaf.Error()
	case d.unfollowed != nil:
		s.Status, s.LastError = "in step, but the file on disk does not follow", d.unfollowed.Error()
	}
	return s
}

// publish makes the outcome of an attempt visible. It is called with the turn held.
func (d *Driver) publish(res Result, wait time.Duration, err error) {
	quiet := d.starting(err)
	d.mu.Lock()
	v := &d.view
	d.behind = err != nil || wait > 0
	switch {
	case quiet:
		v.Status = "waiting for haproxy to start"
	case asRefused(err) != nil && d.shown != nil && !isSilence(err):
		v.Status, v.LastError = "behind; the last good configuration serves, and changes of servers go on", err.Error()
	case err != nil:
		v.Status, v.LastError = "behind", err.Error()
	case wait > 0:
		v.Status = "a reload is due: " + res.Reason.String()
	default:
		v.Status, v.LastError, v.Differences = "in step", "", 0
	}
	if res.How == HowReload {
		v.Reloads[res.Reason.Kind]++
	}
	d.mu.Unlock()
	if wait == 0 && !quiet {
		d.report(err)
	}
	d.log(res, err)
}

// report tells the haproxy stage how an attempt ended. No success is told while HAProxy cannot be reloaded.
func (d *Driver) report(err error) {
	if d.cfg.Report != nil && (err != nil || d.hearing() == nil) {
		d.cfg.Report(err)
	}
}

// log tells what was done.
func (d *Driver) log(res Result, err error) {
	if err != nil || res.How == HowNone {
		return
	}
	log := d.cfg.Log.WithFields(logrus.Fields{"how": res.How, "commands": res.Commands, "took": res.Took.Round(time.Millisecond).String()})
	if res.How == HowReload {
		log.WithField("reason", res.Reason.String()).Info("haproxy updated")
	} else {
		log.Debug("haproxy updated")
	}
}

// isSilence tells whether an error means that HAProxy does not answer.
func isSilence(err error) bool {
	_, silent := errors.AsType[*silence](err)
	return silent
}

// asRefused returns the refusal within an error, nil if there is none.
func asRefused(err error) *Refused {
	if refused, ok := errors.AsType[*Refused](err); ok {
		return refused
	}
	return nil
}
