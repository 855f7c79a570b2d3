package render

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// claims are what a service asks for that only one can have.
type claims struct {
	name   string
	mode   service.Mode
	empty  bool              // has no instance left
	lead   *service.Instance // whose age is the service's; nil for one of unknown age
	routes []Route
	listen uint16
	tls    tlsClaims
	split  string // what sidekick.split says, "" for nothing
	auth   string // what sidekick.auth says, "" for nothing
	usable bool   // has a server that takes requests
	closed bool   // lets nobody in

	patience int // how many milliseconds its clients may be silent, 0 for as long as others
}

func claimsOf(s *service.Service) claims {
	c := claims{
		name: s.Name, mode: modeOf(s), empty: len(s.Instances) == 0, lead: s.Spec.Lead, listen: s.Spec.Listen,
		tls: tlsClaimsOf(s), split: s.Spec.Options["split"], auth: s.Spec.Options["auth"],
		patience: clientTimeout(s.Spec.Options["timeout.server"], modeOf(s)),
	}
	if c.tls.redirect {
		c.routes = redirectRoutes(c.tls.sni)
	}
	if c.mode == service.TCP {
		return c
	}
	hosts := s.Spec.Hosts
	if s.Spec.Options["default"] == "true" {
		hosts = append(slices.Clone(hosts), anyHost)
	}
	path := "/" + strings.Trim(s.Spec.Path, "/")
	for _, h := range hosts {
		c.routes = append(c.routes, Route{
			Key: routeKey(h, path), Host: h, Path: path, Service: s.Name, Backend: backendName(s.Name),
		})
	}
	slices.SortFunc(c.routes, func(a, b Route) int { return cmp.Compare(a.Key, b.Key) })
	c.routes = slices.CompactFunc(c.routes, func(a, b Route) bool { return a.Key == b.Key })
	return c
}

// routeKey is what the map of routes has for a host and a path: the path as servers read it, in which escapes
// stand for characters. Only blanks stay escaped, for no key has any.
func routeKey(host, path string) string {
	if plain, err := url.PathUnescape(path); err == nil {
		path = strings.ReplaceAll(plain, " ", "%20")
	}
	return host + strings.TrimSuffix(path, "/") + "/"
}

// anyHost is the host of routes for what no other host matches.
const anyHost = "*"

func backendName(name string) string { return "be_" + name }

// equal tells whether both claim the same. Who comes first is what compare says, and usable and
// closed count only for what other services' splits lead to.
func (c claims) equal(other claims) bool {
	return c.mode == other.mode && c.listen == other.listen && c.split == other.split && c.auth == other.auth && c.patience == other.patience &&
		c.tls.equal(other.tls) && slices.Equal(c.routes, other.routes)
}

// compare orders claims: services that have instances before those that are only remembered, then
// by age.
func (c claims) compare(other claims) int {
	if c.empty != other.empty {
		if c.empty {
			return 1
		}
		return -1
	}
	return cmp.Or(compareLeads(c.lead, other.lead), cmp.Compare(c.name, other.name))
}

