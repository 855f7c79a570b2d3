package haproxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"

	"github.com/sidekick-proxy/sidekick/internal/listening"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// binds are the literal TCP addresses that a configuration listens on, in their order, ranges of ports
// one by one. Names, Unix sockets and other transports are left out, for they cannot be probed
// simply, and so are lines in conditions, which HAProxy may pass over.
func binds(files render.Files) []netip.AddrPort {
	if len(files) == 0 {
		return nil
	}
	return listeners{}.of(files[0]).addresses()
}

// listeners are the statements of a configuration that say where it listens, by its blocks.
type listeners struct {
	blocks []render.Block
	found  []listener
}

// listener is a bind line, or a condition that begins or ends.
type listener struct {
	block int
	binds []netip.AddrPort
	depth int // 1 begins a condition, -1 ends it
}

// of are the listeners of another configuration. Only blocks that differ are looked into, so that a
// change of servers costs no more than the comparison of hashes.
func (l listeners) of(f render.File) listeners {
	n, endOld, end := sharedEnds(l.blocks, f.Blocks)
	next := listeners{blocks: f.Blocks}
	first := sort.Search(len(l.found), func(i int) bool { return l.found[i].block >= n })
	last := sort.Search(len(l.found), func(i int) bool { return l.found[i].block >= endOld })
	next.found = slices.Clone(l.found[:first])
	for i := n; i < end; i++ {
		next.read(i)
	}
	for _, known := range l.found[last:] {
		known.block += end - endOld
		next.found = append(next.found, known)
	}
	return next
}

// read looks at the lines of one block that may be meant.
func (l *listeners) read(block int) {
	text := l.blocks[block].Text
	if !slices.ContainsFunc([]string{"bind", ".if", ".endif"}, func(word string) bool { return strings.Contains(text, word) }) {
		return
	}
	for raw := range strings.Lines(text) {
		found := listener{block: block}
		switch first := strings.TrimLeft(raw, blanks); {
		case strings.HasPrefix(first, "bind"):
			found.binds = bindAddresses(splitLine(raw))
		case strings.HasPrefix(first, ".if"):
			found.depth = 1
		case strings.HasPrefix(first, ".endif"):
			found.depth = -1
		}
		if found.depth != 0 || len(found.binds) > 0 {
			l.found = append(l.found, found)
		}
	}
}

// addresses are those of the lines outside of conditions.
func (l listeners) addresses() []netip.AddrPort {
	var all []netip.AddrPort
	depth := 0
	for _, f := range l.found {
		if depth == 0 {
			all = append(all, f.binds...)
		}
		depth += f.depth
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
		all = append(all, bindAddress(one)...)
	}
	return all
}

// bindAddress reads one address of a bind line, with its port or its range of ports.
func bindAddress(s string) []netip.AddrPort {
	unspecified := netip.IPv4Unspecified()
	for _, prefix := range []string{"ipv4@", "tcp4@", "tcp@", "ipv6@", "tcp6@"} {
		if rest, ok := strings.CutPrefix(s, prefix); ok {
			s = rest
			if strings.HasSuffix(prefix, "6@") {
				unspecified = netip.IPv6Unspecified()
			}
			break
		}
	}
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return nil
	}
	addr, first, last := unspecified, s[i+1:], s[i+1:]
	if from, to, ranged := strings.Cut(first, "-"); ranged {
		first, last = from, to
	}
	if host := strings.Trim(s[:i], "[]"); host != "" && host != "*" {
		literal, err := netip.ParseAddr(host)
		if err != nil {
			return nil
		}
		addr = literal
	}
	low, err1 := strconv.ParseUint(first, 10, 16)
	high, err2 := strconv.ParseUint(last, 10, 16)
	if err1 != nil || err2 != nil || low == 0 {
		return nil
	}
	var all []netip.AddrPort
	for port := low; port <= high; port++ {
		all = append(all, netip.AddrPortFrom(addr, uint16(port))) //nolint:gosec // of 16 bits, as parsed
	}
	return all
}

