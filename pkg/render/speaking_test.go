package render_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log" //nolint:depguard // net/http takes no other
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// What tests with servers of many tongues share.

// authority issues certificates that only those trust who know it.
type authority struct {
	tb   testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(tb testing.TB) *authority {
	tb.Helper()
	a := &authority{tb: tb, cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	_, a.key = a.sign(a.cert)
	return a
}

// sign makes a certificate, the authority's own if there is none yet.
func (a *authority) sign(cert *x509.Certificate) (der []byte, key *ecdsa.PrivateKey) {
	a.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.tb.Fatal(err)
	}
	by := a.key
	if by == nil {
		by = key
	}
	der, err = x509.CreateCertificate(rand.Reader, cert, a.cert, key.Public(), by)
	if err != nil {
		a.tb.Fatal(err)
	}
	if cert == a.cert {
		a.cert.Raw = der
	}
	return der, key
}

// issue makes a certificate for a name.
func (a *authority) issue(name string) tls.Certificate {
	a.tb.Helper()
	der, key := a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// pool is what whoever trusts the authority knows.
func (a *authority) pool() *x509.CertPool {
	a.tb.Helper()
	cert, err := x509.ParseCertificate(a.cert.Raw)
	if err != nil {
		a.tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool
}

// file writes the authority's own certificate, or another one with its key, and returns the path.
func (a *authority) file(issued ...tls.Certificate) string {
	a.tb.Helper()
	var text bytes.Buffer
	der := a.cert.Raw
	if len(issued) > 0 {
		der = issued[0].Certificate[0]
		key, err := x509.MarshalPKCS8PrivateKey(issued[0].PrivateKey)
		if err != nil {
			a.tb.Fatal(err)
		}
		pem.Encode(&text, &pem.Block{Type: "PRIVATE KEY", Bytes: key})
	}
	pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	path := filepath.Join(a.tb.TempDir(), "file.pem")
	if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
		a.tb.Fatal(err)
	}
	return path
}

// seen is what a server saw of a request, by which it answers.
type seen struct {
	Name      string // the server's own
	Proto     string // HTTP/1.1 or HTTP/2.0
	SNI       string
	Shown     string // the name in the certificate that it was shown
	Proxied   string // the client, as the PROXY protocol has it
	Forwarded string // the same, as X-Forwarded-For has it
	Cookie    string
}

func saw(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s := seen{Name: name, Proto: r.Proto, Forwarded: r.Header.Get("X-Forwarded-For"), Cookie: r.Header.Get("Cookie")}
		if r.TLS != nil {
			s.SNI = r.TLS.ServerName
			if len(r.TLS.PeerCertificates) > 0 {
				s.Shown = r.TLS.PeerCertificates[0].Subject.CommonName
			}
		}
		if host, _, _ := net.SplitHostPort(r.RemoteAddr); host != "127.0.0.1" {
			s.Proxied = host
		}
		json.NewEncoder(w).Encode(s) // the client counts
	}
}

// speaking is in what a server speaks.
type speaking struct {
	tls   *tls.Config
	h1    bool // HTTP/1.1 beside HTTP/2
	h2    bool
	proxy string // version of the PROXY protocol, without which it does not answer
}

// start starts a server that speaks nothing else, and returns its address.
func (how speaking) start(t haproxytest.T, handler http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.83.12.5:0") // on this machine
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if how.proxy != "" {
		l = proxied{l, how.proxy}
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute, Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0)}
	server.Protocols.SetHTTP1(how.h1 || !how.h2)
	serve := func() { server.Serve(l) } // ends with Close
	switch {
	case how.tls != nil:
		server.TLSConfig = how.tls.Clone()
		server.Protocols.SetHTTP2(how.h2)
		serve = func() { server.ServeTLS(l, "", "") }
	default:
		server.Protocols.SetUnencryptedHTTP2(how.h2)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); serve() }()
	t.Cleanup(func() { server.Close(); <-ended })
	return addr
}

// proxied takes connections that begin with a header of the PROXY protocol.
type proxied struct {
	net.Listener
	version string
}

func (p proxied) Accept() (net.Conn, error) {
	conn, err := p.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &proxiedConn{Conn: conn, r: bufio.NewReader(conn), version: p.version}, nil
}

// proxiedConn reads the header before anything else.
type proxiedConn struct {
	net.Conn
	r       *bufio.Reader
	version string
	client  net.Addr
	err     error
}

func (c *proxiedConn) head() {
	if c.client != nil || c.err != nil {
		return
	}
	source, err := readProxy(c.r, c.version)
	if err != nil {
		c.err = err
		c.Close()
		return
	}
	c.client = net.TCPAddrFromAddrPort(source)
}

func (c *proxiedConn) Read(b []byte) (int, error) {
	if c.head(); c.err != nil {
		return 0, c.err
	}
	return c.r.Read(b)
}

func (c *proxiedConn) RemoteAddr() net.Addr {
	if c.head(); c.client != nil {
		return c.client
	}
	return c.Conn.RemoteAddr()
}

// readProxy reads a header and returns whom it names; a check's names nobody.
func readProxy(r *bufio.Reader, version string) (client netip.AddrPort, err error) {
	if version == "v1" {
		line, err := r.ReadString('\n')
		var kind, from, to string
		var port int
		fmt.Sscanf(line, "PROXY %s %s %s %d", &kind, &from, &to, &port)
		if err != nil || kind == "" {
			return client, fmt.Errorf("%q is no header: %w", line, err)
		}
		addr, _ := netip.ParseAddr(from)
		return netip.AddrPortFrom(addr, uint16(port)), nil
	}
	head := make([]byte, 16)
	if _, err := io.ReadFull(r, head); err != nil || string(head[:12]) != "\r\n\r\n\x00\r\nQUIT\n" {
		return client, fmt.Errorf("%q is no header: %w", head, err)
	}
	rest := make([]byte, int(head[14])<<8|int(head[15]))
	if _, err := io.ReadFull(r, rest); err != nil || len(rest) < 12 {
		return client, err
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(rest)), uint16(rest[8])<<8|uint16(rest[9])), nil
}

// ask asks for a host over a connection of its own from visitorAddr.
func (s *site) ask(host string) (seen, error) {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(visitorAddr)}}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dialer.DialContext}, Timeout: haproxytest.Patience}
	req, err := http.NewRequestWithContext(s.Context(), http.MethodGet, "http://"+s.addr+"/", nil)
	if err != nil {
		return seen{}, err
	}
	req.Host = host
	resp, err := client.Do(req)
	if err != nil {
		return seen{}, err
	}
	return readSeen(resp)
}

// say sends just these bytes, and reads an answer.
func (s *site) say(text string) (seen, error) {
	conn, err := net.DialTimeout("tcp", s.addr, haproxytest.Patience)
	if err != nil {
		return seen{}, err
	}
	defer conn.Close() // the answer was read
	if _, err := io.WriteString(conn, text); err != nil {
		return seen{}, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return seen{}, err
	}
	return readSeen(resp)
}

func readSeen(resp *http.Response) (seen, error) {
	defer resp.Body.Close() // read to its end
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return seen{}, fmt.Errorf("status %s, %v: %s", resp.Status, err, body) //nolint:errorlint // there may be none
	}
	var got seen
	err = json.Unmarshal(body, &got)
	return got, err
}
