package render

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	health_v1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/sidekick-proxy/sidekick/internal/certtest"
	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/templates"
)

// secure is a running proxy with certificates, and where it listens.
type secure struct {
	haproxytest.T
	http, https string
	items       map[string]string
	settings    Settings
	certs       []Certificate
}

func newSecure(t haproxytest.T) *secure {
	t.Helper()
	at := func() string { return fmt.Sprintf("%s:%d", proxyAddress, freePort(t.T)) }
	p := &secure{T: t, http: at(), https: at(), items: map[string]string{}}
	p.settings = Settings{
		Node: "here", HTTPListen: p.http, HTTPSListen: p.https, Stats: at(), Set: map[string]string{},
		Certs: "/certs", HTTPSSocket: filepath.Join(haproxytest.Dir(t), "https.sock"),
	}
	return p
}

// add puts a service behind the proxy, at that port of the tests' address.
func (p *secure) add(name string, port int, rest string) {
	p.items["instances/n/"+name] = fmt.Sprintf(`{"service":%q,"address":%q,"port":%d,%s}`, name, proxyAddress, port, rest)
}

// start starts the proxy and returns its model.
func (p *secure) start() *Model {
	p.Helper()
	return p.startBy(templates.HAProxy)
}

// startBy does so by another template.
func (p *secure) startBy(text string) *Model {
	p.Helper()
	r, err := New("haproxy.cfg.tmpl", text, p.settings)
	if err != nil {
		p.Fatal(err)
	}
	files, model, err := r.Render(Input{Catalog: mustCatalog(p, p.items), Certificates: p.certs})
	if err != nil {
		p.Fatal(err)
	}
	startProgram(p.T.T, p.Bin, files, p.http)
	return model
}

// own makes a service that speaks TLS itself, by the certificate of that number; its answer begins with
// its name.
func (p *secure) own(name string, serial int64) int {
	p.Helper()
	pair := certtest.Make(p, serial, time.Hour, name).TLS(p)
	l, err := tls.Listen("tcp", proxyAddress+":0", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	if err != nil {
		p.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", name, r.URL.RequestURI())
	})}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(l) }()
	p.Cleanup(func() { server.Close(); <-ended })
	return l.Addr().(*net.TCPAddr).Port
}

// ask asks over TLS, and returns status, protocol, body and header.
func (p *secure) ask(addr, host, path string) (string, http.Header) {
	p.Helper()
	client := certtest.Client(addr, host)
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://" + host + path)
	if err != nil {
		return err.Error(), nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.Fatal(err)
	}
	return fmt.Sprintf("%d %s %s", resp.StatusCode, resp.Proto, strings.TrimSpace(string(body))), resp.Header
}

func (p *secure) shown(addr, host string, want int64) {
	p.Helper()
	if got, _ := certtest.Shown(addr, host); got != want {
		p.Errorf("certificate for %q: got number %d, want %d", host, got, want)
	}
}

// manyNames are as many, and as long, as those of one certificate may be.
func manyNames() (names []string) {
	for i := range 500 {
		names = append(names, fmt.Sprintf("%d.%s", 100+i, "twenty-five.bytes.example"))
	}
	return names
}

// A handshake that is not finished in time is cut, by a HAProxy that has a time for that.
func TestSilentHandshakes(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		if strings.HasSuffix(t.Name(), "2.6") {
			return // it waits as long as for anything else
		}
		p := newSecure(t)
		p.certs = []Certificate{madeCertificate(t, "a", 1, time.Hour, "a.test")}
		p.add("web", startEcho(t.T, "web"), `"hosts":["a.test"]`)
		port := freePort(t.T)
		p.add("own", startEcho(t.T, "own"), fmt.Sprintf(`"mode":"tcp","listen":%d,"options":{"tls":"terminate"}`, port))
		p.startBy(strings.ReplaceAll(templates.HAProxy, "timeout client-hs 10s", "timeout client-hs 300ms"))
		for _, addr := range []string{p.https, fmt.Sprintf("%s:%d", proxyAddress, port)} {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(haproxytest.Patience)); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(conn); len(got) > 0 || err != nil {
				t.Errorf("%s: got %q, %v, want its end", addr, got, err)
			}
		}
	})
}

