package render_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// A client that asks too fast is refused, for itself and for that service alone; a change of endpoints
// needs no reload and forgets nothing (P11).
func TestRateLimit(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		one, two := serveOn(t, http.HandlerFunc(echo)), serveOn(t, http.HandlerFunc(echo))
		s := newPolicySite(t, nil)
		const limit, window = 2, 10
		limited := fmt.Sprintf(`,"options":{"ratelimit":"%d"}`, limit)
		all := items{"instances/n/1": web("one", one, limited), "instances/n/2": web("two", two, limited)}
		s.put(all, render.Input{})

		began, passed := time.Now(), 0
		var refused reply
		for range 3 * limit * window {
			if r := s.ask(clientA, s.addr, "one.test/"); r.status == http.StatusOK {
				passed++
			} else {
				refused = r
			}
		}
		most := limit*window + 1 + int(limit*time.Since(began).Seconds())
		if passed < limit*window || passed > most {
			t.Errorf("%d requests passed, want %d to %d", passed, limit*window, most)
		}
		if refused.status != http.StatusTooManyRequests || refused.header.Get("Retry-After") != "1" || refused.header.Get("X-Request-ID") == "" {
			t.Errorf("refused with %+v, want 429 with Retry-After and the request's id", refused)
		}
		for what, r := range map[string]reply{"another client": s.ask(clientB, s.addr, "one.test/"), "another service": s.ask(clientA, s.addr, "two.test/")} {
			if r.status != http.StatusOK || r.header.Get("Retry-After") != "" {
				t.Errorf("%s got %+v", what, r)
			}
		}

		all["instances/n/3"] = web("one", serveOn(t, http.HandlerFunc(echo)), limited)
		result, _ := s.put(all, render.Input{})
		s.wantRuntime("another server", result)
		if metrics := s.ask(clientA, s.stats, "x/metrics").body; !regexp.MustCompile(`haproxy_backend_requests_denied_total\{proxy="be_one"\} [1-9]`).MatchString(metrics) {
			t.Errorf("refused requests are not counted:\n%s", metrics)
		}
	})
}

// hashText is a hash of "secret".
func hashText(t haproxytest.T, form string) string {
	t.Helper()
	switch form {
	case "md5":
		return "$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1"
	case "sha256":
		return "$5$saltsalt$0IyaXrmV7.sGNS6tirgqHLqX/G.FBvgkYA.lpPdS5sA"
	case "sha512":
		return "$6$saltsalt$TVLlQcbpFVof5W3Yz4DTP6gRstiNuHwwTt6GLc1E5n0U0aDehy0S5knV8wiOQSpT0Y77vwPZN.Pq.H91p5hVO1"
	case "bcrypt":
		return "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a"
	}
	t.Fatalf("no hash in the form %s", form)
	return ""
}

