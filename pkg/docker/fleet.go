package docker

import (
	"reflect"
	"slices"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// patience is how often the inspection of a container that was never seen may fail before people
// are told. The first set waits for as many failures only while no container at all could be read,
// because that is a matter of the engine; else it is told of without the container after the first.
const patience = 3

// fleet is what is known of the containers of one engine. It outlives the connections to it: what
// one showed stays true until another shows otherwise. One goroutine owns it.
type fleet struct {
	host       host
	containers map[string]*tracked
	listed     bool            // whether a list was ever read
	awaited    map[string]bool // containers of the first list that are still to be settled
	legible    bool            // whether a container was ever described
	changed    bool            // whether there is something to tell
	added      bool            // the same, but only that containers came
	displaced  []string        // containers that are to be inspected, since another has their address
}

// tracked is what is known of one container.
type tracked struct {
	run      *run              // as last inspected; nil if not running or not known
	known    time.Time         // since when that run is known, by this process's clock
	draining bool              // a run was told to stop: it takes no new requests any more
	drained  time.Time         // when that run was started
	told     time.Time         // when the signal was last sent, zero if unknown
	kills    map[int]time.Time // signals that came since the last end that was told of
	failures int               // inspections that failed in a row
	failure  error             // of the last one
	failed   *service.Rejection

	asked   bool // an inspection is under way
	again   bool // its answer may be old already: ask once more
	discard bool // its answer is of a run that has ended
}

func newFleet(h host) *fleet {
	return &fleet{host: h, containers: map[string]*tracked{}, awaited: map[string]bool{}}
}

// at returns what is known of a container, made on first use.
func (f *fleet) at(id string) *tracked {
	t := f.containers[id]
	if t == nil {
		t = &tracked{kills: map[int]time.Time{}}
		f.containers[id] = t
	}
	return t
}

// note takes news from the event stream, and tells whether the container is to be inspected.
func (f *fleet) note(n *note) bool {
	t := f.at(n.id)
	if n.ended {
		f.changed = f.changed || t.run != nil
		t.run, t.draining, t.discard = nil, false, t.asked
		clear(t.kills)
	}
	f.hear(t, n.kills)
	if t.run != nil && time.Since(t.known) > eventTimeout {
		// No event comes that late: a signal from before the start is one from a clock that was put back.
		for signal, when := range n.kills {
			f.kill(t, signal, when)
		}
	}
	return n.inspect || t.run == nil
}

// hear takes signals in: for the run that is known, and for the one that the next inspection shows,
// which may be another, whose start was not told or is yet to be. A signal that is heard late, from
// before the start of the known run, is not for that one.
func (f *fleet) hear(t *tracked, kills map[int]time.Time) {
	for signal, when := range kills {
		if last, ok := t.kills[signal]; !ok || last.Before(when) {
			t.kills[signal] = when
		}
		if t.run != nil && (when.IsZero() || !when.Before(t.run.started)) {
			f.kill(t, signal, when)
		}
	}
}

func (f *fleet) kill(t *tracked, signal int, when time.Time) {
	if signal != t.run.stop && signal != sigKill {
		return
	}
	if !t.draining {
		t.told = time.Time{}
	}
	f.changed = f.changed || !t.draining || when.After(t.told)
	t.draining, t.drained = true, t.run.started
	if when.After(t.told) {
		t.told = when
	}
}

// list takes in which containers run, and the kills that the engine remembers. It returns those to be
// inspected: all that run, and those known that do not.
func (f *fleet) list(ids []string, kills []*note) []string {
	for _, id := range ids {
		f.at(id)
		if !f.listed {
			f.awaited[id] = true
		}
	}
	if !f.listed {
		f.listed, f.changed = true, true
	}
	for _, n := range kills {
		if t := f.containers[n.id]; t != nil {
			f.hear(t, n.kills)
		}
	}
	return sortedIDs(f.containers)
}

// started is when the known run of a container was; zero if there is none.
func (f *fleet) started(id string) time.Time {
	if t := f.containers[id]; t != nil && t.run != nil {
		return t.run.started
	}
	return time.Time{}
}

// inspected takes the answer to an inspection: the run, or nil if there is none. It tells whether
// the container is to be inspected again.
func (f *fleet) inspected(id string, r *run) bool {
	t := f.at(id)
	again := f.answered(t)
	f.legible = true
	defer f.settle()
	if t.discard {
		t.discard = false
		return again
	}
	delete(f.awaited, id)
	f.changed = f.changed || t.failed != nil
	t.failures, t.failure, t.failed = 0, nil, nil
	old, wasDraining := t.run, t.draining
	if r != nil && !r.started.Equal(t.drained) {
		t.draining = false
	}
	if r != nil && (old == nil || !old.started.Equal(r.started)) {
		t.known = time.Now()
	}
	if t.run = r; r != nil && (old == nil || !slices.Equal(old.endpoints, r.endpoints)) {
		f.displace(id, r, old != nil && old.started.Equal(r.started))
	}
	f.judge(t)
	switch {
	case old == nil && r != nil:
		f.added = true
	case wasDraining != t.draining, !reflect.DeepEqual(old, r):
		f.changed = true
	}
	// An answer without a run may be wrong for a moment; the mark of one that was told to stop lasts
	// until its end is told, the container is gone, or it is started anew.
	if r == nil && !again && !t.draining {
		delete(f.containers, id)
	}
	return again
}

// judge tells the known run of the signals that came since its start.
func (f *fleet) judge(t *tracked) {
	for signal, when := range t.kills {
		if t.run != nil && !when.Before(t.run.started) {
			f.kill(t, signal, when)
		}
	}
}

// displace takes away the run of whoever had an address before the container that has it now: that run
// is over, or has moved, although no event has told so yet. Else requests for the one would reach the
// other. Of two whose answers came in a wrong order the later run is the one that has it, unless the other
// run is seen to have moved there.
func (f *fleet) displace(id string, r *run, moved bool) {
	for other, t := range f.containers {
		if other == id || t.run == nil || !moved && t.run.started.After(r.started) || !share(t.run.endpoints, r.endpoints) {
			continue
		}
		t.run, t.discard, f.changed = nil, t.asked, true
		f.displaced = append(f.displaced, other)
	}
}

// share tells whether two lists of endpoints have one in common.
func share(a, b []endpoint) bool {
	return slices.ContainsFunc(a, func(e endpoint) bool {
		return slices.ContainsFunc(b, func(o endpoint) bool { return e.id == o.id && e.address == o.address })
	})
}

// gone takes the answer that there is no such container.
func (f *fleet) gone(id string) bool {
	f.at(id).draining = false
	return f.inspected(id, nil)
}

// unreadable takes an inspection that failed. What was known stays. It tells whether the container
// is to be inspected again at once.
func (f *fleet) unreadable(id string, err error) bool {
	t := f.at(id)
	again := f.answered(t)
	t.discard = false
	t.failures, t.failure = t.failures+1, err
	if t.failures >= patience {
		f.giveUp(id)
	}
	f.settle()
	return again
}

// settle lets the first set go without those that cannot be read, once others could be.
func (f *fleet) settle() {
	for id := range f.awaited {
		if f.legible && f.at(id).failures > 0 {
			f.giveUp(id)
		}
	}
}

// giveUp says of a container that was never seen that it cannot be read, once.
func (f *fleet) giveUp(id string) {
	t := f.at(id)
	if t.run != nil || t.failed != nil {
		return
	}
	delete(f.awaited, id)
	t.failed = &service.Rejection{
		Kind: service.RejectedContainer, Node: f.host.node, ID: id[:min(len(id), 12)], Name: id[:min(len(id), 12)],
		Reason: "the engine does not describe the container: " + oneLine(t.failure),
	}
	f.changed = true
}

func (f *fleet) answered(t *tracked) bool {
	again := t.again
	t.asked, t.again = false, false
	return again
}

// disconnected forgets what was asked of a connection that is gone.
func (f *fleet) disconnected() {
	for _, t := range f.containers {
		t.asked, t.again, t.discard = false, false, false
	}
}

// complete tells whether all containers of the first list are settled: before, nothing is told,
// because a part is no set.
func (f *fleet) complete() bool { return f.listed && len(f.awaited) == 0 }

// set returns all instances, and all that is left out, both sorted.
func (f *fleet) set() ([]service.Instance, []service.Rejection) {
	set := []service.Instance{}
	rejected := []service.Rejection{}
	for _, id := range sortedIDs(f.containers) {
		t := f.containers[id]
		if t.failed != nil {
			rejected = append(rejected, *t.failed)
		}
		if t.run == nil {
			continue
		}
		rejected = append(rejected, t.run.rejected...)
		at := len(set)
		set = append(set, t.run.instances...)
		if t.draining {
			for k := range set[at:] {
				set[at+k].State, set[at+k].Told = service.Draining, t.told
			}
		}
	}
	slices.SortFunc(set, compareIDs)
	return set, rejected
}

// remarks returns what is to be said of containers beside what is left out, in a fixed order.
func (f *fleet) remarks() []remark {
	var all []remark
	for _, id := range sortedIDs(f.containers) {
		if r := f.containers[id].run; r != nil {
			for _, text := range r.remarks {
				all = append(all, remark{r.name, text})
			}
			if text := r.cut(); text != "" {
				all = append(all, remark{r.name, text})
			}
		}
	}
	return all
}

// off counts for each convention that is off the running containers with its marks.
func (f *fleet) off() map[string]int {
	containers := map[string]int{}
	for _, t := range f.containers {
		if t.run != nil {
			for _, name := range t.run.off {
				containers[name]++
			}
		}
	}
	return containers
}
