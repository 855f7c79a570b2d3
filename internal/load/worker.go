package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The reasons for which a request counts as failed, beside "status 503" and its like.
const (
	Refused    = "no connection"         // the connection could not be made
	Stale      = "reused and closed"     // a kept connection was closed before the first byte of an answer
	Unanswered = "closed without answer" // a new connection was closed before the first byte of an answer
	Broken     = "broken answer"         // an answer began and did not end well
	Timeout    = "timeout"               // no whole answer in time
	Mangled    = "body lost"             // the server saw a body of another length
)

// result is what became of one request.
type result struct {
	reason   string // "" = answered well
	detail   string // for people
	server   string // who answered
	reopened bool   // the server had closed the idle connection before this request
	took     time.Duration
}

// worker sends requests of one kind, one after another.
type worker struct {
	opts Options
	kind Kind
	conn net.Conn
	r    *bufio.Reader
	used bool // the connection has carried a request already
}

func (w *worker) close() {
	if w.conn != nil {
		w.conn.Close()
	}
	w.conn, w.r, w.used = nil, nil, false
}

// do sends one request, exactly once, and reads its answer.
func (w *worker) do(ctx context.Context) result {
	began := time.Now()
	res := result{}
	if w.conn != nil && closedByPeer(w.conn) {
		w.close()
		res.reopened = true
	}
	err := w.connect(ctx)
	if err != nil {
		res.reason, res.detail = reasonOf(err, Refused), err.Error()
		return res
	}
	// The end of ctx cuts a hanging request off.
	defer context.AfterFunc(ctx, func(conn net.Conn) func() { return func() { conn.Close() } }(w.conn))()
	reopened := res.reopened
	res = w.exchange(began)
	res.reopened, res.took = reopened, time.Since(began)
	if !w.kind.KeepAlive || res.reason != "" {
		w.close()
	}
	return res
}

func (w *worker) connect(ctx context.Context) error {
	if w.conn != nil {
		return nil
	}
	dialer := net.Dialer{Timeout: w.opts.Timeout}
	conn, err := dialer.DialContext(ctx, "tcp", w.opts.Target)
	if err != nil {
		return err
	}
	w.conn, w.r = conn, bufio.NewReader(conn)
	return nil
}

// exchange writes the request and reads the answer on the open connection.
func (w *worker) exchange(began time.Time) result {
	if err := w.conn.SetDeadline(began.Add(w.opts.Timeout)); err != nil {
		return result{reason: Refused, detail: err.Error()}
	}
	silent := Unanswered
	if w.used {
		silent = Stale
	}
	w.used = true
	// A failed write is not the end: the answer may have been sent before the connection was closed.
	_, writeErr := io.WriteString(w.conn, w.request())
	if _, err := w.r.Peek(1); err != nil {
		return result{reason: reasonOf(err, silent), detail: fmt.Sprint(errors.Join(writeErr, err))}
	}
	resp, err := http.ReadResponse(w.r, &http.Request{Method: w.kind.Method})
	if err != nil {
		return result{reason: reasonOf(err, Broken), detail: err.Error()}
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	if err != nil {
		return result{reason: reasonOf(err, Broken), detail: err.Error()}
	}
	res := w.judge(resp)
	if resp.Close {
		w.close()
	}
	return res
}

// judge decides whether a whole answer is a good one.
func (w *worker) judge(resp *http.Response) result {
	res := result{server: resp.Header.Get("X-Whoami")}
	if resp.StatusCode >= http.StatusBadRequest {
		res.reason = "status " + strconv.Itoa(resp.StatusCode)
		res.detail = resp.Status + " by " + resp.Header.Get("Server") + res.server
		return res
	}
	if seen := resp.Header.Get("X-Whoami-Bytes"); seen != "" && seen != strconv.Itoa(w.kind.Body) {
		res.reason, res.detail = Mangled, fmt.Sprintf("sent %d bytes, the server saw %s", w.kind.Body, seen)
	}
	return res
}

// request is the text that is sent.
func (w *worker) request() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", w.kind.Method, w.opts.Path, w.opts.Host)
	if w.kind.Body > 0 || w.kind.Method == http.MethodPost {
		fmt.Fprintf(&b, "Content-Type: text/plain\r\nContent-Length: %d\r\n", w.kind.Body)
	}
	if !w.kind.KeepAlive {
		b.WriteString("Connection: close\r\n")
	}
	b.WriteString("\r\n")
	b.WriteString(strings.Repeat("x", w.kind.Body))
	return b.String()
}

func reasonOf(err error, otherwise string) string {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return Timeout
	}
	return otherwise
}

// closedByPeer says whether an idle connection is known to be closed, without taking a byte from it
// and without waiting.
func closedByPeer(conn net.Conn) bool {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	closed := false
	err = raw.Read(func(fd uintptr) bool {
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		closed = (n == 0 && err == nil) || (err != nil && !errors.Is(err, syscall.EAGAIN))
		return true
	})
	return closed || err != nil
}
