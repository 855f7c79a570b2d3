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
	return s
}

// publish makes the outcome of an attempt visible. It is called with the turn held.
func (d *Driver) publish(res Result, wait time.Duration, err error) {
	d.mu.Lock()
	v := &d.view
	v.Deleting = len(d.leaving)
	d.shown = d.running
	switch {
	case err != nil:
		v.Status, v.LastError = "behind", err.Error()
		v.Differences = max(1, v.Differences)
	case wait > 0:
		v.Status = "a reload is due: " + res.Reason.String()
	default:
		v.Status, v.LastError, v.LastApplied, v.Differences = "in step", "", time.Now(), 0
	}
	if res.How == HowReload {
		v.Reloads[res.Reason.Kind]++
	}
	d.mu.Unlock()
	d.tell(res, wait, err)
}

// tell passes the outcome on to those who asked for it.
func (d *Driver) tell(res Result, wait time.Duration, err error) {
	if d.cfg.Report != nil && wait == 0 {
		d.cfg.Report(err)
	}
	if err == nil && res.How == HowNone {
		return
	}
	if d.cfg.Applied != nil {
		d.cfg.Applied(res, err)
	}
	if err != nil {
		return
	}
	log := d.cfg.Log.WithFields(logrus.Fields{"how": res.How, "commands": res.Commands, "took": res.Took.String()})
	if res.How == HowReload {
		log.WithField("reason", res.Reason.String()).Info("haproxy updated")
	} else {
		log.Debug("haproxy updated")
	}
}

// asRefused returns the refusal within an error, nil if there is none.
func asRefused(err error) *Refused {
	if refused, ok := errors.AsType[*Refused](err); ok {
		return refused
	}
	return nil
}
