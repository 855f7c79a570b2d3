package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// within waits for a condition, since a busy machine keeps no times.
func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited 30 s: %s", what)
		}
	}
}

func TestEveryKindIsAnsweredAndCounted(t *testing.T) {
	var connections atomic.Int64
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		if r.Host != "shop.example.com" {
			http.Error(w, "wrong host", http.StatusNotFound)
		}
		w.Header().Set("X-Whoami", "one")
		if n > 0 {
			w.Header().Set("X-Whoami-Bytes", "1000")
		}
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	run := Start(t.Context(), Options{Target: srv.Listener.Addr().String(), Host: "shop.example.com"})
	within(t, "20 requests of each kind", func() bool {
		now := run.Now()
		for _, k := range AllKinds() {
			if now.Kinds[k].Sent < 20 {
				return false
			}
		}
		return true
	})
	got := run.Stop()
	if got.Failed != 0 || got.OK != got.Sent || got.Servers["one"] != got.OK {
		t.Errorf("got %v, want no failure and all answered by one", got)
	}
	single := got.Kinds[Kind{Method: "GET"}].Sent + got.Kinds[Kind{Method: "POST", Body: 1000}].Sent
	if want := int64(single + 2); connections.Load() != want {
		t.Errorf("connections: got %d, want %d: one for each request without keep-alive, and two kept ones", connections.Load(), want)
	}
	if got.Percentile(0.5) <= 0 || got.Percentile(0.99) < got.Percentile(0.5) {
		t.Errorf("p50 %s, p99 %s", got.Percentile(0.5), got.Percentile(0.99))
	}
}

func TestFailuresAreCountedByReason(t *testing.T) {
	answer := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	tests := map[string]struct {
		serve func(net.Conn, *bufio.Reader) // after the first request was read
		want  string
	}{
		"server error": {func(c net.Conn, _ *bufio.Reader) {
			io.WriteString(c, "HTTP/1.1 503 Sorry\r\nContent-Length: 0\r\n\r\n")
		}, "status 503"},
		"closed before the answer":  {func(net.Conn, *bufio.Reader) {}, Unanswered},
		"closed in the answer":      {func(c net.Conn, _ *bufio.Reader) { io.WriteString(c, answer[:len(answer)-1]) }, Broken},
		"closed in the header":      {func(c net.Conn, _ *bufio.Reader) { io.WriteString(c, answer[:12]) }, Broken},
		"no answer":                 {func(_ net.Conn, r *bufio.Reader) { r.ReadByte() }, Timeout},
		"second request unanswered": {func(c net.Conn, r *bufio.Reader) { io.WriteString(c, answer); http.ReadRequest(r) }, Stale},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			addr := serve(t, func(c net.Conn) {
				r := bufio.NewReader(c)
				if _, err := http.ReadRequest(r); err == nil {
					tt.serve(c, r)
				}
			})
			run := Start(t.Context(), Options{Target: addr, Kinds: []Kind{{Method: "GET", KeepAlive: true}}, Timeout: time.Second})
			within(t, "a failure", func() bool { return run.Now().Failed > 0 })
			got := run.Stop()
			if got.Reasons[tt.want] == 0 || len(got.Reasons) != 1 {
				t.Errorf("got %v, want only %q", got, tt.want)
			}
		})
	}
}

func TestRefusedConnection(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	run := Start(t.Context(), Options{Target: addr})
	within(t, "a failure", func() bool { return run.Now().Failed > 0 })
	if got := run.Stop(); got.OK != 0 || got.Reasons[Refused] != got.Sent {
		t.Errorf("got %v, want only %q", got, Refused)
	}
}

func TestEachFailureIsToldOfOnce(t *testing.T) {
	down := errors.New("the link is down")
	told := make(chan Failure, 1000)
	began := time.Now()
	run := Start(t.Context(), Options{
		Target: "192.0.2.1:80", Kinds: []Kind{{Method: "GET"}}, Workers: 2,
		Dial: func(_ context.Context, _, address string) (net.Conn, error) {
			return nil, fmt.Errorf("%s: %w", address, down)
		},
		Failed: func(f Failure) { told <- f },
	})
	within(t, "some failures", func() bool { return run.Now().Failed > 3 })
	if got := run.Stop(); len(told) != got.Failed || got.Failed != got.Sent {
		t.Errorf("told of %d failures; the report has %v", len(told), got)
	}
	f := <-told
	if f.Kind.Method != "GET" || f.Reason != Refused || f.Detail != "192.0.2.1:80: the link is down" || f.Began.Before(began) || f.Ended.Before(f.Began) {
		t.Errorf("got %+v, want a GET that found no connection", f)
	}
}

