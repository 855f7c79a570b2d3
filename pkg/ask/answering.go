package ask

import (
	"context"
	"slices"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// answering is the state of an Answerer that runs.
type answering struct {
	*Answerer
	view    view
	open    map[string]*question // by ask
	written map[string]written   // by ask
	lease   Lease                // nil while nothing is written
	next    time.Time            // when there is something to do, zero for not before something is told
	retry   time.Time            // no writing before it
	failing bool
}

// written is an answer as it was written.
type written struct {
	answer   service.Answer
	revision int64
}

// question is an ask on the way to its answer.
type question struct {
	ask       *service.Ask
	number    uint64              // of the snapshot that says what the ask is about, 0 while that is not known
	revision  int64               // of the catalog that showed that
	among     []*service.Service  // where it was last looked for what the ask names
	instances []*service.Instance // that it names; they stay when they are gone from the registry
	counted   time.Time           // when sessions were, last
	due       time.Time           // for the next count
	sessions  int
	answer    *service.Answer // nil while there is none
	said      time.Time       // since when it is this one
	undrained bool
	warned    bool
	lost      time.Time // when what was written was last not there
	after     time.Time // no writing before it
}

// look takes in what was told: new asks, those that are gone, and what became of the answers.
func (r *answering) look() {
	r.mu.Lock()
	r.view = r.now
	r.mu.Unlock()
	asks := r.mine()
	for id := range r.open {
		if !slices.ContainsFunc(asks, func(a *service.Ask) bool { return a.ID == id }) {
			delete(r.open, id)
		}
	}
	for _, a := range asks {
		q := r.open[a.ID]
		if q == nil || q.ask != a {
			q = &question{ask: a}
			r.open[a.ID] = q
		}
		r.follow(q)
	}
	r.verify()
}

// mine are the asks to answer: none unless the registry says that the node is this agent's.
func (r *answering) mine() []*service.Ask {
	c := r.view.catalog
	if c == nil || !slices.ContainsFunc(c.Nodes, func(n *service.Node) bool { return n.Name == r.Node && n.Agent == r.Agent }) {
		return nil
	}
	return c.Asks[:min(len(c.Asks), mostAsks)]
}

// follow notes what the catalog says of a question.
func (r *answering) follow(q *question) {
	c := r.view.catalog
	if q.number == 0 && c.Revision >= q.ask.Revision {
		q.number, q.revision = r.view.number, c.Revision
	}
	if q.ask.Want == service.WantApplied {
		return
	}
	if slices.Equal(q.among, c.Services) {
		return // answers of others came, or another ask
	}
	q.among = c.Services
	for _, i := range q.ask.Named(c) {
		if !slices.Contains(q.instances, i) {
			q.instances = append(q.instances, i)
		}
	}
}

// verify forgets what was written and is not there any more.
func (r *answering) verify() {
	c := r.view.catalog
	for id, w := range r.written {
		there := c != nil && slices.ContainsFunc(c.Answers, func(a *service.Answer) bool { return *a == w.answer })
		if c != nil && c.Revision >= w.revision && !there && r.open[id] != nil {
			delete(r.written, id)
			// Whoever took it away may do so again, as a clone of this host.
			q := r.open[id]
			q.after, q.lost = q.lost.Add(retryPace), time.Now()
		}
	}
}

// consider works out the answer to a question, as far as there is one.
func (r *answering) consider(ctx context.Context, q *question) {
	if q.number == 0 || r.view.inForce < q.number || q.answer == nil && r.lapsed(q) {
		return
	}
	switch q.ask.Want {
	case service.WantApplied:
		r.say(q)
	case service.WantEnded:
		r.count(ctx, q)
	case service.WantUndrained:
		r.undrain(q)
	}
}

// lapsed tells whether a question is about an override that has ended by this host's clock although the
// registry has it: the proxy does not follow it then. A clock that is wrong must not look like obedience.
func (r *answering) lapsed(q *question) bool {
	k, err := service.ParseKey(r.Prefix, q.ask.Key)
	return err == nil && k.Kind == service.KeyOverride && slices.ContainsFunc(r.view.catalog.Overrides, func(o *service.Override) bool {
		return o.Target == k.Target() && !o.InForce(time.Now())
	})
}

// say makes the answer what is known now, unless that is only that a few sessions less are left than a
// moment ago.
func (r *answering) say(q *question) {
	answer := service.Answer{Node: r.Node, Ask: q.ask.ID, Revision: q.revision, Applied: true, Sessions: q.sessions}
	switch {
	case q.answer != nil && *q.answer == answer:
	case q.answer != nil && q.sessions > 0 && time.Since(q.said) < fallPace:
		r.wakeAt(q.said.Add(fallPace))
	default:
		q.answer, q.said = &answer, time.Now()
	}
}

// count counts sessions until none is left.
func (r *answering) count(ctx context.Context, q *question) {
	if r.Sessions == nil {
		r.say(q)
		return
	}
	ended := !q.counted.IsZero() && q.sessions == 0
	if began := time.Now(); !ended && !began.Before(q.due) {
		n, err := r.Sessions(ctx, q.instances)
		q.due = time.Now().Add(max(countPace, countCost*time.Since(began)))
		if err == nil {
			q.sessions, q.counted = n, began
		} else if ctx.Err() == nil && !q.warned {
			q.warned = true
			r.Log.WithError(err).Warn("sessions cannot be counted, so that whoever waits for their end gets no answer; trying again")
		}
	}
	if !q.counted.IsZero() {
		r.say(q)
	}
	if q.counted.IsZero() || q.sessions > 0 {
		r.wakeAt(q.due)
	}
}

// undrain makes this agent forget a stop signal, and answers when the registry shows it.
func (r *answering) undrain(q *question) {
	for _, i := range q.instances {
		if i.Node != r.Node {
			continue
		}
		if !q.undrained && r.Undrain != nil {
			q.undrained = true
			r.Undrain(i.ID)
		}
		if r.shown(i) {
			r.say(q)
		}
	}
}

// shown tells whether the registry has the instance as one that was not told to stop.
func (r *answering) shown(i *service.Instance) bool {
	s := r.view.catalog.Service(i.Service)
	return s != nil && slices.ContainsFunc(s.Instances, func(now *service.Instance) bool {
		return now.Node == i.Node && now.ID == i.ID && now.State != service.Draining
	})
}

// wakeAt makes Run look again at that time.
func (r *answering) wakeAt(t time.Time) {
	if r.next.IsZero() || t.Before(r.next) {
		r.next = t
	}
}

// write makes the registry hold the answers. What fails is done again under another lease.
func (r *answering) write(ctx context.Context) {
	if len(r.open) == 0 {
		r.close(ctx)
		return
	}
	if time.Now().Before(r.retry) {
		r.wakeAt(r.retry)
		return
	}
	err := r.put(ctx)
	switch {
	case err != nil && ctx.Err() == nil:
		if !r.failing {
			r.Log.WithError(err).Warn("an ask cannot be answered; trying again")
		}
		r.failing = true
		r.close(ctx)
		r.retry = time.Now().Add(retryPace)
		r.wakeAt(r.retry)
	case err == nil && r.failing:
		r.failing = false
		r.Log.Info("asks are answered again")
	}
}

// put writes what is new and deletes what nobody asks any more.
func (r *answering) put(ctx context.Context) error {
	for id, q := range r.open {
		if q.answer == nil || r.written[id].answer == *q.answer {
			continue
		}
		if time.Now().Before(q.after) {
			r.wakeAt(q.after)
			continue
		}
		if err := r.putOne(ctx, id, *q.answer); err != nil {
			return err
		}
	}
	for id, w := range r.written {
		if r.open[id] != nil {
			continue
		}
		if err := r.lease.Delete(ctx, w.answer.RegistryKey(r.Prefix)); err != nil {
			return err
		}
		delete(r.written, id)
	}
	return nil
}

// putOne writes an answer, under a lease that is opened for the first.
func (r *answering) putOne(ctx context.Context, id string, answer service.Answer) error {
	value, err := answer.Encode()
	if err != nil {
		return err
	}
	if r.lease == nil {
		if r.lease, err = r.Registry.Open(ctx, answerTTL); err != nil {
			r.lease = nil
			return err
		}
	}
	revision, err := r.lease.Put(ctx, answer.RegistryKey(r.Prefix), value)
	if err != nil {
		return err
	}
	r.written[id] = written{answer, revision}
	return nil
}

// close gives the lease back, if there is one. Failing that, it runs out.
func (r *answering) close(ctx context.Context) {
	lease := r.lease
	r.lease = nil
	clear(r.written)
	if lease == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	if err := lease.Close(ctx); err != nil {
		r.Log.WithError(err).Debug("the lease of answers could not be given back; it will run out")
	}
}