// Certificates are chosen by name, exact before wildcard; the default one is for all others, and for
// clients that give no name. HTTP/2 is offered, and the services are those of plain HTTP.
func TestHTTPS(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		p := newSecure(t)
		p.certs = []Certificate{
			madeCertificate(t, "default", 1, time.Hour, "fallback.test"),
			madeCertificate(t, "exact", 2, time.Hour, "a.test"),
			madeCertificate(t, "wild", 3, time.Hour, "*.test"),
			madeCertificate(t, "many", 5, time.Hour, manyNames()...),
			madeCertificate(t, "old", 4, time.Minute, "a.test", "old.example"),
		}
		p.settings.Set["hsts"] = "3600"
		p.add("web", startEcho(t.T, "web"), `"hosts":["a.test","*.test"]`)
		p.start()
		p.shown(p.https, "a.test", 2)
		p.shown(p.https, "A.TEST", 2)
		p.shown(p.https, "b.test", 3)
		p.shown(p.https, "x.b.test", 1)
		p.shown(p.https, "old.example", 4)
		p.shown(p.https, manyNames()[499], 5)
		p.shown(p.https, "elsewhere.example", 1)
		p.shown(p.https, "", 1)
		if got, header := p.ask(p.https, "a.test", "/x?y=1"); got != "200 HTTP/2.0 web /x?y=1" || header.Get("Strict-Transport-Security") != "max-age=3600" {
			t.Errorf("got %q with %v", got, header)
		}
		if got := get(t.T, p.http, "a.test", "/x"); got != "200 web /x" {
			t.Errorf("plain: got %q", got)
		}
		dialer := &tls.Dialer{Config: &tls.Config{ServerName: "a.test", InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}}
		if conn, err := dialer.Dial("tcp", p.https); err == nil {
			conn.Close()
			t.Error("TLS 1.1 is taken, want 1.2 at least")
		}
	})
}

// gRPC comes through TLS: calls and streams, both of which end with trailers.
func TestGRPCOverHTTPS(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		l, err := net.Listen("tcp", proxyAddress+":0")
		if err != nil {
			t.Fatal(err)
		}
		server, state := grpc.NewServer(), health.NewServer()
		health_v1.RegisterHealthServer(server, state)
		ended := make(chan struct{})
		go func() { defer close(ended); _ = server.Serve(l) }()
		t.Cleanup(func() { server.Stop(); <-ended })
		p := newSecure(t)
		p.certs = []Certificate{madeCertificate(t, "grpc", 1, time.Hour, "grpc.test")}
		p.add("calls", l.Addr().(*net.TCPAddr).Port, `"hosts":["grpc.test"],"options":{"h2":"true"}`)
		p.start()
		own := credentials.NewTLS(&tls.Config{ServerName: "grpc.test", InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
		conn, err := grpc.NewClient("passthrough:///"+p.https, grpc.WithTransportCredentials(own))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		client := health_v1.NewHealthClient(conn)
		if got, err := client.Check(t.Context(), &health_v1.HealthCheckRequest{}); err != nil || got.GetStatus() != health_v1.HealthCheckResponse_SERVING {
			t.Fatalf("a call: got %v, %v", got, err)
		}
		if _, err := client.Check(t.Context(), &health_v1.HealthCheckRequest{Service: "unknown"}); status.Code(err) != codes.NotFound {
			t.Errorf("a call that fails: got %v, want NotFound, which a trailer says", err)
		}
		stream, err := client.Watch(t.Context(), &health_v1.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []health_v1.HealthCheckResponse_ServingStatus{health_v1.HealthCheckResponse_SERVING, health_v1.HealthCheckResponse_NOT_SERVING} {
			state.SetServingStatus("", want)
			if got, err := stream.Recv(); err != nil || got.GetStatus() != want {
				t.Fatalf("the stream: got %v, %v, want %s", got, err, want)
			}
		}
	})
}

// Plain HTTP is redirected for services that ask for it, with method, path and query, and for nobody else;
// what has a path of its own, such as the answer to a certificate authority, is not.
func TestRedirectToHTTPS(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		p := newSecure(t)
		p.certs = []Certificate{madeCertificate(t, "a", 1, time.Hour, "a.test", "vault.test")}
		p.add("web", startEcho(t.T, "web"), `"hosts":["a.test"],"options":{"redirect":"https"}`)
		p.add("acme", startEcho(t.T, "acme"), `"hosts":["a.test"],"path":"/.well-known/acme-challenge"`)
		p.add("plain", startEcho(t.T, "plain"), `"hosts":["plain.test"]`)
		p.add("all", startEcho(t.T, "all"), `"options":{"redirect":"https","default":"true"}`)
		p.add("vault", p.own("vault", 9), `"hosts":["vault.test"],"options":{"redirect":"https","tls":"passthrough"}`)
		p.start()
		_, port, _ := net.SplitHostPort(p.https)
		for _, tt := range []struct{ host, target, want string }{
			{"a.test", "/x?y=%20", "308 https://a.test:" + port + "/x?y=%20"},
			{"a.test:8080", "/", "308 https://a.test:" + port + "/"},
			{"a.test", "http://a.test/x", "308 https://a.test:" + port + "/x"},
			{"[::1]:8080", "/", "308 https://[::1]:" + port + "/"},
			{"a.test", "/.well-known/acme-challenge/token", "200 "},
			{"plain.test", "/", "200 "},
			{"vault.test", "/ui", "308 https://vault.test:" + port + "/ui"},
		} {
			if got := location(t.T, p.http, tt.host, tt.target); got != tt.want {
				t.Errorf("%s%s: got %q, want %q", tt.host, tt.target, got, tt.want)
			}
		}
		if got, _ := p.ask(p.https, "a.test", "/x"); got != "200 HTTP/2.0 web /x" {
			t.Errorf("over TLS: got %q, want no redirect", got)
		}
		// What another proxy has taken by TLS comes here without.
		p.settings.Set["trusted-proxies"] = "127.0.0.0/8"
		q := newSecure(t)
		q.items, q.certs, q.settings.Set = p.items, p.certs, p.settings.Set
		q.start()
		if got := location(t.T, q.http, "a.test\r\nX-Forwarded-Proto: https", "/"); got != "200 " {
			t.Errorf("of a trusted proxy that was asked by TLS: got %q, want no redirect", got)
		}
		if got := location(t.T, p.http, "a.test\r\nX-Forwarded-Proto: https", "/"); !strings.HasPrefix(got, "308 ") {
			t.Errorf("of somebody who says so: got %q, want a redirect", got)
		}
		// A client that goes on with a connection for another host, for both have one certificate.
		client := certtest.Client(p.https, "a.test")
		defer client.CloseIdleConnections()
		resp, err := client.Get("https://vault.test/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusMisdirectedRequest {
			t.Errorf("a request for a host with TLS of its own: got %s, want 421", resp.Status)
		}
	})
}

