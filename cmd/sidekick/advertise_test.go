package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// fakeRoutes answers from a table; a target that is not in it has no route. "default" is the default
// route.
func fakeRoutes(table map[string]string) routes {
	to := func(_ context.Context, target string) (netip.Addr, error) {
		if a, ok := table[target]; ok {
			return netip.MustParseAddr(a), nil
		}
		return netip.Addr{}, errors.New("no route to " + target)
	}
	return routes{to: to, resolver: fakeRecords{}, byDefault: func(ctx context.Context) (netip.Addr, error) { return to(ctx, "default") }}
}

// fakeRecords knows the members of example.test, and not even whether there are others.
type fakeRecords struct{}

func (fakeRecords) LookupSRV(_ context.Context, service, _, name string) (string, []*net.SRV, error) {
	switch {
	case name != "example.test.":
		return "", nil, errors.New("server misbehaving")
	case service == "etcd-client-ssl":
		return "", []*net.SRV{{Target: "e2.example.test.", Port: 1}, {Target: "e1.example.test.", Port: 2379}}, nil
	}
	return "", nil, &net.DNSError{IsNotFound: true}
}

// Other hosts are told an address that they reach: never loopback, but where this host is the whole
// cluster (F2: another container may have that address on theirs).
func TestAdvertised(t *testing.T) {
	tests := map[string]struct {
		registry, advertise string
		routes              map[string]string
		want, wantErr       string
	}{
		"given":                      {registry: "etcd://e1:2379", advertise: "10.0.0.9", want: "10.0.0.9"},
		"given, IPv6":                {registry: "etcd://e1:2379", advertise: "fd00::9", want: "fd00::9"},
		"given, IPv4 written as 6":   {registry: "etcd://e1:2379", advertise: "::ffff:10.0.0.9", want: "10.0.0.9"},
		"given, loopback":            {registry: "etcd://e1:2379", advertise: "127.0.0.1", wantErr: "--advertise 127.0.0.1: other hosts cannot reach a loopback address; give one that they can"},
		"given, loopback, one host":  {registry: embeddedURL, advertise: "127.0.0.1", want: "127.0.0.1"},
		"towards the registry":       {registry: "etcd://e1:2379", routes: map[string]string{"e1:2379": "10.0.0.1", "default": "192.0.2.1"}, want: "10.0.0.1"},
		"towards the first reached":  {registry: "etcd://e1:2379,e2:2379", routes: map[string]string{"e2:2379": "10.0.0.2", "default": "192.0.2.1"}, want: "10.0.0.2"},
		"the first not on loopback":  {registry: "etcd://127.0.0.1:2379,e2:2379", routes: map[string]string{"127.0.0.1:2379": "127.0.0.1", "e2:2379": "10.0.0.2"}, want: "10.0.0.2"},
		"the first not of one link":  {registry: "etcds://e1:2379,e2:2379", routes: map[string]string{"e1:2379": "fe80::1", "e2:2379": "fd00::2"}, want: "fd00::2"},
		"registry on loopback alone": {registry: "etcd://127.0.0.1:2379", routes: map[string]string{"127.0.0.1:2379": "127.0.0.1", "default": "192.0.2.1"}, want: "192.0.2.1"},
		"towards a domain's members": {registry: "etcd+srv://example.test", routes: map[string]string{"e2.example.test:1": "10.0.0.2", "default": "192.0.2.1"}, want: "10.0.0.2"},
		"a domain without DNS":       {registry: "etcd+srv://example.com", routes: map[string]string{"default": "192.0.2.1"}, want: "192.0.2.1"},
		"no route at all":            {registry: "etcd://e1:2379", wantErr: "this host's address for others cannot be found (no route to default); give it with --advertise"},
		"nothing but loopback": {
			registry: "etcd://127.0.0.1:2379", routes: map[string]string{"127.0.0.1:2379": "127.0.0.1", "default": "::1"},
			wantErr: "this host's address for others cannot be found (the default route's source is ::1, which means nothing to other hosts); give it with --advertise",
		},
		"one host":                   {registry: embeddedURL, routes: map[string]string{"default": "192.0.2.1"}, want: "192.0.2.1"},
		"one host without a network": {registry: embeddedURL, want: "127.0.0.1"},
		"one host with a link only":  {registry: embeddedURL, routes: map[string]string{"default": "fe80::1"}, want: "127.0.0.1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSettings()
			s.registry, s.advertise = tt.registry, tt.advertise
			got, err := s.advertised(t.Context(), fakeRoutes(tt.routes))
			switch {
			case tt.wantErr != "" && (err == nil || err.Error() != tt.wantErr):
				t.Errorf("got error %v, want %s", err, tt.wantErr)
			case tt.wantErr == "" && (err != nil || got.String() != tt.want):
				t.Errorf("got %s (%v), want %s", got, err, tt.want)
			case tt.wantErr != "" && !strings.Contains(err.Error(), "give"):
				t.Errorf("%v: names no mend", err)
			}
		})
	}
}
