package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
)

const (
	parallel       = 8                      // inspections at a time
	inspectTimeout = 5 * time.Second        // a container that hangs the engine must not hang us
	firstTimeout   = 2 * time.Second        // the same, while the first set waits for it
	listTimeout    = 30 * time.Second       // for a list
	recallTimeout  = 2 * time.Second        // for the engine's memory of kills
	burstTime      = 250 * time.Millisecond // containers that come all at once may wait to be told of
	eventTimeout   = 5 * time.Second        // for an event that tells what a list shows already
)

// session is one connection to the engine: its event stream, its lists, and the inspections they
// cause. The goroutine in run owns the fleet; the others only ask the engine, and answer by channel.
type session struct {
	engine   *client.Client
	networks *networks
	host     host
	fleet    *fleet
	tell     *teller
	resync   time.Duration
	succeed  func()
	fail     func(error)

	answers chan answer
	lists   chan listing
	todo    []string // containers to be inspected, in the order of the wish
	busy    int      // inspections under way

	burst      burst
	burstTimer *time.Timer

	following   bool            // a list was read since the stream began
	expected    map[string]bool // containers whose next inspection may show another run
	missed      map[string]bool // those that showed one, of which no event has told so far
	missedTimer *time.Timer

	retry      map[string]bool // containers whose inspection failed
	retryTimer *time.Timer
	retryPause *backoff.ExponentialBackOff
}

// burst is how long containers have been coming that are not told of yet.
type burst int

const (
	none  burst = iota
	begun       // for less than burstTime
	late
)

// errSilent is why a session ends whose engine takes the connection but does not answer.
var errSilent = errors.New("the engine does not answer")

// errDeaf is why a session ends whose event stream stands, but brings nothing, or not all.
var errDeaf = errors.New("containers started or ended, and the event stream did not tell")

// answer is the outcome of one inspection; run is nil when the container does not run.
type answer struct {
	id   string
	run  *run
	gone bool // there is no such container
	err  error
	away bool // the error is not the container's: the engine answers nothing
}

// listing is the outcome of one list.
type listing struct {
	ids   []string
	kills []*note
	err   error
}

// run subscribes, lists, and follows until the connection fails. It returns only after all that it
// started has ended.
func (s *session) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	defer s.fleet.disconnected()
	s.answers = make(chan answer, parallel) // so that none has to wait for the owner
	s.lists = make(chan listing, 1)
	s.retry, s.expected, s.missed = map[string]bool{}, map[string]bool{}, map[string]bool{}
	s.retryPause = &backoff.ExponentialBackOff{
		InitialInterval: 200 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: 10 * time.Second,
	}
	s.retryPause.Reset()

	// Subscribed before listed: what happens in between is then seen twice and not never.
	silent := time.AfterFunc(listTimeout, func() { cancel(errSilent) })
	stream := s.engine.Events(ctx, client.EventsListOptions{Filters: wantedEvents()})
	silent.Stop()
	box := newInbox()
	ended := make(chan error, 1)
	wg.Go(func() { ended <- read(stream, box) })
	wg.Go(func() { s.lists <- s.list(ctx) })
	err := s.own(ctx, &wg, box, ended)
	// An engine that goes down tells of the containers that it takes along.
	s.news(box.take())
	return errors.Join(err, context.Cause(ctx), s.tell.tell(ctx, s.fleet))
}

// own is the loop of the goroutine that owns the fleet. These wake it: news from the stream, the
// stream's end, an answer, a list, and the time for another list, for what failed, or for events
// that a list wants.
func (s *session) own(ctx context.Context, wg *sync.WaitGroup, box *inbox, ended <-chan error) error {
	resync := idle() // until the first list is in
	defer resync.Stop()
	// Until something fails, is missed, and until many come.
	s.retryTimer, s.missedTimer, s.burstTimer = idle(), idle(), idle()
	for {
		s.dispatch(ctx, wg)
		if err := s.say(ctx); err != nil {
			return err
		}
		select {
		case <-box.wake:
			s.news(box.take())
		case err := <-ended:
			return err
		case a := <-s.answers:
			if err := s.allAnswered(a); err != nil {
				return err
			}
		case l := <-s.lists:
			if l.err != nil {
				return l.err
			}
			s.listed(l)
			resync.Reset(s.resync)
		case <-resync.C:
			wg.Go(func() { s.lists <- s.list(ctx) })
		case <-s.retryTimer.C:
			s.again()
		case <-s.burstTimer.C:
			s.burst = late
		case <-s.missedTimer.C:
			if len(s.missed) > 0 {
				return errDeaf
			}
		case <-ctx.Done():
			return nil // the cause is added
		}
	}
}

