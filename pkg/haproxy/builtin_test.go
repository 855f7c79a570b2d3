package haproxy

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
	"github.com/sidekick-proxy/sidekick/templates"
)

// stage is the built-in template over a catalog that a test changes, before a HAProxy of its own.
type stage struct {
	*bench
	catalog  *service.Builder
	renderer *render.Renderer
}

// staged starts HAProxy with nothing registered. It sees with the eyes of host "here" in zone "eu".
func staged(t haproxytest.T) *stage {
	t.Helper()
	b := external(t, t.Bin)
	b.start(t)
	b.run(t)
	r, err := render.New("haproxy.cfg.tmpl", templates.HAProxy, render.Settings{
		Node: "here", Zone: "eu", HTTPListen: b.addr, Stats: haproxytest.Address(t, "127.0.0.11"),
		RuntimeSocket: b.cfg.RuntimeSocket, ListenLow: 1, ListenHigh: 65535,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &stage{b, service.NewBuilder("/p"), r}
}

// register puts an instance at an address into the catalog, or changes it; rest is the end of its value.
func (s *stage) register(tb testing.TB, node, name, addr, rest string) {
	tb.Helper()
	at := netip.MustParseAddrPort(addr)
	s.catalog.Put("/p/v1/instances/"+node+"/"+name, fmt.Appendf(nil, `{"service":%q,"address":%q,"port":%d%s}`, name, at.Addr(), at.Port(), rest))
	if rejected := s.catalog.Catalog(1).Rejected; len(rejected) > 0 {
		tb.Fatalf("rejected: %v", rejected)
	}
}

// serve puts the catalog in force.
func (s *stage) serve(tb testing.TB) Result {
	tb.Helper()
	files, _, err := s.renderer.Render(render.Input{Catalog: s.catalog.Catalog(1)})
	if err != nil {
		tb.Fatal(err)
	}
	return s.applyFiles(tb, files)
}

// serveAtOnce is serve by runtime commands alone.
func (s *stage) serveAtOnce(tb testing.TB, what string) {
	tb.Helper()
	if res := s.serve(tb); res.How != HowRuntime {
		tb.Errorf("%s: got %+v, want runtime", what, res)
	}
}

// answersOf counts who answers a number of requests.
func answersOf(tb testing.TB, addr string, requests int) map[string]int {
	tb.Helper()
	count := map[string]int{}
	for range requests {
		name, err := haproxytest.Get(addr)
		if err != nil {
			tb.Fatal(err)
		}
		count[name]++
	}
	return count
}

// mortal is a web server that answers its name until it is killed.
func mortal(tb testing.TB, name string) (addr string, kill func()) {
	tb.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Whoami", name)
		io.WriteString(w, name) // the client counts
	}))
	tb.Cleanup(s.Close)
	return s.Listener.Addr().String(), func() {
		s.Listener.Close()
		s.CloseClientConnections()
	}
}

// TestRoutesAndSharesNeedNoReload: hosts, paths and the shares of a canary change in maps alone, and a share
// stays while the canary has no server (P11).
func TestRoutesAndSharesNeedNoReload(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		s := staged(t)
		own := haproxytest.Address(t, "127.0.0.21") // where s.addr is
		listen := fmt.Sprintf(`,"listen":%d`, netip.MustParseAddrPort(own).Port())
		web, canary := haproxytest.Server(t, "web"), haproxytest.Server(t, "canary")
		step := func(what, options, state, more string, want ...string) {
			t.Helper()
			s.register(t, "here", "web", web, listen+`,"options":{"default":"true"`+options+`}`)
			s.register(t, "here", "canary", canary, `,"state":"`+state+`"`+more)
			if res := s.serve(t); res.How != HowRuntime && what != "nothing yet" {
				t.Errorf("%s: got %+v, want runtime", what, res)
			}
			for _, addr := range []string{s.addr, own} {
				got := answersOf(t, addr, 60) // of two halves, one stays out once in 2^59
				if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) {
					t.Errorf("%s: %v answered at %s, want %v", what, got, addr, want)
				}
			}
		}
		step("nothing yet", "", "ready", "", "web")
		before := s.worker(t)
		load := haproxytest.Start(t, s.addr, 2, true)
		step("a split begins", `,"split":"canary:50"`, "ready", "", "canary", "web")
		step("it is all", `,"split":"web:0,canary:7"`, "ready", "", "canary")
		step("the canary is out", `,"split":"web:0,canary:7"`, "draining", "", "web")
		step("the canary is back", `,"split":"web:0,canary:7"`, "ready", "", "canary")
		step("to nobody", `,"split":"nobody:100"`, "ready", "", "web")
		if got := s.worker(t); got != before {
			t.Errorf("worker: got %v, want the same %v", got, before)
		}
		host, _, _ := strings.Cut(s.addr, ":")
		other := haproxytest.Server(t, "other")
		s.register(t, "here", "other", other, "")
		if res := s.serve(t); res.How != HowReload {
			t.Errorf("a service comes: got %+v, want a reload", res)
		}
		before = s.worker(t)
		for _, route := range []struct{ more, want string }{
			{`,"hosts":["` + host + `"]`, "other"},
			{`,"hosts":["` + host + `"],"path":"/x%20y"`, "web"},
			{`,"hosts":["*.0.0.21","x.test"]`, "other"},
			{"", "web"},
		} {
			s.register(t, "here", "other", other, route.more)
			s.serveAtOnce(t, route.more)
			if got := answersOf(t, s.addr, 3); got[route.want] != 3 {
				t.Errorf("%s: %v answered, want %s", route.more, got, route.want)
			}
		}
		if got := s.worker(t); got != before {
			t.Errorf("worker: got %v, want the same %v", got, before)
		}
		load.MustLoseNothing(t)
	})
}