// location sends one POST and returns its status and where it is sent to.
func location(t *testing.T, addr, host, target string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", target, host)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return fmt.Sprintf("%d %s", resp.StatusCode, resp.Header.Get("Location"))
}

// TLS is passed through by its host, exact before wildcard, and the rest goes on to HTTPS, where the
// client's address is known as before. A host of HTTPS under a wildcard that is passed through stays.
func TestPassthrough(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		p := newSecure(t)
		p.certs = []Certificate{madeCertificate(t, "a", 1, time.Hour, "a.test", "*.b.test")}
		p.add("web", startClientEcho(t.T), `"hosts":["a.test","kept.b.test"]`)
		p.add("vault", p.own("vault", 9), `"hosts":["vault.test"],"path":"/x","options":{"tls":"passthrough"}`)
		p.add("wild", p.own("wild", 8), `"mode":"tcp","hosts":["*.b.test","*.c.b.test"],"options":{"tls":"passthrough"}`)
		deep := freePort(t.T)
		p.add("port", p.own("port", 7), fmt.Sprintf(`"listen":%d,"options":{"tls":"passthrough"}`, deep))
		m := p.start()
		p.shown(p.https, "vault.test", 9)
		p.shown(p.https, "VAULT.test", 9)
		p.shown(p.https, "x.b.test", 8)
		p.shown(p.https, "x.y.b.test", 8)
		p.shown(p.https, "kept.b.test", 1)
		p.shown(p.https, "b.test", 1)
		p.shown(p.https, "a.test", 1)
		p.shown(p.https, "", 1)
		p.shown(fmt.Sprintf("%s:%d", proxyAddress, deep), "any.test", 7)
		if got, _ := p.ask(p.https, "vault.test", "/ui"); !strings.HasSuffix(got, "vault /ui") {
			t.Errorf("got %q", got)
		}
		if got, _ := p.ask(p.https, "a.test", "/"); got != "200 HTTP/2.0 client 127.0.0.1" {
			t.Errorf("over both parts: got %q, want the client's own address", got)
		}
		at := slices.IndexFunc(m.Services, func(s *Service) bool { return s.Name == "vault" })
		if why := m.Services[at].Why; !strings.Contains(why, "sidekick.path") {
			t.Errorf("got why %q, want that sidekick.path has no effect", why)
		}
	})
}

