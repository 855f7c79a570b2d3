// Package outbound finds the address by which this host speaks to others.
package outbound

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

// Address returns the source address that the host's routes give to packets for target
// ("HOST:PORT"). No packet is sent.
func Address(ctx context.Context, target string) (netip.Addr, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "udp", target)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("no route to %s: %w", target, err)
	}
	defer conn.Close()
	local, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.Addr{}, fmt.Errorf("no source address for %s", target)
	}
	return local.AddrPort().Addr().Unmap(), nil
}

// Default returns the source address of the default route, for IPv4 or else IPv6. The addresses
// asked for are those that RFC 5737 and RFC 3849 keep for documentation.
func Default(ctx context.Context) (netip.Addr, error) {
	a, err := Address(ctx, "198.51.100.1:9")
	if err == nil && !a.IsLoopback() {
		return a, nil
	}
	return Address(ctx, "[2001:db8::1]:9")
}
