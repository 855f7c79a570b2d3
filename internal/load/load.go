// Package load sends a steady, bounded load of HTTP requests to one address and counts honestly
// what becomes of them.
//
// Go's http.Transport repeats a request on a fresh connection when a reused one turns out to be
// closed, and so hides exactly the failures that a proxy must not cause. The workers here speak
// HTTP/1.1 over their own connections: each request is sent once, and is either answered or counted
// with the reason. Only an idle connection that the server was already seen to have closed is opened
// anew before something is sent on it; such re-openings are counted beside the failures.
//
// In flow [Options]; out comes a [Report], at any time by [Run.Now] and at last by [Run.Stop]. Any web
// server can be asked for GET and POST; WebSockets and slow downloads want a [Handler] behind the proxy.
package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"
)

// Kind is what one worker does, over and over.
type Kind struct {
	Method    string
	KeepAlive bool          // one connection for all requests, else one for each
	Body      int           // bytes of body to send
	WebSocket bool          // a frame there and back over a connection that is held; needs a Handler
	Download  time.Duration // an answer that the server draws out for so long; needs a Handler
}

// String names the kind for people: "POST, new connections".
func (k Kind) String() string {
	switch {
	case k.WebSocket:
		return "WebSocket"
	case k.Download > 0:
		return "download of " + k.Download.String()
	case k.KeepAlive:
		return k.Method + ", keep-alive"
	default:
		return k.Method + ", new connections"
	}
}

// AllKinds is GET and POST, each with and without keep-alive.
func AllKinds() []Kind {
	return []Kind{
		{Method: http.MethodGet, KeepAlive: true},
		{Method: http.MethodGet},
		{Method: http.MethodPost, KeepAlive: true, Body: 1000},
		{Method: http.MethodPost, Body: 1000},
	}
}

// Options say what to send, and how much of it.
type Options struct {
	Target  string        // host:port to connect to
	Host    string        // Host header; Target if empty
	Path    string        // "/" if empty
	Kinds   []Kind        // AllKinds if empty
	Workers int           // workers for each kind, 1 if zero
	Pause   time.Duration // between two requests of one worker, 2 ms if zero
	Timeout time.Duration // for one request with its answer, 10 s if zero

	// Dial connects to the target, as [net.Dialer.DialContext] does, whose place it takes; for clients
	// that are elsewhere, as on a test host.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Failed is told of each failed request, by the worker that sent it; several may tell at once.
	Failed func(Failure)
}

// Failure is one failed request.
type Failure struct {
	Kind         Kind
	Reason       string // one of those in [Report.Reasons]
	Detail       string // for people
	Began, Ended time.Time
}

func (o Options) withDefaults() Options {
	if o.Host == "" {
		o.Host = o.Target
	}
	if o.Path == "" {
		o.Path = "/"
	}
	if len(o.Kinds) == 0 {
		o.Kinds = AllKinds()
	}
	if o.Workers == 0 {
		o.Workers = 1
	}
	if o.Pause == 0 {
		o.Pause = 2 * time.Millisecond
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: o.Timeout}).DialContext
	}
	return o
}

// Run is a load that is going on.
type Run struct {
	stop    chan struct{}
	stopped sync.Once
	workers sync.WaitGroup
	started time.Time

	mu     sync.Mutex
	report Report
	ended  time.Time
}

// Start begins to send, and goes on until [Run.Stop] or until ctx is cancelled. A request that the
// end of ctx cuts off is not counted.
func Start(ctx context.Context, opts Options) *Run {
	opts = opts.withDefaults()
	r := &Run{stop: make(chan struct{}), started: time.Now(), report: newReport()}
	run := rand.Uint64() //nolint:gosec // tells this run's requests from another's
	for k, kind := range opts.Kinds {
		for n := range opts.Workers {
			r.workers.Go(func() {
				w := &worker{opts: opts, kind: kind, name: fmt.Sprintf("%016x-%d-%d", run, k, n)}
				defer w.close()
				r.work(ctx, w)
			})
		}
	}
	return r
}

// work sends request after request, with a pause between them.
func (r *Run) work(ctx context.Context, w *worker) {
	pause := time.NewTicker(w.opts.Pause)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.stop:
			return
		case <-pause.C:
		}
		if r.stopping() {
			return // both were ready
		}
		began := time.Now()
		result := w.do(ctx)
		if ctx.Err() != nil {
			return
		}
		r.mu.Lock()
		r.report.add(w.kind, result, time.Since(r.started))
		r.mu.Unlock()
		if result.reason != "" && w.opts.Failed != nil {
			w.opts.Failed(Failure{w.kind, result.reason, result.detail, began, time.Now()})
		}
	}
}

func (r *Run) stopping() bool {
	select {
	case <-r.stop:
		return true
	default:
		return false
	}
}

// Now is what has been counted so far.
func (r *Run) Now() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	report := r.report.clone()
	report.Elapsed = time.Since(r.started)
	if !r.ended.IsZero() {
		report.Elapsed = r.ended.Sub(r.started)
	}
	return report
}

// Stop lets every request in flight come to its end and returns what was counted. It may be called
// again.
func (r *Run) Stop() Report {
	r.stopped.Do(func() { close(r.stop) })
	r.workers.Wait()
	r.mu.Lock()
	if r.ended.IsZero() {
		r.ended = time.Now()
	}
	r.mu.Unlock()
	return r.Now()
}
