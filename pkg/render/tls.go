package render

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Values of sidekick.tls.
const (
	tlsTerminate   = "terminate"
	tlsPassthrough = "passthrough"
	tlsServer      = "server"
)

// redirectBackend is where requests over plain HTTP lead that are for the host of a service with TLS of its
// own: all that they can get is the way to HTTPS.
const redirectBackend = "be_only_https"

// httpsBackend is where TLS leads that is not passed through to a service.
const httpsBackend = "be_to_https"

// tlsClaims are what a service asks for as to TLS with clients.
type tlsClaims struct {
	asked    string  // sidekick.tls
	redirect bool    // sidekick.redirect=https
	sni      []Route // the hosts whose TLS is passed through to it
}

func (c tlsClaims) equal(other tlsClaims) bool {
	return c.asked == other.asked && c.redirect == other.redirect && slices.Equal(c.sni, other.sni)
}

// tlsDecision is what a service was granted of that.
type tlsDecision struct {
	sni      []Route
	listen   bool // its own port speaks TLS
	redirect bool
}

func (d tlsDecision) equal(other tlsDecision) bool {
	return d.listen == other.listen && d.redirect == other.redirect && slices.Equal(d.sni, other.sni)
}

// tlsState is what of TLS there is on this host.
type tlsState struct {
	certificates []Certificate // with what was decided on them
	covered      coverage
	files        Files
	port         string // why the port for HTTPS cannot be had, "" if it can
	certs        string // why TLS cannot be terminated at any port, "" if it can
}

func newTLSState(given []Certificate, s Settings, taken map[uint16]string) tlsState {
	all := assign(given)
	t := tlsState{certificates: all, covered: coverageOf(all), files: certificateFiles(all)}
	t.port = "--https-listen is off: give it a port"
	if s.HTTPSListen != "" {
		t.port = taken[portOf(s.HTTPSListen)]
	}
	switch {
	case len(all) > 0:
	case s.Certs == "":
		t.certs = "there are no certificates: give the agent a directory of them by --certs"
	default:
		t.certs = fmt.Sprintf("there is no usable certificate in %s: put one there, as NAME.pem with its chain and key", s.Certs)
	}
	return t
}

// https is why there is no HTTPS by certificates of this host, "" if there is.
func (t tlsState) https() string {
	if t.certs != "" {
		return t.certs
	}
	return t.port
}

// portSuffix is what a URL needs behind the host to lead to an address's port: nothing for 443.
func portSuffix(listen string) string {
	if _, port, err := net.SplitHostPort(listen); err == nil && port != "443" {
		return ":" + port
	}
	return ""
}

// PassesThrough tells whether the service's own TLS reaches clients, of whatever mode it is.
func PassesThrough(s *service.Service) bool { return s.Spec.Options["tls"] == tlsPassthrough }

// tlsClaimsOf are what a service asks for as to TLS.
func tlsClaimsOf(s *service.Service) tlsClaims {
	c := tlsClaims{asked: s.Spec.Options["tls"], redirect: s.Spec.Options["redirect"] == "https"}
	if !PassesThrough(s) {
		return c
	}
	for _, h := range s.Spec.Hosts {
		c.sni = append(c.sni, Route{Key: h, Host: h, Path: "/", Service: s.Name, Backend: backendName(s.Name)})
	}
	return c
}

// redirectRoutes lead requests over plain HTTP for these hosts to where they are redirected.
func redirectRoutes(sni []Route) []Route {
	var routes []Route
	for _, r := range sni {
		r.Key, r.Backend = r.Host+"/", redirectBackend
		routes = append(routes, r)
	}
	return routes
}

// grantSNI gives hosts to services whose TLS is passed through, before all else is decided: what others
// are told depends on it.
func (j *judge) grantSNI(c claims) {
	for _, r := range c.tls.sni {
		if owner := j.sni[r.Key]; owner != "" {
			j.disputed[owner], j.disputed[c.name] = true, true
			continue
		}
		j.sni[r.Key] = c.name
	}
}

// decideTLS decides on all of a service's TLS but that of its own port, and says what is not as it asks.
func (j *judge) decideTLS(c claims, say func(why string)) (d tlsDecision) {
	if c.tls.asked == tlsPassthrough {
		return j.decidePassthrough(c, say)
	}
	no := j.tls.https()
	if no == "" {
		d.sni = j.shown(c)
	}
	switch {
	case c.mode == service.TCP:
		if c.tls.redirect {
			say("sidekick.redirect=https is nothing for mode tcp: remove it")
		}
	case len(c.routes) == 0 || c.tls.asked != tlsTerminate && !c.tls.redirect:
	case no != "":
		say(fmt.Sprintf("there is no HTTPS for %s, because %s", c.name, no))
	default:
		d.redirect = c.tls.redirect
		j.sayUncovered(c, say)
	}
	return d
}

// shown are the hosts of a service whose TLS is not to be passed through though a shorter wildcard's is,
// but for those that a service before it has as well.
func (j *judge) shown(c claims) (sni []Route) {
	for _, r := range c.routes {
		if j.sni[r.Host] != "" || j.seen[r.Host] || !j.underPassthrough(r.Host) {
			continue
		}
		j.seen[r.Host] = true
		sni = append(sni, Route{Key: r.Host, Host: r.Host, Path: "/", Service: c.name, Backend: httpsBackend})
	}
	return sni
}

// underPassthrough tells whether TLS for a wildcard that covers the host is passed through.
func (j *judge) underPassthrough(host string) bool {
	for _, parent, more := strings.Cut(host, "."); more; _, parent, more = strings.Cut(parent, ".") {
		if j.sni["*."+parent] != "" && "*."+parent != host {
			return true
		}
	}
	return false
}

// sayUncovered says of which hosts of a service clients of HTTPS do not get what they want.
func (j *judge) sayUncovered(c claims, say func(why string)) {
	var hosts []string
	for _, r := range c.routes {
		switch owner := j.sni[r.Host]; {
		case r.Host == anyHost:
		case owner != "":
			say(fmt.Sprintf("HTTPS for %s leads to service %s, which has sidekick.tls=passthrough: give one of the two another host", r.Host, owner))
		case !j.tls.covered.has(r.Host):
			hosts = append(hosts, r.Host)
		}
	}
	if len(hosts) > 0 {
		say(fmt.Sprintf("no certificate in %s is for %s, so that clients are shown another one: put one there", cmp.Or(j.settings.Certs, "--certs"), strings.Join(hosts, ", ")))
	}
}

// decidePassthrough decides on a service whose TLS is passed through.
func (j *judge) decidePassthrough(c claims, say func(why string)) (d tlsDecision) {
	if j.tls.port != "" && len(c.tls.sni) > 0 {
		say("its TLS cannot be passed through: " + j.tls.port)
		return d
	}
	for _, r := range c.tls.sni {
		switch owner, deep := j.sni[r.Key], tooDeep(r.Host); {
		case owner != c.name:
			say(fmt.Sprintf("TLS for %s is passed through to service %s, which is older: choose another host, or give both sidekick.service=%s to share the connections", r.Host, owner, owner))
		case deep != "":
			say(deep)
		default:
			d.sni = append(d.sni, r)
		}
	}
	d.redirect = c.tls.redirect && len(d.sni) > 0
	return d
}

// refuseTLS says why a service's own port cannot speak TLS as it asks, or "".
func (j *judge) refuseTLS(c claims) string {
	if c.tls.asked == tlsTerminate && j.tls.certs != "" {
		return fmt.Sprintf("sidekick.listen %d cannot speak TLS: %s", c.listen, j.tls.certs)
	}
	return ""
}
