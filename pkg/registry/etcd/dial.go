package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// Config says how to reach a cluster.
type Config struct {
	Endpoints []string // as ParseURL returns them
	Username  string
	Password  string // of that user, where no file holds it
	Files     Files  // read when the client is made, and again when they are needed
	// DialTimeout is how long one attempt to connect to one endpoint may take; 0 means 3 s.
	DialTimeout time.Duration
	Resolver    Resolver           // of a domain's records; nil means the system's
	Log         logrus.FieldLogger // nil means that nothing is logged
}

// Dial returns a client of the cluster. It waits for nothing and connects in the background, also
// again and again, so that an agent can start and live while the cluster is away; only a
// configuration that can never work is an error. A domain's records are looked up in the background
// as well, until the client is closed.
//
//nolint:contextcheck,nolintlint // the client has a context of its own; the first takes this for unused where it works
func Dial(cfg Config) (*clientv3.Client, error) {
	cfg.DialTimeout = cmp.Or(cfg.DialTimeout, 3*time.Second)
	if cfg.Log == nil {
		nobody := logrus.New()
		nobody.SetOutput(io.Discard)
		cfg.Log = nobody
	}
	l, err := newConnection(cfg)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	c, err := clientv3.New(cfg.client(l))
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", strings.Join(cfg.Endpoints, ","), err)
	}
	l.auth.client = c
	if l.domain != nil {
		c.SetEndpoints() // none before they are known
	}
	c.ActiveConnection().Connect() // endpoints may change from here on
	if l.domain != nil {
		go l.domain.follow(c.Ctx(), c)
	}
	return c, nil
}

// connection is what we know of a client beside what the library does. The client's
// context carries it.
type connection struct {
	auth      *authority
	why       *reasons
	transport *transport
	domain    *domain // nil if the endpoints are given
}

type connectionKey struct{}

// connectionOf returns the connection of a client that Dial made, or nil.
func connectionOf(c *clientv3.Client) *connection {
	l, _ := c.Ctx().Value(connectionKey{}).(*connection)
	return l
}

// password is the one given, or that in the file.
func (cfg Config) password() (string, error) {
	if cfg.Password != "" {
		return cfg.Password, nil
	}
	return cfg.Files.password()
}

func newConnection(cfg Config) (*connection, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, errors.New("no endpoint is given")
	}
	if (cfg.Username == "") != (cfg.Password+cfg.Files.Password == "") {
		return nil, errors.New("a user name and a password belong together: set both --registry-user and --registry-password-file")
	}
	if cfg.Username != "" {
		if _, err := cfg.password(); err != nil {
			return nil, err
		}
	}
	wallet, err := openWallet(cfg.Files, cfg.Log)
	if err != nil {
		return nil, err
	}
	l := &connection{auth: newAuthority(cfg.Username, cfg.password), why: &reasons{}, transport: newTransport(wallet)}
	l.transport.secure.Store(strings.HasPrefix(cfg.Endpoints[0], "https:"))
	l.domain = newDomain(cfg, l.transport)
	return l, nil
}

// client is the library's configuration.
func (cfg Config) client(l *connection) clientv3.Config {
	tries := []grpc.DialOption{grpc.WithChainUnaryInterceptor(l.unary)}
	options := slices.Concat(tries, l.auth.options(), l.why.options(), []grpc.DialOption{
		grpc.WithTransportCredentials(l.transport),
		grpc.WithChainUnaryInterceptor(requireLeader),
		grpc.WithIdleTimeout(0), // the library changes endpoints without a lock while a connection awakes
		grpc.WithConnectParams(grpc.ConnectParams{
			// The default would let a client wait up to two minutes after the cluster is back.
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.3, MaxDelay: 700 * time.Millisecond},
			MinConnectTimeout: cfg.DialTimeout,
		}),
	})
	return clientv3.Config{
		Context:   context.WithValue(context.Background(), connectionKey{}, l), //nolint:forbidigo // the client's own, until Close
		Endpoints: cfg.Endpoints,
		Logger:    zap.NewNop(), // what goes wrong comes back as errors
		// Servers refuse clients that ping more often than every 5 s.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		PermitWithoutStream:  false, // servers by default close connections that do
		// Members without a leader answer at once, and are not to be asked at full speed.
		BackoffWaitBetween:    200 * time.Millisecond,
		BackoffJitterFraction: 0.5,
		DialOptions:           options,
	}
}

// requireLeader lets a member without a leader say so, instead of holding a request back until its
// time is over: the library then asks another one.
func requireLeader(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(clientv3.WithRequireLeader(ctx), method, req, reply, cc, opts...)
}
