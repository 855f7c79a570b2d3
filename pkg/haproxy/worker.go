package haproxy

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Worker identifies the HAProxy process that serves. The start time tells apart two processes with
// one number, such as those of a container before and after its restart.
type Worker struct {
	Pid   int   `json:"pid"`
	Start int64 `json:"start"` // seconds since the epoch, HAProxy's clock
}

// info is what `show info` tells.
type info struct {
	worker   Worker
	version  string
	stopping bool
}

// info asks the worker who it is.
func (r runtimeAPI) info(ctx context.Context) (info, error) {
	answer, err := ask(ctx, r.path, "show info")
	if err != nil {
		return info{}, err
	}
	return parseInfo(answer)
}

// parseInfo reads the answer to `show info`.
func parseInfo(answer string) (info, error) {
	var i info
	for row := range strings.Lines(answer) {
		key, value, _ := strings.Cut(strings.TrimSpace(row), ": ")
		switch key {
		case "Version":
			i.version = value
		case "Stopping":
			i.stopping = value != "0"
		case "Pid":
			i.worker.Pid, _ = strconv.Atoi(value) // 0 is refused below
		case "Start_time_sec":
			i.worker.Start, _ = strconv.ParseInt(value, 10, 64) // 0 is a weaker identity
		}
	}
	if i.worker.Pid == 0 {
		return info{}, fmt.Errorf("the answer %.80q does not say which worker it is from", answer)
	}
	return i, nil
}

// listensNowhere tells whether the worker surely has no frontend.
func (r runtimeAPI) listensNowhere(ctx context.Context) bool {
	answer, err := ask(ctx, r.path, "show stat -1 1 -1")
	rows := strings.Split(strings.TrimSpace(answer), "\n")
	return err == nil && len(rows) == 1 && strings.HasPrefix(rows[0], "# pxname,")
}

// liveServer is one server as HAProxy runs it.
type liveServer struct {
	backend, name string
	address       netip.AddrPort
	maint         bool
	drained       bool // gets no new requests but those with its cookie; no text says that
	stopped       bool
	unchecked     bool // it has health checks, and they are switched off
	weight        int
}

// servers asks for the state of all servers of that worker.
func (r runtimeAPI) servers(ctx context.Context, of Worker) ([]liveServer, error) {
	list, err := r.list(ctx, of)
	if err != nil {
		return nil, err
	}
	all := make([]liveServer, 0, strings.Count(list.text, "\n"))
	for row := range list.rows() {
		all = append(all, list.live(row))
	}
	return all, nil
}

// list asks for all that is known of the servers of that worker: while another HAProxy takes over the
// socket, either may answer.
func (r runtimeAPI) list(ctx context.Context, of Worker) (serverList, error) {
	answer, err := ask(ctx, r.path, "show info;show servers state")
	if err != nil {
		return serverList{}, err
	}
	head, list, _ := strings.Cut(answer, "\n\n")
	if i, err := parseInfo(head); err != nil || i.worker != of {
		return serverList{}, errors.Join(errOtherWorker, err)
	}
	return parseServers(list)
}

// serverList is an answer to `show servers state`, read by the names of its columns.
type serverList struct {
	names  []string
	column map[string]int
	text   string // below the names
}

// rows are those of the servers, one after another: each is good for one turn.
func (l serverList) rows() iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		var row []string
		for raw := range strings.Lines(l.text) {
			row = slices.AppendSeq(row[:0], strings.FieldsSeq(raw))
			if len(row) >= len(l.names) && !yield(row) {
				return
			}
		}
	}
}

// needs returns an error unless there are these columns.
func (l serverList) needs(columns ...string) error {
	for _, name := range columns {
		if _, ok := l.column[name]; !ok {
			return errors.New("the list of servers has no column " + name)
		}
	}
	return nil
}

// get returns a row's value in a column.
func (l serverList) get(row []string, name string) string { return row[l.column[name]] }

