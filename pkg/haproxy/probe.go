package haproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// binds are the literal TCP addresses that a configuration listens on, in their order. Names, ranges
// of ports, Unix sockets and other transports are left out, for they cannot be probed simply.
func binds(files render.Files) []netip.AddrPort {
	var all []netip.AddrPort
	if len(files) == 0 {
		return nil
	}
	for _, s := range parse(files[0].Text()) {
		if s.kind != "frontend" && s.kind != "listen" {
			continue
		}
		for _, l := range s.lines {
			all = append(all, bindAddresses(l)...)
		}
	}
	return all
}

// bindAddresses reads a line's literal addresses, none if it is not a bind line.
func bindAddresses(l line) []netip.AddrPort {
	if word(l, 0) != "bind" || len(l.words) < 2 || !l.plain {
		return nil
	}
	var all []netip.AddrPort
	for one := range strings.SplitSeq(l.words[1], ",") {
		if a, ok := bindAddress(one); ok {
			all = append(all, a)
		}
	}
	return all
}

// bindAddress reads one address of a bind line.
func bindAddress(s string) (netip.AddrPort, bool) {
	any4 := true
	if rest, ok := strings.CutPrefix(s, "ipv4@"); ok {
		s = rest
	} else if rest, ok := strings.CutPrefix(s, "ipv6@"); ok {
		s, any4 = rest, false
	}
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return netip.AddrPort{}, false
	}
	host, port := s[:i], s[i+1:]
	switch {
	case (host == "" || host == "*") && any4:
		host = "0.0.0.0"
	case host == "" || host == "*":
		host = "::"
	}
	a, err := netip.ParseAddrPort(net.JoinHostPort(strings.Trim(host, "[]"), port))
	return a, err == nil && a.Port() != 0
}

// probe listens once on every address of wanted that running does not listen on, because HAProxy's
// own check does not and a taken address makes a reload an outage of seconds.
func probe(ctx context.Context, running, wanted render.Files) error {
	held := binds(running)
	for _, a := range binds(wanted) {
		if overlaps(held, a) {
			continue
		}
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, network(a), a.String())
		switch {
		case err == nil:
			l.Close() // nothing was accepted
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, syscall.EADDRINUSE):
			return &Refused{
				Stage: StageProbe, Address: a.String(),
				Words: fmt.Sprintf("the address %s is taken by another program: stop that or choose another address", a),
			}
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			return &Refused{
				Stage: StageProbe, Address: a.String(),
				Words: fmt.Sprintf("the address %s is not one of this host's", a),
			}
		}
		// Everything else, such as a port that only HAProxy may bind, is HAProxy's to find out.
	}
	return nil
}

func network(a netip.AddrPort) string {
	if a.Addr().Is4() {
		return "tcp4"
	}
	return "tcp6"
}

// overlaps tells whether HAProxy itself already listens there.
func overlaps(held []netip.AddrPort, a netip.AddrPort) bool {
	for _, h := range held {
		if h.Port() == a.Port() && (h.Addr() == a.Addr() || h.Addr().IsUnspecified() || a.Addr().IsUnspecified()) {
			return true
		}
	}
	return false
}

// opensSocket tells whether a configuration opens the socket by which the driver finds the worker.
// Without it a reload could be neither confirmed nor followed by another change.
func opensSocket(files render.Files, path string) bool {
	for _, s := range parse(files[0].Text()) {
		for _, l := range s.lines {
			if s.kind != "global" || word(l, 0) != "stats" || word(l, 1) != "socket" {
				continue
			}
			if !l.plain || strings.TrimPrefix(word(l, 2), "unix@") == path {
				return true
			}
		}
	}
	return false
}
