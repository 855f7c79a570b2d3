package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

const (
	defaultPort   = "2379"
	maxSocketPath = 107 // of a Unix socket, on Linux
)

// Config says how to reach a cluster.
type Config struct {
	Endpoints []string // as ParseURL returns them
	TLS       *tls.Config
	Username  string
	Password  string
	// DialTimeout is how long one attempt to connect to one endpoint may take; 0 means 3 s.
	DialTimeout time.Duration
}

// Dial returns a client of the cluster. It waits for nothing and connects in the background, also
// again and again, so that an agent can start and live while the cluster is away; only a
// configuration that can never work is an error.
func Dial(cfg Config) (*clientv3.Client, error) {
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = 3 * time.Second
	}
	if (cfg.Username == "") != (cfg.Password == "") {
		return nil, errors.New("registry: a user name and a password belong together: set both --registry-user and --registry-password-file")
	}
	auth, why := newAuthority(cfg.Username, cfg.Password), &reasons{}
	c, err := clientv3.New(clientv3.Config{
		Context:   context.WithValue(context.Background(), reasonsKey{}, why), //nolint:forbidigo // the client's own, until Close
		Endpoints: cfg.Endpoints,
		TLS:       cfg.TLS,
		Logger:    zap.NewNop(), // what goes wrong comes back as errors
		// Servers refuse clients that ping more often than every 5 s.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		PermitWithoutStream:  false, // servers by default close connections that do
		DialOptions: append(append(auth.options(), why.options()...), grpc.WithConnectParams(grpc.ConnectParams{
			// The default would let a client wait up to two minutes after the cluster is back.
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.3, MaxDelay: 700 * time.Millisecond},
			MinConnectTimeout: cfg.DialTimeout,
		})),
	})
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", strings.Join(cfg.Endpoints, ","), err)
	}
	auth.client = c
	return c, nil
}

// ParseURL takes a registry's URL apart into the endpoints for Config: etcd://HOST[:PORT],… without
// encryption, etcds://HOST[:PORT],… with TLS, unix://PATH for an etcd on this host's socket.
func ParseURL(raw string) ([]string, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return nil, fmt.Errorf("registry %q has no scheme: write etcd://HOST:2379, etcds://HOST:2379 for TLS, or unix:///PATH", raw)
	}
	switch scheme {
	case "etcd":
		return endpoints(raw, "http", rest)
	case "etcds":
		return endpoints(raw, "https", rest)
	case "unix":
		return socket(raw, rest)
	default:
		return nil, fmt.Errorf("registry %q: scheme %q is unknown: use etcd, etcds or unix", raw, scheme)
	}
}

func socket(raw, path string) ([]string, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("registry %q: the socket's path must begin with a slash: write unix:///PATH", raw)
	}
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("registry %q: the socket's path has %d bytes, more than the %d that the system allows", raw, len(path), maxSocketPath)
	}
	return []string{"unix://" + path}, nil
}

func endpoints(raw, scheme, list string) ([]string, error) {
	list = strings.TrimSuffix(list, "/")
	if strings.Contains(list, "@") {
		// The text may hold a password: it is not repeated.
		return nil, errors.New("registry: user names do not go into the URL: use --registry-user and --registry-password-file")
	}
	if strings.ContainsAny(list, "/?#") {
		return nil, fmt.Errorf("registry %q has a path: give it as --prefix", raw)
	}
	var all []string
	for host := range strings.SplitSeq(list, ",") {
		hostport, err := withPort(strings.TrimSpace(host))
		if err != nil {
			return nil, fmt.Errorf("registry %q: %w", raw, err)
		}
		all = append(all, scheme+"://"+hostport)
	}
	return all, nil
}

// withPort adds the default port to a host that has none.
func withPort(host string) (string, error) {
	if host == "" {
		return "", errors.New("an endpoint is empty: write HOST:PORT,HOST:PORT")
	}
	if strings.Count(host, ":") == 0 || strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host += ":" + defaultPort
	}
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		return "", fmt.Errorf("endpoint %q is not HOST:PORT (an IPv6 address goes into brackets)", host)
	}
	n, err := net.LookupPort("tcp", port) //nolint:noctx // a number, or a name from a table of this host
	if name == "" || err != nil || n == 0 {
		return "", fmt.Errorf("endpoint %q is not HOST:PORT with a port from 1 to 65535", host)
	}
	return host, nil
}
