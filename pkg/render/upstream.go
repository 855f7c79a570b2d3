package render

import (
	"encoding/hex"
	"strings"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Upstream is how the proxy speaks to the servers of a service. It is the same for all of them, so that
// its words stand once, in a default-server line; servers that come at run time get them too.
type Upstream struct {
	TLS      bool   // in TLS; the fields up to ALPN say how
	SNI      string // HAProxy's expression for the name that the server is asked for, empty for none
	Name     string // the name that checks ask for, and the one in certificates where none was asked for; empty for any
	CAFile   string // the file beside the configuration with the certificates that vouch for the servers'; empty to take any certificate
	CertFile string // the file beside the configuration with the certificate and key that servers are shown; empty for none
	ALPN     string // the protocols that are offered within TLS, empty for no word of them

	H2     bool   // in HTTP/2 without TLS; WebSockets, which few servers take within it, in HTTP/1.1
	Proxy  string // version of the PROXY protocol, v1 or v2, by which the server learns the client's address; empty for none
	Cookie string // name of the cookie that keeps a client at its server, empty for none
}

// Plain tells whether there is nothing to say of it in a default-server line.
func (u Upstream) Plain() bool { return !u.TLS && !u.H2 && u.Proxy == "" }

// newUpstream decides by a service's options. In mode tcp the bytes are the client's: whether these are
// HTTP/2 is up to it, and no cookie can be set.
func newUpstream(s *service.Service, c Choices) Upstream {
	options, http := s.Spec.Options, modeOf(s) != service.TCP
	u := Upstream{TLS: options["tls"] == tlsServer, Proxy: options["proxy-protocol"]}
	h2 := options["h2"] == "true"
	if http {
		u.Cookie = options["sticky"]
		u.H2 = h2 && !u.TLS
	}
	if !u.TLS {
		return u
	}
	u.Name = exactHost(s.Spec.Hosts)
	if c.ServerCA != "" {
		u.CAFile = serverCAFile
	}
	if c.ServerCert != "" {
		u.CertFile = serverCertFile
	}
	switch {
	case http:
		u.SNI = "var(txn.name)" // the host of the request
	case u.Name != "":
		u.SNI = "str(" + u.Name + ")"
	}
	switch {
	case h2 && http:
		u.ALPN = "h2,http/1.1" // the second is for WebSockets
	case h2:
		u.ALPN = "h2"
	}
	return u
}

// exactHost is the first of the hosts that is no wildcard, empty if there is none.
func exactHost(hosts []string) string {
	for _, h := range hosts {
		if !strings.HasPrefix(h, "*") {
			return h
		}
	}
	return ""
}

// serverCookie is what a cookie says of an instance: nothing that a client could read.
func serverCookie(i *service.Instance) string {
	const from, bytes = 4, 6 // not what stands in the server's name, which logs have
	sum := endpointSum(i)
	return hex.EncodeToString(sum[from : from+bytes])
}
