package render_test

import (
	"crypto/tls"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// The tests here are of how the proxy speaks to servers: each has one that came with a reload, and one
// that came by the runtime API.

// upstream is a way of speaking to servers.
type upstream struct {
	name    string
	options string // labels of the service
	set     map[string]string
	server  speaking
	want    seen
	check   string // what HAProxy's check shows
}

// visitorAddr is from where the tests' client connects.
const visitorAddr = "127.83.13.1"

func upstreams(t *testing.T) []upstream {
	t.Helper()
	a := newAuthority(t)
	set := map[string]string{"server-ca": a.file(), "server-cert": a.file(a.issue("proxy"))}
	plain := &tls.Config{Certificates: []tls.Certificate{newAuthority(t).issue("other.test")}}
	mutual := &tls.Config{Certificates: []tls.Certificate{a.issue("shop.test")}, ClientCAs: a.pool(), ClientAuth: tls.RequireAndVerifyClientCert}
	shown := seen{Proto: "HTTP/2.0", SNI: "shop.test", Shown: "proxy"}
	all := shown
	all.Proxied = visitorAddr
	return []upstream{
		{"TLS", `"tls":"server"`, nil, speaking{tls: plain}, seen{Proto: "HTTP/1.1", SNI: "shop.test"}, "L6OK"},
		{"mutual TLS", `"tls":"server"`, set, speaking{tls: mutual}, seen{Proto: "HTTP/1.1", SNI: "shop.test", Shown: "proxy"}, "L6OK"},
		{"HTTP 2", `"h2":"true"`, nil, speaking{h2: true}, seen{Proto: "HTTP/2.0"}, "L4OK"},
		{"HTTP 2 in TLS", `"tls":"server","h2":"true"`, set, speaking{tls: mutual, h2: true}, shown, "L6OK"},
		{"PROXY v1", `"proxy-protocol":"v1"`, nil, speaking{proxy: "v1"}, seen{Proto: "HTTP/1.1", Proxied: visitorAddr}, "L4OK"},
		{"PROXY v2", `"proxy-protocol":"v2"`, nil, speaking{proxy: "v2"}, seen{Proto: "HTTP/1.1", Proxied: visitorAddr}, "L4OK"},
		{"all", `"proxy-protocol":"v2","tls":"server","h2":"true"`, set, speaking{tls: mutual, h2: true, proxy: "v2"}, all, "L6OK"},
	}
}

// TestUpstreams: a server is spoken to as its labels ask, by requests and by checks, whether it came with
// a reload or by the runtime API, to a service that had none before too (P11). In mode tcp what is within
// is up to the client.
func TestUpstreams(t *testing.T) {
	cases := upstreams(t)
	haproxytest.Each(t, func(t haproxytest.T) {
		for _, c := range cases {
			for _, mode := range []string{"http", "tcp"} {
				if mode == "tcp" && c.server.h2 {
					continue
				}
				t.Run(c.name+" "+mode, func(sub *testing.T) {
					sub.Parallel() // it waits for checks most of the time
					c.test(haproxytest.T{T: sub, Bin: t.Bin}, mode)
				})
			}
		}
	})
}

func (u upstream) test(t haproxytest.T, mode string) {
	t.Helper()
	s := newSite(t, render.ProxyCheckOn, u.set)
	rest := `"hosts":["shop.test"],"options":{` + u.options + `}`
	u.want.Forwarded = visitorAddr
	if mode == "tcp" {
		s.addr, u.want.Forwarded = haproxytest.Address(t, "127.83.12.1"), ""
		_, port, _ := net.SplitHostPort(s.addr)
		rest += `,"mode":"tcp","listen":` + port
	}
	first, second := u.server.start(t, saw("first")), u.server.start(t, saw("second"))
	s.serve(rest+`,"scope":"node"`, "127.83.12.9:9") // nobody that could be reached
	s.byRuntime(rest, first)
	s.byRuntime(rest, first, second)
	rest = strings.Replace(rest, "{", `{"timeout.server":"20s",`, 1)
	s.serve(rest, first)
	s.byRuntime(rest, first, second)
	for _, name := range []string{"first", "second"} {
		u.want.Name = name
		haproxytest.Until(t, name+" to answer", func() bool {
			got, err := s.ask("shop.test:80")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(u.want, got); got.Name == name && diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			return got.Name == name
		})
	}
	for _, addr := range []string{first, second} {
		haproxytest.Until(t, addr+" to be checked", func() bool { return s.stats(addr)["check_status"] == u.check })
	}
}

// TestServersMustProveWhoTheyAre: with server-ca, a server whose certificate another authority has issued,
// or for another name, gets no request, whether HAProxy checks it or not, and whether it came with a
// reload or by the runtime API.
func TestServersMustProveWhoTheyAre(t *testing.T) {
	a := newAuthority(t)
	set := map[string]string{"server-ca": a.file()}
	good := speaking{tls: &tls.Config{Certificates: []tls.Certificate{a.issue("shop.test")}}}
	impostors := map[string]speaking{
		"another authority": {tls: &tls.Config{Certificates: []tls.Certificate{newAuthority(t).issue("shop.test")}}},
		"another name":      {tls: &tls.Config{Certificates: []tls.Certificate{a.issue("other.test")}}},
		"no TLS":            {},
	}
	const rest = `"hosts":["shop.test"],"options":{"tls":"server"}`
	eachCheck(t, func(t haproxytest.T, check render.ProxyCheck) {
		for name, impostor := range impostors {
			t.Run(name, func(sub *testing.T) {
				sub.Parallel() // it waits for checks most of the time
				t := haproxytest.T{T: sub, Bin: t.Bin}
				s := newSite(t, check, set)
				honest := good.start(t, saw("honest"))
				static, dynamic := impostor.start(t, saw("an impostor")), impostor.start(t, saw("an impostor"))
				s.serve(rest, static, honest)
				s.byRuntime(rest, static, dynamic, honest)
				answers := func() (honest int) {
					for range 12 {
						got, err := s.ask("shop.test")
						if err == nil && got.Name != "honest" {
							t.Errorf("got %+v, want no answer but of the honest one", got)
						}
						if err == nil {
							honest++
						}
					}
					return honest
				}
				// HAProxy does not try another one for a certificate of another name.
				if got := answers(); got < 4 || got < 12 && name != "another name" {
					t.Errorf("%d of 12 requests were answered", got)
				}
				if check == render.ProxyCheckOn {
					s.awaitStatus(static, "DOWN")
					s.awaitStatus(dynamic, "DOWN")
					if got := answers(); got != 12 {
						t.Errorf("%d of 12 requests were answered once the impostors were down", got)
					}
				}
				s.byRuntime(rest, static, dynamic)
				if got, err := s.ask("shop.test"); err == nil {
					t.Errorf("with no other server: got %+v, want an error", got)
				}
			})
		}
	})
}

// TestServersAreShownTheRenewedCertificate: by requests to servers that came with a reload and by the runtime
// API, before and after. It takes a reload: HAProxy would go on resuming sessions of the former certificate.
func TestServersAreShownTheRenewedCertificate(t *testing.T) {
	a := newAuthority(t)
	mutual := speaking{tls: &tls.Config{Certificates: []tls.Certificate{a.issue("shop.test")}, ClientCAs: a.pool(), ClientAuth: tls.RequireAndVerifyClientCert}}
	set := map[string]string{"server-ca": a.file(), "server-cert": a.file(a.issue("proxy"))}
	renewed := a.file(a.issue("renewed"))
	const rest = `"hosts":["shop.test"],"options":{"tls":"server"}`
	haproxytest.Each(t, func(t haproxytest.T) {
		s := newSite(t, render.ProxyCheckOff, set)
		first, second, third := mutual.start(t, saw("first")), mutual.start(t, saw("second")), mutual.start(t, saw("third"))
		shown := func(want string, names ...string) {
			for _, name := range names {
				haproxytest.Until(t, name+" to be shown "+want, func() bool {
					got, err := s.ask("shop.test")
					if err != nil {
						t.Fatal(err)
					}
					return got.Name == name && got.Shown == want
				})
			}
		}
		s.serve(rest, first)
		s.byRuntime(rest, first, second)
		shown("proxy", "first", "second")
		s.input.ServerCert = serverFile(t, renewed)
		if got := s.serve(rest, first, second); got.How != haproxy.HowReload {
			t.Errorf("got %+v, want a reload", got)
		}
		s.byRuntime(rest, first, second, third)
		shown("renewed", "first", "second", "third")
	})
}

// TestServersProveThemselvesToOthers: with other authorities in server-ca these count, also for connections that
// are kept, which is why that takes a reload.
func TestServersProveThemselvesToOthers(t *testing.T) {
	before, after := newAuthority(t), newAuthority(t)
	const rest = `"hosts":["shop.test"],"options":{"tls":"server"}`
	haproxytest.Each(t, func(t haproxytest.T) {
		s := newSite(t, render.ProxyCheckOff, map[string]string{"server-ca": before.file()})
		var addrs []string
		for name, a := range map[string]*authority{"before": before, "after": after} {
			how := speaking{tls: &tls.Config{Certificates: []tls.Certificate{a.issue("shop.test")}}}
			addrs = append(addrs, how.start(t, saw(name)))
		}
		s.serve(rest, addrs[0])
		s.byRuntime(rest, addrs...)
		only := func(name string) {
			for range 12 {
				if got, err := s.ask("shop.test"); err == nil && got.Name != name {
					t.Errorf("got an answer of %+v, want none but of %s", got, name)
				}
			}
			haproxytest.Until(t, name+" to answer", func() bool { got, err := s.ask("shop.test"); return err == nil && got.Name == name })
		}
		only("before")
		s.input.ServerCA = serverFile(t, after.file())
		if got := s.serve(rest, addrs...); got.How != haproxy.HowReload {
			t.Errorf("got %+v, want a reload", got)
		}
		only("after")
	})
}

// TestServersWithoutWhatTLSNeeds: while there is nothing of a file about servers, those of sidekick.tls=server are
// not even connected to, in neither mode; all others are served, and these too once it is there (P7).
func TestServersWithoutWhatTLSNeeds(t *testing.T) {
	a := newAuthority(t)
	set := map[string]string{"server-ca": a.file(), "server-cert": a.file(a.issue("proxy"))}
	haproxytest.Each(t, func(t haproxytest.T) {
		s := newSite(t, render.ProxyCheckOn, set)
		var asked atomic.Int32
		config := &tls.Config{Certificates: []tls.Certificate{a.issue("shop.test")}, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			asked.Add(1)
			return nil, nil //nolint:nilnil // that one will do
		}}
		addr, other := speaking{tls: config}.start(t, saw("shop")), speaking{}.start(t, saw("other"))
		own := haproxytest.Address(t, "127.83.12.1")
		_, port, _ := net.SplitHostPort(own)
		items := map[string]string{
			"instances/n/tls":   instance(addr, `"hosts":["shop.test"],"options":{"tls":"server"}`),
			"instances/n/tcp":   strings.Replace(instance(addr, `"mode":"tcp","listen":`+port+`,"options":{"tls":"server"}`), `"web"`, `"raw"`, 1),
			"instances/n/plain": strings.Replace(instance(other, `"hosts":["other.test"]`), `"web"`, `"other"`, 1),
		}
		ca, cert := s.input.ServerCA, s.input.ServerCert
		for what, lacking := range map[string]func(){
			"neither": func() {
				s.input.ServerCA, s.input.ServerCert = render.ServerFile{Why: "it is gone"}, render.ServerFile{}
			},
			"no authority":   func() { s.input.ServerCA, s.input.ServerCert = render.ServerFile{Why: "it is gone"}, cert },
			"no certificate": func() { s.input.ServerCA, s.input.ServerCert = ca, render.ServerFile{Why: "it is gone"} },
		} {
			lacking()
			s.put(items)
			asked.Store(0)
			if got, err := s.ask("shop.test"); err == nil || !strings.Contains(err.Error(), "503") {
				t.Errorf("%s: got %+v, %v, want status 503", what, got, err)
			}
			if got, err := s.ask("other.test"); err != nil || got.Name != "other" {
				t.Errorf("%s: other: got %+v, %v", what, got, err)
			}
			s.addr, own = own, s.addr
			if got, err := s.ask("shop.test"); err == nil {
				t.Errorf("%s: mode tcp: got %+v, want none", what, got)
			}
			s.addr, own = own, s.addr
			if n := asked.Load(); n != 0 {
				t.Errorf("%s: the server was asked %d times, want never", what, n)
			}
			s.input.ServerCA, s.input.ServerCert = ca, cert
			s.put(items)
			if got, err := s.ask("shop.test"); err != nil || got.Name != "shop" {
				t.Errorf("after %s: got %+v, %v", what, got, err)
			}
		}
	})
}

