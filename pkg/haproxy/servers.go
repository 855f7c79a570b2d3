package haproxy

import (
	"cmp"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// option is one word of a server line with its argument, if it takes one.
type option struct {
	word, arg string
}

// server is one server line, or what is in force for it.
type server struct {
	name     string
	address  string // as written
	options  []option
	weight   int
	disabled bool
	drain    time.Duration // how long its sessions may go on once it is gone; 0 is the driver's limit
	raw      string        // the line, for those that only HAProxy can read
	// why says why this line cannot be expressed by runtime commands; "" if it can.
	why string
}

// serverWord tells how many arguments a word of a server line takes, for the words that `add server`
// accepts with the same meaning.
func serverWord(word string) (args int, known bool) {
	switch word {
	case "check", "backup", "disabled", "ssl", "send-proxy", "send-proxy-v2", "check-send-proxy",
		"check-ssl", "no-ssl-reuse", "tfo", "force-tlsv12":
		return 0, true
	case "inter", "fastinter", "downinter", "fall", "rise", "port", "addr", "weight", "maxconn",
		"minconn", "maxqueue", "slowstart", "id", "error-limit", "observe", "on-error",
		"on-marked-down", "on-marked-up", "verify", "verifyhost", "ca-file", "crt", "sni", "alpn",
		"check-sni", "check-proto", "proto", "proxy-v2-options", "ws", "cookie",
		"pool-max-conn", "pool-low-conn", "pool-purge-delay":
		return 1, true
	default:
		return 0, false
	}
}

// readOptions reads the words behind a server's address, or those of a default-server line.
func readOptions(words []string) (opts []option, why string) {
	for i := 0; i < len(words); i++ {
		args, known := serverWord(words[i])
		if !known {
			return nil, "the word " + strconv.Quote(words[i])
		}
		if i+args >= len(words) {
			return nil, "the lack of an argument of " + strconv.Quote(words[i])
		}
		o := option{word: words[i]}
		if args == 1 {
			o.arg = words[i+1]
		}
		opts, i = append(opts, o), i+args
	}
	return opts, ""
}

// readServer reads a server line and adds what default-server lines give it. Later words win.
func readServer(l line, defaults []option, whyDefaults string) server {
	s := server{weight: 1, why: whyDefaults, drain: drainOf(l)}
	s.read(l, defaults)
	if s.why != "" {
		s.raw = l.key()
	}
	return s
}

// read reads the words of a line.
func (s *server) read(l line, defaults []option) {
	if len(l.words) < 3 {
		s.name = strings.Join(l.words[1:], " ")
		s.why = "a server line without an address"
		return
	}
	s.name, s.address = l.words[1], l.words[2]
	if !l.plain {
		s.why = "quotes or escapes that only haproxy can read"
		return
	}
	own, why := readOptions(l.words[3:])
	if why != "" {
		s.why = why
		return
	}
	for _, o := range defaults {
		s.take(o)
	}
	for _, o := range own {
		s.take(o)
	}
}

// take adds one word to a server.
func (s *server) take(o option) {
	switch o.word {
	case "disabled":
		s.disabled = true
	case "weight":
		w, err := strconv.Atoi(o.arg)
		if err != nil || w < 0 || w > 256 {
			s.why = "the weight " + strconv.Quote(o.arg)
		}
		s.weight = w
	default:
		s.options = slices.DeleteFunc(s.options, func(old option) bool { return old.word == o.word })
		s.options = append(s.options, o)
	}
}

// drainComment is a server line's word to the driver: "# drain 2m" at its end.
var drainComment = regexp.MustCompile(`#\s*drain\s+([0-9]+(?:us|ms|s|m|h|d)?)\s*$`)

// drainOf reads how long the sessions of a server may last once it is gone, in HAProxy's own form of
// times, where a bare number is of milliseconds. 0 is no word of it.
func drainOf(l line) time.Duration {
	at := drainComment.FindStringSubmatchIndex(l.raw)
	if at == nil || !slices.Equal(splitLine(l.raw[:at[0]]).words, l.words) { // within quotes it is no comment
		return 0
	}
	text := l.raw[at[2]:at[3]]
	if last := text[len(text)-1]; last >= '0' && last <= '9' {
		text += "ms"
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseInt(days, 10, 16)
		if err != nil {
			return 0
		}
		return time.Duration(n) * 24 * time.Hour
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0
	}
	return max(d, 1) // "0s" is a word of it
}

// maxconn is the most requests at once, 0 for no limit.
func (s *server) maxconn() int {
	for _, o := range s.options {
		if o.word == "maxconn" {
			n, err := strconv.Atoi(o.arg)
			if err != nil {
				return -1
			}
			return n
		}
	}
	return 0
}

// onlyLimit tells whether two servers differ in nothing but maxconn, and that can be said at run time.
func (s *server) onlyLimit(o *server) bool {
	without := func(s *server) *server {
		rest := *s
		rest.options = slices.DeleteFunc(slices.Clone(s.options), func(o option) bool { return o.word == "maxconn" })
		return &rest
	}
	return s.maxconn() >= 0 && o.maxconn() >= 0 && !s.has("minconn") && !o.has("minconn") && without(s).sameOptions(without(o))
}

// has tells whether the server carries a word.
func (s *server) has(word string) bool {
	return slices.ContainsFunc(s.options, func(o option) bool { return o.word == word })
}

// sameOptions compares what cannot be changed on a living server.
func (s *server) sameOptions(o *server) bool {
	return s.address == o.address && slices.Equal(sorted(s.options), sorted(o.options))
}

func sorted(opts []option) []option {
	return slices.SortedFunc(slices.Values(opts), func(a, b option) int { return strings.Compare(a.word, b.word) })
}

// safeName and safeWord are what we put on HAProxy's command line; nothing in them has a meaning
// there. We reject instead of escaping.
var (
	safeName = regexp.MustCompile(`^[A-Za-z0-9_.:-]{1,200}$`)
	// safeLine is a line of a crt-list.
	safeLine = regexp.MustCompile(`^[A-Za-z0-9_.:,/\[\]@*! -]{1,1000}$`)
	safeWord = regexp.MustCompile(`^[A-Za-z0-9_.:,/()\[\]@%+=*~-]{1,1000}$`)
)

// addable says why this server cannot be added at run time, "" if it can.
func (s *server) addable(can Capabilities) string {
	if s.why != "" {
		return s.why
	}
	if a, err := netip.ParseAddrPort(s.address); err != nil || a.Port() == 0 {
		return "the address " + strconv.Quote(s.address) + ", which is not a literal one with a port"
	}
	if !safeName.MatchString(s.name) {
		return "the name " + strconv.Quote(s.name)
	}
	for _, o := range s.options {
		if o.word == "cookie" && !can.Cookie {
			return "the word \"cookie\", which this haproxy does not take at run time"
		}
		if args, _ := serverWord(o.word); args > 0 && !safeWord.MatchString(o.arg) {
			return "the argument of " + strconv.Quote(o.word)
		}
	}
	return ""
}

// proxy is a section that can hold servers, split into servers and the rest.
type proxy struct {
	id, name string
	servers  []server
	index    map[string]int
	others   []string // keys of all other statements in their order, the header first

	dynamic       bool // the way of balancing allows servers to come and go
	byID          bool // it prefers servers by their ids
	dynamicCookie bool
	namesServers  bool // use-server names servers
	templates     bool // server-template makes servers that have no line
	off           bool // the whole section is disabled
	takesStates   bool // of servers, from the global state file
	allBackups    bool // they share the load
	checks        []string
	external      bool // a program checks its servers
	// doubtful means that only HAProxy knows which servers there are.
	doubtful bool
	why      string // why its servers cannot be changed by commands; "" if they can
}

// inherited is what a proxy takes from its defaults section.
type inherited struct {
	balance, hashType string
	options           []option // of default-server
	why               string
	dynamicCookie     bool
	off               bool
	takesStates       bool     // of servers, from the global state file
	allBackups        bool     // backups share the load, else the first serves alone
	external          bool     // a program checks servers, as far as anybody knows
	checks            []string // keys of the statements that tell how servers are checked
	doubt             string   // why only HAProxy knows what is inherited
}

// judge looks whether a statement leaves it to HAProxy which servers a proxy has, or how they may
// change at run time.
func (in *inherited) judge(l line) {
	first, readable := word(l, 0), true
	if l.known == 0 {
		in.doubt = "haproxy's environment may turn a line into any other"
		return
	}
	switch first {
	case "server":
		readable = l.known >= 2
	case "balance", "hash-type":
		readable = l.plain
	case "server-template", "default-server", "use-server", "dynamic-cookie-key", "disabled", "enabled":
	default:
		return
	}
	if l.conditional {
		in.doubt = "a line " + strconv.Quote(first) + " stands in a condition"
	} else if !readable {
		in.doubt = "a line " + strconv.Quote(first) + " is for haproxy alone to read"
	}
}

// read takes one statement that is allowed in defaults and in proxies.
func (in *inherited) read(l line) {
	switch word(l, 0) {
	case "disabled", "enabled":
		in.off = l.words[0] == "disabled"
	case "balance":
		in.balance = word(l, 1)
	case "hash-type":
		in.hashType = word(l, 1)
	case "dynamic-cookie-key":
		in.dynamicCookie = true
	case "default-server":
		opts, why := readOptions(l.words[1:])
		if !l.plain {
			why = "quotes or escapes that only haproxy can read"
		}
		if why != "" {
			in.why = why + " in default-server"
		}
		in.options = slices.Concat(in.options, opts)
	case "load-server-state-from-file":
		in.takesStates = word(l, 1) == "global"
	default:
		switch strings.Join(l.words, " ") {
		case "option allbackups":
			in.allBackups = l.plain && !l.conditional
		case "no option allbackups":
			in.allBackups = false
		}
		in.external = in.external || word(l, 0) == "option" && (word(l, 1) == "external-check" || l.known < 2)
		if key := l.key(); word(l, 0) == "mode" || strings.Contains(key, "check") || strings.Contains(key, "chk") {
			in.checks = slices.Concat(in.checks, []string{key})
		}
	}
}

func word(l line, i int) string {
	if i < len(l.words) {
		return l.words[i]
	}
	return ""
}

// dynamicBalance tells whether servers can be added under this way of balancing.
func (in *inherited) dynamicBalance() bool {
	name, _, _ := strings.Cut(in.balance, "(")
	switch name {
	case "", "roundrobin", "leastconn", "first", "random":
		return true
	case "static-rr":
		return false
	default:
		return in.hashType == "consistent"
	}
}

// readProxy reads a backend or listen section under what its defaults give it.
func readProxy(s section, in inherited) *proxy {
	p := &proxy{id: s.id(), name: s.name, index: map[string]int{}}
	var servers []line
	for _, l := range s.lines {
		in.judge(l)
		if word(l, 0) == "server" {
			servers = append(servers, l)
			continue
		}
		p.others = append(p.others, l.key())
		in.read(l)
		switch word(l, 0) {
		case "default-server":
			if len(servers) > 0 {
				p.why = "default-server behind a server line"
			}
		case "server-template":
			p.templates = true
		case "use-server":
			p.namesServers = true
		}
	}
	p.dynamic, p.byID = in.dynamicBalance(), in.balance == "first"
	p.dynamicCookie, p.off = in.dynamicCookie, in.off
	if doubt := cmp.Or(s.doubt, in.doubt); doubt != "" {
		p.why, p.doubtful = doubt, true
	}
	p.takesStates, p.allBackups, p.checks, p.external = in.takesStates, in.allBackups, in.checks, in.external
	for _, l := range servers {
		p.add(readServer(l, in.options, in.why))
	}
	return p
}

func (p *proxy) add(s server) {
	if _, twice := p.index[s.name]; twice {
		p.why = "two servers with the name " + strconv.Quote(s.name)
	}
	p.index[s.name] = len(p.servers)
	p.servers = append(p.servers, s)
}

// placed tells whether it counts where a server stands among others. The first backup that is up
// serves alone unless all do, a static way of balancing makes its table in that order, and without ids of their
// own servers get them in that order.
func (p *proxy) placed(s *server) bool {
	return !p.dynamic || s.why != "" || s.has("backup") && !p.allBackups || p.byID && !s.has("id")
}

// find returns the server of that name, nil if there is none.
func (p *proxy) find(name string) *server {
	if i, ok := p.index[name]; ok {
		return &p.servers[i]
	}
	return nil
}

// tracked are the servers whose state others take over by the word "track", as the text names them:
// by backend and name, or by the name alone in their own section. "" stands for all.
type tracked map[string]bool

// blocks adds those that blocks name. Only what may have the word is read.
func (t *tracked) blocks(blocks []render.Block) {
	if len(blocks) > 1 || len(blocks) == 1 && (strings.Contains(blocks[0].Text, "track") || strings.Contains(blocks[0].Text, "srv_")) {
		t.read(joined(blocks))
	}
}

// read adds those that a text names.
func (t *tracked) read(text string) {
	for raw := range strings.Lines(text) {
		for _, m := range serverCall.FindAllStringSubmatch(raw, -1) {
			t.add(asked + m[1])
		}
		if !strings.Contains(raw, "track") {
			continue
		}
		l := splitLine(raw)
		switch word(l, 0) {
		case "server", "server-template", "default-server":
			t.line(l)
		}
	}
}

// serverCall is a look at one server, such as srv_is_up(web/s1). HAProxy does not delete that server,
// and refuses a text in which it is missing. asked marks such a name.
var serverCall = regexp.MustCompile(`\bsrv_[a-z_]+\(\s*([^(),\s]+)`)

const asked = "srv "

func (t *tracked) add(name string) {
	if *t == nil {
		*t = tracked{}
	}
	(*t)[name] = true
}

// isAsked tells whether the text looks at a server by its name.
func (t tracked) isAsked(backend, server string) bool {
	return t[asked+server] || t[asked+backend+"/"+server]
}

// line adds the server that a line names.
func (t *tracked) line(l line) {
	if *t == nil {
		*t = tracked{}
	}
	if !l.plain {
		(*t)[""] = true
	}
	for i, w := range l.words[1:] {
		if w == "track" {
			(*t)[word(l, i+2)] = true
		}
	}
}

// has tells whether a server is one of them.
func (t tracked) has(backend, server string) bool {
	return len(t) > 0 && (t[""] || t[server] || t[backend+"/"+server])
}
