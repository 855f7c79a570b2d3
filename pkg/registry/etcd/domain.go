package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/connectivity"
)

// Resolver looks up service records as [net.Resolver] does.
type Resolver interface {
	LookupSRV(ctx context.Context, service, proto, name string) (cname string, addrs []*net.SRV, err error)
}

// domain finds out a cluster's endpoints by the service records that etcd's own programs look up:
// _etcd-client-ssl._tcp for endpoints with TLS, _etcd-client._tcp for those without. The latter count
// only while the domain has none of the former, and never once it had, or if there is something to be
// kept from others: whoever forges an answer must not get a connection that is not encrypted.
//
// One goroutine uses it, but for trouble.
type domain struct {
	name      string
	url       string
	onlyTLS   string // why, or ""
	within    bool   // hosts must be in the domain
	resolver  Resolver
	transport *transport
	log       logrus.FieldLogger

	endpoints []string
	failing   bool
	failure   atomic.Pointer[string]
}

// newDomain returns what looks up the endpoints of that configuration, or nil if they are given.
func newDomain(cfg Config, t *transport) *domain {
	scheme, name, _ := strings.Cut(cfg.Endpoints[0], "://")
	if scheme != "etcd+srv" && scheme != "etcds+srv" {
		return nil
	}
	d := &domain{name: name, url: cfg.Endpoints[0], resolver: cfg.Resolver, transport: t, log: cfg.Log}
	if d.resolver == nil {
		d.resolver = net.DefaultResolver
	}
	switch {
	case scheme == "etcds+srv":
		d.onlyTLS = "etcds+srv:// is with TLS"
	case cfg.Files.CA+cfg.Files.Cert+cfg.Files.Key != "":
		d.onlyTLS = "--registry-ca, -cert and -key are for TLS"
	case cfg.Username != "":
		d.onlyTLS = "a password goes over TLS only"
	}
	// The system's authorities vouch for any name, also for one that a forged answer gives.
	d.within = cfg.Files.CA == ""
	return d
}

// follow keeps the client's endpoints what the records say. A lookup that fails changes nothing.
func (d *domain) follow(ctx context.Context, c *clientv3.Client) {
	const regularly, soon = 30 * time.Second, 10 * time.Second
	wait := &backoff.ExponentialBackOff{InitialInterval: 500 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: soon}
	wait.Reset()
	for ctx.Err() == nil {
		d.look(ctx, c)
		pause := wait.NextBackOff()
		if !d.failing && c.ActiveConnection().GetState() == connectivity.Ready {
			wait.Reset()
			pause = regularly*3/4 + rand.N(regularly/2) //nolint:gosec // spreads agents, protects nothing
		}
		rest(ctx, c, pause)
	}
}

// rest waits that long, or until the client has no connection any more.
func rest(ctx context.Context, c *clientv3.Client, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	conn, had := c.ActiveConnection(), false
	for state := conn.GetState(); ; state = conn.GetState() {
		switch {
		case state == connectivity.Ready:
			had = true
			leave(c)
		case had:
			return
		}
		if !conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

// look looks the records up once, and makes the client use them.
func (d *domain) look(ctx context.Context, c *clientv3.Client) {
	found, secure, err := d.lookup(ctx)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		text := err.Error()
		d.failure.Store(&text)
		if !d.failing {
			d.log.WithError(err).WithField("endpoints", d.endpoints).Warn("the registry's endpoints cannot be looked up; those known stay in use")
		}
		d.failing = true
		return
	}
	if d.failing {
		d.log.WithField("registry", d.url).Info("the registry's endpoints can be looked up again")
	}
	d.failing = false
	if slices.Equal(found, d.endpoints) {
		return
	}
	d.log.WithField("endpoints", found).Info("the registry's endpoints were looked up")
	d.endpoints = found
	d.transport.secure.Store(secure)
	c.SetEndpoints(found...)
}

// trouble says why no endpoint is known.
func (d *domain) trouble() string {
	if why := d.failure.Load(); why != nil {
		return *why
	}
	return "the records of " + d.name + " are being looked up"
}

// lookup returns the endpoints that the records name, in an order that does not change.
func (d *domain) lookup(ctx context.Context) (endpoints []string, secure bool, err error) {
	const limit = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	const withTLS, without = "etcd-client-ssl", "etcd-client"
	hosts, err := d.records(ctx, withTLS)
	if len(hosts) > 0 {
		return urls("https://", hosts), true, nil
	}
	var none *net.DNSError
	switch certain := err == nil || errors.As(err, &none) && none.IsNotFound; {
	case !certain:
		return nil, false, err
	case d.onlyTLS != "" || d.transport.secure.Load():
		return nil, false, fmt.Errorf("%s has no record _%s._tcp that can be used, and those without encryption do not count: %s", d.name, withTLS, cmp.Or(d.onlyTLS, "it had some with TLS"))
	}
	hosts, err = d.records(ctx, without)
	if len(hosts) == 0 {
		return nil, false, cmp.Or(err, fmt.Errorf("%s has no record _%s._tcp and none _%s._tcp", d.name, withTLS, without))
	}
	return urls("http://", hosts), false, nil
}

// records are the hosts and ports of one kind of record.
func (d *domain) records(ctx context.Context, service string) ([]string, error) {
	_, found, err := d.resolver.LookupSRV(ctx, service, "tcp", d.name+".")
	if err != nil && len(found) == 0 {
		return nil, fmt.Errorf("look up _%s._tcp.%s: %w", service, d.name, err)
	}
	for _, r := range found {
		r.Target = strings.ToLower(strings.TrimSuffix(r.Target, "."))
	}
	slices.SortFunc(found, func(a, b *net.SRV) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), strings.Compare(a.Target, b.Target), cmp.Compare(a.Port, b.Port))
	})
	var hosts []string
	for _, r := range found {
		host := r.Target
		if host == "" || r.Port == 0 { // says that there is no such service
			continue
		}
		if service != "etcd-client" && d.within && host != d.name && !strings.HasSuffix(host, "."+strings.ToLower(d.name)) {
			return nil, fmt.Errorf("_%s._tcp.%s names %s, which is not in %s: give --registry-ca, whose authority then says which hosts are etcd's", service, d.name, host, d.name)
		}
		hosts = append(hosts, net.JoinHostPort(host, strconv.Itoa(int(r.Port))))
	}
	return slices.Compact(hosts), nil
}

func urls(scheme string, hosts []string) []string {
	for i := range hosts {
		hosts[i] = scheme + hosts[i]
	}
	return hosts
}

// Lookup returns the endpoints that ParseURL returned, with a domain's in the place of the domain: for
// those who want to know them once.
func Lookup(ctx context.Context, cfg Config) ([]string, error) {
	d := newDomain(cfg, newTransport(nil))
	if d == nil {
		return cfg.Endpoints, nil
	}
	found, _, err := d.lookup(ctx)
	return found, err
}
