package docker

import (
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"
)

// note is what the event stream has said about one container since the owner last looked.
type note struct {
	id      string
	ended   bool              // its run ended; kills are of what came after
	inspect bool              // something about it may have changed
	kills   map[int]time.Time // signal → when it was last sent, zero if unknown
}

// inbox stands between the goroutine that reads the event stream, which must never wait because an
// engine slows down for a slow reader and loses events for it, and the owner of the state. Events
// of one container fold into one note, so it grows with the containers and never overflows.
type inbox struct {
	wake chan struct{} // one token when there is something to take

	mu    sync.Mutex
	notes map[string]*note
	order []string
}

func newInbox() *inbox {
	return &inbox{wake: make(chan struct{}, 1), notes: map[string]*note{}}
}

// put takes one event in.
func (b *inbox) put(e *events.Message) {
	id := e.Actor.ID
	if e.Type == events.NetworkEventType {
		id = e.Actor.Attributes["container"]
	}
	if id == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.notes[id]
	if n == nil {
		n = &note{id: id, kills: map[int]time.Time{}}
		b.notes[id] = n
		b.order = append(b.order, id)
	}
	n.add(e)
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (n *note) add(e *events.Message) {
	switch {
	case e.Type == events.ContainerEventType && e.Action == events.ActionKill:
		// Not every kill ends a container. Which one does is known to the owner.
		if signal, ok := parseSignal(e.Actor.Attributes["signal"]); ok {
			n.kills[signal] = eventTime(e)
		}
	case e.Action == events.ActionDie || e.Action == events.ActionDestroy:
		n.ended, n.inspect = true, true
		clear(n.kills)
	default:
		// "stop" is no end: an engine may log it after the next start.
		n.inspect = true
	}
}

// take hands the notes over, those of the container with the oldest news first.
func (b *inbox) take() []*note {
	b.mu.Lock()
	defer b.mu.Unlock()
	notes := make([]*note, 0, len(b.order))
	for _, id := range b.order {
		notes = append(notes, b.notes[id])
	}
	clear(b.notes)
	b.order = b.order[:0]
	return notes
}

// eventTime is when the engine logged the event, by its own clock, like the times of inspections.
func eventTime(e *events.Message) time.Time {
	switch {
	case e.TimeNano != 0:
		return time.Unix(0, e.TimeNano)
	case e.Time != 0:
		return time.Unix(e.Time, 0)
	}
	return time.Time{}
}
