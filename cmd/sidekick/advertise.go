package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/outbound"
	"github.com/sidekick-proxy/sidekick/pkg/registry/etcd"
)

// routes tells which of its addresses this host uses towards others.
type routes struct {
	to        func(ctx context.Context, target string) (netip.Addr, error) // HOST:PORT
	resolver  etcd.Resolver                                                // of domains; nil means the system's
	byDefault func(ctx context.Context) (netip.Addr, error)
}

// kernelRoutes are those of this host.
func kernelRoutes() routes { return routes{to: outbound.Address, byDefault: outbound.Default} }

// advertised is the address under which other hosts reach this one: the one given, else the one that
// it uses towards the registry, else the one that it uses towards the world.
func (s *settings) advertised(ctx context.Context, r routes) (netip.Addr, error) {
	address, err := s.findAdvertised(ctx, r)
	if err != nil {
		return netip.Addr{}, usageError{fmt.Errorf("this host's address for others cannot be found (%w); give it with --advertise", err)}
	}
	if address.IsLoopback() && s.registry != embeddedURL {
		return netip.Addr{}, usageError{fmt.Errorf("--advertise %s: other hosts cannot reach a loopback address; give one that they can", address)}
	}
	return address, nil
}

func (s *settings) findAdvertised(ctx context.Context, r routes) (netip.Addr, error) {
	if s.advertise != "" {
		address, err := netip.ParseAddr(s.advertise)
		return address.Unmap(), err
	}
	if s.registry != embeddedURL {
		endpoints, err := s.endpoints(ctx, r)
		if err != nil {
			return netip.Addr{}, err
		}
		for _, endpoint := range endpoints {
			_, host, _ := strings.Cut(endpoint, "://")
			if a, err := r.to(ctx, host); err == nil && reachable(a) {
				return a, nil
			}
		}
	}
	address, err := r.byDefault(ctx)
	if s.registry == embeddedURL && (err != nil || !reachable(address)) {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil // a host without a network still reaches itself
	}
	if err == nil && !reachable(address) {
		err = fmt.Errorf("the default route's source is %s, which means nothing to other hosts", address)
	}
	return address, err
}

// endpoints are those of the registry; none while a domain's cannot be looked up, for an agent starts without DNS.
func (s *settings) endpoints(ctx context.Context, r routes) ([]string, error) {
	const limit = 3 * time.Second
	endpoints, err := etcd.ParseURL(s.registry)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	found, err := etcd.Lookup(ctx, etcd.Config{
		Endpoints: endpoints, Resolver: r.resolver, Username: s.registryUser, Files: etcd.Files{CA: s.registryCA, Cert: s.registryCert, Key: s.registryKey},
	})
	if err != nil {
		return nil, nil //nolint:nilerr // who connects to them tells of it, again and again
	}
	return found, nil
}

// reachable tells whether an address can mean the same to other hosts.
func reachable(a netip.Addr) bool {
	return a.IsValid() && !a.IsLoopback() && !a.IsUnspecified() && (a.Is4() || !a.IsLinkLocalUnicast())
}