// Only those are let in whom the file names, and nobody while there is no such file or it is broken (fail
// closed).
func TestBasicAuth(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		s := newPolicySite(t, map[string]string{"auth-dir": "/users"})
		with := func(rest string) string { return `,"options":{"auth":"staff.users"` + rest + `}` }
		all := items{"instances/n/1": web("one", serveOn(t, http.HandlerFunc(echo)), with("")), "instances/n/2": web("open", serveOn(t, http.HandlerFunc(echo)), "")}
		port := haproxytest.Address(t, "127.83.12.1")
		_, number, _ := net.SplitHostPort(port)
		all["instances/n/3"] = web("raw", serveOn(t, http.HandlerFunc(echo)), `,"mode":"tcp","listen":`+number+with(""))
		users := func(list ...render.User) render.Input {
			return render.Input{Users: map[string]render.UserFile{"staff.users": {Users: list}}}
		}
		status := func(name, password string) int {
			r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x", http.NoBody)
			r.SetBasicAuth(name, password)
			return s.ask(clientA, s.addr, "one.test/", "Authorization: "+r.Header.Get("Authorization")).status
		}
		steps := []struct {
			what string
			in   render.Input
			good []string // names whose password lets in
			bad  int      // status for others
			why  string
		}{
			{"no file", render.Input{}, nil, 503, "there is no such file in /users"},
			{"one user", users(render.User{Name: "a b", Hash: hashText(t, "sha256")}), []string{"a b"}, 401, ""},
			{"two users", users(render.User{Name: "a b", Hash: hashText(t, "sha256")}, render.User{Name: "it's %[env(PATH)]", Hash: hashText(t, "sha512")}), []string{"a b", "it's %[env(PATH)]"}, 401, ""},
			{"bcrypt", users(render.User{Name: "c", Hash: hashText(t, "bcrypt")}), []string{"c"}, 401, ""},
			{"md5", users(render.User{Name: "d", Hash: hashText(t, "md5")}), []string{"d"}, 401, ""},
			{"broken", render.Input{Users: map[string]render.UserFile{"staff.users": {Why: "it is broken: mend it"}}}, nil, 503, "it is broken: mend it"},
		}
		for _, step := range steps {
			_, why := s.put(all, step.in)
			for _, name := range step.good {
				if got := status(name, "secret"); got != http.StatusOK {
					t.Errorf("%s: %q gets %d with the right password", step.what, name, got)
				}
				if got := status(name, "Secret"); got != step.bad {
					t.Errorf("%s: %q gets %d with a wrong password, want %d", step.what, name, got, step.bad)
				}
			}
			if got := status("nobody", "secret"); got != step.bad {
				t.Errorf("%s: nobody gets %d, want %d", step.what, got, step.bad)
			}
			r := s.ask(clientA, s.addr, "one.test/")
			if challenge := r.header.Get("WWW-Authenticate"); r.status != step.bad || (step.bad == 401) != strings.HasPrefix(challenge, `Basic realm="one"`) {
				t.Errorf("%s: without a name: %d %q, want %d", step.what, r.status, challenge, step.bad)
			}
			if got := why["one"]; !strings.Contains(got, step.why) || (got == "") != (step.why == "") {
				t.Errorf("%s: why is %q, want %q", step.what, got, step.why)
			}
			if got := s.ask(clientA, s.addr, "open.test/").status; got != http.StatusOK {
				t.Errorf("%s: another service gives %d (P7)", step.what, got)
			}
			if !strings.Contains(why["raw"], "sidekick.auth is for mode http") || answers(t, port) {
				t.Errorf("%s: a service in mode tcp is served to everybody, or does not say why not: %q", step.what, why["raw"])
			}
		}
		s.put(all, steps[1].in)
		all["instances/n/4"] = web("one", serveOn(t, http.HandlerFunc(echo)), with(""))
		result, _ := s.put(all, steps[1].in)
		s.wantRuntime("another server", result)
	})
}

// answers tells whether a request to addr gets any answer.
func answers(t haproxytest.T, addr string) bool {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
	got, _ := io.ReadAll(conn)
	return len(got) > 0
}

// Headers are set as they are written, whatever is in them, and deleted, in what letters their names come.
func TestHeaders(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		const hostile = `a'b "${HOME}" # %[env(PATH)] \ 100%`
		options, err := json.Marshal(map[string]string{
			"header.request.X-Team": hostile, "header.request.host": "inner.example.com", "header.request.COOKIE": "",
			"header.response.X-Frame-Options": hostile, "header.response.server": "", "header.response.X-Powered-By": "",
		})
		if err != nil {
			t.Fatal(err)
		}
		rest := `,"options":` + string(options)
		s := newPolicySite(t, nil)
		all := items{"instances/n/1": web("one", serveOn(t, http.HandlerFunc(echo)), rest)}
		s.put(all, render.Input{})
		r := s.ask(clientA, s.addr, "one.test/", "x-team: mine", "Cookie: a=b", "Cookie: c=d")
		seen := r.seen(t)
		for name, want := range map[string]string{"X-Team": hostile, "Host": "inner.example.com", "Cookie": "", "X-Forwarded-Host": "one.test"} {
			if got := strings.Join(seen.Values(name), "|"); got != want {
				t.Errorf("the server saw %s %q, want %q", name, got, want)
			}
		}
		for name, want := range map[string]string{"X-Frame-Options": hostile, "Server": "", "X-Powered-By": ""} {
			if got := r.header.Get(name); got != want {
				t.Errorf("the client saw %s %q, want %q", name, got, want)
			}
		}
		all["instances/n/2"] = web("one", serveOn(t, http.HandlerFunc(echo)), rest)
		result, _ := s.put(all, render.Input{})
		s.wantRuntime("another server", result)
	})
}