// compareLeads is service.Older also for services without a leading instance, which come last.
func compareLeads(a, b *service.Instance) int {
	switch {
	case a == b:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return service.Older(a, b)
}

// decision is what a service was granted.
type decision struct {
	routes    []Route
	listen    uint16
	listenWhy string
	slices    []Slice // of its requests, that go to other services
	split     bool    // another service's split leads to it
	patience  int     // the longest that clients may be silent of those to which slices go
	tls       tlsDecision
	why       string
}

func (d decision) equal(other decision) bool {
	return d.listen == other.listen && d.listenWhy == other.listenWhy && d.why == other.why && d.split == other.split && d.patience == other.patience &&
		d.tls.equal(other.tls) && slices.Equal(d.routes, other.routes) && slices.Equal(d.slices, other.slices)
}

// routed tells whether requests come to the service by a route or a port of its own.
func (d decision) routed() bool { return d.listen != 0 || len(d.routes) > 0 || len(d.tls.sni) > 0 }

// reachable tells whether any request can come to the service.
func (d decision) reachable() bool { return d.routed() || d.split }

// say adds in which way the service is not reached as it asks.
func (d *decision) say(why string) {
	if d.why != "" {
		d.why += "; "
	}
	d.why += why
}

// judge gives routes and ports to those who come first.
type judge struct {
	settings Settings
	own      map[uint16]string // ports of the proxy itself
	taken    map[uint16]string // ports of others on this host
	routes   map[string]string // key → service
	ports    map[uint16]string // port → service
	tls      tlsState
	sni      map[string]string // host whose TLS is passed through → service
	seen     map[string]bool   // hosts whose TLS is not, though that of a wildcard is
	disputed map[string]bool   // services that claimed what another one claimed as well
	targets  map[string]bool   // services that another one's split names
}

func newJudge(s Settings, taken map[uint16]string, tls tlsState) *judge {
	return &judge{
		settings: s, own: s.ownPorts(), taken: taken, tls: tls, routes: map[string]string{}, ports: map[uint16]string{},
		sni: map[string]string{}, seen: map[string]bool{}, disputed: map[string]bool{}, targets: map[string]bool{},
	}
}

// decide settles all claims, those of the first records before others'.
func (j *judge) decide(records []*record) []decision {
	for _, r := range records {
		j.grantSNI(r.claims)
	}
	decided := make([]decision, len(records))
	for at, r := range records {
		decided[at] = j.grant(r.claims)
	}
	j.splits(records, decided)
	for at, r := range records {
		if d := &decided[at]; d.why == "" && !d.reachable() {
			d.why = unreachable(r.claims)
		}
	}
	return decided
}

// grant gives a service what nobody before it has.
func (j *judge) grant(c claims) decision {
	var d decision
	d.tls = j.decideTLS(c, d.say)
	for _, r := range c.routes {
		if r.Backend == redirectBackend && !d.tls.redirect {
			continue
		}
		if why := tooDeep(r.Host); why != "" {
			d.say(why)
			continue
		}
		if owner := j.routes[r.Key]; owner != "" {
			j.disputed[owner], j.disputed[c.name] = true, true
			if r.Backend == redirectBackend {
				d.say(fmt.Sprintf("plain HTTP for %s leads to service %s, so that it is not redirected: give that sidekick.redirect=https, or another host", r.Host, owner))
				continue
			}
			d.say(fmt.Sprintf("%s belongs to service %s, which is older: choose another host or path, or give both sidekick.service=%s to share the requests", r.Host+r.Path, owner, owner))
			continue
		}
		j.routes[r.Key] = c.name
		d.routes = append(d.routes, r)
	}
	if c.listen != 0 {
		j.grantPort(c, &d)
	}
	return d
}

// grantPort gives a service the port that it asks for, or says why not.
func (j *judge) grantPort(c claims, d *decision) {
	if owner := j.ports[c.listen]; owner != "" {
		j.disputed[owner], j.disputed[c.name] = true, true
	}
	if d.listenWhy = cmp.Or(j.refuse(c.listen), j.refuseTLS(c)); d.listenWhy != "" {
		d.say(d.listenWhy)
		return
	}
	d.listen = c.listen
	j.ports[c.listen] = c.name
	d.tls.listen = c.tls.asked == tlsTerminate
}

// deepest is how many labels behind the star the built-in template looks for.
const deepest = 8

// tooDeep says why a wildcard is not found, or "".
func tooDeep(host string) string {
	if !strings.HasPrefix(host, "*.") || strings.Count(host, ".") <= deepest {
		return ""
	}
	return fmt.Sprintf("%s has more than %d labels behind its star, where wildcards are not looked for: choose a shorter one", host, deepest)
}

// refuse says why nobody, or nobody else, can have the port on this host, or "" if it is free.
func (j *judge) refuse(port uint16) string {
	s := j.settings
	switch {
	case j.own[port] != "":
		return fmt.Sprintf("sidekick.listen %d is the port of %s: choose another", port, j.own[port])
	case port < s.ListenLow || port > s.ListenHigh:
		return fmt.Sprintf("sidekick.listen %d is outside --listen-ports %d-%d: choose one of these, or allow it", port, s.ListenLow, s.ListenHigh)
	case j.ports[port] != "":
		return fmt.Sprintf("sidekick.listen %d belongs to service %s, which is older: choose another", port, j.ports[port])
	case j.taken[port] != "":
		return fmt.Sprintf("sidekick.listen %d cannot be had on this host: %s", port, j.taken[port])
	}
	return ""
}

func unreachable(c claims) string {
	switch {
	case c.tls.asked == tlsPassthrough:
		return "no sidekick.host or sidekick.listen, so that nothing leads to the service: set one of them"
	case c.mode == service.TCP:
		return "no sidekick.listen, without which nothing leads to a service in mode tcp: set it to a port"
	}
	return "no sidekick.host, sidekick.default or sidekick.listen, so that nothing leads to the service: set one of them"
}

// modeOf is how a service's connections are served: TLS that is passed through hides what they carry.
func modeOf(s *service.Service) service.Mode {
	if PassesThrough(s) {
		return service.TCP
	}
	return cmp.Or(s.Spec.Mode, service.HTTP)
}
