package render

import (
	"cmp"
	"net"
	"strconv"
)

// Settings are the viewer's own facts: what a template may say that is not in the catalog. They are
// the operator's, and trusted.
type Settings struct {
	Node string // this host's name
	Zone string // its locality, may be empty

	// HTTPListen is where the proxy listens, "ADDR:PORT" or ":PORT"; empty for not at all. Its address is
	// also that of the ports of sidekick.listen.
	HTTPListen  string
	HTTPSListen string // the same for HTTPS

	Certs       string // the directory that certificates come from, for messages; empty for none
	HTTPSSocket string // path of the socket between the two parts of HTTPSListen, see Model

	ListenLow, ListenHigh uint16 // the ports that sidekick.listen may ask for; both 0 for 1024 to 65535

	ProxyCheck ProxyCheck // whether HAProxy checks servers itself; empty for auto

	Stats         string            // where statistics and metrics are served; empty for 127.0.0.1:8405
	RuntimeSocket string            // path of HAProxy's runtime socket; empty for none
	ServerState   string            // path of the state file by which a reload keeps what checks found out; empty for none
	Set           map[string]string // free values for a template: --set

	choices Choices // of Set, once withDefaults has read them
}

const (
	defaultStats = "127.0.0.1:8405"
	lowestListen = 1024

	defaultHTTPSSocket = "/run/sidekick/https.sock"
)

// Choices are those values of Set that the model knows.
func (s Settings) Choices() Choices { return s.choices }

// withDefaults fills in what is left open.
func (s Settings) withDefaults() Settings {
	if s.Stats == "" {
		s.Stats = defaultStats
	}
	if s.ListenLow == 0 && s.ListenHigh == 0 {
		s.ListenLow, s.ListenHigh = lowestListen, 65535
	}
	s.HTTPSSocket = cmp.Or(s.HTTPSSocket, defaultHTTPSSocket)
	s.ProxyCheck = cmp.Or(s.ProxyCheck, ProxyCheckAuto)
	s.choices, _ = ChoicesOf(s.Set) // who gives them has refused wrong ones
	return s
}

// ownPorts are the ports that the proxy needs for itself, and what for.
func (s Settings) ownPorts() map[uint16]string {
	own := map[uint16]string{}
	for _, l := range []struct{ name, listen string }{
		{"--http-listen", s.HTTPListen}, {"--https-listen", s.HTTPSListen}, {"the statistics", s.Stats},
	} {
		if port := portOf(l.listen); port > 0 {
			own[port] = l.name
		}
	}
	return own
}

// portOf is the port of "ADDR:PORT" or ":PORT", 0 for none.
func portOf(listen string) uint16 {
	_, text, err := net.SplitHostPort(listen)
	if err != nil {
		return 0
	}
	port, _ := strconv.ParseUint(text, 10, 16) // 0 for what is no port
	return uint16(port)
}

// Address is that of HTTPListen: in brackets if it is an IPv6 one, empty for all. The ports of
// services listen there too.
func (s Settings) Address() string {
	host, _, err := net.SplitHostPort(s.HTTPListen)
	if err != nil || host == "" {
		return ""
	}
	return trimPort(net.JoinHostPort(host, "0"))
}

func trimPort(hostPort string) string { return hostPort[:len(hostPort)-len(":0")] }
