package load

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
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
	Mangled    = "body lost"             // one side saw another body than the other sent
	Cut        = "WebSocket cut"         // a WebSocket that was open did not bring a frame back
)

// result is what became of one request.
type result struct {
	reason   string // "" = answered well
	detail   string // for people
	server   string // who answered
	reopened bool   // the server closed the kept connection, before this request or after its answer
	took     time.Duration
}

// worker sends requests of one kind, one after another.
type worker struct {
	opts Options
	kind Kind
	name string // of this worker alone
	sent int    // requests, or frames
	conn net.Conn
	r    *bufio.Reader
	used bool   // the connection has carried a request already
	peer string // who answers a WebSocket
}

func (w *worker) close() {
	if w.conn != nil {
		w.conn.Close()
	}
	w.conn, w.r, w.used = nil, nil, false
}

// do sends one request, exactly once, and reads its answer.
func (w *worker) do(ctx context.Context) result {
	w.sent++
	if w.kind.WebSocket {
		return w.beat(ctx)
	}
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
	defer cutOff(ctx, w.conn)()
	reopened := res.reopened
	res = w.exchange(began)
	res.reopened, res.took = res.reopened || reopened, time.Since(began)
	if !w.kind.KeepAlive || res.reason != "" {
		w.close()
	}
	return res
}

// cutOff closes a connection at the end of ctx, so that nothing hangs on it.
func cutOff(ctx context.Context, conn net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { conn.Close() })
}

func (w *worker) connect(ctx context.Context) error {
	if w.conn != nil {
		return nil
	}
	conn, err := w.opts.Dial(ctx, "tcp", w.opts.Target)
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
	hash := sha256.New()
	n, err := io.Copy(hash, resp.Body)
	if err != nil {
		return result{reason: reasonOf(err, Broken), detail: fmt.Sprintf("after %d bytes of body: %v", n, err)}
	}
	res := w.judge(resp, hex.EncodeToString(hash.Sum(nil)))
	if resp.Close {
		res.reopened = w.kind.KeepAlive
		w.close()
	}
	return res
}

// judge decides whether a whole answer, whose body has that hash, is a good one.
func (w *worker) judge(resp *http.Response, hash string) result {
	res := result{server: resp.Header.Get("X-Whoami")}
	if resp.StatusCode >= http.StatusBadRequest {
		res.reason = "status " + strconv.Itoa(resp.StatusCode)
		res.detail = resp.Status + " by " + resp.Header.Get("Server") + res.server
		return res
	}
	mangled := func(format string, args ...any) { res.reason, res.detail = Mangled, fmt.Sprintf(format, args...) }
	if seen := resp.Header.Get("X-Whoami-Bytes"); seen != "" && seen != strconv.Itoa(w.kind.Body) {
		mangled("sent %d bytes, the server saw %s", w.kind.Body, seen)
	}
	if seen, want := resp.Header.Get(hashHeader), hashOf([]byte(w.body())); seen != "" && seen != want {
		mangled("sent a body with hash %s, the server saw %s", want, seen)
	}
	if want := hashOf(drawnOut(w.kind.Download)); w.kind.Download > 0 && hash != want {
		mangled("received a body with hash %s, want %s", hash, want)
	}
	return res
}

// request is the text that is sent.
func (w *worker) request() string {
	path := w.opts.Path
	if w.kind.Download > 0 {
		path = pathDownload + "?for=" + w.kind.Download.String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n%s: %s\r\n", w.kind.Method, path, w.opts.Host, idHeader, w.id())
	if w.kind.Body > 0 || w.kind.Method == http.MethodPost {
		fmt.Fprintf(&b, "Content-Type: text/plain\r\nContent-Length: %d\r\n", w.kind.Body)
	}
	if !w.kind.KeepAlive {
		b.WriteString("Connection: close\r\n")
	}
	b.WriteString("\r\n")
	b.WriteString(w.body())
	return b.String()
}

// id is the name of the request that is being sent; no other one has it.
func (w *worker) id() string { return w.name + "-" + strconv.Itoa(w.sent) }

// body is what is sent with the request: its name, over and over.
func (w *worker) body() string {
	return strings.Repeat(w.id()+"\n", w.kind.Body/len(w.id())+1)[:w.kind.Body]
}

func hashOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
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