// What is said of a client is believed of trusted proxies alone, at every port; what the proxy saw is added.
func TestForwardedHeaders(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		s := newPolicySite(t, map[string]string{"trusted-proxies": "10.0.0.0/8," + proxyA})
		own := haproxytest.Address(t, "127.83.12.1")
		_, ownPort, _ := net.SplitHostPort(own)
		_, httpPort, _ := net.SplitHostPort(s.addr)
		s.put(items{"instances/n/1": web("one", serveOn(t, http.HandlerFunc(echo)), `,"path":"/api","options":{"path.strip":"true"},"listen":`+ownPort)}, render.Input{})
		said := []string{
			"X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: shop.example.com", "X-Forwarded-Port: 443",
			"X-Forwarded-Prefix: /outer", "X-Real-IP: 192.0.2.7", "Forwarded: for=192.0.2.7", "X_Forwarded_For: 192.0.2.7", "x-forwarded-user: root", "X.Forwarded.For: 192.0.2.7",
		}
		tests := []struct {
			what, from, addr string
			headers          []string
			want             map[string]string
		}{
			{"a client that says nothing", clientA, s.addr, nil, map[string]string{"X-Forwarded-For": clientA, "X-Real-Ip": clientA, "X-Forwarded-Host": "one.test", "X-Forwarded-Port": httpPort, "X-Forwarded-Proto": "http", "X-Forwarded-Prefix": "/api"}},
			{"a client that lies", clientA, s.addr, said, map[string]string{"X-Forwarded-For": clientA, "X-Real-Ip": clientA, "X-Forwarded-Host": "one.test", "X-Forwarded-Port": httpPort, "X-Forwarded-Proto": "http", "X-Forwarded-Prefix": "/api"}},
			{"a client that lies to an own port", clientA, own, said, map[string]string{"X-Forwarded-For": clientA, "X-Real-Ip": clientA, "X-Forwarded-Host": "one.test", "X-Forwarded-Port": ownPort, "X-Forwarded-Proto": "http", "X-Forwarded-Prefix": "/api"}},
			{"a trusted proxy", proxyA, s.addr, said, map[string]string{"X-Forwarded-For": "192.0.2.7|" + proxyA, "X-Real-Ip": "192.0.2.7", "X-Forwarded-Host": "shop.example.com", "X-Forwarded-Port": "443", "X-Forwarded-Proto": "https", "X-Forwarded-Prefix": "/outer/api", "Forwarded": "for=192.0.2.7", "X_forwarded_for": "192.0.2.7", "X-Forwarded-User": "root", "X.forwarded.for": "192.0.2.7"}},
			{"a trusted proxy that says nothing", proxyA, own, nil, map[string]string{"X-Forwarded-For": proxyA, "X-Real-Ip": proxyA, "X-Forwarded-Host": "one.test", "X-Forwarded-Port": ownPort, "X-Forwarded-Proto": "http", "X-Forwarded-Prefix": "/api"}},
		}
		for _, test := range tests {
			got := map[string]string{}
			for name, values := range s.ask(test.from, test.addr, "one.test/api/x", test.headers...).seen(t) {
				if low := strings.ToLower(name); strings.Contains(low, "forwarded") || low == "x-real-ip" {
					got[name] = strings.Join(values, "|")
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("%s: the server saw\n%v, want\n%v", test.what, got, test.want)
			}
		}
		if seen := s.ask(clientA, own, "one.test/other").seen(t); seen.Get("X-Forwarded-Prefix") != "" || seen.Get("Path") != "/other" {
			t.Errorf("the server saw prefix %q for %s, from which nothing was taken off", seen.Get("X-Forwarded-Prefix"), seen.Get("Path"))
		}
	})
}

