package render

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// front is HAProxy with the built-in template over a catalog.
type front struct{ addr string }

// serveItems starts it over services by name, each with a server of its own that answers the service's name
// and what it was asked for.
func serveItems(t haproxytest.T, services map[string]string) front {
	t.Helper()
	items := map[string]string{}
	for name, rest := range services {
		items["instances/n/"+name] = fmt.Sprintf(`{"service":%q,"address":%q,"port":%d,%s}`, name, proxyAddress, startEcho(t.T, name), rest)
	}
	s := Settings{
		Node: "here", HTTPListen: fmt.Sprintf("%s:%d", proxyAddress, freePort(t.T)), Stats: fmt.Sprintf("%s:%d", proxyAddress, freePort(t.T)),
	}
	files, m, err := builtin(t, s).Render(Input{Catalog: mustCatalog(t, items)})
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Services) != len(services) {
		t.Fatalf("%d services of %d", len(m.Services), len(services))
	}
	startProgram(t.T, t.Bin, files, s.HTTPListen)
	return front{s.HTTPListen}
}

// ask sends a request as it stands, but for its end, and returns status and body.
func (f front) ask(t *testing.T, head string) string {
	t.Helper()
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "%s\r\nConnection: close\r\n\r\n", head)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("%q: %v", head, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	return fmt.Sprintf("%d %s", resp.StatusCode, first)
}