// probeable are the addresses of a configuration at which it can be tried whether HAProxy would get them:
// those of its binds but for sections that are switched off and for sockets that HAProxy opens in another
// way or place than we could. All of IPv6 is all of IPv4 as well, unless the line says otherwise.
func probeable(files render.Files) []netip.AddrPort {
	if len(files) == 0 {
		return nil
	}
	var all []netip.AddrPort
	for _, s := range parse(mentioning(files[0], "bind")) {
		if s.off() {
			continue
		}
		for _, l := range s.lines {
			if !l.conditional && !slices.ContainsFunc(l.words, opensElsewhere) {
				all = append(all, bothFamilies(l)...)
			}
		}
	}
	return all
}

// off tells whether the section itself says that it is not to listen.
func (s section) off() bool {
	return slices.ContainsFunc(s.lines, func(l line) bool { return word(l, 0) == "disabled" && !l.conditional })
}

// opensElsewhere tells whether a word of a bind line makes HAProxy open its socket otherwise than we can.
func opensElsewhere(word string) bool {
	return word == "transparent" || word == "namespace" || word == "interface"
}

// bothFamilies are the addresses of a bind line.
func bothFamilies(l line) []netip.AddrPort {
	all := bindAddresses(l)
	if slices.Contains(l.words, "v6only") {
		return all
	}
	for _, a := range all {
		if a.Addr() == netip.IPv6Unspecified() {
			all = append(all, netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port()))
		}
	}
	return all
}

// probe tries every address of wanted that running does not listen on, because HAProxy's own check does
// not and a taken address makes a reload an outage of seconds. One that HAProxy holds a part of can be
// tried only beside it, if it lets others do that.
func probe(ctx context.Context, running, wanted render.Files, shares bool) error {
	held := addressesOf(running)
	for _, a := range probeable(wanted) {
		var err error
		switch {
		case held.whole(a):
			continue
		case !held.part(a):
			err = listening.Try(ctx, network(a), a.String())
		case shares:
			err = listening.TryBeside(a)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if refused := unbindable(a, err); refused != nil {
			return refused
		}
	}
	return nil
}

// probeBeside binds every address of wanted as HAProxy itself does, for a HAProxy of which is not known
// what it listens on: beside its sockets there is room for another one of the same user, and beside
// another program's there is none. Nobody connects to what is only bound.
func probeBeside(wanted render.Files) error {
	for _, a := range probeable(wanted) {
		if refused := unbindable(a, listening.TryBeside(a)); refused != nil {
			return refused
		}
	}
	return nil
}

// sharesNothing tells whether a HAProxy with these files lets nobody bind beside it.
func sharesNothing(files render.Files) bool {
	return len(files) > 0 && has(files[0], "noreuseport")
}

// unbindable is the refusal of an address that cannot be had. Everything else, such as a free port that
// only HAProxy may bind, is HAProxy's to find out.
func unbindable(a netip.AddrPort, err error) error {
	switch {
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
	default:
		return nil
	}
}

func network(a netip.AddrPort) string {
	if a.Addr().Is4() {
		return "tcp4"
	}
	return "tcp6"
}

// addresses are those that HAProxy itself listens on, by port.
type addresses map[uint16][]netip.Addr

func addressesOf(files render.Files) addresses {
	held := addresses{}
	for _, a := range binds(files) {
		held[a.Port()] = append(held[a.Port()], a.Addr())
	}
	return held
}

// whole tells whether HAProxy listens there already, so that nobody else can.
func (held addresses) whole(a netip.AddrPort) bool {
	return slices.ContainsFunc(held[a.Port()], func(h netip.Addr) bool {
		return h == a.Addr() || h.IsUnspecified() && (h.Is4() == a.Addr().Is4() || h.Is6())
	})
}

// part tells whether HAProxy listens on some of it.
func (held addresses) part(a netip.AddrPort) bool {
	return a.Addr().IsUnspecified() && len(held[a.Port()]) > 0
}
