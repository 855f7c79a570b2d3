// Package fakeengine is a Docker engine for tests: an HTTP server on a Unix socket that answers
// what Sidekick asks, about containers that the test makes up, and that fails where the test wants
// it to. A test changes containers and emits events separately, so that any order, loss and replay
// of events can be played; [Engine.Start], [Engine.Kill] and the like do both as a real engine does.
package fakeengine

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
)

// memory is how many events an engine remembers for those who ask for past ones.
const memory = 256

// Engine is one fake engine. Its methods may be used by several goroutines.
type Engine struct {
	socket   string
	server   *http.Server
	listener net.Listener

	mu         sync.Mutex
	containers map[string]container.InspectResponse
	networks   map[string]string // id → driver
	past       []events.Message
	streams    map[*stream]struct{}
	deaf       bool             // events reach no stream
	faults     map[string]fault // path prefix → what goes wrong
	requests   []string
	changed    chan struct{} // closed and replaced at each request
}

// fault is what happens to requests instead of an answer.
type fault struct {
	status int             // answered if not 0
	body   string          // of the answer
	hold   <-chan struct{} // waited for before anything else, if not nil
	slow   time.Duration   // the same
}

// New starts an engine that lives as long as the test.
func New(tb testing.TB) *Engine {
	tb.Helper()
	dir, err := os.MkdirTemp("", "engine") //nolint:usetesting // tb.TempDir is too long for a socket
	if err != nil {
		tb.Fatal(err)
	}
	e := &Engine{
		socket:     filepath.Join(dir, "docker.sock"),
		containers: map[string]container.InspectResponse{},
		networks:   map[string]string{},
		streams:    map[*stream]struct{}{},
		faults:     map[string]fault{},
		changed:    make(chan struct{}),
	}
	tb.Cleanup(func() {
		e.Down()
		_ = os.RemoveAll(dir)
	})
	e.Up(tb)
	return e
}

// Host is the engine's address, as in DOCKER_HOST.
func (e *Engine) Host() string { return "unix://" + e.socket }

// Up starts a server that was taken down. Containers are as they were; past events are forgotten.
func (e *Engine) Up(tb testing.TB) {
	tb.Helper()
	listener, err := net.Listen("unix", e.socket) //nolint:noctx // a Unix socket does not block
	if err != nil {
		tb.Fatal(err)
	}
	server := &http.Server{Handler: e} //nolint:gosec // no stranger connects
	e.mu.Lock()
	e.server, e.listener, e.past = server, listener, nil
	e.mu.Unlock()
	go func() { _ = server.Serve(listener) }()
}

// Down closes the server and all its connections, like the end of an engine's process.
func (e *Engine) Down() {
	e.mu.Lock()
	server, listener := e.server, e.listener
	e.mu.Unlock()
	_ = server.Close()
	_ = listener.Close() // a server that does not serve yet does not know it
	e.DropStreams()
}

// Put makes the engine have this container, without an event.
func (e *Engine) Put(c container.InspectResponse) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.containers[c.ID] = c
}

// Change alters a container, without an event.
func (e *Engine) Change(id string, change func(c *container.InspectResponse)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.containers[id]
	if c.State != nil { // not shared with an answer that is being written
		state := *c.State
		c.State = &state
	}
	change(&c)
	e.containers[id] = c
}

// Remove makes the engine forget a container, without an event.
func (e *Engine) Remove(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.containers, id)
}

// PutNetwork makes the engine have a network with that driver.
func (e *Engine) PutNetwork(id, driver string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.networks[id] = driver
}

// Fail answers all requests whose path (without the API version) begins with prefix by that status,
// until Heal. Status 200 with a body that is no answer is possible too.
func (e *Engine) Fail(prefix string, status int, body string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.faults[prefix] = fault{status: status, body: body}
}

// Hold lets requests whose path begins with prefix wait until release is called, once.
func (e *Engine) Hold(prefix string) (release func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	gate := make(chan struct{})
	e.faults[prefix] = fault{hold: gate}
	return func() {
		e.Heal(prefix)
		close(gate)
	}
}

