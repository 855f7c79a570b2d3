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
		if _, text, err := net.SplitHostPort(l.listen); err == nil {
			if port, err := strconv.ParseUint(text, 10, 16); err == nil && port > 0 {
				own[uint16(port)] = l.name
			}
		}
	}
	return own
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
