package render

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

const defaultBalance = "roundrobin"

// newService makes all of a service's model that depends on nothing but the service and on who looks
// at it.
func newService(s *service.Service, viewer Settings) *Service {
	options := s.Spec.Options
	m := &Service{
		Name: s.Name, Backend: backendName(s.Name), Mode: modeOf(s), Hosts: s.Spec.Hosts,
		Path: "/" + strings.Trim(s.Spec.Path, "/"), Default: options["default"] == "true",
		SplitByClient: options["sticky"] != "", RetryPost: options["retry"] == "post", Check: options["check"] != "none", Options: options,
		TimeoutConnect: haproxyTime(options["timeout.connect"]), TimeoutServer: haproxyTime(options["timeout.server"]),
		TimeoutTunnel: haproxyTime(options["timeout.tunnel"]), TimeoutQueue: haproxyTime(options["timeout.queue"]),
	}
	if m.Mode == service.TCP && m.TimeoutTunnel == "" {
		m.TimeoutTunnel = m.TimeoutServer // HAProxy goes by no other time once both sides are there
	}
	m.TimeoutClient = clientTimeout(options["timeout.server"], m.Mode)
	if s.Spec.Lead != nil {
		m.Tags, m.Meta = s.Spec.Lead.Tags, s.Spec.Lead.Meta
	}
	if options["path.strip"] == "true" && m.Path != "/" {
		m.StripPath, m.StripPattern = m.Path, spellings(m.Path)
	}
	m.Balance, m.Hash = balance(options["balance"], m.Mode)
	m.NeedsID = m.Hash || m.Balance == "first"
	m.Upstream = newUpstream(s, viewer.choices)
	m.RateLimit = rateLimit(options)
	m.RequestHeaders, m.ResponseHeaders = headers(options, "header.request."), headers(options, "header.response.")
	m.Why = strings.Join(withoutEffect(s.Spec, m.Mode), "; ")
	tiers := m.place(s, viewer)
	if options["locality"] == "prefer" {
		prefer(m.Servers, tiers, m.Check && viewer.ProxyCheck != ProxyCheckOff)
	}
	m.Maintenance = inMaintenance(m.Instances)
	return m
}

// place decides on each instance, and returns how near each server is.
func (m *Service) place(s *service.Service, viewer Settings) (tiers []tier) {
	seen := namesakes{names: map[string]*service.Instance{}, ids: map[uint32]*service.Instance{}}
	m.Instances = make([]Instance, 0, len(s.Instances))
	m.Servers = slices.Grow(m.Servers, len(s.Instances))
	for _, i := range s.Instances {
		server, said := newServer(i), newSaid(s.Ruling(i), i)
		server.Weight = said.weight
		if m.Upstream.Cookie != "" {
			server.Cookie = serverCookie(i)
		}
		why := absent(s, i, viewer.Node)
		if why == "" {
			why = seen.refuse(server, i, m.NeedsID)
		}
		if why == "" {
			why = cmp.Or(disabled(i), said.disabled, doubted(i))
			server.Disabled = why != ""
			m.Servers, tiers = append(m.Servers, server), append(tiers, tierOf(i, viewer))
			why = cmp.Or(why, said.idle)
		}
		m.Instances = append(m.Instances, Instance{Instance: i, Routed: why == "", Why: why, Override: said.state, Share: said.share})
	}
	return tiers
}

// namesakes finds servers whose names or numbers meet, for which HAProxy would refuse everything.
// Chance hardly ever does that, but who writes ids can.
type namesakes struct {
	names map[string]*service.Instance
	ids   map[uint32]*service.Instance
}

func (n *namesakes) refuse(server Server, i *service.Instance, needsID bool) string {
	owner := n.names[server.Name]
	if owner == nil && needsID {
		owner = n.ids[server.ID]
	}
	if owner != nil {
		return fmt.Sprintf("its server name %s is too like that of instance %s/%s: register it under another id", server.Name, owner.Node, owner.ID)
	}
	n.names[server.Name], n.ids[server.ID] = i, i
	return ""
}

// absent says why the proxy must not even know of the instance, or "".
func absent(s *service.Service, i *service.Instance, node string) string {
	if conflict := s.Spec.Conflict(i); conflict != "" {
		lead := s.Spec.Lead
		return fmt.Sprintf("%s, which is what the service's oldest instance %s/%s says: make their labels equal", conflict, lead.Node, lead.ID)
	}
	if i.Scope == service.ScopeNode && i.Node != node {
		return fmt.Sprintf("only %s itself can reach %s: publish its port there on an address that others reach, or put it on the host's network", i.Node, i.Endpoint())
	}
	return ""
}

