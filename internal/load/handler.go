package load

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Where a Handler serves what not every web server does.
const (
	pathWebSocket = "/websocket"
	pathDownload  = "/download"
)

// Headers between a load and its Handler, beside those of whoami.
const (
	idHeader   = "X-Load-Id"     // the request's own name
	hashHeader = "X-Whoami-Hash" // of the body that the server saw
)

// A download comes in pieces of this size, one every so often.
const (
	pieceSize  = 4096
	pieceEvery = 20 * time.Millisecond
)

// Ledger counts how often each POST was executed, on all servers that share it. Its zero value is
// ready for use.
type Ledger struct {
	mu    sync.Mutex
	times map[string]int
}

func (l *Ledger) note(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.times == nil {
		l.times = map[string]int{}
	}
	l.times[id]++
}

// Executed returns how many different POSTs were executed, and how many of them more than once.
func (l *Ledger) Executed() (posts, repeated int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.times {
		if n > 1 {
			repeated++
		}
	}
	return len(l.times), repeated
}

// Handler is a web server for every kind of request. It answers with its name and with what it saw,
// and notes each POST in the ledger.
func Handler(name string, ledger *Ledger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(pathWebSocket, func(w http.ResponseWriter, r *http.Request) { serveWebSocket(w, r, name) })
	mux.HandleFunc(pathDownload, func(w http.ResponseWriter, r *http.Request) { serveDownload(w, r, name) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, "the body ended early", http.StatusBadRequest)
			return
		}
		if r.Method == http.MethodPost {
			ledger.note(r.Header.Get(idHeader))
		}
		w.Header().Set("X-Whoami", name)
		w.Header().Set("X-Whoami-Bytes", strconv.Itoa(len(body)))
		w.Header().Set(hashHeader, hashOf(body))
		io.WriteString(w, "I am "+name+"\n") // the client counts
	})
	return mux
}

// drawnOut is what a download of that length brings: the same for all, and no two parts alike.
func drawnOut(length time.Duration) []byte {
	text := make([]byte, 0, pieces(length)*pieceSize)
	for n := uint64(0); len(text) < cap(text); n++ {
		text = binary.BigEndian.AppendUint64(text, n)
	}
	return text
}

func pieces(length time.Duration) int { return int(length / pieceEvery) }

// serveDownload sends piece after piece.
func serveDownload(w http.ResponseWriter, r *http.Request, name string) {
	length, err := time.ParseDuration(r.URL.Query().Get("for"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	text := drawnOut(length)
	w.Header().Set("X-Whoami", name)
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	tick := time.NewTicker(pieceEvery)
	defer tick.Stop()
	for ; len(text) > 0; text = text[pieceSize:] {
		if _, err := w.Write(text[:pieceSize]); err != nil {
			return // the client counts
		}
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// serveWebSocket sends every frame back until the client goes.
func serveWebSocket(w http.ResponseWriter, r *http.Request, name string) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	answer := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Whoami: " + name +
		"\r\nSec-WebSocket-Accept: " + acceptKey(r.Header.Get("Sec-WebSocket-Key")) + "\r\n\r\n"
	if _, err := io.WriteString(conn, answer); err == nil {
		echoFrames(conn, rw.Reader)
	}
}

func echoFrames(conn net.Conn, in *bufio.Reader) {
	for {
		kind, content, err := readFrame(in)
		if err != nil {
			return
		}
		if _, err := conn.Write(frame(kind, content, false)); err != nil {
			return
		}
	}
}