// startClientEcho starts a server that answers the client's address as the proxy tells it.
func startClientEcho(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", proxyAddress+":0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "client %s", strings.Join(r.Header.Values("X-Forwarded-For"), ","))
	})}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-ended })
	return l.Addr().(*net.TCPAddr).Port
}

// Without any certificate TLS is still passed through, and what is for nobody is closed.
func TestPassthroughAlone(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		p := newSecure(t)
		p.settings.Certs = ""
		p.add("vault", p.own("vault", 9), `"hosts":["vault.test"],"options":{"tls":"passthrough"}`)
		p.add("web", startEcho(t.T, "web"), `"hosts":["a.test"],"options":{"redirect":"https"}`)
		m := p.start()
		p.shown(p.https, "vault.test", 9)
		p.shown(p.https, "a.test", -1)
		if got := location(t.T, p.http, "a.test", "/"); got != "200 " {
			t.Errorf("a redirect to what is not there: got %q", got)
		}
		if why := m.Services[1].Why; !strings.Contains(why, "--certs") {
			t.Errorf("got why %q, want the mend", why)
		}
	})
}

// A service's own port speaks TLS, in both modes, and never without it where it was asked for.
func TestOwnPortWithTLS(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		p := newSecure(t)
		web, raw := freePort(t.T), freePort(t.T)
		at := func(port int) string { return fmt.Sprintf("%s:%d", proxyAddress, port) }
		p.certs = []Certificate{madeCertificate(t, "a", 1, time.Hour, "a.test"), madeCertificate(t, "b", 2, time.Hour, "b.test")}
		p.add("web", startEcho(t.T, "web"), fmt.Sprintf(`"listen":%d,"options":{"tls":"terminate"}`, web))
		p.add("raw", startEcho(t.T, "raw"), fmt.Sprintf(`"mode":"tcp","listen":%d,"options":{"tls":"terminate"}`, raw))
		p.start()
		p.shown(at(web), "b.test", 2)
		p.shown(at(raw), "b.test", 2)
		if got, _ := p.ask(at(web), "a.test", "/x"); got != "200 HTTP/2.0 web /x" {
			t.Errorf("http: got %q", got)
		}
		if got, _ := p.ask(at(raw), "a.test", "/x"); got != "200 HTTP/1.1 raw /x" {
			t.Errorf("tcp: got %q", got)
		}
		m := Build(Input{Catalog: mustCatalog(t, p.items)}, p.settings)
		for _, s := range m.Services {
			if s.Listen != 0 || !strings.Contains(s.Why, "no usable certificate in /certs") {
				t.Errorf("%s without a certificate: got port %d and why %q, want none, and the mend", s.Name, s.Listen, s.Why)
			}
		}
	})
}

// With --set accept-proxy=true the port for HTTPS takes the client's address from the load balancer before
// it, also through both of its parts.
func TestHTTPSBehindALoadBalancer(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		for _, through := range []bool{false, true} {
			p := newSecure(t)
			p.settings.Set["accept-proxy"] = "true"
			p.certs = []Certificate{madeCertificate(t, "a", 1, time.Hour, "a.test")}
			p.add("web", startClientEcho(t.T), `"hosts":["a.test"]`)
			if through {
				p.add("vault", p.own("vault", 9), `"hosts":["vault.test"],"options":{"tls":"passthrough"}`)
			}
			p.start()
			raw, err := net.Dial("tcp", p.https)
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			fmt.Fprint(raw, "PROXY TCP4 192.0.2.7 192.0.2.1 5555 443\r\n")
			conn := tls.Client(raw, &tls.Config{ServerName: "a.test", InsecureSkipVerify: true})
			fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatalf("through %v: %v", through, err)
			}
			body, _ := io.ReadAll(resp.Body)
			if string(body) != "client 192.0.2.7" {
				t.Errorf("through %v: got %q, want the address in the header", through, body)
			}
		}
	})
}
