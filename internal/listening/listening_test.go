package listening

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
)

// table is what a little-endian machine's kernel prints, the rest of the columns left out.
const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid
   0: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0
   1: 00000000:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0
   2: 0100007F:0016 0200007F:9C40 01 00000000:00000000 00:00000000 00000000     0
   3: 00000000000000000000000000000000:0051 00000000000000000000000000000000:0000 0A 0 0
   4: B80D0120000000000000000001000000:0052 00000000000000000000000000000000:0000 0A 0 0
   5: 0000000000000000FFFF00000100007F:0053 00000000000000000000000000000000:0000 0A 0 0
`

func TestSearch(t *testing.T) {
	if n, err := parse("0100007F:0050"); err != nil || n.String() != "127.0.0.1:80" {
		t.Skipf("left out: the table is of a little-endian machine (%v, %v)", n, err)
	}
	for address, want := range map[string]bool{
		"127.0.0.1:80": true, "127.0.0.2:80": false, "0.0.0.0:80": true, "127.0.0.1:8080": false, "[::]:80": false,
		"127.0.0.1:443": true, "0.0.0.0:443": true, "[::1]:443": false,
		"127.0.0.1:22": false,
		"127.0.0.1:81": true, "0.0.0.0:81": true, "[2001:db8::1]:81": true,
		"[2001:db8::1]:82": true, "[2001:db8::2]:82": false, "[::]:82": true, "0.0.0.0:82": false,
		"127.0.0.1:83": true, "[::1]:83": false,
	} {
		got, err := search(strings.NewReader(table), netip.MustParseAddrPort(address))
		if err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %v", address, got, err, want)
		}
	}
}

func TestSearchRefusesOtherTables(t *testing.T) {
	for _, local := range []string{"0100007F", "0100007F:", "0100007F:10000", "01:0050", "x:0050"} {
		if _, err := search(strings.NewReader("0: "+local+" 0:0 0A\n"), netip.MustParseAddrPort("127.0.0.1:80")); err == nil {
			t.Errorf("%q: got no error", local)
		}
	}
}

// TestListened finds a real socket, in both families, and does not find it when it is closed.
func TestListened(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Logf("left out: %v", err)
			continue
		}
		a := l.Addr().(*net.TCPAddr).AddrPort()
		if got, err := listened(a); err != nil || !got {
			t.Errorf("%s: got %v, %v, want it found", a, got, err)
		}
		l.Close()
		if got, err := listened(a); err != nil || got {
			t.Errorf("%s is free: got %v, %v, want it not found", a, got, err)
		}
	}
}

// TestTryBeside: beside a program that shares its address there is room, beside another one there is none.
func TestTryBeside(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "[::1]"} {
		for shares, want := range map[bool]error{true: nil, false: syscall.EADDRINUSE} {
			config := net.ListenConfig{}
			if shares {
				config.Control = func(_, _ string, c syscall.RawConn) (err error) {
					return errors.Join(c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, reusePort, 1) }), err)
				}
			}
			l, err := config.Listen(t.Context(), "tcp", host+":0")
			if err != nil {
				t.Logf("left out: %v", err)
				continue
			}
			a := l.Addr().(*net.TCPAddr).AddrPort()
			if got := TryBeside(a); !errors.Is(got, want) {
				t.Errorf("%s, shared: %v: got %v, want %v", a, shares, got, want)
			}
			l.Close()
			if got := TryBeside(a); got != nil {
				t.Errorf("%s, free: got %v", a, got)
			}
		}
	}
	if got := TryBeside(netip.MustParseAddrPort("192.0.2.1:80")); !errors.Is(got, syscall.EADDRNOTAVAIL) {
		t.Errorf("another host's address: got %v, want %v", got, syscall.EADDRNOTAVAIL)
	}
}
