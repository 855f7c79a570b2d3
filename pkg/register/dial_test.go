package register

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// TestGateDials: with its own dialer and a real socket, an instance is let through once something
// listens, and not before (P1).
func TestGateDials(t *testing.T) {
	reserve, err := net.Listen("tcp", "127.0.77.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := netip.MustParseAddrPort(reserve.Addr().String())
	if err := reserve.Close(); err != nil {
		t.Fatal(err)
	}
	held := make(chan []service.Rejection, 100)
	gate := &Gate{Log: quiet(), Held: func(r []service.Rejection) { held <- r }}
	ctx, cancel := context.WithCancel(t.Context())
	in, out, done := make(chan []service.Instance), make(chan []service.Instance), make(chan error, 1)
	go func() { done <- gate.Run(ctx, in, out) }()
	defer func() {
		cancel()
		<-done
	}()
	i := instances("a")[0]
	i.Check = &service.Check{Kind: service.CheckTCP, Target: target}
	in <- []service.Instance{i}
	next := func() string {
		t.Helper()
		select {
		case set := <-out:
			return summary(set)
		case <-time.After(30 * time.Second):
			t.Fatal("no set came")
			return ""
		}
	}
	if got, want := next(), "[]"; got != want {
		t.Fatalf("nothing listens: got %s, want %s", got, want)
	}
	listener, err := net.Listen("tcp", target.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	if got, want := next(), "[a:ready]"; got != want {
		t.Errorf("listening: got %s, want %s", got, want)
	}
}
