package render

import (
	"net/netip"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Model is what a template sees. All decisions are made: a template only prints. It is sorted and
// holds no clock, and is immutable: models share the services that did not change.
//
// Names of services, servers, backends and hosts, paths of routes, addresses and numbers need no
// quoting. Options, tags, meta, names of containers and values of Set are free text: print them
// with the quoting functions.
type Model struct {
	Node          string            // this host's name
	Zone          string            // its locality, may be empty
	Set           map[string]string // the values of --set KEY=VALUE, by KEY
	HTTPListen    string            // --http-listen: "ADDR:PORT" or ":PORT", empty for none
	HTTPSListen   string            // --https-listen: the same for HTTPS
	Address       string            // the address of HTTPListen, for the ports of services; empty for all
	Stats         string            // --stats-listen: where statistics and metrics are served
	RuntimeSocket string            // path of the runtime socket, which the configuration must open with "mode 660 level admin expose-fd listeners"; empty for none
	Check         bool              // HAProxy checks servers itself: --proxy-check, or what "auto" came to
	ServerState   string            // path of the file by which servers that are down stay down over a reload, see Checks over a reload; empty for none

	HTTPS       bool   // HTTPSListen answers HTTPS for all services of mode http, by Certificates
	Passthrough bool   // HTTPSListen leads TLS for the hosts of services' TLSRoutes to these, and only the rest to HTTPS
	HTTPSWhy    string // why there is no HTTPS though there are certificates, or it is asked for; empty if there is
	HTTPSPort   string // what a URL needs behind the host to lead to HTTPSListen, such as ":8443"; empty for 443
	HTTPSSocket string // path of the socket by which the rest reaches HTTPS with Passthrough: always open, for workers of before a reload

	Certificates []Certificate // of --certs, sorted by name

	Choices // what --set chose

	ServerCertFile string // the file beside the configuration with what servers are shown by --set server-cert, which must be loaded for those that come at run time; empty for none

	UserLists       []UserList // of the files that services name by sidekick.auth, sorted by name
	Pages           []Page     // of --set error-dir, sorted by status
	MaintenancePage string     // file of the one for services in maintenance, empty for none

	Services []*Service // those to be served, sorted by name, those without instances too
	LeftOut  []*Service // those, and those instances of services, that are not to be served, for HAProxy refuses them: for reports, not for routing
	Routes   []Route    // those of all services, sorted by key
}

// Route leads the requests for a host and a path prefix to a service.
type Route struct {
	// Key is host and path with a slash at the end, such as "shop.example.com/api/": a request
	// belongs to the longest key that its own host, path and a slash begin with.
	Key     string
	Host    string // "*.example.com" for one or more labels, "*" for what no other host matches
	Path    string // without a slash at its end, but for "/"
	Service string // name of the service that it leads to
	Backend string // and of its backend
}

// Service is one service as this host's proxy serves it.
type Service struct {
	Name    string       // of lower-case letters, digits and inner hyphens, at most 63
	Backend string       // "be_" and the name
	Mode    service.Mode // http or tcp
	Hosts   []string     // as asked for; see Routes for what was granted
	Path    string       // prefix, "/" for all
	Default bool         // takes what no host matches

	Routes    []Route // those that lead here: without the ones that another service has
	Listen    uint16  // own port, 0 for none or if it cannot be had here
	ListenWhy string  // why it cannot be had
	Split     []Slice // those of its requests that go to other services, by their numbers; the rest stays
	Why       string  // in which way the service is not reached as it asks for; empty if it is
	Refused   string  // why it is not served as it asks for: its text, as it would be, is refused; empty if it is not

	TLSRoutes []Route // where HTTPSListen leads TLS for its hosts, if it passes TLS through; keys are hosts
	ListenTLS bool    // Listen speaks TLS with clients, by the certificates
	Redirect  bool    // plain HTTP is redirected to HTTPS

	StripPath     string // the prefix to take off requests' paths; empty for none
	StripPattern  string // a regular expression for it, with the slash behind it, in every way in which clients may write it
	Balance       string // HAProxy's algorithm, with its argument
	Hash          bool   // Balance picks by a hash of the request: print "hash-type consistent"
	NeedsID       bool   // Balance goes by the servers' numbers: print "id" and the number in each server's line
	SplitByClient bool   // a client's requests all belong to one slice, else each request to any
	RetryPost     bool   // POST may be repeated after it was delivered
	Check         bool   // HAProxy is to check the servers, slowly, besides the agents on their hosts; print the words once, in a default-server line: servers that come at run time get them too

	Upstream    Upstream // how the proxy speaks to the servers
	Closed      string   // why nobody may be let in, with the mend: print a rule that refuses everybody; empty if that is not so
	Auth        string   // name of the list of users who alone are let in; empty for everybody
	RateLimit   int      // how many requests a client may make within 10 seconds, 0 for any
	Maintenance bool     // people took all instances out

	RequestHeaders, ResponseHeaders []Header // what becomes of headers, sorted by name

	// Times in HAProxy's words, such as 90s or 250ms; empty for the proxy's own.
	TimeoutConnect, TimeoutServer, TimeoutTunnel, TimeoutQueue string
	// TimeoutClient is how many milliseconds its clients may be silent, as long as its servers may; 0 if that is not longer than the proxy's own time.
	TimeoutClient int
	// ListenTimeoutClient is the same for clients at Listen: the longest of its own time and of those of services that Split leads to.
	ListenTimeoutClient int

	Options map[string]string // every label that is no field by itself, by its name without "sidekick.", as text
	Tags    []string          // of the oldest instance
	Meta    map[string]string // of the oldest instance

	Servers   []Server   // what the proxy is to know of, sorted by node and id
	Instances []Instance // all, sorted by node and id
}

// Server is an instance in the proxy's words.
type Server struct {
	Name     string     // one name stands for one address for ever: HAProxy carries state over by name
	ID       uint32     // HAProxy's number for it, 1 to 2147483647, made of the name; hashes and "first" place servers by it
	Address  netip.Addr // an IP
	Port     uint16     // 1 to 65535
	Endpoint string     // address and port, such as 10.0.0.5:80 or [::1]:80
	Weight   int        // 0 to 256
	Disabled bool       // gets no new requests, those in flight end: print "disabled"
	Backup   bool       // only used when none is left that is no backup, together with all that are
	Watched  bool       // HAProxy is to check it in any case, and to leave it out at once when connections to it fail: others stand by
	Maxconn  int        // most requests at once, 0 for no limit
	Cookie   string     // what the service's cookie says of it: print "cookie" and it; empty if the service has none
	Drain    string     // how long its sessions may last once its line is gone, such as 120s: print "# drain" and it at the line's end; empty for the proxy's own limit

	Instance *service.Instance // what is registered of it: its node, zone, meta, …
}

// usable tells whether it takes new requests.
func (s Server) usable() bool { return !s.Disabled && s.Weight > 0 }

// Instance is an instance of a service and what became of it.
type Instance struct {
	*service.Instance
	Routed   bool                  // gets requests
	Why      string                // why not: one sentence with the thing, the cause and the mend; empty if it does
	Override service.OverrideState // drain or maint, if that is what people said of it; else empty
	Share    int                   // its weight, by an override or its own: 0 to 256
}

// Input is what a model is made of, besides the viewer's own facts. It is not changed.
type Input struct {
	Catalog      *service.Catalog
	Taken        map[uint16]string // ports that cannot be had on this host, each with the reason
	Held         map[string]Held   // what becomes of services that cannot be served as they ask, by name
	Certificates []Certificate     // with names that differ

	Users map[string]UserFile // files of --set auth-dir, by name
	Pages map[string]string   // texts of --set error-dir, by name: see PageName and CheckPage

	ServerCA, ServerCert ServerFile // those of --set
}

// Build makes the model of a catalog as one host sees it. It is a function of its arguments alone:
// "auto" of [Settings.ProxyCheck] is decided by this catalog.
func Build(in Input, s Settings) *Model {
	return (&builder{settings: s.withDefaults()}).build(in)
}
