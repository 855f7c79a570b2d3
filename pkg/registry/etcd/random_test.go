package etcd

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"pgregory.net/rapid"

	"github.com/sidekick-proxy/sidekick/pkg/registry/registrytest"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// history is a registry to which things happen, and a watcher behind a link that does not last.
type history struct {
	*testing.T
	srv     *server
	admin   *clientv3.Client
	model   *model
	link    *link
	client  *clientv3.Client // of the watcher
	streams *streams
	reader  *reader
	leases  []clientv3.LeaseID
	writers sync.WaitGroup
	slow    bool // the reader does not read
	away    bool // the link is cut
	judged  int  // catalogs of readers that have ended
}

// event is one thing that happens.
type event struct {
	What  string
	Key   int
	Other int // tells variants apart
	Pause time.Duration
}

// String implements fmt.Stringer, for the history that a failure prints.
func (e event) String() string {
	return fmt.Sprintf("%s(%d, %d, then %s)", e.What, e.Key, e.Other, e.Pause)
}

// item is the key of a number, and a value.
func (h *history) item(key, variant int) (string, string) {
	node := fmt.Sprint("n", key%3)
	i := registrytest.Instance(node, fmt.Sprint("s", key%4), key)
	i.Weight = variant % 257
	v, err := i.Encode()
	h.check(err)
	switch {
	case key%10 == 8:
		n := registrytest.Node(node, fmt.Sprint("agent", variant))
		v, err = n.Encode()
		h.check(err)
		return service.NodeKey(h.model.prefix, node), string(v)
	case key%10 == 9 && variant%2 == 0:
		return i.Key(h.model.prefix), nonsense
	}
	return i.Key(h.model.prefix), string(v)
}

// items are some keys, with values or without.
func (h *history) items(key, many, variant int) map[string]string {
	items := map[string]string{}
	for n := range many {
		k, v := h.item(key+n*7, variant+n)
		if (variant+n)%4 == 3 {
			v = ""
		}
		items[k] = v
	}
	return items
}

func (h *history) check(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// eventful are the things that can happen, by name.
var eventful = map[string]func(h *history, ctx context.Context, e event){
	"write": func(h *history, ctx context.Context, e event) {
		h.check(h.model.write(ctx, h.items(e.Key, 1, e.Other), 0))
	},
	"write many": func(h *history, ctx context.Context, e event) {
		h.check(h.model.write(ctx, h.items(e.Key, 20, e.Other), 0))
	},
	"write elsewhere": func(h *history, ctx context.Context, e event) {
		_, err := h.admin.Put(ctx, h.model.prefix+"-elsewhere", strconv.Itoa(e.Other))
		h.check(err)
	},
	"write on and on": func(h *history, ctx context.Context, e event) {
		h.writers.Go(func() {
			for n := range 40 {
				if err := h.model.write(ctx, h.items(e.Key+n, 1+n%3, e.Other+n), 0); err != nil {
					h.Error(err)
				}
			}
		})
	},
	"lease": func(h *history, ctx context.Context, e event) {
		l, err := h.admin.Grant(ctx, 3600)
		h.check(err)
		h.leases = append(h.leases, l.ID)
		h.check(h.model.write(ctx, h.items(e.Key, 15, 4*e.Other), l.ID))
	},
	"lease ends": func(h *history, ctx context.Context, _ event) {
		if len(h.leases) > 0 {
			h.check(h.model.revoke(ctx, h.leases[0]))
			h.leases = h.leases[1:]
		}
	},
	"compaction": func(h *history, ctx context.Context, _ event) { h.compact(ctx) },
	"compaction of what is unseen": func(h *history, ctx context.Context, e event) {
		h.cut()
		for n := range 3 {
			h.check(h.model.write(ctx, h.items(e.Key+n, 2, e.Other+n), 0))
		}
		h.compact(ctx)
		h.mend()
	},
	"connection lost": func(h *history, _ context.Context, _ event) { h.cut(); h.mend() },
	"link down":       func(h *history, _ context.Context, _ event) { h.cut() },
	"link up":         func(h *history, _ context.Context, _ event) { h.mend() },
	"link stands":     func(h *history, _ context.Context, _ event) { h.link.freeze(true) },
	"link goes on":    func(h *history, _ context.Context, _ event) { h.link.freeze(false) },
	"watch cancelled": func(h *history, _ context.Context, _ event) { h.streams.mode.Store(streamsCancel) },
	"stream reset":    func(h *history, _ context.Context, _ event) { h.streams.mode.Store(streamsReset) },
	"stream silent":   func(h *history, _ context.Context, _ event) { h.streams.mode.Store(streamsMute) },
	"streams are well": func(h *history, _ context.Context, _ event) {
		h.streams.mode.Store(streamsPass)
	},
	"reader stops": func(h *history, _ context.Context, _ event) { h.read(false) },
	"reader reads": func(h *history, _ context.Context, _ event) { h.read(true) },
	"watcher restarts": func(h *history, _ context.Context, _ event) {
		h.endReader()
		h.startReader()
	},
	"server restarts": func(h *history, ctx context.Context, e event) {
		if e.Other%4 != 0 { // it takes as long as many other things
			return
		}
		h.writers.Wait()
		h.srv.stop(h.T)
		h.srv.start(h.T)
		_, err := h.model.held(ctx) // the admin's connection is there again
		h.check(err)
	},
	"all is quiet": func(h *history, ctx context.Context, _ event) { h.settle(ctx) },
}

func (h *history) compact(ctx context.Context) {
	h.Helper()
	resp, err := h.admin.Get(ctx, "x")
	h.check(err)
	if _, err := h.admin.Compact(ctx, resp.Header.Revision); err != nil && !strings.Contains(err.Error(), "compacted") {
		h.Fatal(err)
	}
}

func (h *history) cut() {
	h.link.cut()
	h.away = true
}

func (h *history) mend() {
	h.Helper()
	if h.away {
		h.link.mend(h.T)
		h.away = false
	}
}

func (h *history) read(on bool) {
	switch {
	case on && h.slow:
		h.reader.turn.Unlock()
	case !on && !h.slow:
		h.reader.turn.Lock()
	}
	h.slow = !on
}

func (h *history) startReader() {
	w := newWatcher(h.client)
	w.Progress = 60 * time.Millisecond
	h.reader = h.model.read(context.WithoutCancel(h.Context()), w)
}

func (h *history) endReader() {
	h.Helper()
	h.read(true)
	if err := h.reader.end(); err != nil {
		h.Error(err)
	}
	h.judged += h.reader.number
}

// settle takes all faults away, and waits until the last catalog says what the registry holds. Nothing
// is written for that: what was not seen before must not be shown by what comes later.
func (h *history) settle(ctx context.Context) {
	h.Helper()
	h.link.freeze(false)
	h.mend()
	h.streams.mode.Store(streamsPass)
	h.read(true)
	h.writers.Wait()
	held, err := h.model.held(ctx)
	h.check(err)
	if diff := cmp.Diff(held, h.model.newest()); diff != "" {
		h.Fatalf("the registry is not as the test has made it (-got +want):\n%s", diff)
	}
	if !becomes(h.reader.inStep) {
		h.reader.mu.Lock()
		defer h.reader.mu.Unlock()
		h.Fatalf("at rest, after %d catalogs, the last (-got +want):\n%s", h.reader.number, cmp.Diff(h.reader.last, held))
	}
}

// play lets all happen to a prefix of its own, and returns how many catalogs there were.
func play(t *testing.T, srv *server, admin *clientv3.Client, l *link, prefix string, all []event) int {
	t.Helper()
	h := &history{T: t, srv: srv, admin: admin, model: newModel(t, admin, prefix), link: l, streams: &streams{}}
	h.client = h.streams.dial(t, "unix://"+l.path)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Minute)
	defer cancel()
	h.startReader()
	defer h.endReader()
	for _, e := range all {
		eventful[e.What](h, ctx, e)
		if e.Pause > 0 {
			<-time.After(e.Pause)
		}
	}
	h.settle(ctx)
	return h.judged + h.reader.number
}