// A share is never lost: while nobody is let in where it leads, or no server is there, it stays with the rest.
func TestSharesThatCannotLeaveStay(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		s := newPolicySite(t, map[string]string{"auth-dir": "/users"})
		addr := serveOn(t, http.HandlerFunc(echo))
		all := items{
			"instances/n/1": web("one", addr, `,"options":{"split":"canary:100"}`),
			"instances/n/2": web("canary", addr, `,"options":{"auth":"staff"}`),
		}
		good := render.Input{Users: map[string]render.UserFile{"staff": {Users: []render.User{{Name: "a", Hash: hashText(t, "sha256")}}}}}
		for _, step := range []struct {
			what   string
			in     render.Input
			canary string
			status int
		}{
			{"no file", render.Input{}, "", http.StatusOK},
			{"a file", good, "", http.StatusUnauthorized}, // it was asked
			{"no server that is ready", good, `,"state":"draining"`, http.StatusOK},
			{"a server", good, "", http.StatusUnauthorized},
			{"in maintenance", good, "maint", http.StatusOK},
		} {
			delete(all, "overrides/canary")
			if step.canary == "maint" {
				all["overrides/canary"], step.canary = `{"state":"maint","by":"me"}`, ""
			}
			all["instances/n/2"] = web("canary", addr, `,"options":{"auth":"staff"}`+step.canary)
			s.put(all, step.in)
			if got := s.ask(clientA, s.addr, "one.test/").status; got != step.status {
				t.Errorf("%s: got %d, want %d", step.what, got, step.status)
			}
		}
	})
}

// Behind trusted proxies a client is who they say: for rate limits, balancing and splits by clients, in the log and
// for servers; and HTTPS is what they say was HTTPS. Who is no proxy, and who says more than the proxies saw, is
// believed nothing.
func TestClientsBehindProxies(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		s := newPolicySite(t, map[string]string{"trusted-proxies": proxyA + ",10.0.0.0/8", "access-log": "json", "hsts": "60"})
		addr := serveOn(t, http.HandlerFunc(echo))
		s.put(items{
			"instances/n/1": web("one", addr, `,"options":{"ratelimit":"1"}`),
			"instances/n/2": web("two", addr, `,"options":{"balance":"source"}`), "instances/n/3": web("two", serveOn(t, http.HandlerFunc(echo)), `,"options":{"balance":"source"}`),
			"instances/n/4": web("three", addr, `,"options":{"sticky":"id","split":"two:50"}`),
		}, render.Input{})
		for what, c := range map[string]struct{ from, said, want string }{
			"a client":                     {clientA, "192.0.2.9", clientA},
			"behind a proxy":               {proxyA, "192.0.2.1", "192.0.2.1"},
			"of IPv6":                      {proxyA, "2001:db8::7", "2001:db8::7"},
			"with its port":                {proxyA, "192.0.2.6:4711", "192.0.2.6"},
			"that says more":               {proxyA, "192.0.2.8, 192.0.2.2", "192.0.2.2"},
			"behind two proxies":           {proxyA, "192.0.2.8, 192.0.2.3, 10.1.2.3", "192.0.2.3"},
			"behind five":                  {proxyA, "192.0.2.4, 10.0.0.4, 10.0.0.3, 10.0.0.2, 10.0.0.1", "10.0.0.4"},
			"behind one that is broken":    {proxyA, "192.0.2.5, unknown", proxyA},
			"behind one that says nothing": {proxyA, "", proxyA},
		} {
			headers := []string{"X-Forwarded-For: " + c.said}
			if c.said != "" { // whoever only adds to that passes this on as a client wrote it
				headers = append(headers, "X-Real-IP: 198.51.100.66")
			}
			if got := s.ask(c.from, s.addr, "two.test/"+c.want, headers...).seen(t).Get("X-Real-Ip"); got != c.want {
				t.Errorf("%s: got %s, want %s", what, got, c.want)
			}
		}
		if got := s.ask(proxyA, s.addr, "two.test/", "X-Real-IP: 192.0.2.10").seen(t).Get("X-Real-Ip"); got != "192.0.2.10" {
			t.Errorf("of a proxy that says nothing else: got %s, want what it says", got)
		}
		// In quotes a comma parts nothing: what the proxy adds behind one that a client opens would be lost.
		for what, said := range map[string][]string{
			"a quote": {`"x, 192.0.2.1`}, "behind an address": {`192.0.2.9 "x, 192.0.2.1`}, "in the first of two": {`"x`, "192.0.2.1"},
		} {
			var lines []string
			for _, value := range said {
				lines = append(lines, "X-Forwarded-For: "+value)
			}
			if got := s.ask(proxyA, s.addr, "two.test/", lines...).status; got != http.StatusBadRequest {
				t.Errorf("%s: got %d, want 400", what, got)
			}
		}
		if got := s.ask(clientA, s.addr, "two.test/", `X-Forwarded-For: "x`).status; got != http.StatusOK {
			t.Errorf("a client that is believed nothing: got %d for a quote, want 200", got)
		}
		for from, want := range map[string]string{clientA: "", proxyA: "max-age=60"} {
			if got := s.ask(from, s.addr, "two.test/", "X-Forwarded-Proto: https").header.Get("Strict-Transport-Security"); got != want {
				t.Errorf("HTTPS, as %s says: told %q, want %q", from, got, want)
			}
		}
		limited := func(client string) (refused bool) {
			for range 12 {
				refused = s.ask(proxyA, s.addr, "one.test/", "X-Forwarded-For: "+client).status == http.StatusTooManyRequests
			}
			return refused
		}
		if !limited("192.0.2.50") || s.ask(proxyA, s.addr, "one.test/", "X-Forwarded-For: 192.0.2.51").status != http.StatusOK {
			t.Error("clients of one proxy do not have a limit each")
		}
		haproxytest.Until(t, "the client in the log", func() bool {
			return strings.Contains(strings.Join(s.log.lines(), "\n"), `"client":"192.0.2.51"`)
		})
		s.ask(proxyA, s.addr, "*/refused", "X-Forwarded-For: 192.0.2.52")
		haproxytest.Until(t, "the client of what is no request in the log", func() bool {
			return strings.Contains(strings.Join(s.log.lines(), "\n"), `"client":"192.0.2.52"`)
		})
	})
}

