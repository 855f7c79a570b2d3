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
	network string
	target  string
	path    string
	name    string // by which clients call it, if that is another than its path
	mu      sync.Mutex
	thawed  *sync.Cond
	frozen  bool
	ln      net.Listener
	conns   []net.Conn
	wg      sync.WaitGroup
}

func newLink(t *testing.T, s *server) *link {
	t.Helper()
	return linkTo(t, "unix", filepath.Join(s.dir, "etcd.sock"), filepath.Join(s.dir, "link.sock"))
}

// linkTo makes a way to target that begins at path.
func linkTo(t *testing.T, network, target, path string) *link {
	t.Helper()
	l := &link{network: network, target: target, path: path}
	l.thawed = sync.NewCond(&l.mu)
	l.mend(t)
	t.Cleanup(func() { l.freeze(false); l.cut(); l.wg.Wait() })
	return l
}

func (l *link) dial(t *testing.T) *clientv3.Client {
	t.Helper()
	return dialed(t, Config{Endpoints: []string{"unix://" + l.path}})
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
	ln, err := net.Listen(l.network, l.path)
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	l.ln = ln
	l.mu.Unlock()
	if l.network == "tcp" {
		l.path = ln.Addr().String() // once it has one
	}
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
	s, err := net.Dial(l.network, l.target)
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
