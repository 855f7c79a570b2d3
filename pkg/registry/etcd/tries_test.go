package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/sidekick-proxy/sidekick/pkg/registry/registrytest"
)

// TestNoRequestWaitsForAMemberThatStandsStill: a member that takes requests and answers none is one of two
// that are asked in turn. Sessions open, write and end all the same, none by a second attempt.
func TestNoRequestWaitsForAMemberThatStandsStill(t *testing.T) {
	t.Parallel()
	members := newCluster(t, 3, nil)
	protect(t, dialed(t, Config{Endpoints: endpointsOf(members...)})) // the password is not waited for either
	c := dialed(t, Config{Endpoints: endpointsOf(members[:2]...), Username: "agent", Files: Files{Password: secretFile(t, "word")}})
	open := connectionOf(c).transport
	eventually(t, "connected to both", func() error {
		open.mu.Lock()
		defer open.mu.Unlock()
		if len(open.open) != 2 {
			return fmt.Errorf("connected to %v", open.open)
		}
		return nil
	})
	members[0].way.freeze(true)
	for n := range 3 {
		s, err := newRegistry(c, registrytest.Node("a", "agent-a")).Open(limited(t))
		if err != nil {
			t.Fatalf("session %d: %v", n, err)
		}
		if err := s.Set(limited(t), registrytest.Of(registrytest.Instance("a", "web", n+1))); err != nil {
			t.Errorf("session %d: %v", n, err)
		}
		if err := s.Close(limited(t)); err != nil {
			t.Errorf("session %d: %v", n, err)
		}
	}
}

// TestWhatASilentMemberDoesLateIsFoundOut: it takes what it was asked for when it goes on, after others
// were asked for something else, as here somebody writes what this session has not.
func TestWhatASilentMemberDoesLateIsFoundOut(t *testing.T) {
	t.Parallel()
	members := newCluster(t, 3, nil)
	c := dialed(t, Config{Endpoints: endpointsOf(members[:2]...)})
	s := openSession(t, newRegistry(c, registrytest.Node("a", "agent-a")))
	registrytest.Set(t, s)
	members[0].way.freeze(true)
	way := connectionOf(c).transport
	eventually(t, "it is asked in vain", func() error {
		_, err := get(limited(t), c, prefix, nil)
		way.mu.Lock()
		defer way.mu.Unlock()
		if !way.mute[members[0].way.path] {
			return fmt.Errorf("silent: %v", way.mute)
		}
		return err
	})
	if err := s.over(); err != nil {
		t.Fatal(err)
	}
	late := registrytest.Instance("a", "web", 1)
	value, err := late.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dialed(t, Config{Endpoints: []string{members[1].direct()}}).Put(limited(t), late.Key(prefix), string(value)); err != nil {
		t.Fatal(err)
	}
	members[0].way.freeze(false)
	eventually(t, "the session ends", s.stillThere)
	if err := s.over(); !errors.Is(err, ErrUndone) {
		t.Errorf("got %v, want %v", err, ErrUndone)
	}
}

// stillThere is an error while the session is not over.
func (s *session) stillThere() error {
	if s.over() == nil {
		return errors.New("it goes on")
	}
	return nil
}

// end is one end of a connection.
type end struct {
	net.Conn
	local, remote net.Addr
	closed        bool
}

func (e *end) LocalAddr() net.Addr  { return e.local }
func (e *end) RemoteAddr() net.Addr { return e.remote }
func (e *end) Close() error         { e.closed = true; return nil }

func TestWhoIsSilentIsLeftOnlyForWhoAnswersAtOnce(t *testing.T) {
	t.Parallel()
	const slow = 2 * atOnce
	silence := status.Error(codes.DeadlineExceeded, "context deadline exceeded")
	refusal := status.Error(codes.PermissionDenied, "etcdserver: permission denied")
	leaderless := status.Error(codes.Unavailable, "etcdserver: no leader")
	type answer struct { // of one end's peer
		from int
		took time.Duration
		err  error
	}
	tests := []struct {
		name    string
		answers []answer
		left    bool // the first one's connection
	}{
		{"the other answers at once", []answer{{0, slow, silence}, {1, atOnce, nil}}, true},
		{"the other refuses at once", []answer{{0, slow, silence}, {1, atOnce, refusal}}, true},
		{"both are slow", []answer{{0, slow, silence}, {1, slow, nil}}, false},
		{"both are silent", []answer{{0, slow, silence}, {1, slow, silence}}, false},
		{"the other has no leader", []answer{{0, slow, silence}, {1, atOnce, leaderless}}, false},
		{"it answered again", []answer{{0, slow, silence}, {0, slow, nil}, {1, atOnce, nil}}, false},
		{"it had no time", []answer{{0, atOnce, silence}, {1, atOnce, nil}}, false},
		{"it was not waited for", []answer{{0, slow, status.FromContextError(context.Canceled).Err()}, {1, atOnce, nil}}, false},
		{"it answers at once itself", []answer{{0, slow, silence}, {0, atOnce, nil}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			way := newTransport(&wallet{log: quiet()})
			var ends []*end
			for n := range 2 {
				e := &end{local: &net.TCPAddr{Port: 1 + n}, remote: &net.TCPAddr{Port: 2379}}
				ends = append(ends, e)
				way.track("etcd", e)
			}
			for _, a := range tt.answers {
				way.took(&peer.Peer{Addr: ends[a.from].remote, LocalAddr: ends[a.from].local}, a.took, a.err)
			}
			if ends[0].closed != tt.left || ends[1].closed || len(way.open) != 2-map[bool]int{true: 1}[tt.left] {
				t.Errorf("left %v and %v, %d are open: want %v and false", ends[0].closed, ends[1].closed, len(way.open), tt.left)
			}
		})
	}
}
