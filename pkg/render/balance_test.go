package render_test

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// gated is a server whose answers to requests for /held wait for release.
type gated struct {
	name    string
	release chan struct{}
	mu      sync.Mutex
	now     int // requests that are being answered
	most    int // of these at once
}

func newGated(name string) *gated { return &gated{name: name, release: make(chan struct{})} }

func (g *gated) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.count(1)
	defer g.count(-1)
	if r.URL.Path == "/held" {
		select {
		case <-g.release:
		case <-r.Context().Done():
		}
	}
	saw(g.name)(w, r)
}

func (g *gated) count(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now += n
	g.most = max(g.most, g.now)
}

func (g *gated) held() (now, most int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now, g.most
}

// visit is a request and where it comes from.
type visit struct{ target, user, from, host string }

// answered returns the name of the server that answers, "" and the status if none does.
func (s *site) answered(v visit) (name string, status int) {
	s.Helper()
	dialer := &net.Dialer{}
	if v.from != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(v.from)}
	}
	req, err := http.NewRequestWithContext(s.Context(), http.MethodGet, "http://"+s.addr+v.target, nil)
	if err != nil {
		s.Error(err)
		return "", 0
	}
	req.Host = v.host
	req.Header.Set("X-User", v.user)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dialer.DialContext}, Timeout: haproxytest.Patience}
	resp, err := client.Do(req)
	if err != nil {
		s.Error(err)
		return "", 0
	}
	got, _ := readSeen(resp) // the status says why not
	return got.Name, resp.StatusCode
}

// spread counts which servers answer these visits.
func (s *site) spread(visits []visit) map[string]int {
	s.Helper()
	count := map[string]int{}
	for _, v := range visits {
		name, _ := s.answered(v)
		count[name]++
	}
	return count
}

// visitsOf makes visits, each by its number.
func visitsOf(n int, of func(i int) visit) (all []visit) {
	for i := range n {
		all = append(all, of(i))
	}
	return all
}

func options(text string) string { return `"options":{"default":"true",` + text + `}` }

// TestBalanceByHash: what is hashed decides on the server, and nothing else; servers come without a reload
// (P11), and two proxies that came to know of them in other orders send each request to the same one.
func TestBalanceByHash(t *testing.T) {
	tests := []struct {
		balance   string
		same, not func(i int) visit // are and are not told apart
	}{
		{"source", func(i int) visit { return visit{target: fmt.Sprint("/?", i), from: "127.83.13.1"} }, func(i int) visit { return visit{target: "/", from: fmt.Sprint("127.83.13.", i+1)} }},
		{"uri", func(i int) visit { return visit{target: fmt.Sprint("/x?", i)} }, func(i int) visit { return visit{target: fmt.Sprint("/", i)} }},
		{"uri whole", func(i int) visit { return visit{target: "/x?a", user: strconv.Itoa(i)} }, func(i int) visit { return visit{target: fmt.Sprint("/x?", i)} }},
		{"uri path-only", func(i int) visit { return visit{target: fmt.Sprint("/x?", i)} }, func(i int) visit { return visit{target: fmt.Sprint("/", i)} }},
		{"url_param id", func(i int) visit { return visit{target: fmt.Sprintf("/%d?id=7", i)} }, func(i int) visit { return visit{target: fmt.Sprint("/?id=", i)} }},
		{"hdr(X-User)", func(i int) visit { return visit{target: fmt.Sprint("/", i), user: "me"} }, func(i int) visit { return visit{target: "/", user: strconv.Itoa(i)} }},
	}
	haproxytest.Each(t, func(t haproxytest.T) {
		var servers []string
		for _, name := range []string{"a", "b", "c"} {
			servers = append(servers, speaking{}.start(t, saw(name)))
		}
		here, there := newSite(t, render.ProxyCheckOff, nil), newSite(t, render.ProxyCheckOff, nil)
		items := map[string]string{}
		add := func(addr string) {
			for i, test := range tests {
				rest := fmt.Sprintf(`"hosts":["%d.test"],"options":{"balance":%q}`, i, test.balance)
				items[fmt.Sprint(instanceKey(addr), ".", i)] = strings.Replace(instance(addr, rest), `"web"`, fmt.Sprintf(`"web%d"`, i), 1)
			}
		}
		add(servers[2])
		there.put(items)
		add(servers[0])
		there.mustRuntime(items)
		add(servers[1])
		there.mustRuntime(items)
		here.put(items)
		for i, test := range tests {
			of := func(n int, of func(i int) visit) []visit {
				return visitsOf(n, func(n int) visit { v := of(n); v.host = fmt.Sprint(i, ".test"); return v })
			}
			if got := here.spread(of(8, test.same)); len(got) != 1 || got[""] > 0 {
				t.Errorf("%s: what is the same to it was answered by %v, want one of them", test.balance, got)
			}
			if got := here.spread(of(40, test.not)); len(got) != 3 || got[""] > 0 {
				t.Errorf("%s: what is not the same was answered by %v, want all three", test.balance, got)
			}
			for _, v := range of(20, test.not) {
				one, _ := here.answered(v)
				if other, _ := there.answered(v); one != other {
					t.Errorf("%s: %+v goes to %s here, to %s there", test.balance, v, one, other)
				}
			}
		}
	})
}

