package histories

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/sidekick-proxy/sidekick/internal/fakeengine"
	"github.com/sidekick-proxy/sidekick/pkg/register"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// patience is how long a history may take to become quiet.
const patience = 20 * time.Second

// history is one engine, one registry and what happens to them.
type history struct {
	*testing.T
	engine *fakeengine.Engine
	stored func(ctx context.Context) ([]service.Instance, error) // what is registered
	faulty *memory                                               // nil for a registry without faults
	agent  *agent
	boxes  []*box

	mu       sync.Mutex
	answered map[served]bool          // whether it listened there, and its HEALTHCHECK passed, at any time
	healthy  map[run]bool             // whether its HEALTHCHECK passed at any time, or it has none
	heard    map[netip.AddrPort]int64 // when somebody last listened there
	over     map[run]bool             // whether it was registered as one that gets no requests any more
	broken   []string                 // what was written and must not be
}

func newHistory(t *testing.T, registry register.Registry, resync time.Duration) *history {
	t.Helper()
	h := &history{
		T: t, engine: fakeengine.New(t), answered: map[served]bool{}, healthy: map[run]bool{}, heard: map[netip.AddrPort]int64{},
		over: map[run]bool{},
	}
	for n := range boxes {
		h.boxes = append(h.boxes, newBox(n))
	}
	h.agent = &agent{
		engine: h.engine, registry: watched{registry, h.write}, memory: filepath.Join(t.TempDir(), "published.json"), resync: resync,
	}
	t.Cleanup(func() {
		for _, b := range h.boxes {
			b.silence()
		}
	})
	h.agent.start(context.WithoutCancel(t.Context()))
	t.Cleanup(func() { h.check(h.agent.end()) })
	return h
}

// write looks at what is about to be registered. P1: nothing is there before something answered at its
// address and port and its own HEALTHCHECK passed, and nothing is ready that was seen to be told to stop. F2: no two are ready at one address.
func (h *history) write(want []service.Instance) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ready := map[netip.AddrPort]string{}
	for k := range want {
		i := &want[k]
		r := runOf(i)
		// Not more: a run whose events were lost may stand for the one that took its address.
		if h.heard[i.Endpoint()] < r.started {
			h.broken = append(h.broken, fmt.Sprintf("%s is %s before it answered", i.ID, i.State))
		}
		if !h.healthy[r] {
			h.broken = append(h.broken, fmt.Sprintf("%s is %s before its HEALTHCHECK passed", i.ID, i.State))
		}
		if other := ready[i.Endpoint()]; other != "" && i.State == service.Ready {
			h.broken = append(h.broken, fmt.Sprintf("%s and %s are ready at %s", i.ID, other, i.Endpoint()))
		}
		if i.State == service.Ready {
			ready[i.Endpoint()] = i.ID
		}
		if i.State == service.Draining {
			h.over[r] = true
		} else if h.over[r] {
			h.broken = append(h.broken, fmt.Sprintf("%s is %s after it was told to stop", i.ID, i.State))
		}
	}
}

// answers notes where a box does, before it can.
func (h *history) answers(b *box) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := b.run()
	h.healthy[r] = h.healthy[r] || b.isHealthy()
	for _, at := range b.reached() {
		h.heard[at] = time.Now().UnixNano()
		s := served{r, at}
		h.answered[s] = h.answered[s] || b.isHealthy()
	}
}

func (h *history) check(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// until waits for something to come true.
func (h *history) until(what string, differs func() string) {
	h.Helper()
	over := time.Now().Add(patience)
	for {
		why := differs()
		if why == "" {
			return
		}
		if time.Now().After(over) {
			h.Fatalf("%s: not within %s: %s", what, patience, why)
		}
		<-time.After(time.Millisecond)
	}
}

// returns ends all faults, and waits for the truth to be registered and to stay so over two more lists.
func (h *history) returns() {
	h.Helper()
	h.heal()
	h.until("the registry equals what runs", h.differs)
	from, _ := h.engine.Requested("/containers/json")
	h.until("two more lists", func() string {
		if count, _ := h.engine.Requested("/containers/json"); count < from+2 {
			return fmt.Sprintf("%d so far", count-from)
		}
		return ""
	})
	h.until("the registry still equals what runs", h.differs)
	h.mu.Lock()
	defer h.mu.Unlock()
	if broken := append(h.agent.faults(), h.broken...); len(broken) > 0 {
		h.Fatalf("what must never be was written: %s", strings.Join(broken[:min(len(broken), 5)], "; "))
	}
}

// differs says how the registry differs from what the history implies. F1, F5.
func (h *history) differs() string {
	all, err := h.stored(h.Context())
	if err != nil {
		return err.Error()
	}
	var faults []string
	left := map[string]service.Instance{}
	for _, i := range all {
		left[i.ID] = i
	}
	for _, b := range h.boxes {
		for _, d := range b.services {
			faults = append(faults, h.faultsOf(b, d, left)...)
			delete(left, b.instance(d))
		}
	}
	for id, i := range left {
		faults = append(faults, fmt.Sprintf("%s is there as %s", id, i.State))
	}
	slices.Sort(faults)
	return strings.Join(faults, "; ")
}

// faultsOf says how one service of a box differs from what is registered of it.
func (h *history) faultsOf(b *box, d declared, registered map[string]service.Instance) (faults []string) {
	i, there := registered[b.instance(d)] // without a state if it is not
	if want := h.allowed(b, d); !slices.Contains(want, i.State) {
		faults = append(faults, fmt.Sprintf("%s: got %q, want one of %q", b.instance(d), i.State, want))
	}
	if there && (served{runOf(&i), i.Endpoint()} != b.at(d) || i.Service != b.service(d)) {
		faults = append(faults, fmt.Sprintf("%s: got %s at %s since %s, want %s at %s since %s",
			b.instance(d), i.Service, i.Endpoint(), i.Started, b.service(d), b.at(d).at, b.started))
	}
	return faults
}

// allowed are the states in which a service of a box may be registered once all is quiet; "" is none. What
// answered in this run, but not to this agent, is not registered until it answers again.
func (h *history) allowed(b *box, d declared) []service.State {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case !b.running || !h.answered[b.at(d)]:
		return []service.State{""}
	case b.told:
		return []service.State{"", service.Draining}
	case b.paused, !b.open[d.port], !b.isHealthy():
		return []service.State{"", service.Unhealthy}
	}
	return []service.State{service.Ready}
}