// Bits of srv_admin_state and srv_check_state, from HAProxy's management guide and its sources.
const (
	adminMaint      = 0x01 | 0x02 // forced or inherited maintenance
	adminDrain      = 0x08 | 0x10 // forced or inherited drain
	checkConfigured = 0x02
	checkEnabled    = 0x04
	checkPaused     = 0x08
	checkRuns       = checkConfigured | checkEnabled
)

// parseServers reads the answer to `show servers state`. An answer that is cut short is an error:
// unknown is not empty.
func parseServers(answer string) (serverList, error) {
	version, rest, _ := strings.Cut(answer, "\n")
	header, rest, ok := strings.Cut(rest, "\n")
	if strings.TrimSpace(version) != "1" || !ok || !strings.HasSuffix(answer, "\n\n") {
		return serverList{}, fmt.Errorf("the answer %.80q is not a list of servers", answer)
	}
	l := serverList{names: strings.Fields(strings.TrimPrefix(header, "#")), column: map[string]int{}, text: rest}
	for i, name := range l.names {
		l.column[name] = i
	}
	return l, l.needs("be_name", "srv_name", "srv_addr", "srv_port", "srv_admin_state", "srv_op_state", "srv_uweight", "srv_check_state")
}

// live is what a row tells of its server.
func (l serverList) live(row []string) liveServer {
	number := func(name string) int {
		n, err := strconv.Atoi(l.get(row, name))
		if err != nil {
			return -1
		}
		return n
	}
	s := liveServer{
		backend: l.get(row, "be_name"), name: l.get(row, "srv_name"),
		maint: number("srv_admin_state")&adminMaint != 0, drained: number("srv_admin_state")&adminDrain != 0,
		stopped: number("srv_op_state") == 0, weight: number("srv_uweight"),
		unchecked: number("srv_check_state")&checkRuns == checkConfigured,
	}
	if addr, err := netip.ParseAddr(l.get(row, "srv_addr")); err == nil {
		s.address = netip.AddrPortFrom(addr, uint16(number("srv_port"))) //nolint:gosec // a port
	}
	return s
}

// mismatch is what runs otherwise than the text says.
type mismatch struct {
	repair []Command
	reload string   // why commands cannot mend it, "" if they can
	what   []string // each difference in words
	// left are servers that nobody wants and that are out of service: removed by a driver before us,
	// they only wait for their deletion and are no mismatch.
	left []Command
	// back are servers that wait for their deletion and that the text has again.
	back []string
}

// compare holds the running servers against a text. Servers that wait for their deletion are no
// mismatch.
func compare(text string, live []liveServer, can Capabilities, leaving map[string]*departure) mismatch {
	return hold(knownProxies(text), live, can, leaving)
}

// knownProxies are the proxies of a text, by name, without those that are for HAProxy to know.
func knownProxies(text string) map[string]*proxy {
	all := parse(text)
	defaults := defaultsOf(all)
	proxies := map[string]*proxy{}
	for i, s := range all {
		all[i].lines = nil // of a large text as many as there are servers
		if !s.isProxy() {
			continue
		}
		if p := readProxy(s, defaults(s)); !p.off && !p.doubtful {
			proxies[p.name] = p
		}
	}
	return proxies
}

// hold holds the running servers against the proxies of a text.
func hold(proxies map[string]*proxy, live []liveServer, can Capabilities, leaving map[string]*departure) mismatch {
	var m mismatch
	running := make(map[*server]*liveServer, len(live))
	for i := range live {
		if p := proxies[live[i].backend]; p != nil {
			running[p.find(live[i].name)] = &live[i]
		}
	}
	for _, name := range slices.Sorted(maps.Keys(proxies)) {
		p := proxies[name]
		for i := range p.servers {
			s := &p.servers[i]
			m.returns(p, s, leaving)
			m.server(p, s, running[p.find(s.name)], can)
		}
	}
	for _, s := range live {
		m.extra(s, proxies[s.backend], leaving)
	}
	return m
}

