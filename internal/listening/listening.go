// Package listening finds out whether a TCP address of this host is taken, also one that this process
// may not bind.
package listening

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Try binds an address for a moment and returns what the system says to that. Where only the right is
// missing, which the system looks at first, the sockets of all programs are searched: the error is
// syscall.EADDRINUSE if one listens there, and syscall.EACCES if the address is free as far as can be told.
func Try(ctx context.Context, network, address string) error {
	l, err := new(net.ListenConfig).Listen(ctx, network, address)
	if err == nil {
		return l.Close() // nothing was accepted
	}
	if !errors.Is(err, syscall.EACCES) {
		return err
	}
	host, port, splitErr := net.SplitHostPort(address)
	if host == "" {
		host = netip.IPv4Unspecified().String()
	}
	a, parseErr := netip.ParseAddrPort(net.JoinHostPort(host, port))
	if splitErr != nil || parseErr != nil {
		return err // a name, for others to resolve
	}
	if taken, lookErr := listened(a); lookErr == nil && taken {
		return fmt.Errorf("listen on %s: %w", address, syscall.EADDRINUSE)
	}
	return err
}

// TryBeside binds an address for a moment, and does not listen there, as a program does that shares it
// with those that do alike (SO_REUSEPORT). It returns what the system says to that: syscall.EADDRINUSE if
// somebody else has the address, or shares it with none or with another user's programs only.
func TryBeside(a netip.AddrPort) error {
	family, address := syscall.AF_INET6, syscall.Sockaddr(&syscall.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()})
	if a.Addr().Is4() {
		family, address = syscall.AF_INET, &syscall.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bind %s: %w", a, err)
	}
	defer syscall.Close(fd)
	err = errors.Join(
		syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1),
		syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, reusePort, 1))
	if family == syscall.AF_INET6 { // who has the same port of IPv4 alone is not in the way
		err = errors.Join(err, syscall.SetsockoptInt(fd, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, 1))
	}
	if err = errors.Join(err, syscall.Bind(fd, address)); err != nil {
		return fmt.Errorf("bind %s: %w", a, err)
	}
	return nil
}

// reusePort is Linux' SO_REUSEPORT, which the syscall package does not name everywhere.
const reusePort = 0xf

// listened tells whether any program of this network namespace listens where a would clash with it.
func listened(a netip.AddrPort) (bool, error) {
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		f, err := os.Open(table)
		if errors.Is(err, os.ErrNotExist) {
			continue // a system without IPv6
		}
		if err != nil {
			return false, err
		}
		found, err := search(f, a)
		f.Close() // only read
		if found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// stateListen is the kernel's number of a listening socket's state.
const stateListen = "0A"

// search looks for a listening socket in the kernel's table that clashes with a.
func search(table io.Reader, a netip.AddrPort) (bool, error) {
	rows := bufio.NewScanner(table)
	for rows.Scan() {
		f := strings.Fields(rows.Text()) // number, local address, remote address, state
		if len(f) < 4 || f[3] != stateListen {
			continue
		}
		local, err := parse(f[1])
		if err != nil {
			return false, err
		}
		if clash(local, a) {
			return true, nil
		}
	}
	return false, rows.Err()
}

// parse reads an address as the kernel prints it: each word of 32 bits as this machine's number, then
// the port.
func parse(s string) (netip.AddrPort, error) {
	words, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(words)
	if err != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, fmt.Errorf("%q in the kernel's table of sockets is no address", s)
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q in the kernel's table of sockets has no port", s)
	}
	addr, _ := netip.AddrFromSlice(raw) // of 4 or 16 bytes
	return netip.AddrPortFrom(addr.Unmap(), uint16(number)), nil
}

// clash tells whether a cannot be bound beside the one that is listened on. All of IPv6 is taken to
// include IPv4, as it does unless its owner said otherwise, which the table does not show.
func clash(listened, a netip.AddrPort) bool {
	l, addr := listened.Addr(), a.Addr().Unmap()
	switch {
	case listened.Port() != a.Port():
		return false
	case l.Is4() != addr.Is4():
		return l.Is6() && l.IsUnspecified()
	default:
		return l == addr.WithZone("") || l.IsUnspecified() || addr.IsUnspecified()
	}
}
