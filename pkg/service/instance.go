package service

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// State says whether an instance may be given new requests.
type State string

// The states of an instance. The owner's agent decides on them; every proxy follows.
const (
	Ready     State = "ready"     // serves
	Draining  State = "draining"  // was told to stop; finishes what it has
	Unhealthy State = "unhealthy" // does not pass its check
)

// Mode is the protocol in which a proxy treats a service.
type Mode string

// The modes of a service.
const (
	HTTP Mode = "http"
	TCP  Mode = "tcp"
)

// ScopeNode marks an instance that only its own host can reach.
const ScopeNode = "node"

// DefaultWeight is the weight of an instance that names none.
const DefaultWeight = 100

// Instance is one endpoint of a service on one node. It is a value: once sent or stored it is
// never changed, also not through its slices and maps.
type Instance struct {
	Node string // name of the host that registered it; first part of the key
	ID   string // opaque, unique on its node; second part of the key

	Service string     // the name of what it is an endpoint of
	Address netip.Addr // an IP at which proxies reach it
	Port    uint16     // 1 to 65535
	State   State      // ready, draining or unhealthy
	Weight  int        // 0 to 256
	Mode    Mode       // http or tcp
	Hosts   []string   // lower case; a leading "*." is a wildcard for one or more labels
	Path    string     // prefix, "/" for all
	Listen  uint16     // own port on every proxy, 0 for none
	Scope   string     // "node" if only its own host can reach it, else empty

	Container string    // short container id, empty if it is none
	Name      string    // the container's name, for people
	Zone      string    // locality, may be empty
	Started   time.Time // zero if unknown; the clock of its host

	Options map[string]string // every other label, by its name without "sidekick."
	Tags    []string          // of sidekick.tags, at most 32
	Meta    map[string]string // of sidekick.meta.KEY, by KEY, at most 32

	// Check says how the owner's agent finds out whether the instance serves. It never leaves the
	// owner's host: keys and values do not carry it.
	Check *Check
	// Told is when its owner's engine told it to stop, as far as that is known. It never leaves the
	// owner's host either.
	Told time.Time

	// Leased says that the registry takes the key away when whoever wrote it does not renew its lease.
	// Only a registry's reader knows.
	Leased bool
	// Doubt is set of what is listed though the registry does not vouch for it; see [Doubt].
	Doubt *Doubt
}

// Endpoint is the address and port at which proxies reach the instance.
func (i *Instance) Endpoint() netip.AddrPort { return netip.AddrPortFrom(i.Address, i.Port) }

// share takes over from another instance what both say, so that it is kept once: of one service's most is the
// same.
func (i *Instance) share(o *Instance) {
	i.Service, i.Path, i.Zone = equal(i.Service, o.Service), equal(i.Path, o.Path), equal(i.Zone, o.Zone)
	i.State, i.Mode = equal(i.State, o.State), equal(i.Mode, o.Mode)
	if slices.Equal(i.Hosts, o.Hosts) {
		i.Hosts = o.Hosts
	}
	if slices.Equal(i.Tags, o.Tags) {
		i.Tags = o.Tags
	}
	if maps.Equal(i.Options, o.Options) {
		i.Options = o.Options
	}
	if maps.Equal(i.Meta, o.Meta) {
		i.Meta = o.Meta
	}
}

// equal is the other text if both are the same.
func equal[T ~string](text, other T) T {
	if text == other {
		return other
	}
	return text
}

// CheckKind is the way in which an instance is checked by its owner's agent.
type CheckKind string

// The kinds of check.
const (
	CheckNone   CheckKind = "none"   // ready as soon as it runs
	CheckTCP    CheckKind = "tcp"    // accepts a connection
	CheckHTTP   CheckKind = "http"   // answers a GET of HTTPPath with 2xx or 3xx
	CheckDocker CheckKind = "docker" // Docker's HEALTHCHECK says healthy, and it accepts a connection
)

// Check is what the gate needs to know about an instance before it may be published.
type Check struct {
	Kind     CheckKind
	HTTPPath string         // for CheckHTTP
	Host     string         // Host header for CheckHTTP
	Target   netip.AddrPort // the container's own address, never the published one: Docker's proxy accepts before the container listens
	TLS      bool           // for CheckHTTP: in TLS, with any certificate
	H2       bool           // for CheckHTTP: in HTTP/2
	Proxy    string         // for CheckHTTP: version of the PROXY protocol, v1 or v2, with which connections begin; empty for none
	Health   string         // Docker's word: "", "starting", "healthy", "unhealthy"
	Interval time.Duration
	Timeout  time.Duration
	Rise     int
	Fall     int
}

// Node is what an agent tells about itself and its host.
type Node struct {
	Name    string    `json:"-"` // from the key
	Agent   string    `json:"agent"`
	Machine string    `json:"machine,omitempty"`
	Boot    string    `json:"boot,omitempty"`
	Address string    `json:"address,omitempty"`
	Version string    `json:"version,omitempty"`
	Started time.Time `json:"started,omitzero"`
	Claimed time.Time `json:"claimed,omitzero"`  // when the agent took the name, by its own clock: tells an older value from a newer one
	Leaving bool      `json:"leaving,omitempty"` // it ends in good order: its key's going is no failure
	Lost    time.Time `json:"lost,omitzero"`     // since when its instances are suspects; only the copy on disk says so
}

// Kinds of rejection, for counting.
const (
	RejectedKey         = "key"         // a registry key that no agent writes
	RejectedValue       = "value"       // a registry value that breaks a rule
	RejectedLabel       = "label"       // labels that break a rule
	RejectedAddress     = "address"     // a container that cannot be reached as its labels ask
	RejectedContainer   = "container"   // a container that the engine tells nothing about
	RejectedFile        = "file"        // a services file, or an entry of one, that breaks a rule
	RejectedCertificate = "certificate" // a certificate of --certs, or a file of --set server-ca or server-cert, that cannot be used
	HeldByCheck         = "check"       // not rejected for good: its check has not succeeded yet
	UnhealthyByCheck    = "unhealthy"   // not rejected: it is in the registry, and this is why it is unhealthy there
	Unwritten           = "unwritten"   // not rejected: it is to be in the registry, which does not take it at present
	HeldInDoubt         = "withheld"    // not rejected for good: the registry was replaced, and may say what was true once
)

// Rejection names something that is left out, and why. It is what people read when they ask why a
// thing is not routed.
type Rejection struct {
	Kind    string // one of the kinds above
	Service string // as far as known
	Node    string
	ID      string
	Name    string // container name or registry key, for people
	Reason  string // one sentence: the thing, the cause, the mend
}

// Reasons are those of rejections as one error, nil for none.
func Reasons(list []Rejection) error {
	errs := make([]error, 0, len(list))
	for _, r := range list {
		errs = append(errs, errors.New(r.Reason))
	}
	return errors.Join(errs...)
}
