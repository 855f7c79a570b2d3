package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/listening"
	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// ports finds out which of the ports that services and HTTPS need cannot be had on this host, because
// another program has them or the template binds them itself. HAProxy must not be asked for such a
// port: a reload that fails to bind stops the old worker's listeners for seconds.
type ports struct {
	host  string          // address on which services' ports are opened, "" for all
	https string          // --https-listen, "" for none
	ours  bool            // HAProxy is a child of the agent, and has no other rights
	held  func() []uint16 // the ports that our HAProxy may be holding now, sorted

	unloaded atomic.Pointer[haproxy.Refused] // a text that HAProxy could not load, perhaps for a port; nil once that was looked at

	unbound map[uint16]unbound // that HAProxy itself could not have
	denied  map[uint16]string  // as of the last look, with the reasons
	granted []uint16           // as of the last look at the rendered text
	doubled map[uint16]bool    // of those, the ones that the template binds as well
}

// unbound is that HAProxy could not have a port, though the agent saw nothing that is in the way.
type unbound struct {
	why   string
	until time.Time // when it is worth another try
}

// retryUnbound is how long a port is left alone that HAProxy could not have: each try stops all listeners for
// seconds, and what is missing is a right, which nobody gives to a program that runs.
const retryUnbound = 24 * time.Hour

// taken tries the ports that are asked for and our HAProxy does not hold, and returns those that
// cannot be had, with the reason.
func (p *ports) taken(ctx context.Context, in render.Input) map[uint16]string {
	p.denied = map[uint16]string{}
	asked := p.asked(in)
	if len(asked) == 0 {
		return p.denied
	}
	held := p.held()
	for port, host := range asked {
		if p.doubled[port] {
			p.denied[port] = fmt.Sprintf("port %d is one that the template binds itself", port)
			continue
		}
		if _, ours := slices.BinarySearch(held, port); ours {
			continue
		}
		if why := cmp.Or(p.probe(ctx, host, port), p.lacking(port)); why != "" {
			p.denied[port] = why
		}
	}
	return p.denied
}

// learn notes which ports HAProxy could not have when it last failed to load a text.
func (p *ports) learn() {
	refused := p.unloaded.Swap(nil)
	if refused == nil {
		return
	}
	held, words := p.held(), briefly(refused.Words)
	for _, port := range refused.Unbound() {
		if _, ours := slices.BinarySearch(held, port); ours {
			continue
		}
		p.unbound[port] = unbound{until: time.Now().Add(retryUnbound), why: fmt.Sprintf(
			"haproxy cannot open port %d (%s): give it the right to, such as NET_BIND_SERVICE for ports below 1024, or choose another; then start the agent anew", port, words)}
	}
}

// briefly is what HAProxy says of a port, without where that stands in its configuration.
func briefly(words string) string {
	words, _, _ = strings.Cut(words, ";")
	return strings.TrimRight(words[max(0, strings.Index(words, "cannot ")):], ".")
}

// lacking says why HAProxy cannot have a port that is free, or "".
func (p *ports) lacking(port uint16) string {
	if u := p.unbound[port]; time.Now().Before(u.until) {
		return u.why
	}
	return ""
}

// asked are the ports that are asked for, each with its address: by services for themselves, and the one
// for HTTPS if there is what could be served there.
func (p *ports) asked(in render.Input) map[uint16]string {
	asked := map[uint16]string{}
	https := len(in.Certificates) > 0
	for _, s := range in.Catalog.Services {
		if s.Spec.Listen != 0 {
			asked[s.Spec.Listen] = p.host
		}
		https = https || render.PassesThrough(s)
	}
	if host, text, err := net.SplitHostPort(p.https); err == nil && https {
		port, _ := strconv.ParseUint(text, 10, 16) // validate has refused a bad one
		asked[uint16(port)] = host
	}
	return asked
}

// conflict looks for granted ports that the text binds more than once, and tells whether there are
// new ones: then the text must be made again without them.
func (p *ports) conflict(files render.Files, m *render.Model) bool {
	var granted []uint16
	for _, s := range m.Services {
		if s.Listen != 0 {
			granted = append(granted, s.Listen)
		}
	}
	if slices.Equal(granted, p.granted) {
		return false
	}
	p.granted = granted
	count := map[uint16]int{}
	for _, port := range haproxy.Bound(files[0].Text()) {
		count[port]++
	}
	found := false
	for _, port := range granted {
		if count[port] > 1 {
			p.doubled[port], found = true, true
		}
	}
	return found
}

// forget is called when the template has changed, and may bind other ports.
func (p *ports) forget() {
	p.granted = nil
	p.doubled, p.unbound = map[uint16]bool{}, map[uint16]unbound{}
}

// probe says why HAProxy cannot have the port on that address of this host, or "".
func (p *ports) probe(ctx context.Context, host string, port uint16) string {
	err := listening.Try(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Sprintf("port %d is in use by another program on this host", port)
	case errors.Is(err, syscall.EACCES) && p.ours:
		return fmt.Sprintf("port %d is one that this user may not have: start the agent with the right to bind low ports (NET_BIND_SERVICE), or choose another", port)
	}
	return "" // not ours to judge: HAProxy may have rights that the agent lacks
}