// Slow lets requests whose path begins with prefix wait for that long, until Heal.
func (e *Engine) Slow(prefix string, d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.faults[prefix] = fault{slow: d}
}

// Heal ends what Fail, Hold or Slow began.
func (e *Engine) Heal(prefix string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.faults, prefix)
}

// Requests returns the paths, without the API version, of all requests so far.
func (e *Engine) Requests() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.requests...)
}

// Requested returns a channel that is closed at the next request, and how many requests with that
// path there were before. To wait for one: look, and wait for the channel while it is too few.
func (e *Engine) Requested(path string) (count int, next <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.requests {
		if r == path {
			count++
		}
	}
	return count, e.changed
}

// ServeHTTP answers like the engine, for tests that bring their own listener.
func (e *Engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := withoutVersion(r.URL.Path)
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		answer(w, http.StatusMethodNotAllowed, map[string]string{"message": "this engine is only read: " + r.Method + " " + path})
		return
	}
	if f, ok := e.note(path); ok {
		if !f.wait(r.Context()) {
			return
		}
		if f.status != 0 {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(f.status)
			_, _ = w.Write([]byte(f.body))
			return
		}
	}
	switch {
	case path == "/_ping":
		w.Header().Set("Api-Version", "1.41")
		_, _ = w.Write([]byte("OK"))
	case path == "/events":
		e.stream(w, r)
	case path == "/containers/json":
		e.list(w)
	case strings.HasPrefix(path, "/containers/"):
		e.inspect(w, strings.TrimSuffix(strings.TrimPrefix(path, "/containers/"), "/json"))
	case strings.HasPrefix(path, "/networks/"):
		e.network(w, strings.TrimPrefix(path, "/networks/"))
	default:
		answer(w, http.StatusNotFound, map[string]string{"message": "page not found"})
	}
}

// wait waits as the fault wants, or returns false when nobody waits for the answer any more.
func (f *fault) wait(ctx context.Context) bool {
	hold := f.hold
	if hold == nil {
		gate := make(chan struct{})
		defer time.AfterFunc(f.slow, func() { close(gate) }).Stop()
		hold = gate
	}
	select {
	case <-hold:
		return true
	case <-ctx.Done():
		return false
	}
}

// note remembers a request, and returns what is to go wrong with it.
func (e *Engine) note(path string) (fault, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.requests = append(e.requests, path)
	close(e.changed)
	e.changed = make(chan struct{})
	for prefix, f := range e.faults {
		if strings.HasPrefix(path, prefix) {
			return f, true
		}
	}
	return fault{}, false
}

func (e *Engine) list(w http.ResponseWriter) {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := []container.Summary{}
	for id, c := range e.containers {
		if c.State != nil && c.State.Running {
			all = append(all, container.Summary{ID: id, Names: []string{c.Name}, State: c.State.Status})
		}
	}
	answer(w, http.StatusOK, all)
}

func (e *Engine) inspect(w http.ResponseWriter, id string) {
	e.mu.Lock()
	c, ok := e.containers[id]
	e.mu.Unlock()
	if !ok {
		answer(w, http.StatusNotFound, map[string]string{"message": "No such container: " + id})
		return
	}
	answer(w, http.StatusOK, c)
}

func (e *Engine) network(w http.ResponseWriter, id string) {
	e.mu.Lock()
	driver, ok := e.networks[id]
	e.mu.Unlock()
	if !ok {
		answer(w, http.StatusNotFound, map[string]string{"message": "network " + id + " not found"})
		return
	}
	answer(w, http.StatusOK, network.Inspect{Network: network.Network{ID: id, Driver: driver}})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// withoutVersion takes "/v1.41" from the front of a path.
func withoutVersion(path string) string {
	if rest, ok := strings.CutPrefix(path, "/v"); ok {
		if _, after, ok := strings.Cut(rest, "/"); ok {
			return "/" + after
		}
	}
	return path
}