// No client gets a tunnel through which requests come as it likes, nor names headers for servers to drop.
func TestNoWayAround(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		s := newPolicySite(t, nil)
		own := haproxytest.Address(t, "127.83.12.1")
		_, ownPort, _ := net.SplitHostPort(own)
		s.put(items{"instances/n/1": web("one", serveOn(t, http.HandlerFunc(echo)), `,"listen":`+ownPort)}, render.Input{})
		h2c := []string{"Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"}
		for _, addr := range []string{s.addr, own} {
			if got := s.connect(addr); got != http.StatusMethodNotAllowed {
				t.Errorf("CONNECT gives %d, want 405", got)
			}
			for what, headers := range map[string][]string{
				"h2c":          append(h2c, "Upgrade: h2c"),
				"h2c, second":  append(h2c, "Upgrade: websocket", "Upgrade: H2C"),
				"headers":      {"Connection: X-Real-IP, X-Forwarded-For"},
				"two of them":  {"Connection: upgrade", "Connection: X-Real-IP"},
				"without word": {"Connection: X-Real-IP", "Upgrade: websocket"},
			} {
				seen := s.ask(clientA, addr, "one.test/", headers...).seen(t)
				if got := strings.Join(seen["Connection"], "|"); got != "" && got != "upgrade" || strings.Contains(fmt.Sprint(seen["Upgrade"]), "2") || seen.Get("X-Real-IP") != clientA {
					t.Errorf("%s: the server saw %v", what, seen)
				}
			}
			seen := s.ask(clientA, addr, "one.test/", "Connection: X-Real-IP, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==").seen(t)
			if fmt.Sprint(seen["Connection"], seen["Upgrade"]) != "[upgrade] [websocket]" {
				t.Errorf("a WebSocket: the server saw %v", seen)
			}
		}
	})
}