// disabled says why the instance gets no new requests, or "".
func disabled(i *service.Instance) string {
	switch i.State {
	case service.Draining:
		return "it was told to stop: requests in flight end, new ones go elsewhere"
	case service.Unhealthy:
		return fmt.Sprintf("it does not pass its check on %s: see its log and its sidekick.check", i.Node)
	case service.Ready:
	}
	return ""
}

// doubted says why a suspect gets no new requests, or "". One that does is served as it was before.
func doubted(i *service.Instance) string {
	if i.Doubt != nil && i.Doubt.Out {
		return i.Doubt.Why
	}
	return ""
}

// with returns the service as it is served after that decision, after that on HAProxy's checks and on who
// is let in, and in the place of what is refused. Of servers that must not be spoken to the proxy does not
// even know, so that no template can lead there.
func (m *Service) with(d decision, check bool, a admission, refused string) *Service {
	decided := *m
	decided.TLSRoutes, decided.ListenTLS, decided.Redirect = d.tls.sni, d.tls.listen, d.tls.redirect
	decided.ListenTimeoutClient = max(m.TimeoutClient, d.patience)
	decided.Routes, decided.Listen, decided.ListenWhy, decided.Split = d.routes, d.listen, d.listenWhy, d.slices
	if a.untrusted != "" {
		decided.Servers, decided.Upstream = nil, Upstream{}
	}
	decided.Closed = a.refuses()
	decided.Why = sentences(d.why, m.Why, decided.Closed, refused)
	decided.Check, decided.Auth, decided.Refused = m.Check && check, a.list, refused
	idle := decided.Closed
	if !d.reachable() {
		idle = d.why
	}
	if idle == "" {
		return &decided
	}
	decided.Instances = slices.Clone(m.Instances)
	for at := range decided.Instances {
		if i := &decided.Instances[at]; i.Routed {
			i.Routed, i.Why = false, idle
		}
	}
	return &decided
}

// sentences joins those that are there.
func sentences(all ...string) string {
	return strings.Join(slices.DeleteFunc(all, func(s string) bool { return s == "" }), "; ")
}

func newServer(i *service.Instance) Server {
	maxconn, _ := strconv.Atoi(i.Options["maxconn"]) // validated when it was decoded
	sum := endpointSum(i)
	return Server{
		Name: ServerName(i), ID: max(1, binary.BigEndian.Uint32(sum[:])&math.MaxInt32), Address: i.Address, Port: i.Port, Endpoint: i.Endpoint().String(),
		Weight: i.Weight, Backup: i.Options["backup"] == "true", Maxconn: maxconn,
		Drain: haproxyTime(i.Options["drain"]), Instance: i,
	}
}

// ServerName is the name of an instance in the proxy. It is made of what identifies the endpoint,
// so that a name never comes to stand for another address: HAProxy carries state over by name.
func ServerName(i *service.Instance) string {
	const nodeLen, containerLen, hashLen = 20, 8, 8
	kind, _, _ := strings.Cut(i.ID, ".")
	switch {
	case i.Container != "":
		kind = i.Container[:min(len(i.Container), containerLen)]
	case kind != "file" && kind != "cli":
		kind = "ext"
	}
	sum := endpointSum(i)
	return i.Node[:min(len(i.Node), nodeLen)] + "-" + kind + "-" + hex.EncodeToString(sum[:])[:hashLen]
}

func endpointSum(i *service.Instance) [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%d", i.Node, i.ID, i.Address, i.Port))
}

// balance returns the algorithm and whether it is a hash. What looks into requests is nothing for
// tcp, where HAProxy itself would fall back with a warning.
func balance(text string, mode service.Mode) (algorithm string, hash bool) {
	word, _, _ := strings.Cut(text, " ")
	word, _, _ = strings.Cut(word, "(")
	switch word {
	case "":
		return defaultBalance, false
	case "source":
		return text, true
	case "uri", "url_param", "hdr":
		if mode == service.TCP {
			return defaultBalance, false
		}
		return text, true
	}
	return text, false
}

// haproxyTime writes an option's duration in HAProxy's words, "" for none.
func haproxyTime(text string) string {
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return ""
	case d%time.Second == 0:
		return fmt.Sprintf("%ds", d/time.Second)
	}
	return fmt.Sprintf("%dms", d.Milliseconds())
}

// clientTimeout is what clients are given if servers may be silent for that long: HAProxy cuts a stream when
// either side was silent for its own time, and neither side of a stream of gRPC need say anything.
func clientTimeout(text string, mode service.Mode) int {
	own := time.Minute // in the template's defaults for http
	if mode == service.TCP {
		own = time.Hour // in those for tcp
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= own {
		return 0
	}
	return int(d.Milliseconds())
}
