package render

import (
	"cmp"
	"maps"
	"slices"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// builder makes models one after the other. Services that did not change and whose claims were
// decided alike are the same pointers in both, and cost a comparison.
type builder struct {
	settings Settings
	records  []*record       // sorted by name; nil before the first model
	disputed map[string]bool // services of which two claimed the same when that was last decided
	targets  map[string]bool // services to which a split led then
	taken    map[uint16]string
	given    []Certificate // as of the last model
	tls      tlsState
	routes   []Route
	check    bool // HAProxy checks servers
	users    map[string]UserFile
	trust    *trust // nil before the first model
}

// record is all that is known of one service.
type record struct {
	source   *service.Service
	base     *Service // without what depends on other services
	claims   claims
	decision decision
	refused  string   // what it asks for is held, and this is served in its place
	model    *Service // base with all of these, what was decided on checks, and who is let in
}

func (b *builder) build(in Input) *Model {
	services := in.Served()
	reload := b.records == nil || !slices.EqualFunc(b.records, services, isOf)
	first := b.records == nil
	b.decideAdmission(in)
	changed := b.update(services)
	if first || !maps.Equal(in.Taken, b.taken) || !slices.EqualFunc(in.Certificates, b.given, sameCertificate) {
		changed = true
		b.taken, b.given = maps.Clone(in.Taken), in.Certificates
		b.tls = newTLSState(b.given, b.settings, b.taken)
	}
	if changed {
		b.decide()
	}
	if reload {
		b.decideCheck()
	}
	s := b.settings
	m := &Model{
		Node: s.Node, Zone: s.Zone, Set: s.Set, HTTPListen: s.HTTPListen, HTTPSListen: s.HTTPSListen,
		Address: s.Address(), Stats: s.Stats, RuntimeSocket: s.RuntimeSocket, Check: b.check, ServerState: s.ServerState,
		Certificates: b.tls.certificates, HTTPS: b.tls.https() == "", HTTPSPort: portSuffix(s.HTTPSListen), HTTPSSocket: s.HTTPSSocket,
		Choices: s.choices, ServerCertFile: b.trust.certFile,
		Services: make([]*Service, 0, len(b.records)), LeftOut: b.leftOut(in), Routes: b.routes,
	}
	for _, r := range b.records {
		if why := in.Held[r.source.Name].Why; why != r.refused {
			r.refused, r.model = why, nil
		}
		if r.model == nil {
			r.model = r.base.with(r.decision, b.check, b.admission(r), r.refused)
		}
		m.Services = append(m.Services, r.model)
		m.Passthrough = m.Passthrough || len(r.model.TLSRoutes) > 0
	}
	if len(m.Certificates) > 0 || s.Certs != "" {
		m.HTTPSWhy = b.tls.https()
	}
	m.UserLists = userLists(m.Services, b.users)
	m.Pages, m.MaintenancePage = pagesOf(in.Pages)
	return m
}

// isOf tells whether the record is of the service of that name.
func isOf(r *record, s *service.Service) bool { return r.source.Name == s.Name }

// decideCheck decides whether HAProxy checks servers. The decision is a word in every backend, so
// another one is a reload: it is only made anew together with services that come or go, which are one
// as well. Growing over the limit by more servers of known services changes nothing.
func (b *builder) decideCheck() {
	servers := 0
	for _, r := range b.records {
		servers += len(r.base.Servers)
	}
	check := b.settings.ProxyCheck.on(servers)
	if check == b.check {
		return
	}
	b.check = check
	for _, r := range b.records {
		r.model = nil
	}
}

// decideAdmission takes in what services, and their servers, may be used by.
func (b *builder) decideAdmission(in Input) {
	b.decideUsers(in.Users)
	b.decideTrust(in.ServerCA, in.ServerCert)
}

// decideUsers takes in the files of users: services that ask for one may be served now, or not any more.
func (b *builder) decideUsers(files map[string]UserFile) {
	if maps.EqualFunc(files, b.users, UserFile.Equal) {
		return
	}
	b.users = maps.Clone(files)
	for _, r := range b.records {
		if r.source.Spec.Options["auth"] != "" {
			r.model = nil
		}
	}
}

// admission is who is let in to a service, and to its servers.
func (b *builder) admission(r *record) admission {
	a := admit(r.source, b.settings.choices, b.users)
	if r.base.Upstream.TLS {
		a.untrusted = b.trust.lacking
	}
	return a
}

// decideClosed notes which services let nobody in, and tells whether claims are to be decided anew: that
// changed of one to which a split leads.
func (b *builder) decideClosed() (changed bool) {
	for _, r := range b.records {
		if r.model != nil { // for which nothing of that has changed
			continue
		}
		if closed := b.admission(r).refuses() != ""; closed != r.claims.closed {
			r.claims.closed = closed
			changed = changed || b.targets[r.source.Name]
		}
	}
	return changed
}

// update takes in the services of a catalog, and tells whether claims are to be decided anew: one came,
// went or changed. The age of a service counts only where another one claims the same: the oldest
// instance leaves with every rolling replacement.
func (b *builder) update(services []*service.Service) (changed bool) {
	records := make([]*record, 0, len(services))
	old := b.records
	for _, s := range services {
		for len(old) > 0 && old[0].source != s && old[0].source.Name < s.Name {
			old, changed = old[1:], true
		}
		var known *record
		if len(old) > 0 && old[0].source.Name == s.Name {
			known, old = old[0], old[1:]
		}
		if known != nil && known.source == s {
			records = append(records, known)
			continue
		}
		r, decided := b.recordOf(s, known)
		changed = changed || !decided
		records = append(records, r)
	}
	b.records = records
	return b.decideClosed() || changed || len(old) > 0
}

// recordOf is the record of a service that changed, and tells whether what was decided on its claims holds.
func (b *builder) recordOf(s *service.Service, known *record) (r *record, decided bool) {
	r = &record{source: s, base: newService(s, b.settings), claims: claimsOf(s)}
	r.claims.usable = slices.ContainsFunc(r.base.Servers, Server.usable)
	decided = known != nil && known.claims.equal(r.claims) &&
		(!b.disputed[s.Name] || known.claims.compare(r.claims) == 0) &&
		(!b.targets[s.Name] || known.claims.usable == r.claims.usable)
	if decided {
		r.decision, r.claims.closed = known.decision, known.claims.closed
	}
	return r, decided
}

// decide settles all claims anew: the ones of older services first.
func (b *builder) decide() {
	ordered := slices.Clone(b.records)
	slices.SortFunc(ordered, func(x, y *record) int { return x.claims.compare(y.claims) })
	j := newJudge(b.settings, b.taken, b.tls)
	for at, d := range j.decide(ordered) {
		if r := ordered[at]; r.model == nil || !d.equal(r.decision) {
			r.decision, r.model = d, nil
		}
	}
	b.disputed, b.targets = j.disputed, j.targets
	b.routes = nil
	for _, r := range b.records {
		b.routes = append(b.routes, r.decision.routes...)
	}
	slices.SortFunc(b.routes, func(x, y Route) int { return cmp.Compare(x.Key, y.Key) })
}
