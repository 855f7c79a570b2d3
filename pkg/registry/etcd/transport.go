package etcd

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// transport makes a client's connections secure, each with what the files hold when it begins. And
// it knows which connections there are: when endpoints change, the client itself would leave those
// to others only when their last stream ends, and a watch has no end. It implements
// credentials.TransportCredentials, and is safe for concurrent use.
type transport struct {
	wallet *wallet
	secure atomic.Bool

	mu      sync.Mutex
	open    map[*tracked]string // by the name of the endpoint
	mute    map[string]bool     // endpoints that were silent when they were asked last
	returns int                 // see returned
}

func newTransport(w *wallet) *transport {
	return &transport{wallet: w, open: map[*tracked]string{}, mute: map[string]bool{}}
}

// ClientHandshake implements credentials.TransportCredentials. With TLS the chain of the server's
// certificate and the endpoint's name are checked.
func (t *transport) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	creds := insecure.NewCredentials()
	if t.secure.Load() {
		creds = credentials.NewTLS(t.wallet.config())
	}
	return creds.ClientHandshake(ctx, authority, t.track(authority, raw))
}

// ServerHandshake implements credentials.TransportCredentials; it is never used.
func (t *transport) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return insecure.NewCredentials().ServerHandshake(raw)
}

// Info implements credentials.TransportCredentials.
func (t *transport) Info() credentials.ProtocolInfo {
	if t.secure.Load() {
		return credentials.NewTLS(nil).Info()
	}
	return insecure.NewCredentials().Info()
}

// Clone implements credentials.TransportCredentials.
func (t *transport) Clone() credentials.TransportCredentials { return t }

// OverrideServerName implements credentials.TransportCredentials. Each endpoint has its own name.
func (t *transport) OverrideServerName(string) error { return nil }

func (t *transport) track(authority string, raw net.Conn) net.Conn {
	c := &tracked{Conn: raw, t: t}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open[c] = authority
	return c
}

// tracked is a connection that says when it ends.
type tracked struct {
	net.Conn
	t      *transport
	silent bool // guarded by t.mu; see took
}

// Close closes the connection.
func (c *tracked) Close() error {
	c.t.mu.Lock()
	delete(c.t.open, c)
	c.t.mu.Unlock()
	return c.Conn.Close()
}

// leave closes the connections to all but these endpoints. What is under way on them is done again
// elsewhere.
func (t *transport) leave(endpoints []string) {
	t.mu.Lock()
	var strays []net.Conn
	for c, authority := range t.open {
		if !slices.ContainsFunc(endpoints, func(e string) bool { return strings.HasSuffix(e, "://"+authority) }) {
			strays = append(strays, c)
		}
	}
	t.mu.Unlock()
	for _, c := range strays {
		_ = c.Close() // nobody wants it any more
	}
}

// Leave ends the client's connections to all but the endpoints that it was given last, once it has one
// to these. It returns then, or with ctx.
func Leave(ctx context.Context, c *clientv3.Client) {
	conn := c.ActiveConnection()
	state := conn.GetState()
	for state != connectivity.Ready && conn.WaitForStateChange(ctx, state) {
		state = conn.GetState()
	}
	if state == connectivity.Ready {
		leave(c)
	}
}

// leave closes the client's connections to all but its present endpoints.
func leave(c *clientv3.Client) {
	if l := connectionOf(c); l != nil {
		l.transport.leave(c.Endpoints())
	}
}