// say sends the set if there is something to tell. While containers come faster than they can be looked
// at, it tells of many at once; whatever else there is to tell waits for nothing.
func (s *session) say(ctx context.Context) error {
	if s.fleet.added && !s.fleet.changed && len(s.todo) > 0 && s.burst != late {
		if s.burst == none {
			s.burst = begun
			s.burstTimer.Reset(burstTime)
		}
		return nil
	}
	s.burst = none
	s.burstTimer.Stop()
	return s.tell.tell(ctx, s.fleet)
}

// idle returns a timer that runs from its first Reset on.
func idle() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

func (s *session) news(notes []*note) {
	for _, n := range notes {
		delete(s.missed, n.id)
		if s.fleet.note(n) {
			s.expected[n.id] = true
			s.ask(n.id)
		}
	}
}

func (s *session) listed(l listing) {
	for _, id := range s.fleet.list(l.ids, l.kills) {
		if !s.following { // it shows what happened before this session
			s.expected[id] = true
		}
		s.ask(id)
	}
	s.following = true
	s.succeed()
}

// ask puts a container on the list of those to be inspected. One that is being inspected already is
// asked for again afterwards, never at the same time, so that an older answer cannot come last.
func (s *session) ask(id string) {
	t := s.fleet.at(id)
	if t.asked {
		t.again = true
		return
	}
	t.asked = true
	s.todo = append(s.todo, id)
}

func (s *session) dispatch(ctx context.Context, wg *sync.WaitGroup) {
	for s.busy < parallel && len(s.todo) > 0 {
		id := s.todo[0]
		s.todo = s.todo[1:]
		s.busy++
		limit := inspectTimeout
		if s.fleet.awaited[id] && s.fleet.at(id).failures == 0 {
			limit = firstTimeout
		}
		wg.Go(func() { s.answers <- s.inspect(ctx, id, limit) })
	}
}

// allAnswered takes in an answer and those that have come meanwhile, so that one set tells of them.
func (s *session) allAnswered(a answer) error {
	for {
		if err := s.answered(a); err != nil {
			return err
		}
		select {
		case a = <-s.answers:
		default:
			return nil
		}
	}
}

// answered takes one answer in. An error ends the session.
func (s *session) answered(a answer) error {
	s.busy--
	if a.err == nil {
		s.described(a)
		return nil
	}
	if a.away {
		return a.err
	}
	s.fail(a.err)
	again := s.fleet.unreadable(a.id, a.err)
	if s.fleet.at(a.id).failures == 1 {
		s.tell.log.WithError(a.err).Warn("container cannot be inspected; what is known of it stays")
	}
	if len(s.retry) == 0 {
		s.retryTimer.Reset(s.retryPause.NextBackOff())
	}
	s.retry[a.id] = true
	if again {
		s.ask(a.id)
	}
	return nil
}

// described takes in how a container is.
func (s *session) described(a answer) {
	s.recovered(a.id)
	before := s.fleet.started(a.id)
	var again bool
	if a.gone {
		again = s.fleet.gone(a.id)
	} else {
		again = s.fleet.inspected(a.id, a.run)
	}
	if !s.expected[a.id] && !before.Equal(s.fleet.started(a.id)) {
		s.miss(a.id)
	}
	for _, id := range s.fleet.displaced {
		s.miss(id)
		s.ask(id)
	}
	s.fleet.displaced = nil
	if again {
		s.ask(a.id)
		return
	}
	delete(s.expected, a.id)
}

// miss waits for an event that tells what is known already. A stream that is cut off behind a proxy,
// or held back by one, looks like one that has nothing to tell.
func (s *session) miss(id string) {
	if len(s.missed) == 0 {
		s.missedTimer.Reset(min(eventTimeout, s.resync))
	}
	s.missed[id] = true
}

