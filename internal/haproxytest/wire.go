package haproxytest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// wire is one connection on which requests follow one another.
type wire struct {
	conn net.Conn
	in   *bufio.Reader
}

func dialWire(ctx context.Context, addr string) (*wire, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &wire{conn: conn, in: bufio.NewReader(conn)}, nil
}

// get sends one request and reads its answer; more says that the connection may be used again.
func (w *wire) get(host string, keepAlive bool) (body string, more bool, err error) {
	w.conn.SetDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // the exchange fails then
	connection := "close"
	if keepAlive {
		connection = "keep-alive"
	}
	if _, err := fmt.Fprintf(w.conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: %s\r\n\r\n", host, connection); err != nil {
		return "", false, err
	}
	resp, err := http.ReadResponse(w.in, nil)
	if err != nil {
		return "", false, err
	}
	defer resp.Body.Close() // read to its end
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", resp.Status)
	}
	return string(text), keepAlive && !resp.Close, err
}

func (w *wire) close() {
	if w != nil {
		w.conn.Close() // done with it
	}
}
