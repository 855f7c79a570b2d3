package haproxy

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// startGrace is how long a HAProxy that does not answer may be one that is just being started, with
// what is on disk.
const startGrace = 3 * time.Second

// presence is what is known of HAProxy being there. It is guarded by the driver's mu.
type presence struct {
	answering bool
	ever      bool      // it answered at least once
	since     time.Time // when the driver began, or when HAProxy was lost
	worker    Worker    // that answered last
	// texts are those whose addresses that worker may hold.
	texts []render.Files
	ended error // how a managed HAProxy ended last, nil once one answered
	// deaf is not nil while the worker answers and its master has not for a while.
	deaf      error
	deafSince time.Time
}

// Held returns the TCP ports that HAProxy may be holding now, sorted, so that a port that it does
// not hold can be tried before it is asked for. They are those of the text in force and of one that
// is being loaded; of the file on disk for a HAProxy that does not answer yet, or not any more since
// a moment ago; and none when it has been silent for longer. Only literal addresses count. It is
// safe for concurrent use.
func (d *Driver) Held() []uint16 {
	d.mu.Lock()
	p := d.here
	d.mu.Unlock()
	texts := p.texts
	if !p.answering {
		texts = d.startsWith(p)
	}
	var ports []uint16
	for _, text := range texts {
		for _, a := range d.bound.read(text) {
			ports = append(ports, a.Port())
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// lastBound is what the last text listened on, from which the next one's addresses are soon found.
type lastBound struct {
	mu   sync.Mutex
	last listeners
}

// read is binds for a text that is like the last one.
func (b *lastBound) read(text render.Files) []netip.AddrPort {
	if len(text) == 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = b.last.of(text[0])
	return b.last.addresses()
}

// startsWith are the texts whose addresses a silent HAProxy may hold already.
func (d *Driver) startsWith(p presence) []render.Files {
	if time.Since(p.since) >= startGrace {
		return nil
	}
	files, err := d.store.read(nil)
	if err != nil {
		return nil // nothing to start with
	}
	return []render.Files{files}
}

// begin starts the time that HAProxy may take for its start.
func (d *Driver) begin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.here.ever {
		d.here.since = time.Now()
	}
}

// answered notes that a worker, or only its master, is there. One that was not known runs what is on
// disk, as far as anybody knows.
func (d *Driver) answered(w Worker) {
	d.mu.Lock()
	p := &d.here
	known := p.ever && p.worker == w
	p.answering, p.ever, p.worker, p.ended = true, true, w, nil
	d.mu.Unlock()
	if known {
		return
	}
	var texts []render.Files
	if files, err := d.store.read(nil); err == nil {
		texts = []render.Files{files}
	}
	d.holds(texts)
}

// holds notes the texts whose addresses HAProxy may hold.
func (d *Driver) holds(texts []render.Files) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.here.texts = texts
}

// mayHold adds texts to those whose addresses HAProxy may hold, and returns the ones before.
func (d *Driver) mayHold(more ...render.Files) (former []render.Files) {
	d.mu.Lock()
	defer d.mu.Unlock()
	former = d.here.texts
	texts := slices.Clone(former)
	for _, text := range more {
		if !slices.ContainsFunc(texts, func(t render.Files) bool { return sameFiles(t, text) }) {
			texts = append(texts, text)
		}
	}
	d.here.texts = texts
	return former
}

// lost notes that HAProxy is not there.
func (d *Driver) lost() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.here.answering {
		d.here.answering, d.here.since, d.here.deafSince = false, time.Now(), time.Time{}
	}
}

// childEnded notes how a managed HAProxy ended.
func (d *Driver) childEnded(err error) {
	d.lost()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.here.ended = err
}

// silence says that HAProxy does not answer.
type silence struct {
	gone  bool   // neither socket is served
	ended error  // how it ended last, if that is known
	child bool   // this agent starts it
	last  Worker // that answered, if one did
	cause error
}