// TestServersAreAskedForAName: by the host of the request where the proxy reads that, without what is no
// part of a name; else by the first host of the service.
func TestServersAreAskedForAName(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		server := speaking{tls: &tls.Config{Certificates: []tls.Certificate{newAuthority(t).issue("x")}}}.start(t, saw("server"))
		s := newSite(t, render.ProxyCheckOff, nil)
		s.serve(`"options":{"default":"true","tls":"server"}`, server)
		for _, host := range []string{"192.0.2.1", "192.0.2.1:80", "[2001:db8::1]:80"} {
			if got, err := s.ask(host); err != nil || got.SNI != "" {
				t.Errorf("host %s: the server was asked for %q, %v, want nothing", host, got.SNI, err)
			}
		}
		s.serve(`"hosts":["*.test","shop.test"],"options":{"default":"true","tls":"server"}`, server)
		for host, want := range map[string]string{
			"a.test": "a.test", "B.test:8080": "b.test", "c.test.": "c.test", "else.example": "else.example",
			"192.0.2.1": "shop.test", "192.0.2.1:80": "shop.test", "[2001:db8::1]:80": "shop.test",
		} {
			if got, err := s.ask(host); err != nil || got.SNI != want {
				t.Errorf("host %s: the server was asked for %q, %v, want %q", host, got.SNI, err, want)
			}
		}
		front := haproxytest.Address(t, "127.83.12.1")
		_, port, _ := net.SplitHostPort(front)
		s.serve(`"mode":"tcp","listen":`+port+`,"hosts":["*.test","tcp.test"],"options":{"tls":"server"}`, server)
		s.addr = front
		if got, err := s.ask("other.test"); err != nil || got.SNI != "tcp.test" {
			t.Errorf("mode tcp: the server was asked for %q, %v, want tcp.test", got.SNI, err)
		}
	})
}

// TestWhoeverConnectsMustSpeakPROXY: with accept-proxy, servers learn the client's address from the header, and
// who sends none is refused.
func TestWhoeverConnectsMustSpeakPROXY(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		s := newSite(t, render.ProxyCheckOff, map[string]string{"accept-proxy": "true"})
		s.serve(anyHost, speaking{}.start(t, saw("server")))
		for header, want := range map[string]string{
			"PROXY TCP4 192.0.2.7 192.0.2.1 1234 80\r\n":                                             "192.0.2.7",
			"PROXY TCP6 2001:db8::7 2001:db8::1 1234 80\r\n":                                         "2001:db8::7",
			"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x08\xc0\x00\x02\x01\x04\xd2\x00\x50": "192.0.2.8",
			"": "refused",
		} {
			got, err := s.say(header + "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
			if err != nil {
				got.Forwarded = "refused"
			}
			if got.Forwarded != want {
				t.Errorf("after %q: %+v, %v, want %s", header, got, err, want)
			}
		}
	})
}
