package confd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"text/template"
	"time"
)

// lookupLimit is how long a name server is waited for.
const lookupLimit = 5 * time.Second

// lookups answers what templates ask of DNS and of this host's interfaces. It remembers each answer: when
// a name server fails, that is no reason to take the addresses away that it gave before. With no answer
// before, a failure is an empty list, as in confd; a name that does not exist always is.
type lookups struct {
	resolver *net.Resolver
	known    map[string]any
}

func newLookups() *lookups {
	return &lookups{resolver: &net.Resolver{}, known: map[string]any{}}
}

func (l *lookups) functions(ctx context.Context) template.FuncMap {
	addresses := func(network string) func(string) []string {
		return func(name string) []string { return l.addresses(ctx, network, name) }
	}
	return template.FuncMap{
		"lookupIP": addresses("ip"), "lookupIPV4": addresses("ip4"), "lookupIPV6": addresses("ip6"),
		"lookupSRV": func(service, proto, name string) []*net.SRV { return l.services(ctx, service, proto, name) },
		"lookupIfaceIPV4": func(name string) string {
			return interfaceAddress(name, func(ip net.IP) bool { return ip.To4() != nil })
		},
		"lookupIfaceIPV6": func(name string) string {
			return interfaceAddress(name, func(ip net.IP) bool { return ip.To4() == nil })
		},
	}
}

// addresses returns a name's addresses, sorted as text.
func (l *lookups) addresses(ctx context.Context, network, name string) []string {
	return answer(ctx, l, network+" "+name, func(ctx context.Context) ([]string, error) {
		ips, err := l.resolver.LookupIP(ctx, "ip", name)
		var list []string
		for _, ip := range ips {
			text := ip.String()
			if network == "ip" || strings.Contains(text, ":") == (network == "ip6") {
				list = append(list, text)
			}
		}
		slices.Sort(list)
		return list, err
	})
}

// services returns a name's SRV records, sorted so that equal answers are equal texts.
func (l *lookups) services(ctx context.Context, service, proto, name string) []*net.SRV {
	return answer(ctx, l, fmt.Sprintf("srv %q %q %q", service, proto, name), func(ctx context.Context) ([]*net.SRV, error) {
		_, list, err := l.resolver.LookupSRV(ctx, service, proto, name)
		slices.SortFunc(list, compareServices)
		return list, err
	})
}

// compareServices orders them as confd does, so that a file stays the same when its directory moves: as texts.
func compareServices(a, b *net.SRV) int {
	text := func(s *net.SRV) string { return fmt.Sprintf("%s%d%d%d", s.Target, s.Port, s.Priority, s.Weight) }
	return cmp.Compare(text(a), text(b))
}

// answer asks, and remembers what was answered; what it gave before outlives a failure.
func answer[T any](ctx context.Context, l *lookups, question string, ask func(context.Context) (T, error)) T {
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	got, err := ask(ctx)
	d, ok := errors.AsType[*net.DNSError](err)
	if gone := ok && d.IsNotFound; err != nil && !gone {
		before, _ := l.known[question].(T)
		return before
	}
	l.known[question] = got
	return got
}

// interfaceAddress returns the first address of an interface that suits, or "".
func interfaceAddress(name string, suits func(net.IP) bool) string {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return ""
	}
	list, err := link.Addrs()
	if err != nil {
		return ""
	}
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok && suits(n.IP) {
			return n.IP.String()
		}
	}
	return ""
}