func (m *mismatch) reloadFor(why string) {
	m.what = append(m.what, why)
	if m.reload == "" {
		m.reload = why
	}
}

// returns looks at a server of the text that may be one that is waiting for its deletion.
func (m *mismatch) returns(p *proxy, s *server, leaving map[string]*departure) {
	target := p.name + "/" + s.name
	gone := leaving[target]
	switch {
	case gone == nil:
	case sameServer(gone.Command, addCommand(p.name, s)):
		m.back = append(m.back, target)
	default:
		m.reloadFor(target + " still has sessions of when it had other words")
	}
}

// server holds one server of the text against the running one, nil if there is none.
func (m *mismatch) server(p *proxy, s *server, live *liveServer, can Capabilities) {
	target := p.name + "/" + s.name
	mend := proxyChange{before: p, after: p, can: can}
	switch {
	case s.why != "" && live != nil:
		return // its words are only for HAProxy to read
	case live == nil:
		if why := mend.add(s); why != "" {
			m.reloadFor(target + " is not running: " + why)
			return
		}
	case differentAddress(s.address, live.address):
		m.reloadFor(target + " runs with another address")
		return
	default:
		if why := mend.live(live, s); why != "" {
			m.reloadFor(target + ": " + why)
			return
		}
	}
	if n := len(mend.up) + len(mend.down); n > 0 {
		m.repair = append(append(m.repair, mend.up...), mend.down...)
		m.what = append(m.what, target+" "+s.unlike(live))
	}
}

// unlike says what is other about a running server than its line says.
func (s *server) unlike(live *liveServer) string {
	if live == nil {
		return "is missing"
	}
	var words []string
	say := func(differs bool, format string, args ...any) {
		if differs {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	say(live.maint && !s.disabled, "is out of service")
	say(!live.maint && s.disabled, "is in service")
	say(live.weight != s.weight, "has weight %d instead of %d", live.weight, s.weight)
	say(live.drained && !live.maint, "is drained")
	say(live.unchecked && s.has("check"), "is not checked")
	say(live.stopped && !live.maint && !s.has("check"), "is down")
	return strings.Join(words, ", ")
}

// live brings a running server to what its line says.
func (p *proxyChange) live(live *liveServer, s *server) (why string) {
	was := *s
	was.disabled, was.weight = live.maint, live.weight
	if why := p.adjust(&was, s); why != "" {
		return why
	}
	if live.drained && !live.maint && !s.disabled {
		p.up = append(p.up, p.command(OpEnable, s))
	}
	if live.unchecked && s.has("check") {
		p.up = append(p.up, p.command(OpCheck, s))
	}
	if live.stopped && !live.maint && !s.disabled && !s.has("check") {
		p.up = append(p.up, p.command(OpRaise, s)) // without a check nothing else would
	}
	return ""
}

// differentAddress compares literal addresses; others are HAProxy's to resolve.
func differentAddress(written string, live netip.AddrPort) bool {
	a, err := netip.ParseAddrPort(written)
	return err == nil && live.IsValid() && a != live
}

// extra handles a running server that the text does not have.
func (m *mismatch) extra(s liveServer, p *proxy, leaving map[string]*departure) {
	gone := leaving[s.backend+"/"+s.name]
	switch {
	case p == nil || p.find(s.name) != nil || p.templates:
		return
	case gone != nil && s.maint:
		return
	case gone != nil: // somebody put it back in service
		m.repair = append(m.repair, gone.Command)
		m.what = append(m.what, s.backend+"/"+s.name+" is in service again and not in the text")
		return
	}
	mend := proxyChange{before: p, after: p}
	if why := mend.remove(&server{name: s.name}); why != "" {
		m.reloadFor(s.backend + "/" + s.name + " runs and is not wanted: " + why)
		return
	}
	if s.maint {
		m.left = append(m.left, mend.down...)
		return
	}
	m.repair = append(m.repair, mend.down...)
	m.what = append(m.what, s.backend+"/"+s.name+" is in service and not in the text")
}