// TestBalanceInTurns: in turns and at random every server gets its part, by its weight, those that come by the
// runtime API too (P11); a weight that changes needs no reload.
func TestBalanceInTurns(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		a, b := speaking{}.start(t, saw("a")), speaking{}.start(t, saw("b"))
		for _, test := range []struct {
			balance   string
			low, high int // bounds for a of 100 requests, of which b should get 25
		}{{"roundrobin", 73, 77}, {"random", 55, 92}, {"random(1)", 55, 92}} {
			s := newSite(t, render.ProxyCheckOff, nil)
			rest := options(`"balance":"` + test.balance + `"`)
			items := map[string]string{instanceKey(a): instance(a, rest)}
			s.put(items)
			items[instanceKey(b)] = instance(b, rest)
			s.mustRuntime(items)
			if got := s.spread(make([]visit, 100)); got["b"] < 25 {
				t.Errorf("%s: of equal weight: %v", test.balance, got)
			}
			items[instanceKey(b)] = instance(b, rest+`,"weight":33`)
			s.mustRuntime(items)
			if got := s.spread(make([]visit, 100)); got["a"] < test.low || got["a"] > test.high {
				t.Errorf("%s: with weights 100 and 33: %v, want %d to %d for a", test.balance, got, test.low, test.high)
			}
		}
	})
}

// hold sends requests that are held, and returns what became of them once all have ended.
func (s *site) hold(n int) (ended func() map[int]int) {
	statuses := make(chan int, n)
	for range n {
		go func() {
			_, status := s.answered(visit{target: "/held"})
			statuses <- status
		}()
	}
	return func() map[int]int {
		count := map[int]int{}
		for range n {
			count[<-statuses]++
		}
		return count
	}
}

func awaitHeld(t haproxytest.T, want int, servers ...*gated) {
	t.Helper()
	haproxytest.Until(t, fmt.Sprint(want, " requests to be held"), func() bool {
		sum := 0
		for _, g := range servers {
			now, _ := g.held()
			sum += now
		}
		return sum == want
	})
}

// TestBalanceByLoad: leastconn sends each request to whoever has the least, first to the first that may have
// more; a server that comes by the runtime API takes part (P11).
func TestBalanceByLoad(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		for _, test := range []struct {
			balance string
			most    []int // that each has at once, of six
		}{{"leastconn", []int{3, 3}}, {"first", []int{2, 4}}} {
			a, b := newGated("a"), newGated("b")
			addrA, addrB := speaking{}.start(t, a), speaking{}.start(t, b)
			s := newSite(t, render.ProxyCheckOff, nil)
			rest := options(`"balance":"` + test.balance + `","maxconn":"4"`)
			s.serve(rest, addrA)
			s.byRuntime(rest, addrA, addrB)
			ended := s.hold(6)
			awaitHeld(t, 6, a, b)
			_, mostA := a.held()
			_, mostB := b.held()
			if got := []int{min(mostA, mostB), max(mostA, mostB)}; !slices.Equal(got, test.most) {
				t.Errorf("%s: %v at once, want %v", test.balance, got, test.most)
			}
			close(a.release)
			close(b.release)
			if got := ended(); got[http.StatusOK] != 6 {
				t.Errorf("%s: %v", test.balance, got)
			}
		}
	})
}

