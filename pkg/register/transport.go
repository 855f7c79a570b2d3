package register

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// dialer connects, as [net.Dialer.DialContext] does.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// newTransport is for checks in plain HTTP.
func newTransport(dial dialer) *http.Transport {
	// No connection is kept: each check must show that a new one is taken.
	return &http.Transport{DialContext: dial, DisableKeepAlives: true, MaxResponseHeaderBytes: longestHead}
}

// transport speaks to the target as the proxies do.
func (c *checker) transport(check *service.Check) http.RoundTripper {
	if !check.TLS && !check.H2 && check.Proxy == "" {
		return c.http
	}
	t := newTransport(c.dial.behind(check.Proxy))
	t.Protocols = new(http.Protocols)
	switch {
	case !check.H2:
		t.Protocols.SetHTTP1(true)
	case check.TLS:
		t.Protocols.SetHTTP1(true) // the proxies offer both
		t.Protocols.SetHTTP2(true)
	default:
		t.Protocols.SetUnencryptedHTTP2(true)
	}
	if check.TLS {
		// Whether it answers is asked here, not who it is: that is the proxies' affair.
		t.TLSClientConfig = &tls.Config{ServerName: check.Host, InsecureSkipVerify: true} //nolint:gosec // as said
	}
	return t
}

// behind begins each connection with the header of a check, which names no client.
func (d dialer) behind(version string) dialer {
	header := map[string]string{"v1": proxyV1, "v2": proxyV2}[version]
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := d(ctx, network, address)
		if err != nil || header == "" {
			return conn, err
		}
		if _, err := io.WriteString(conn, header); err != nil {
			_ = conn.Close() // of no use
			return nil, err
		}
		return conn, nil
	}
}

// The headers of both versions of the PROXY protocol for a connection of the proxy's own.
const (
	proxyV1 = "PROXY UNKNOWN\r\n"
	proxyV2 = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00" // version 2, LOCAL, no addresses
)

// tongue names what a target is spoken to in.
func tongue(check *service.Check) string {
	name := "HTTP"
	if check.H2 {
		name = "HTTP/2"
	}
	if check.TLS {
		name += " in TLS"
	}
	if check.Proxy != "" {
		name += " behind the PROXY protocol"
	}
	return name
}