// heal ends all faults.
func (h *history) heal() {
	for _, path := range faultyPaths {
		h.engine.Heal(path)
	}
	h.engine.Deafen(false)
	if h.faulty != nil {
		h.faulty.fail(0)
	}
}

// faultyPaths are what can fail at the engine.
var faultyPaths = []string{"/containers/json", "/containers/0001", "/containers/0003", "/containers/", "/networks/", "/events", "/_ping"}

// noted waits until the agent has noted all signals: after that, they are never forgotten, even if the
// engine forgets them and the agent crashes.
func (h *history) noted() {
	h.Helper()
	h.heal()
	h.until("all stop signals are noted", func() string {
		text, err := os.ReadFile(h.agent.memory)
		notes := map[string]struct {
			Started time.Time
			State   string
		}{}
		if err == nil {
			err = json.Unmarshal(text, &notes)
		}
		for _, b := range h.boxes {
			for _, d := range b.services {
				note := notes[b.instance(d)]
				if b.running && b.told && (!note.Started.Equal(b.started) || note.State != "draining" && note.State != "told") {
					return fmt.Sprintf("of %s: %v %v", b.instance(d), note, err)
				}
			}
		}
		return ""
	})
}

// tell logs events of a box; lost ones reach nobody.
func (h *history) tell(b *box, lost bool, actions ...events.Action) {
	h.engine.Deafen(lost)
	for _, a := range actions {
		h.engine.EmitContainer(b.id, a)
	}
	h.engine.Deafen(false)
}

func (h *history) signal(b *box, lost bool, number string) {
	h.engine.Deafen(lost)
	h.engine.Kill(b.id, number)
	h.engine.Deafen(false)
}

// begin starts a box with an address that nobody has; without one it does not start.
func (h *history) begin(b *box, lost, listens bool) {
	h.Helper()
	free := h.freeAddress("bridge")
	if b.running || !free.IsValid() {
		return
	}
	b.exists, b.running, b.paused, b.told = true, true, false, false
	b.started, b.places = time.Now().UTC(), map[string]netip.Addr{"bridge": free}
	if b.health != "" {
		b.health = "starting"
	}
	h.answers(b)
	h.engine.Put(b.described())
	h.tell(b, lost, events.ActionStart)
	if listens {
		h.listen(b, port, port2)
	}
}

// listen makes a box's process listen on these of its ports.
func (h *history) listen(b *box, ports ...uint16) {
	h.Helper()
	for _, d := range b.services {
		if slices.Contains(ports, d.port) {
			b.open[d.port] = true
		}
	}
	h.answers(b)
	h.check(b.listen())
}

// replug connects a box to a network, or takes it out. The agent takes no notes of what has no address, so
// one that is told to stop keeps its last.
func (h *history) replug(b *box, network string, lost bool) {
	h.Helper()
	_, in := b.places[network]
	free := h.freeAddress(network)
	if !b.running || in && b.told && len(b.places) == 1 || !in && !free.IsValid() {
		return
	}
	actions := []events.Action{events.ActionConnect}
	if in {
		delete(b.places, network)
		actions = []events.Action{events.ActionDisconnect, events.ActionDisconnect} // as engines do
	} else {
		b.places[network] = free
	}
	h.answers(b)
	h.check(b.listen())
	h.engine.Put(b.described())
	h.engine.Deafen(lost)
	for _, a := range actions {
		h.engine.Emit(events.Message{Type: events.NetworkEventType, Action: a, Actor: events.Actor{
			ID: network, Attributes: map[string]string{"container": b.id, "name": network},
		}})
	}
	h.engine.Deafen(false)
}

// freeAddress is one of a network that no container has, so that what one leaves another takes; invalid if
// there is none.
func (h *history) freeAddress(network string) netip.Addr {
	for n := range addresses {
		at := address(network, n)
		if !slices.ContainsFunc(h.boxes, func(b *box) bool { return b.places[network] == at }) {
			return at
		}
	}
	return netip.Addr{}
}

// finish ends a box's run.
func (h *history) finish(b *box, lost bool, actions ...events.Action) {
	b.silence()
	b.running, b.paused, b.told, b.places = false, false, false, map[string]netip.Addr{}
	h.engine.Put(b.described())
	h.tell(b, lost, actions...)
}

// failures are how requests to the engine go wrong.
func (h *history) breaks(path string, how int) {
	switch how % 3 {
	case 0:
		h.engine.Fail(path, http.StatusInternalServerError, `{"message":"out of order"}`)
	case 1:
		h.engine.Fail(path, http.StatusOK, `{"Id":"00`)
	case 2:
		h.engine.Slow(path, 20*time.Millisecond)
	}
}