// events draws what happens: a few kinds of things, so that what belongs together comes together.
func events(t *rapid.T) []event {
	kinds := rapid.SliceOfNDistinct(rapid.SampledFrom(slices.Sorted(maps.Keys(eventful))), 1, 8, rapid.ID).Draw(t, "kinds")
	kinds = append(kinds, "write", "write many")
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) event {
		return event{
			What: rapid.SampledFrom(kinds).Draw(t, "what"), Key: rapid.IntRange(0, 30).Draw(t, "key"), Other: rapid.IntRange(0, 200).Draw(t, "variant"),
			Pause: time.Duration(rapid.SampledFrom([]int{0, 0, 0, 1, 3, 10, 40}).Draw(t, "pause")) * time.Millisecond,
		}
	}), 1, 40).Draw(t, "events")
}

// soakTime is the variable with the seconds to go on for; rapid's own flags say how many histories there
// are at most, and with which seed.
const soakTime = "SOAKTIME"

// length is how long to go on.
func length(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv(soakTime)
	if text == "" {
		return 8 * time.Second // what a test before every change may take
	}
	seconds, err := strconv.Atoi(text)
	if err != nil || seconds <= 0 {
		t.Fatalf("%s=%q: give a number of seconds", soakTime, text)
	}
	return time.Duration(seconds) * time.Second
}

// TestAnyHistoryIsFollowed: whatever is written, compacted, revoked, cut, cancelled, held back and
// restarted, every catalog is what the registry held at its revision, revisions never go back, and at
// rest the last one is what a fresh list shows (F4, F5).
func TestAnyHistoryIsFollowed(t *testing.T) {
	srv := newServer(t)
	admin := srv.dial(t)
	l := newLink(t, srv)
	over, played, catalogs := time.Now().Add(length(t)), 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		if played > 0 && time.Now().After(over) && !t.Failed() {
			return
		}
		all := events(rt)
		played++
		// A subtest, so that each history cleans up after itself.
		if !t.Run("history", func(t *testing.T) {
			catalogs += play(t, srv, admin, l, fmt.Sprint("/history", played), all)
		}) {
			rt.Fatalf("history of %d events: %v", len(all), all)
		}
	})
	t.Logf("%d histories, %d catalogs in %s", played, catalogs, length(t))
}