// TestMaxconnQueues: a server never has more than its maxconn at once; the others wait, and are told 503 once they
// have for timeout.queue. Both hold for a server that comes by the runtime API, and the limit changes there too (P11).
func TestMaxconnQueues(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		a, b := newGated("a"), newGated("b")
		addrA, addrB := speaking{}.start(t, a), speaking{}.start(t, b)
		s := newSite(t, render.ProxyCheckOff, nil)
		rest := func(maxconn int) string {
			return options(fmt.Sprintf(`"timeout.queue":"300ms","maxconn":"%d"`, maxconn))
		}
		s.serve(rest(1), addrA)
		s.byRuntime(rest(1), addrA, addrB)
		ended := s.hold(2)
		awaitHeld(t, 2, a, b)
		began := time.Now()
		if _, status := s.answered(visit{target: "/"}); status != http.StatusServiceUnavailable || time.Since(began) < 250*time.Millisecond {
			t.Errorf("a third request: %d after %s, want 503 after it has waited", status, time.Since(began))
		}
		s.byRuntime(rest(2), addrA, addrB)
		more := s.hold(2)
		awaitHeld(t, 4, a, b)
		close(a.release)
		close(b.release)
		if got := ended(); got[http.StatusOK] != 2 {
			t.Errorf("the first two: %v", got)
		}
		if got := more(); got[http.StatusOK] != 2 {
			t.Errorf("two more: %v", got)
		}
		for _, g := range []*gated{a, b} {
			if _, most := g.held(); most != 2 {
				t.Errorf("%s had %d at once, want 2", g.name, most)
			}
		}
	})
}

// waiting is how many requests of the service wait for any server.
func (s *site) waiting() (n int) {
	s.Helper()
	for _, row := range s.table() {
		if row["svname"] == "BACKEND" {
			queued, _ := strconv.Atoi(row["qcur"]) // 0 where there is no number
			n += queued
		}
	}
	return n
}

// TestQueuedRequestsAreServed: what waits goes to whichever server is free first.
func TestQueuedRequestsAreServed(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		a := newGated("a")
		s := newSite(t, render.ProxyCheckOff, nil)
		rest := options(`"maxconn":"1","timeout.queue":"30s"`)
		addr := speaking{}.start(t, a)
		s.serve(rest, addr)
		ended := s.hold(5)
		haproxytest.Until(t, "four to wait", func() bool { return s.waiting() == 4 })
		s.byRuntime(rest, addr, speaking{}.start(t, saw("b")))
		close(a.release)
		if got := ended(); got[http.StatusOK] != 5 {
			t.Errorf("%v, want all to be served", got)
		}
		if _, most := a.held(); most != 1 {
			t.Errorf("%d at once, want 1", most)
		}
	})
}

// TestBackupsWaitForTheirTurn: a backup gets no request while another one is there, and all without a reload when
// none is (P11).
func TestBackupsWaitForTheirTurn(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		main, spare := speaking{}.start(t, saw("main")), speaking{}.start(t, saw("spare"))
		s := newSite(t, render.ProxyCheckOff, nil)
		items := map[string]string{instanceKey(main): instance(main, anyHost), instanceKey(spare): instance(spare, options(`"backup":"true"`))}
		s.put(items)
		only := func(name string) {
			t.Helper()
			if got := s.spread(make([]visit, 10)); got[name] != 10 {
				t.Errorf("%v, want all by %s", got, name)
			}
		}
		only("main")
		items[instanceKey(main)] = instance(main, anyHost+`,"state":"draining"`)
		s.mustRuntime(items)
		only("spare")
		delete(items, instanceKey(main))
		s.mustRuntime(items)
		only("spare")
		items[instanceKey(main)] = instance(main, anyHost)
		s.mustRuntime(items)
		only("main")
	})
}
