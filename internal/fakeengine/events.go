package fakeengine

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
)

// stream is one subscription.
type stream struct {
	queue []events.Message // guarded by the engine's mutex
	wake  chan struct{}    // one token when there is something in the queue
	done  chan struct{}
}

// Emit logs an event: subscribers whose filter lets it pass get it, and it is remembered. A time
// that is missing is set to now.
func (e *Engine) Emit(m events.Message) {
	if m.TimeNano == 0 {
		m.TimeNano = time.Now().UnixNano()
	}
	m.Time = m.TimeNano / int64(time.Second)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.past = append(e.past, m)
	if len(e.past) > memory {
		e.past = e.past[1:]
	}
	if e.deaf {
		return
	}
	for s := range e.streams {
		s.queue = append(s.queue, m)
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// Deafen says whether events are lost on their way: an engine drops those that a slow reader does not
// take, and a proxy may have lost the connection behind it. They are remembered all the same.
func (e *Engine) Deafen(on bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.deaf = on
}

// Backlog is how many events wait for their readers.
func (e *Engine) Backlog() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for s := range e.streams {
		n += len(s.queue)
	}
	return n
}

// EmitContainer logs an event of a container. pairs are the names and values of attributes.
func (e *Engine) EmitContainer(id string, action events.Action, pairs ...string) {
	attributes := map[string]string{}
	for k := 0; k+1 < len(pairs); k += 2 {
		attributes[pairs[k]] = pairs[k+1]
	}
	e.Emit(events.Message{Type: events.ContainerEventType, Action: action, Actor: events.Actor{ID: id, Attributes: attributes}})
}

// DropStreams ends all event streams, like an engine that goes down.
func (e *Engine) DropStreams() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for s := range e.streams {
		close(s.done)
		delete(e.streams, s)
	}
}

// Start lets a container run from now on, and logs it.
func (e *Engine) Start(c container.InspectResponse) {
	c.State = &container.State{Status: container.StateRunning, Running: true, StartedAt: time.Now().UTC().Format(time.RFC3339Nano)}
	e.Put(c)
	e.EmitContainer(c.ID, events.ActionStart)
}

// Kill logs a signal to a container, which goes on running.
func (e *Engine) Kill(id, signal string) { e.EmitContainer(id, events.ActionKill, "signal", signal) }

// Die ends a container's run: its addresses are gone, then its end is logged.
func (e *Engine) Die(id string) {
	e.Change(id, stopped)
	e.EmitContainer(id, events.ActionDie, "exitCode", "0")
}

// Stop ends a run as `docker stop` does. Engines since 25 log the stop before the end.
func (e *Engine) Stop(id string, stopFirst bool) {
	e.Kill(id, "15")
	e.Change(id, stopped)
	if stopFirst {
		e.EmitContainer(id, events.ActionStop)
	}
	e.EmitContainer(id, events.ActionDie, "exitCode", "0")
	if !stopFirst {
		e.EmitContainer(id, events.ActionStop)
	}
}

func stopped(c *container.InspectResponse) {
	if c.State != nil {
		c.State.Status, c.State.Running = container.StateExited, false
	}
	c.NetworkSettings = nil
}

func (e *Engine) stream(w http.ResponseWriter, r *http.Request) {
	var filters map[string]map[string]bool
	if text := r.FormValue("filters"); text != "" {
		if err := json.Unmarshal([]byte(text), &filters); err != nil {
			answer(w, http.StatusBadRequest, map[string]string{"message": err.Error()})
			return
		}
	}
	out := json.NewEncoder(w)
	flush := http.NewResponseController(w).Flush
	w.Header().Set("Content-Type", "application/json")
	send := func(m events.Message) {
		if passes(filters, &m) {
			_ = out.Encode(m)
			_ = flush()
		}
	}
	// A stream that the engine ended looks ended, not broken off.
	s := e.subscribe(r.FormValue("since") != "")
	defer e.unsubscribe(s)
	w.WriteHeader(http.StatusOK)
	_ = flush()
	for {
		for _, m := range e.takeEvents(s) {
			send(m)
		}
		if r.FormValue("until") != "" { // always now, in our use
			return
		}
		select {
		case <-s.wake:
		case <-s.done:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (e *Engine) subscribe(withPast bool) *stream {
	s := &stream{wake: make(chan struct{}, 1), done: make(chan struct{})}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.streams[s] = struct{}{}
	if withPast {
		s.queue = append(s.queue, e.past...)
	}
	return s
}

func (e *Engine) takeEvents(s *stream) []events.Message {
	e.mu.Lock()
	defer e.mu.Unlock()
	queue := s.queue
	s.queue = nil
	return queue
}

func (e *Engine) unsubscribe(s *stream) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.streams[s]; ok {
		delete(e.streams, s)
		close(s.done)
	}
}

// passes tells whether an event passes filters, with the engine's rule that a filter may name the
// part of an action before a colon.
func passes(filters map[string]map[string]bool, m *events.Message) bool {
	action, _, _ := strings.Cut(string(m.Action), ":")
	for name, wanted := range filters {
		switch name {
		case "type":
			if !wanted[string(m.Type)] {
				return false
			}
		case "event":
			if !wanted[string(m.Action)] && !wanted[action] {
				return false
			}
		}
	}
	return true
}
