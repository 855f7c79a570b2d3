package register

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log" //nolint:depguard // net/http takes no other
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/certtest"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// headed takes connections that begin with just this text.
type headed struct {
	net.Listener
	text string
}

func (h headed) Accept() (net.Conn, error) {
	conn, err := h.Listener.Accept()
	if err != nil || h.text == "" {
		return conn, err
	}
	return &headedConn{Conn: conn, r: bufio.NewReader(conn), want: h.text}, nil
}

type headedConn struct {
	net.Conn
	r    *bufio.Reader
	want string
}

func (c *headedConn) Read(b []byte) (int, error) {
	if c.want != "" {
		got := make([]byte, len(c.want))
		if _, err := io.ReadFull(c.r, got); err != nil || string(got) != c.want {
			_ = c.Close() // whoever began otherwise
			return 0, fmt.Errorf("began with %q: %w", got, err)
		}
		c.want = ""
	}
	return c.r.Read(b)
}

// serves starts a web server that speaks as the check says and nothing else, and answers 200 to a request for
// /up of the host shop.test.
func serves(t *testing.T, check service.Check) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.77.2:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(l.Addr().String())
	l = headed{l, map[string]string{"v1": "PROXY UNKNOWN\r\n", "v2": "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"}[check.Proxy]}
	s := &http.Server{Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fine := r.URL.Path == "/up" && r.Host == "shop.test" && strings.HasPrefix(r.Proto, "HTTP/2") == check.H2
		if fine && r.TLS != nil {
			fine = r.TLS.ServerName == "shop.test"
		}
		if !fine {
			w.WriteHeader(http.StatusTeapot)
		}
	})
	s.Protocols.SetHTTP1(!check.H2)
	serve := func() error { return s.Serve(l) }
	if check.TLS {
		s.Protocols.SetHTTP2(check.H2)
		s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certtest.Make(t, 1, time.Hour).TLS(t)}}
		serve = func() error { return s.ServeTLS(l, "", "") }
	} else {
		s.Protocols.SetUnencryptedHTTP2(check.H2)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = serve() }() // ends with Close
	t.Cleanup(func() { _ = s.Close(); <-ended })
	return addr
}

// TestChecksSpeakAsProxiesDo: a check by HTTP of an instance that takes TLS, HTTP/2 or PROXY headers alone is
// made in these, and one that is not is told in what the instance did not answer (P1).
func TestChecksSpeakAsProxiesDo(t *testing.T) {
	c := newChecker(nil)
	own, leave := c.lanes.join("lane")
	defer leave()
	once := func(check service.Check) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := c.once(ctx, own, &check, false)
		return err
	}
	for _, inTLS := range []bool{false, true} {
		for _, h2 := range []bool{false, true} {
			for _, proxy := range []string{"", "v1", "v2"} {
				check := service.Check{Kind: service.CheckHTTP, HTTPPath: "/up", Host: "shop.test", TLS: inTLS, H2: h2, Proxy: proxy, Timeout: time.Minute}
				t.Run(tongue(&check)+proxy, func(t *testing.T) {
					check.Target = serves(t, check)
					if err := once(check); err != nil {
						t.Errorf("got %v, want it to pass", err)
					}
					other := check
					other.TLS = !inTLS
					if err := once(other); err == nil {
						t.Errorf("%s: passes as well", tongue(&other))
					}
				})
			}
		}
	}
}

// TestChecksFollowLabels: what the labels say of the proxies' way to the instance holds for its check.
func TestChecksFollowLabels(t *testing.T) {
	d := service.NewDefinition()
	d.Check, d.Hosts = "http:/up", []string{"*.shop.test", "shop.test"}
	d.Options = map[string]string{"tls": "server", "h2": "true", "proxy-protocol": "v2"}
	if c := d.NewCheck(netip.AddrPort{}); !c.TLS || !c.H2 || c.Proxy != "v2" || c.Host != "shop.test" {
		t.Errorf("got %+v", c)
	}
	d.Options = map[string]string{"tls": "terminate", "h2": "false"}
	if c := d.NewCheck(netip.AddrPort{}); c.TLS || c.H2 || c.Proxy != "" {
		t.Errorf("got %+v", c)
	}
}