func TestClosedIdleConnectionIsReopenedAndCounted(t *testing.T) {
	addr := serve(t, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	w := &worker{opts: Options{Target: addr}.withDefaults(), kind: Kind{Method: "GET", KeepAlive: true}}
	defer w.close()
	if got := w.do(t.Context()); got.reason != "" || got.reopened {
		t.Fatalf("first request: got %+v", got)
	}
	within(t, "the close arrives", func() bool { return closedByPeer(w.conn) })
	if got := w.do(t.Context()); got.reason != "" || !got.reopened {
		t.Errorf("second request: got %+v, want an answer over a new connection", got)
	}
}

func TestMangledBody(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Whoami-Bytes", "999") }))
	defer srv.Close()
	run := Start(t.Context(), Options{Target: srv.Listener.Addr().String(), Kinds: []Kind{{Method: "POST", Body: 1000}}})
	within(t, "a failure", func() bool { return run.Now().Failed > 0 })
	if got := run.Stop(); got.Reasons[Mangled] != got.Sent {
		t.Errorf("got %v, want only %q", got, Mangled)
	}
}

func TestHandlerAnswersEveryKind(t *testing.T) {
	var ledger Ledger
	srv := httptest.NewServer(Handler("one", &ledger))
	defer srv.Close()
	kinds := append(AllKinds(), Kind{WebSocket: true}, Kind{Method: "GET", Download: 200 * time.Millisecond})
	run := Start(t.Context(), Options{Target: srv.Listener.Addr().String(), Kinds: kinds})
	within(t, "several of each kind", func() bool {
		now := run.Now()
		for _, k := range kinds {
			if now.Kinds[k].Sent < 3 {
				return false
			}
		}
		return true
	})
	got := run.Stop()
	if got.Failed != 0 || got.Servers["one"] != got.Sent {
		t.Errorf("got %v, want no failure and all answered by one", got)
	}
	posts, repeated := ledger.Executed()
	want := got.Kinds[kinds[2]].Sent + got.Kinds[kinds[3]].Sent
	if posts != want || repeated != 0 {
		t.Errorf("%d POSTs executed, %d repeated; want %d and 0", posts, repeated, want)
	}
}

func TestLedgerSeesARepeatedPost(t *testing.T) {
	var ledger Ledger
	for _, id := range []string{"a", "b", "a"} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", http.NoBody)
		r.Header.Set(idHeader, id)
		Handler("one", &ledger).ServeHTTP(httptest.NewRecorder(), r)
	}
	if posts, repeated := ledger.Executed(); posts != 2 || repeated != 1 {
		t.Errorf("got %d POSTs, %d repeated; want 2 and 1", posts, repeated)
	}
}

func TestCutWebSocket(t *testing.T) {
	var cut atomic.Bool
	addr := serve(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		req, err := http.ReadRequest(r)
		if err != nil || cut.Load() {
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "+
			acceptKey(req.Header.Get("Sec-WebSocket-Key"))+"\r\n\r\n")
		if kind, text, err := readFrame(r); err == nil {
			c.Write(frame(kind, text, false))
		}
		cut.Store(true)
	})
	w := &worker{opts: Options{Target: addr, Host: addr}.withDefaults(), kind: Kind{WebSocket: true}, name: "0123456789abcdef"}
	defer w.close()
	for n, want := range []string{"", Cut, Unanswered} {
		if got := w.do(t.Context()); got.reason != want {
			t.Errorf("beat %d: got %+v, want %q", n, got, want)
		}
	}
}

func TestShortenedDownload(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(drawnOut(time.Second)[1:]) }))
	defer srv.Close()
	w := &worker{opts: Options{Target: srv.Listener.Addr().String()}.withDefaults(), kind: Kind{Method: "GET", Download: time.Second}, name: "x"}
	defer w.close()
	if got := w.do(t.Context()); got.reason != Mangled {
		t.Errorf("got %+v, want %q", got, Mangled)
	}
}

func TestCancelledContextCutsOffWithoutCounting(t *testing.T) {
	asked := make(chan struct{}, 1)
	addr := serve(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		http.ReadRequest(r)
		asked <- struct{}{}
		r.ReadByte()
	})
	ctx, cancel := context.WithCancel(t.Context())
	run := Start(ctx, Options{Target: addr, Kinds: []Kind{{Method: "GET"}}})
	<-asked
	cancel()
	if got := run.Stop(); got.Sent != 0 {
		t.Errorf("got %v, want nothing counted", got)
	}
}

func TestPercentileIsAtMostAnEighthTooHigh(t *testing.T) {
	var h histogram
	for ms := 1; ms <= 1000; ms++ {
		h.add(time.Duration(ms) * time.Millisecond)
	}
	for part, want := range map[float64]time.Duration{0.5: 500 * time.Millisecond, 0.99: 990 * time.Millisecond} {
		if got := h.percentile(part); got < want || got > want*9/8+time.Millisecond {
			t.Errorf("percentile %v: got %s, want %s to %s", part, got, want, want*9/8)
		}
	}
}

// serve hands every connection to f and closes it afterwards.
func serve(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); f(c) }()
		}
	}()
	return ln.Addr().String()
}