// recovered notes that a container could be inspected.
func (s *session) recovered(id string) {
	if s.retry[id] {
		delete(s.retry, id)
		s.retryPause.Reset()
	}
}

// again asks for what failed before.
func (s *session) again() {
	failed := sortedIDs(s.retry)
	for _, id := range failed {
		if !s.fleet.at(id).asked {
			s.ask(id)
		}
	}
	s.retryTimer.Reset(s.retryPause.NextBackOff())
	if len(failed) == 0 {
		s.retryTimer.Stop()
	}
}

// inspect describes one container. When that fails, asking for something simple tells a container
// that cannot be described from an engine that is away: only the first may be told of without it.
func (s *session) inspect(ctx context.Context, id string, limit time.Duration) answer {
	r, err := s.read(ctx, id, limit)
	if err == nil {
		return answer{id: id, run: r}
	}
	if cerrdefs.IsNotFound(err) {
		return answer{id: id, gone: true}
	}
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	_, away := s.engine.Ping(ctx, client.PingOptions{})
	return answer{id: id, err: err, away: away != nil}
}

func (s *session) read(ctx context.Context, id string, limit time.Duration) (*run, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	shown, err := inspect(ctx, s.engine, id)
	if err != nil {
		return nil, fmt.Errorf("inspect container %.12s: %w", id, err)
	}
	v := newView(&shown)
	if v.running && len(s.host.asked(&v).Services) > 0 {
		if err := s.networks.fill(ctx, &v); err != nil {
			return nil, err
		}
	}
	return s.host.read(&v), nil
}

// list reads which containers run, and before that the kills that the engine remembers, so that a
// container which was told to stop while nobody listened, or whose kill was lost on the way, is not
// taken for one that goes on.
func (s *session) list(ctx context.Context) listing {
	var l listing
	if l.kills, l.err = s.recall(ctx); l.err != nil {
		return l
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	res, err := s.engine.ContainerList(ctx, client.ContainerListOptions{})
	if err != nil {
		l.err = fmt.Errorf("list containers: %w", err)
		return l
	}
	for _, c := range res.Items {
		l.ids = append(l.ids, c.ID)
	}
	return l
}

// recall reads the kills in the engine's memory of its last events.
func (s *session) recall(ctx context.Context) ([]*note, error) {
	until := time.Now()
	ctx, cancel := context.WithTimeout(ctx, recallTimeout)
	defer cancel()
	stream := s.engine.Events(ctx, client.EventsListOptions{
		Since: "0", Until: strconv.FormatInt(until.Unix(), 10) + "." + fmt.Sprintf("%09d", until.Nanosecond()),
		Filters: make(client.Filters).Add("type", string(events.ContainerEventType)).Add("event", string(events.ActionKill)),
	})
	box := newInbox()
	err := read(stream, box)
	// An engine whose clock is behind waits for its own "until"; what it has to tell it told at once.
	if errors.Is(err, io.EOF) || errors.Is(err, context.DeadlineExceeded) {
		return box.take(), nil
	}
	return nil, fmt.Errorf("past events: %w", err)
}

// read puts the stream into the box until it ends, and says why it did.
func read(stream client.EventsResult, box *inbox) error {
	for {
		select {
		case e := <-stream.Messages:
			box.put(&e)
		case err := <-stream.Err:
			return fmt.Errorf("event stream: %w", err)
		}
	}
}

// wantedEvents are those that can change an instance. Health checks make three more each, which the
// engine must not send.
func wantedEvents() client.Filters {
	return make(client.Filters).
		Add("type", string(events.ContainerEventType), string(events.NetworkEventType)).
		Add("event",
			string(events.ActionStart), string(events.ActionDie), string(events.ActionStop), string(events.ActionKill),
			string(events.ActionDestroy), string(events.ActionPause), string(events.ActionUnPause), string(events.ActionRename),
			string(events.ActionUpdate), string(events.ActionOOM), string(events.ActionHealthStatus), string(events.ActionConnect), string(events.ActionDisconnect))
}