// connect asks for a tunnel, and returns the status.
func (s *policySite) connect(addr string) int {
	s.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		s.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "CONNECT one.test:80 HTTP/1.1\r\nHost: one.test:80\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		s.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// Each request has one id, the client's own if it is a sane one, for the server, the client and the log.
func TestRequestID(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		s := newPolicySite(t, map[string]string{"access-log": "http"})
		s.put(items{"instances/n/1": web("one", serveOn(t, http.HandlerFunc(echo)), "")}, render.Input{})
		made := regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
		var ids []string
		for _, test := range []struct {
			headers []string
			kept    bool
		}{
			{nil, false},
			{[]string{"X-Request-ID: abc-1/2+3=:@._"}, true},
			{[]string{"X-Request-ID: " + strings.Repeat("x", 128)}, true},
			{[]string{"X-Request-ID: " + strings.Repeat("x", 129)}, false},
			{[]string{"X-Request-ID: a b"}, false},
			{[]string{`X-Request-ID: a","evil":"1`}, false},
			{[]string{"X-Request-ID: a", "X-Request-ID: b"}, false},
		} {
			r := s.ask(clientA, s.addr, "one.test/", test.headers...)
			id := r.header.Get("X-Request-ID")
			if seen := r.seen(t).Values("X-Request-Id"); len(seen) != 1 || seen[0] != id || len(r.header.Values("X-Request-ID")) != 1 {
				t.Errorf("%v: the server saw %q, the client %q", test.headers, seen, r.header.Values("X-Request-ID"))
			}
			if test.kept && "X-Request-ID: "+id != test.headers[0] || !test.kept && !made.MatchString(id) {
				t.Errorf("%v: the id is %q", test.headers, id)
			}
			ids = append(ids, id)
		}
		if id := s.ask(clientA, s.addr, "nobody.test/").header.Get("X-Request-ID"); !made.MatchString(id) {
			t.Errorf("without a service the id is %q", id)
		}
		haproxytest.Until(t, "the log to be complete", func() bool { return len(s.log.lines()) >= len(ids)+1 })
		for _, id := range ids {
			logged := slices.ContainsFunc(s.log.lines(), func(line string) bool {
				return strings.HasPrefix(line, clientA+":") && strings.Contains(line, " fe_http be_one/n-ext-") && strings.HasSuffix(line, ` "GET / HTTP/1.1" `+id)
			})
			if !logged {
				t.Errorf("no line ends with %s:\n%s", id, strings.Join(s.log.lines(), "\n"))
			}
		}
	})
}

// logLine is a line of --set access-log=json for a request.
type logLine struct {
	Time                                           time.Time
	RequestID                                      string `json:"request_id"`
	Client, Method, Host, Path, Version            string
	ClientPort                                     int `json:"client_port"`
	Status                                         int
	In                                             int `json:"bytes_in"`
	Out                                            int `json:"bytes_out"`
	Request                                        int `json:"request_ms"`
	Queue                                          int `json:"queue_ms"`
	Connect                                        int `json:"connect_ms"`
	Response                                       int `json:"response_ms"`
	Total                                          int `json:"total_ms"`
	Frontend, Backend, Server, Retries, TLS, Error string
	Termination                                    string
	Agent                                          string `json:"user_agent"`
}

// hostileRequests are what somebody may send to make a line of the log something else.
var hostileRequests = []string{
	"GET /a\xff\xfe\"\\x HTTP/1.1\r\nHost: a\"b\r\n\r\n",
	"GET /a%22\"\\x HTTP/1.1\r\nHost: one.test\r\nUser-Agent: q\"\\\t\xc3\xa9\xff\xed\xa0\x80 \xf4\x90\x80\x80 \xe2\x80\xa8\x7f\r\n\r\n",
	"GET /%0a%0d%00\"%00?secret=1 HTTP/1.1\r\nHost: one.test\r\nUser-Agent: \x01\x02\r\n\r\n",
	"BAD\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "\"{}\\\n\r\n\r\n", "{\"time\":\"x\"}\n\n",
	"GE\"T / HTTP/1.1\r\nHost: a\r\n\r\n", "G'|`E / HTTP/1.1\r\nHost: a\r\n\r\n", strings.Repeat("X", 3000) + " / HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /" + strings.Repeat("\"", 5000) + " HTTP/1.1\r\nHost: " + strings.Repeat("\"", 500) + "\r\nUser-Agent: " + strings.Repeat("\x01", 4000) + "\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: one.test\r\nUser-Agent: x" + strings.Repeat("\xe2\x82\xac", 3000) + "\r\n\r\n",
	"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "GET http://u:p@\"h/x HTTP/1.1\r\nHost: h\r\n\r\n",
	"GET / HTTP/1.0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxxxxxxxx", "GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: a\",\"evil\":\"1\r\n\r\n",
}