// TestNearServersFirst: requests go to the own host, then to the zone, then to the rest, whether the catalog
// tells that one is gone or HAProxy finds out; none fails, and no reload is needed (P2, P11).
func TestNearServersFirst(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		s := staged(t)
		own, killOwn := mortal(t, "own")
		zone, killZone := mortal(t, "zone")
		rest, spare := haproxytest.Server(t, "rest"), haproxytest.Server(t, "spare")
		at := func(node, addr, zone, state, more string) {
			s.register(t, node, "web", addr, fmt.Sprintf(`,"zone":%q,"state":%q,"options":{"default":"true","locality":"prefer"%s}`, zone, state, more))
		}
		at("rest", rest, "us", "ready", "")
		s.serve(t)
		before := s.worker(t)
		load := haproxytest.Start(t, s.addr, 2, true)
		most := func(what, name string) {
			t.Helper()
			const requests = 300
			if got := answersOf(t, s.addr, requests); got[name] < requests-15 { // 1 of 257 goes elsewhere, in each thread
				t.Errorf("%s: %v answered, want %s", what, got, name)
			}
		}
		at("spare", spare, "eu", "ready", `,"backup":"true"`)
		s.serveAtOnce(t, "a spare one comes")
		most("rest and spare", "rest")
		at("near", zone, "eu", "ready", "")
		s.serveAtOnce(t, "one of the zone comes")
		most("the zone", "zone")
		at("here", own, "eu", "ready", "")
		s.serveAtOnce(t, "one of the own host comes")
		if got := answersOf(t, s.addr, 100); got["own"] != 100 {
			t.Errorf("%v answered, want the own host alone", got)
		}
		killOwn()
		at("here", own, "eu", "unhealthy", "")
		s.serveAtOnce(t, "the own host's is gone")
		most("the zone again", "zone")
		killZone() // nobody tells
		most("the zone is cut off", "rest")
		at("near", zone, "eu", "unhealthy", "")
		at("rest", rest, "us", "unhealthy", "")
		s.serveAtOnce(t, "all others are gone")
		most("nothing else is left", "spare")
		if got := s.worker(t); got != before {
			t.Errorf("worker: got %v, want the same %v", got, before)
		}
		load.MustLoseNothing(t)
	})
}

// TestOwnServerDiesUnnoticed: as long as nobody tells HAProxy that the own host's server is gone, its checks
// find it out, and the requests meanwhile wait but do not fail (P2).
func TestOwnServerDiesUnnoticed(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		t.Parallel() // it waits most of the time
		s := staged(t)
		own, kill := mortal(t, "own")
		for node, addr := range map[string]string{"here": own, "other": haproxytest.Server(t, "other")} {
			s.register(t, node, "web", addr, `,"options":{"default":"true","locality":"prefer"}`)
		}
		s.serve(t)
		load := haproxytest.Start(t, s.addr, 4, true)
		haproxytest.Until(t, "the own host's to answer", func() bool { return load.Sent()["own"] > 0 })
		kill()
		haproxytest.Until(t, "the other one to answer", func() bool { return load.Sent()["other"] > 100 })
		load.MustLoseNothing(t)
	})
}