// Error has HAProxy's own words, if it said any before it ended.
func (s *silence) Error() string {
	switch {
	case s.ended != nil:
		return fmt.Sprintf("haproxy does not answer: %v: %v", s.cause, s.ended)
	case s.gone && !s.child:
		return s.absent()
	case errors.Is(s.cause, syscall.EACCES):
		return fmt.Sprintf("haproxy's socket is closed to this user (%v): restart haproxy with \"mode %s\" in the socket's line and a group that both are in, which may enter the socket's directory", s.cause, socketMode)
	case errors.Is(s.cause, os.ErrDeadlineExceeded):
		return fmt.Sprintf("haproxy does not answer in time (%v): restart it if it goes on like that", s.cause)
	default:
		return fmt.Sprintf("haproxy does not answer: %v", s.cause)
	}
}

// absent says what to do about a HAProxy that somebody else starts. That its sockets were removed is no
// proof that it ended.
func (s *silence) absent() string {
	if s.last.Pid != 0 && errors.Is(s.cause, syscall.ENOENT) {
		return fmt.Sprintf("haproxy's sockets are gone (%v): if its worker, process %d, still runs, that serves on out of reach: end it (kill -USR1 %[2]d, or stop its container or service), then start haproxy, for instance with sidekick haproxy", s.cause, s.last.Pid)
	}
	return fmt.Sprintf("haproxy is not running, so this host serves nothing (%v): start it, for instance with sidekick haproxy", s.cause)
}

func (s *silence) Unwrap() error { return s.cause }

// unreachable says that a worker that answered before lives without its socket.
type unreachable struct {
	cause error
	mend  string
}

// Error names the mend.
func (u *unreachable) Error() string {
	return fmt.Sprintf("%v, though its worker serves on: the socket was removed or replaced; %s", u.cause, u.mend)
}

func (u *unreachable) Unwrap() error { return u.cause }

// silent notes that nobody answered, with these errors at both sockets. While one of them is served,
// HAProxy is there and holds what it holds.
func (d *Driver) silent(worker, master error) error {
	gone := unserved(worker) && unserved(master)
	if gone {
		d.lost()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return &silence{gone: gone, ended: d.here.ended, child: d.cfg.Managed, last: d.here.worker, cause: worker}
}

// restart says how to restart HAProxy. One that is started beside the former, whose sockets are not all
// there, would share its ports with it.
func (c Config) restart() string {
	if c.Managed {
		return "restart this agent, whose child haproxy is"
	}
	return "restart haproxy: stop it, then start it"
}

// deaf says that the worker serves and its master does not answer.
type deaf struct {
	path  string
	cause error
	mend  string
}

// Error says what still works, and the mend.
func (m *deaf) Error() string {
	return fmt.Sprintf("haproxy's master does not answer at %s (%v): its worker serves on and takes changes of servers, but nothing can be reloaded; %s", m.path, m.cause, m.mend)
}

func (m *deaf) Unwrap() error { return m.cause }

// heard notes how the master answered while the worker did. A master that executes itself anew does not
// for a moment, so only a longer silence counts. It tells whether that has changed what State says.
func (d *Driver) heard(masterErr error) (changed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := &d.here
	was := p.deaf != nil
	switch {
	case masterErr == nil:
		p.deaf, p.deafSince = nil, time.Time{}
	case p.deafSince.IsZero():
		p.deafSince = time.Now()
	case time.Since(p.deafSince) >= startGrace:
		p.deaf = &deaf{path: d.cfg.MasterSocket, cause: masterErr, mend: d.cfg.restart()}
	}
	return was != (p.deaf != nil)
}

// hearing returns why HAProxy cannot be reloaded, nil if its master answers.
func (d *Driver) hearing() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.here.deaf
}

// unserved tells whether an error means that no process listens at a socket.
func unserved(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)
}

// silentFor tells whether HAProxy has not answered for at least that long.
func (d *Driver) silentFor(least time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.here.answering && time.Since(d.here.since) >= least
}

// starting tells whether an error only means that HAProxy is still being started, which is no news.
func (d *Driver) starting(err error) bool {
	if !isSilence(err) || asRefused(err) != nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.here.ever && d.here.ended == nil && time.Since(d.here.since) < startGrace
}