// Whatever is sent, each line is a JSON object of its own.
func TestAccessLogInJSON(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		s := newPolicySite(t, map[string]string{"access-log": "json"})
		tcp := haproxytest.Address(t, "127.83.12.1")
		_, port, _ := net.SplitHostPort(tcp)
		s.put(items{
			"instances/n/1": web("one", serveOn(t, http.HandlerFunc(echo)), ""),
			"instances/n/2": web("raw", serveOn(t, http.HandlerFunc(echo)), `,"mode":"tcp","listen":`+port),
		}, render.Input{})
		for _, text := range hostileRequests {
			sendRaw(t, s.addr, text)
		}
		for _, addr := range []string{s.stats, tcp} {
			s.ask(clientB, addr, "x/healthz")
		}
		last := s.ask(clientA, s.addr, "One.test:80/x/y?secret=1", "User-Agent: me")
		haproxytest.Until(t, "the log to be complete", func() bool {
			text := strings.Join(s.log.lines(), "\n")
			return strings.Contains(text, last.header.Get("X-Request-ID")) && strings.Contains(text, "fe_listen_raw")
		})
		if got := len(s.log.lines()); got < len(hostileRequests) { // 2.6 says nothing of one
			t.Errorf("%d lines for %d requests and connections", got, len(hostileRequests)+2)
		}
		lines := map[string]logLine{}
		for _, text := range s.log.lines() {
			var line logLine
			d := json.NewDecoder(strings.NewReader(text))
			d.DisallowUnknownFields()
			if err := d.Decode(&line); err != nil || d.More() {
				t.Errorf("%d bytes that are no line: %v\n%q", len(text), err, text)
			}
			if time.Since(line.Time).Abs() > time.Hour || line.Client == "" || strings.Contains(line.Path, "secret") || line.Frontend == "fe_stats" {
				t.Errorf("bad line: %s", text)
			}
			lines[line.RequestID] = line
			if line.Frontend == "fe_listen_raw" {
				lines["raw"] = line
			}
		}
		got := lines[last.header.Get("X-Request-ID")]
		want := logLine{
			Time: got.Time, RequestID: last.header.Get("X-Request-ID"), Client: clientA, ClientPort: got.ClientPort, Method: "GET", Host: "One.test:80", Path: "/x/y", Version: "1.1",
			Status: 200, In: got.In, Out: got.Out, Request: got.Request, Queue: got.Queue, Connect: got.Connect, Response: got.Response, Total: got.Total,
			Frontend: "fe_http", Backend: "be_one", Server: got.Server, Retries: "0", TLS: "-", Termination: "--", Agent: "me",
		}
		if got != want || got.In == 0 || got.Out == 0 || got.ClientPort == 0 || got.Server == "" {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if raw := lines["raw"]; raw.Client != clientB || raw.Backend != "be_raw" || raw.Out == 0 {
			t.Errorf("a connection in mode tcp is logged as %+v", raw)
		}
	})
}

// sendRaw sends a text and waits until all of the answer has come.
func sendRaw(t haproxytest.T, addr, text string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(haproxytest.Patience)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, text)
	conn.(*net.TCPConn).CloseWrite() // it may have been refused already
	io.Copy(io.Discard, conn)        // the same
}

// Without a choice requests are not logged, as before.
func TestNoAccessLog(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		s := newPolicySite(t, nil)
		s.put(items{"instances/n/1": web("one", serveOn(t, http.HandlerFunc(echo)), "")}, render.Input{})
		s.ask(clientA, s.addr, "one.test/")
		sendRaw(t, s.addr, "BAD\r\n\r\n")
		if lines := s.log.lines(); len(lines) > 0 {
			t.Errorf("logged: %q", lines)
		}
	})
}