// Whatever a client writes, it comes to a service only by its own route: what servers may read as another
// path or host than the proxy does is refused, or routed by what they read.
func TestHostileRequestsAreRouted(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		f := serveItems(t, map[string]string{
			"root":  `"hosts":["a.test","xn--bcher-kva.test"]`,
			"admin": `"hosts":["a.test"],"path":"/%61dmin"`,
			"blank": `"hosts":["a.test"],"path":"/a%20b/%C3%A9"`,
			"strip": `"hosts":["a.test"],"path":"/strip","options":{"path.strip":"true"}`,
			"odd":   `"hosts":["a.test"],"path":"/a+.~%28b%27%29%20%c3%A9%2C","options":{"path.strip":"true"}`,
			"wild":  `"hosts":["*.b.test"]`,
			"deep":  `"hosts":["*.1.2.3.4.5.6.b.test"]`,
			"rest":  `"options":{"default":"true"}`,
		})
		const bad = "400 <html><body><h1>400 Bad request</h1>"
		for _, c := range []struct{ head, want string }{
			// Paths.
			{"GET /admin HTTP/1.1\r\nHost: a.test", "200 admin /admin"},
			{"GET /%61dm%69n/x HTTP/1.1\r\nHost: a.test", "200 admin /%61dm%69n/x"},
			{"GET //admin HTTP/1.1\r\nHost: a.test", "200 admin //admin"},
			{"GET /\\admin HTTP/1.1\r\nHost: a.test", "200 admin /%5Cadmin"},
			{"GET /%2fadmin%2Fx HTTP/1.1\r\nHost: a.test", "200 admin /%2fadmin%2Fx"},
			{"GET /Admin HTTP/1.1\r\nHost: a.test", "200 root /Admin"},
			{"GET /administrator HTTP/1.1\r\nHost: a.test", "200 root /administrator"},
			{"GET /x?/../admin HTTP/1.1\r\nHost: a.test", "200 root /x?/../admin"},
			{"GET /x%3f/admin HTTP/1.1\r\nHost: a.test", "200 root /x%3f/admin"},
			{"GET /%2561dmin HTTP/1.1\r\nHost: a.test", "200 root /%2561dmin"},
			{"GET /.well-known/x HTTP/1.1\r\nHost: a.test", "200 root /.well-known/x"},
			{"GET /a..b/... HTTP/1.1\r\nHost: a.test", "200 root /a..b/..."},
			{"GET /a%20b/%c3%a9/x HTTP/1.1\r\nHost: a.test", "200 blank /a%20b/%c3%a9/x"},
			{"GET /x/../admin HTTP/1.1\r\nHost: a.test", bad},
			{"GET /x/%2e%2E/admin HTTP/1.1\r\nHost: a.test", bad},
			{"GET /x%2f..%2fadmin HTTP/1.1\r\nHost: a.test", bad},
			{"GET /x/..;y/admin HTTP/1.1\r\nHost: a.test", bad},
			{"GET /x\\..\\admin HTTP/1.1\r\nHost: a.test", bad},
			{"GET /x/.. HTTP/1.1\r\nHost: a.test", bad},
			{"GET /./admin HTTP/1.1\r\nHost: a.test", bad},
			{"GET /%zz/../admin HTTP/1.1\r\nHost: a.test", bad},
			{"GET /100% HTTP/1.1\r\nHost: a.test", bad},
			{"GET /%00/%2e%2e/admin HTTP/1.1\r\nHost: a.test", bad},
			{"GET admin HTTP/1.1\r\nHost: a.test", bad},
			{"GET /strip/x HTTP/1.1\r\nHost: a.test", "200 strip /x"},
			{"GET /strip HTTP/1.1\r\nHost: a.test", "200 strip /"},
			{"GET /strip?x=/strip HTTP/1.1\r\nHost: a.test", "200 strip /?x=/strip"},
			{"GET /%73tr%69p/x HTTP/1.1\r\nHost: a.test", "200 strip /x"},
			{"GET //strip/%73trip//%2fx HTTP/1.1\r\nHost: a.test", "200 strip /%73trip//%2fx"},
			{"GET /%2Fstrip%2fx HTTP/1.1\r\nHost: a.test", "200 strip /x"},
			{"GET /\\strip\\x HTTP/1.1\r\nHost: a.test", "200 strip /x"},
			{"GET /strip/%0d%0aX: HTTP/1.1\r\nHost: a.test", "200 strip /%0d%0aX:"},
			{"GET /strips/x HTTP/1.1\r\nHost: a.test", "200 root /strips/x"},
			{"GET /Strip/x HTTP/1.1\r\nHost: a.test", "200 root /Strip/x"},
			{"GET /a+.~(b')%20%c3%a9,/x HTTP/1.1\r\nHost: a.test", "200 odd /x"},
			{"GET /a%2B%2e~%28b%27%29%20%C3%A9%2C HTTP/1.1\r\nHost: a.test", "200 odd /"},
			{"GET /a+x~(b')%20%c3%a9, HTTP/1.1\r\nHost: a.test", "200 root /a+x~(b')%20%c3%a9,"},
			// Hosts.
			{"GET / HTTP/1.1\r\nHost: A.Test.:8080", "200 root /"},
			{"GET / HTTP/1.1\r\nHost: xn--bcher-kva.test", "200 root /"},
			{"GET / HTTP/1.1\r\nHost: b\xc3\xbccher.test", bad},
			{"GET /admin HTTP/1.1\r\nHost: a.test/x", bad},
			{"GET /admin HTTP/1.1\r\nHost: b.test, a.test", bad},
			{"GET / HTTP/1.1\r\nHost: *", bad},
			{"GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test", bad},
			{"GET / HTTP/1.1\r\nHost: a.test:80:80", bad},
			{"GET / HTTP/1.1\r\nHost: a.test:http", bad},
			{"GET / HTTP/1.1\r\nHost: a.test:808080", bad},
			{"GET / HTTP/1.1\r\nHost: a.test:", "200 root /"},
			{"GET / HTTP/1.1\r\nHost: [::1", bad},
			{"GET / HTTP/1.1\r\nHost: [::1]x", bad},
			{"GET / HTTP/1.1\r\nHost: " + strings.Repeat("a", 300), bad},
			{"GET / HTTP/1.1\r\nHost: " + strings.Repeat("a", 12000), bad},
			{"GET / HTTP/1.1\r\nHost: " + strings.Repeat("a.", 122) + "b.test.:8080", "200 wild /"},
			{"GET / HTTP/1.1\r\nHost: ", "200 rest /"},
			{"POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked", bad},
			{"GET / HTTP/1.1\r\nHost: [::1]:80", "200 rest /"},
			{"GET / HTTP/1.1\r\nHost: 127.0.0.1", "200 rest /"},
			{"GET / HTTP/1.0", "200 rest /"},
			{"GET /admin HTTP/1.0\r\nHost: a.test", "200 admin /admin"},
			{"GET http://a.test/admin HTTP/1.1\r\nHost: a.test", "200 admin /admin"},
			{"GET http://a.test/ HTTP/1.1\r\nHost: b.test", bad},
			{"GET / HTTP/1.1\r\nHost: x_y.b.test", "200 wild /"},
			{"GET / HTTP/1.1\r\nHost: b.test", "200 rest /"},
			{"GET / HTTP/1.1\r\nHost: 20.19.18.17.16.15.14.13.12.11.10.9.8.7.b.test", "200 wild /"},
			{"GET / HTTP/1.1\r\nHost: 0.1.2.3.4.5.6.b.test", "200 deep /"},
			{"GET / HTTP/1.1\r\nHost: x.0.1.2.3.4.5.6.b.test", "200 deep /"},
			{"GET / HTTP/1.1\r\nHost: ...b.test", "200 wild /"},
		} {
			if got := f.ask(t.T, c.head); got != c.want {
				t.Errorf("%q: got %q, want %q", c.head, got, c.want)
			}
		}
		for host, want := range map[string]string{"a.test": "200 admin /admin", "q.b.test": "200 wild /admin"} {
			if got := f.askH2(t.T, host, "/admin"); got != want {
				t.Errorf("HTTP/2, %s: got %q, want %q", host, got, want)
			}
		}
	})
}

