package load

import (
	"context"
	"crypto/sha1" //nolint:gosec // the handshake's own
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// The frames of a WebSocket (RFC 6455) that are used here: whole texts, and short ones.
const (
	frameText = 0x81
	maxFrame  = 125
)

// beat sends one frame and waits for its echo, over the WebSocket that is held; it is opened first if
// there is none.
func (w *worker) beat(ctx context.Context) result {
	began := time.Now()
	res := w.open(ctx, began)
	if res.reason == "" {
		res = w.echo(ctx, began)
	}
	res.took = time.Since(began)
	if res.reason != "" {
		w.close()
	}
	return res
}

// open makes the handshake, if the WebSocket is not open yet.
func (w *worker) open(ctx context.Context, began time.Time) result {
	if w.conn != nil {
		return result{}
	}
	if err := w.connect(ctx); err != nil {
		return result{reason: reasonOf(err, Refused), detail: err.Error()}
	}
	defer cutOff(ctx, w.conn)()
	key := base64.StdEncoding.EncodeToString([]byte(w.id())[:16])
	err := w.conn.SetDeadline(began.Add(w.opts.Timeout))
	if err == nil {
		_, err = fmt.Fprintf(w.conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", pathWebSocket, w.opts.Host, key)
	}
	if err != nil {
		return result{reason: reasonOf(err, Unanswered), detail: err.Error()}
	}
	resp, err := http.ReadResponse(w.r, nil)
	if err != nil {
		return result{reason: reasonOf(err, Unanswered), detail: err.Error()}
	}
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Accept") != acceptKey(key) {
		defer resp.Body.Close() // of no interest
		return result{reason: "status " + strconv.Itoa(resp.StatusCode), detail: resp.Status + " to the WebSocket's handshake"}
	}
	w.peer = resp.Header.Get("X-Whoami")
	return result{}
}

// echo sends the frame and reads what comes back.
func (w *worker) echo(ctx context.Context, began time.Time) result {
	defer cutOff(ctx, w.conn)()
	sent := w.id()
	err := w.conn.SetDeadline(began.Add(w.opts.Timeout))
	if err == nil {
		_, err = w.conn.Write(frame(frameText, []byte(sent), true))
	}
	var got []byte
	if err == nil {
		_, got, err = readFrame(w.r)
	}
	if err == nil && string(got) != sent {
		err = fmt.Errorf("sent %q, %q came back", sent, got)
	}
	if err != nil {
		return result{reason: Cut, detail: fmt.Sprintf("held by %s: %v", w.peer, err)}
	}
	return result{server: w.peer}
}

// acceptKey is what a server answers to the key of a handshake.
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // the handshake's own
	return base64.StdEncoding.EncodeToString(sum[:])
}

// frame is one frame; those of clients are masked, here with a mask that changes nothing.
func frame(kind byte, content []byte, masked bool) []byte {
	if masked {
		return append([]byte{kind, 0x80 | byte(len(content)), 0, 0, 0, 0}, content...) //nolint:gosec // at most maxFrame
	}
	return append([]byte{kind, byte(len(content))}, content...) //nolint:gosec // at most maxFrame
}

// readFrame reads one frame, masked or not.
func readFrame(r io.Reader) (kind byte, content []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	var mask [4]byte
	if head[1]&0x80 != 0 {
		if _, err := io.ReadFull(r, mask[:]); err != nil {
			return 0, nil, err
		}
	}
	n := int(head[1] & 0x7f)
	if n > maxFrame {
		return 0, nil, errors.New("the frame is longer than any that is sent here")
	}
	content = make([]byte, n)
	_, err = io.ReadFull(r, content)
	for i := range content {
		content[i] ^= mask[i%4]
	}
	return head[0], content, err
}
