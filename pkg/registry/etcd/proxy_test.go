package etcd

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// link is a way to a server that can be cut, or frozen so that nobody is told.
type link struct {
	target string
	path   string
	mu     sync.Mutex
	thawed *sync.Cond
	frozen bool
	ln     net.Listener
	conns  []net.Conn
	wg     sync.WaitGroup
}

func newLink(t *testing.T, s *server) *link {
	t.Helper()
	l := &link{target: filepath.Join(s.dir, "etcd.sock"), path: filepath.Join(s.dir, "link.sock")}
	l.thawed = sync.NewCond(&l.mu)
	l.mend(t)
	t.Cleanup(func() { l.freeze(false); l.cut(); l.wg.Wait() })
	return l
}

func (l *link) dial(t *testing.T) *clientv3.Client {
	t.Helper()
	c, err := Dial(Config{Endpoints: []string{"unix://" + l.path}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// cut ends all connections and takes no new ones.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ln != nil {
		l.ln.Close()
	}
	l.ln = nil
	for _, c := range l.conns {
		c.Close()
	}
	l.conns = nil
}

// mend undoes cut.
func (l *link) mend(t *testing.T) {
	t.Helper()
	os.Remove(l.path)
	ln, err := net.Listen("unix", l.path)
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	l.ln = ln
	l.mu.Unlock()
	l.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			l.join(c)
		}
	})
}

func (l *link) join(c net.Conn) {
	s, err := net.Dial("unix", l.target)
	if err != nil {
		c.Close()
		return
	}
	l.mu.Lock()
	l.conns = append(l.conns, c, s)
	l.mu.Unlock()
	for _, pair := range [][2]net.Conn{{c, s}, {s, c}} {
		l.wg.Go(func() {
			defer pair[0].Close()
			defer pair[1].Close()
			_, _ = io.Copy(pair[0], &slowReader{pair[1], l})
		})
	}
}

// freeze holds back all that is sent from now on, or lets it go.
func (l *link) freeze(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frozen = on
	l.thawed.Broadcast()
}

type slowReader struct {
	net.Conn
	l *link
}

func (r *slowReader) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	for r.l.frozen {
		r.l.thawed.Wait()
	}
	return n, err
}