// askH2 sends a request by HTTP/2 without TLS, where the host is the pseudo-header :authority.
func (f front) askH2(t *testing.T, host, path string) string {
	t.Helper()
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+f.addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, body)
}

// Shares of requests are what weights say, as far as chance allows: within six times the deviation, which it
// leaves once in 500 million runs.
func TestSplitShares(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		f := serveItems(t, map[string]string{
			"web":    `"hosts":["web.test"],"options":{"split":"canary:10,new:20"}`,
			"canary": `"options":{"split":"gone:50"}`,
			"new":    `"weight":100`,
			"stays":  `"hosts":["stays.test"],"options":{"split":"stays:50,canary:50","sticky":"id"}`,
			"alone":  `"hosts":["alone.test"],"options":{"split":"gone:100"}`,
			"waits":  `"hosts":["waits.test"],"options":{"split":"out:100"}`,
			"out":    `"state":"draining"`,
		})
		count := func(host string, requests int) map[string]int {
			count := map[string]int{}
			for range requests {
				name, _, _ := strings.Cut(strings.TrimPrefix(f.ask(t.T, "GET / HTTP/1.1\r\nHost: "+host), "200 "), " ")
				count[name]++
			}
			return count
		}
		const requests = 2000
		got := count("web.test", requests)
		for name, share := range map[string]float64{"web": 0.7, "canary": 0.1, "new": 0.2} {
			want, deviation := share*requests, math.Sqrt(requests*share*(1-share))
			if math.Abs(float64(got[name])-want) > 6*deviation {
				t.Errorf("%v answered, want %.0f of %s, within 6 times %.1f", got, want, name, deviation)
			}
		}
		for host, names := range map[string]int{"stays.test": 1, "alone.test": 1, "waits.test": 1} {
			if got := count(host, 30); len(got) != names {
				t.Errorf("%s: %v answered, want one alone", host, got)
			}
		}
		if got := count("waits.test", 1); got["waits"] != 1 {
			t.Errorf("%v answered for a service whose split leads to one without servers", got)
		}
	})
}