// The operator's pages stand for what HAProxy answers itself, not for what servers answer.
func TestPages(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		s := newPolicySite(t, nil)
		failing := serveOn(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "mine", http.StatusServiceUnavailable) }))
		dead := haproxytest.Address(t, "127.83.12.3")
		all := items{
			"instances/n/1": web("own", failing, ""), "instances/n/2": web("dead", dead, ""), "instances/n/3": web("empty", failing, `,"state":"draining"`),
			"instances/n/4": web("limited", failing, `,"options":{"ratelimit":"1"}`),
		}
		in := render.Input{Pages: map[string]string{"maintenance.html": "<p>back soon</p>"}}
		for _, status := range []int{400, 401, 403, 404, 405, 407, 408, 410, 413, 425, 429, 500, 501, 502, 503, 504} {
			in.Pages[fmt.Sprintf("%d.html", status)] = fmt.Sprintf("<p>%d, 'ours' ${HOME} %%[x] é</p>", status)
		}
		in.Pages["503.html"] += strings.Repeat("x", 14<<10-len(in.Pages["503.html"]))
		s.put(all, in)
		for range 30 {
			s.ask(clientA, s.addr, "limited.test/")
		}
		for host, want := range map[string]string{"own.test": "mine\n", "dead.test": in.Pages["503.html"], "empty.test": in.Pages["503.html"], "nobody.test": in.Pages["503.html"], "limited.test": in.Pages["429.html"]} {
			r := s.ask(clientA, s.addr, host+"/")
			if r.body != want || want != "mine\n" && r.header.Get("Content-Type") != "text/html; charset=utf-8" {
				t.Errorf("%s: got %d %s %.100q, want %.100q", host, r.status, r.header.Get("Content-Type"), r.body, want)
			}
		}
	})
}

// A service of which people took all instances out says so to who asks, at every port, and comes back, all
// without a reload (P11).
func TestMaintenance(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		for page, want := range map[string]string{"": "down for maintenance\n", "<p>back soon</p>": "<p>back soon</p>"} {
			s := newPolicySite(t, nil)
			own := haproxytest.Address(t, "127.83.12.1")
			_, port, _ := net.SplitHostPort(own)
			in := render.Input{}
			if page != "" {
				in.Pages = map[string]string{"maintenance.html": page}
			}
			all := items{"instances/n/1": web("one", serveOn(t, http.HandlerFunc(echo)), `,"listen":`+port), "instances/n/2": web("one", serveOn(t, http.HandlerFunc(echo)), `,"listen":`+port)}
			s.put(all, in)
			for _, step := range []struct {
				key, value string
				status     int
			}{
				{"overrides/one/n/1", `{"state":"maint"}`, 200},
				{"overrides/one/n/2", `{"state":"drain"}`, 503},
				{"overrides/one/n/2", `{"state":"maint"}`, 503},
				{"overrides/one/n/1", "", 200},
			} {
				if step.value == "" {
					delete(all, step.key)
				} else {
					all[step.key] = step.value
				}
				result, _ := s.put(all, in)
				s.wantRuntime(step.key+" "+step.value, result)
				inMaintenance := step.status == 503 && step.value == `{"state":"maint"}`
				for _, addr := range []string{s.addr, own} {
					r := s.ask(clientA, addr, "one.test/")
					if r.status != step.status || (r.body == want) != inMaintenance || (r.header.Get("Retry-After") == "60") != inMaintenance {
						t.Errorf("%s %s: got %+v, want %d", step.key, step.value, r, step.status)
					}
				}
			}
		}
	})
}

// Statistics show our names to who may see them, allow nothing and tell no version.
func TestStatistics(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		s := newPolicySite(t, nil)
		s.put(items{"instances/n/1": web("one", serveOn(t, http.HandlerFunc(echo)), "")}, render.Input{})
		s.ask(clientA, s.addr, "one.test/")
		page := s.ask(clientA, s.stats, "x/").body
		if !strings.Contains(page, "be_one") || strings.Contains(page, "HAProxy version") || strings.Contains(strings.ToLower(page), `method="post"`) {
			t.Errorf("the page of statistics shows no service, a version, or something to press:\n%.3000s", page)
		}
		metrics := s.ask(clientA, s.stats, "x/metrics").body
		for _, want := range []string{`haproxy_backend_http_responses_total{proxy="be_one",code="2xx"} 1`, `haproxy_server_status{proxy="be_one",server="n-ext-`, `haproxy_frontend_http_requests_total{proxy="fe_http"} `} {
			if !strings.Contains(metrics, want) {
				t.Errorf("no %s among the metrics", want)
			}
		}
	})
}
