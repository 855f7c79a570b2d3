package etcd

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

const (
	// firstTry is how long the first member has to answer a request, when there are others. To check a
	// password is slow on purpose, and not called off.
	firstTry, firstCheck = time.Second, 2 * time.Second
	// atOnce is an answer's time that shows that neither the cluster nor the way to it is slow.
	atOnce = firstTry / 4
)

// unary bounds one try of a request, so that another member gets it while there is time: one that stands
// still is known by its connection only after many seconds, and what was sent to one that has just lost
// its leader is lost without a word. The library repeats a request whose try was over before its time.
// Later tries take longer, so that a cluster that is only slow does answer.
func (l *connection) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	deadline, bounded := ctx.Deadline()
	if !bounded || len(l.auth.client.Endpoints()) < 2 {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	first := firstCheck
	if ctx.Value(asksForToken{}) == nil {
		first = firstTry
		if err := l.auth.ready(ctx); err != nil { // the token may take longer than a try
			return err
		}
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, tryLimit(first, time.Until(deadline)))
	defer cancel()
	var at peer.Peer
	err := invoke(ctx, method, req, reply, cc, append(opts, grpc.Peer(&at))...)
	l.transport.took(&at, time.Since(began), err)
	return err
}

// tryLimit is how long a try may last of a request that has that much time left: as long as the first at
// first, and then twice as long as all before.
func tryLimit(first, left time.Duration) time.Duration { return max(first, 2*(opLimit-left)) }

// took takes down how long the server at the other end of a connection took to answer, or did not. When
// one answers at once while another is silent, it is not the cluster that is slow: the connection to the
// silent one is closed. Its streams go elsewhere then, and it is asked no more before it takes another.
func (t *transport) took(at *peer.Peer, d time.Duration, err error) {
	code := status.Code(err)
	silent := code == codes.DeadlineExceeded && d > atOnce
	answered := code != codes.DeadlineExceeded && code != codes.Canceled && code != codes.Unavailable
	if at.Addr == nil || at.LocalAddr == nil || !silent && !answered {
		return
	}
	for _, c := range t.compare(at, silent, answered && d <= atOnce) {
		t.wallet.log.WithField("member", c.RemoteAddr()).Debug("a member of the registry stands still while another answers; leaving it")
		_ = c.Close() // nobody wants it any more
	}
}

// compare notes whether a connection is silent, and returns the others that are if this one is quick.
func (t *transport) compare(at *peer.Peer, silent, quick bool) (still []net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for c, endpoint := range t.open {
		switch {
		case c.LocalAddr().String() == at.LocalAddr.String() && c.RemoteAddr().String() == at.Addr.String():
			c.silent = silent
			if t.mute[endpoint] && !silent {
				t.returns++
			}
			t.mute[endpoint] = silent
		case quick && c.silent:
			still = append(still, c)
		}
	}
	return still
}

// returned counts the times that a member answered which had been silent. What it was asked in vain it may
// have done only then, after what others were asked since.
func (t *transport) returned() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.returns
}
