package register

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// network is a fake of what candidates listen on.
type fakeNetwork struct {
	mu     sync.Mutex
	open   map[string]time.Time // address → since when it accepts
	hang   map[string]bool      // addresses that never answer
	status int                  // of HTTP answers
	asked  []string             // HTTP requests
	dials  map[string][]time.Time
	now    int // dials under way
	most   int
}

func newFakeNetwork() *fakeNetwork {
	return &fakeNetwork{open: map[string]time.Time{}, hang: map[string]bool{}, status: 200, dials: map[string][]time.Time{}}
}

func (n *fakeNetwork) set(address string, open bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.open, address)
	if open {
		n.open[address] = time.Now()
	}
}

func (n *fakeNetwork) dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	n.dials[address] = append(n.dials[address], time.Now())
	n.now++
	n.most = max(n.most, n.now)
	since, ok := n.open[address]
	hang := n.hang[address]
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.now--
	}()
	if hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if !ok || time.Now().Before(since) {
		return nil, errors.New("connection refused")
	}
	here, there := net.Pipe()
	go n.answer(there)
	return here, nil
}

func (n *fakeNetwork) answer(c net.Conn) {
	defer func() { _ = c.Close() }()
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	n.mu.Lock()
	n.asked = append(n.asked, r.Host+r.URL.String())
	status := n.status
	n.mu.Unlock()
	_, _ = fmt.Fprintf(c, "HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n", status)
}

// tries is how often a80 was dialled.
func (n *fakeNetwork) tries() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.dials[a80])
}

// gated is a running Gate with all that came out of it.
type gated struct {
	undrain chan string // may be nil

	net  *fakeNetwork
	in   chan []service.Instance
	mu   sync.Mutex
	sets []string
	held []service.Rejection
}

func openGate(t *testing.T) *gated {
	t.Helper()
	g := &gated{net: newFakeNetwork(), in: make(chan []service.Instance)}
	g.run(t, "")
	return g
}

// run starts the gate, which the end of the test or stop ends.
func (g *gated) run(t *testing.T, memory string) (stop func()) {
	t.Helper()
	gate := &Gate{Log: quiet(), Dial: g.net.dial, Held: func(r []service.Rejection) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.held = r
	}, Memory: memory, Undrain: g.undrain}
	ctx, cancel := context.WithCancel(t.Context())
	out := make(chan []service.Instance)
	done := make(chan error, 1)
	go func() { done <- gate.Run(ctx, g.in, out) }()
	go func() {
		for {
			select {
			case set := <-out:
				g.mu.Lock()
				g.sets = append(g.sets, summary(set))
				g.mu.Unlock()
			case <-ctx.Done():
				return
			}
		}
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: got %v, want %v", err, context.Canceled)
		}
	})
	t.Cleanup(stop)
	return stop
}

func summary(set []service.Instance) string {
	var texts []string
	for _, i := range set {
		texts = append(texts, i.ID+":"+string(i.State))
	}
	return "[" + strings.Join(texts, " ") + "]"
}

// want compares all sets so far, after everything has settled.
func (g *gated) want(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	if got, want := strings.Join(g.sets, " "), strings.Join(want, " "); got != want {
		t.Errorf("got sets %s, want %s", got, want)
	}
}

func (g *gated) wantHeld(t *testing.T, want string) {
	t.Helper()
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	var got []string
	for _, r := range g.held {
		got = append(got, r.ID+": "+r.Reason)
	}
	if got := strings.Join(got, "; "); !strings.HasPrefix(got, want) || want == "" && got != "" {
		t.Errorf("got held %q, want %q…", got, want)
	}
}

// with returns an instance that is checked at 10.0.0.1:<port>.
func with(id string, port uint16, kind service.CheckKind, change ...func(*service.Instance)) service.Instance {
	i := instances(id)[0]
	i.Check = &service.Check{
		Kind: kind, Target: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), port),
		Interval: 5 * time.Second, Timeout: 2 * time.Second, Rise: 2, Fall: 3,
	}
	for _, c := range change {
		c(&i)
	}
	return i
}

func state(s service.State) func(*service.Instance) {
	return func(i *service.Instance) { i.State = s }
}

func health(word string) func(*service.Instance) {
	return func(i *service.Instance) { i.Check.Health = word }
}

const a80 = "10.0.0.1:80"

// P1: nothing is let through before it answers; F1, F9 are helped by what follows.
func TestGateWaitsForTheFirstAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := openGate(t)
		g.in <- []service.Instance{with("a", 80, service.CheckTCP)}
		g.want(t, "[]")
		g.wantHeld(t, "a: not let through: it does not listen on 10.0.0.1:80: connection refused")
		time.Sleep(2 * time.Second)
		g.want(t, "[]")
		g.net.set(a80, true)
		time.Sleep(latest)
		g.want(t, "[]", "[a:ready]")
		g.wantHeld(t, "")
	})
}

// A container that listens soon is found at once, one that takes long costs little.
func TestGatePace(t *testing.T) {
	for _, tt := range []struct{ after, within time.Duration }{
		{0, 0},
		{3 * time.Millisecond, 5 * time.Millisecond},
		{90 * time.Millisecond, 10 * time.Millisecond},
		{time.Second, 120 * time.Millisecond},
		{time.Minute, latest},
	} {
		t.Run(tt.after.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := openGate(t)
				g.net.mu.Lock()
				g.net.open[a80] = time.Now().Add(tt.after)
				g.net.mu.Unlock()
				g.in <- []service.Instance{with("a", 80, service.CheckTCP)}
				time.Sleep(tt.after + tt.within)
				synctest.Wait()
				g.mu.Lock()
				last := g.sets[len(g.sets)-1]
				g.mu.Unlock()
				if last != "[a:ready]" {
					t.Errorf("listening after %v: not found within %v", tt.after, tt.within)
				}
				if n := g.net.tries(); n > 60+int(tt.after/latest) {
					t.Errorf("%d connects in %v", n, tt.after)
				}
			})
		})
	}
}

func TestGateLiveness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := openGate(t)
		g.net.set(a80, true)
		g.in <- []service.Instance{with("a", 80, service.CheckTCP)}
		g.want(t, "[a:ready]")
		g.net.set(a80, false)
		time.Sleep(9 * time.Second) // at most two failures: not enough
		g.want(t, "[a:ready]")
		time.Sleep(9 * time.Second)
		g.want(t, "[a:ready]", "[a:unhealthy]")
		g.wantHeld(t, "a: it does not listen on 10.0.0.1:80: connection refused")
		g.net.set(a80, true)
		time.Sleep(20 * time.Second)
		g.want(t, "[a:ready]", "[a:unhealthy]", "[a:ready]")
	})
}

// One failure in between does not count: the check says how many do.
func TestGateForgivesOneFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := openGate(t)
		g.net.set(a80, true)
		g.in <- []service.Instance{with("a", 80, service.CheckTCP)}
		synctest.Wait()
		for range 50 {
			g.net.set(a80, false)
			for n := g.net.tries(); g.net.tries() == n; {
				time.Sleep(100 * time.Millisecond)
			}
			g.net.set(a80, true)
			for n := g.net.tries(); g.net.tries() == n; {
				time.Sleep(100 * time.Millisecond)
			}
		}
		g.want(t, "[a:ready]")
	})
}

func TestGateDockerHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := openGate(t)
		g.net.set(a80, true)
		send := func(word string) {
			g.in <- []service.Instance{with("a", 80, service.CheckDocker, health(word))}
			synctest.Wait()
		}
		send("starting")
		g.want(t, "[]")
		g.wantHeld(t, "a: not let through: its HEALTHCHECK has not passed yet: Docker runs an image's first one only after its interval, by default 30 s")
		send("unhealthy")
		g.want(t, "[]")
		g.wantHeld(t, "a: not let through: its HEALTHCHECK fails")
		send("healthy")
		g.want(t, "[]", "[a:ready]")
		send("unhealthy")
		g.want(t, "[]", "[a:ready]", "[a:unhealthy]")
		send("healthy")
		g.want(t, "[]", "[a:ready]", "[a:unhealthy]", "[a:ready]")
	})
}

// A HEALTHCHECK may pass by something else than the port: both must answer.
func TestGateDockerHealthNeedsThePort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := openGate(t)
		g.in <- []service.Instance{with("a", 80, service.CheckDocker, health("healthy"))}
		g.want(t, "[]")
		g.net.set(a80, true)
		time.Sleep(latest)
		g.want(t, "[]", "[a:ready]")
	})
}

func TestGateHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := openGate(t)
		g.net.set(a80, true)
		g.net.status = 503
		g.in <- []service.Instance{with("a", 80, service.CheckHTTP, func(i *service.Instance) {
			i.Check.HTTPPath, i.Check.Host = "/up?x=1", "shop.example.com"
		})}
		g.want(t, "[]")
		g.wantHeld(t, "a: not let through: check http:/up?x=1: the answer is 503, not 2xx or 3xx")
		g.net.mu.Lock()
		if got, want := g.net.asked[0], "shop.example.com/up?x=1"; got != want {
			t.Errorf("asked for %q, want %q", got, want)
		}
		g.net.status = 302
		g.net.mu.Unlock()
		time.Sleep(latest)
		g.want(t, "[]", "[a:ready]")
	})
}

func TestGateStatesOfTheSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := openGate(t)
		g.net.set(a80, true)
		a, b := with("a", 80, service.CheckTCP), with("b", 81, service.CheckTCP)
		none := with("n", 82, service.CheckNone)
		g.in <- []service.Instance{a, b, none}
		g.want(t, "[a:ready n:ready]")
		state(service.Draining)(&a)
		state(service.Draining)(&b) // was never let through: of no interest to others
		g.in <- []service.Instance{a, b, none}
		g.want(t, "[a:ready n:ready]", "[a:draining n:ready]")
		g.wantHeld(t, "")
		state(service.Unhealthy)(&none) // paused
		g.in <- []service.Instance{a, none}
		g.want(t, "[a:ready n:ready]", "[a:draining n:ready]", "[a:draining n:unhealthy]")
		g.in <- []service.Instance{none}
		synctest.Wait()
		g.in <- []service.Instance{}
		g.want(t, "[a:ready n:ready]", "[a:draining n:ready]", "[a:draining n:unhealthy]", "[n:unhealthy]", "[]")
	})
}

// A new run of a container under the same id has to pass anew (P1, F2).
func TestGateNewRunPassesAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := openGate(t)
		g.net.set(a80, true)
		a := with("a", 80, service.CheckTCP)
		g.in <- []service.Instance{a}
		g.want(t, "[a:ready]")
		g.net.set(a80, false)
		a.Started = a.Started.Add(time.Second)
		g.in <- []service.Instance{a}
		g.want(t, "[a:ready]", "[]")
		g.net.set(a80, true)
		time.Sleep(latest)
		g.want(t, "[a:ready]", "[]", "[a:ready]")
	})
}

// What changes about an instance without a new run is passed on without a new check.
func TestGatePassesChangesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := openGate(t)
		g.net.set(a80, true)
		a := with("a", 80, service.CheckTCP)
		g.in <- []service.Instance{a}
		g.want(t, "[a:ready]")
		g.net.set(a80, false)
		a.Weight = 7
		g.in <- []service.Instance{a}
		g.want(t, "[a:ready]", "[a:ready]")
		g.in <- []service.Instance{a} // equal: nothing to tell
		g.want(t, "[a:ready]", "[a:ready]")
	})
}

// The restart of an agent: the first set is not sent before all that runs was looked at (P2).
func TestGateFirstSetIsComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := openGate(t)
		var set []service.Instance
		for k := range 200 {
			port := uint16(1000 + k)
			g.net.set(fmt.Sprintf("10.0.0.1:%d", port), true)
			set = append(set, with(fmt.Sprintf("i%03d", k), port, service.CheckTCP))
		}
		g.in <- set
		synctest.Wait()
		g.mu.Lock()
		defer g.mu.Unlock()
		if len(g.sets) != 1 || strings.Count(g.sets[0], "ready") != 200 {
			t.Errorf("got %d sets, the first with %d instances, want 1 with 200", len(g.sets), strings.Count(g.sets[0], "ready"))
		}
		if g.net.most > dialsAtAll {
			t.Errorf("%d connects at a time, want at most %d", g.net.most, dialsAtAll)
		}
	})
}

// One that does not answer does not keep the others for more than 2 s (P7).
func TestGateFirstSetDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := openGate(t)
		g.net.set(a80, true)
		g.net.hang["10.0.0.1:81"] = true
		hangs := with("b", 81, service.CheckTCP, func(i *service.Instance) { i.Check.Timeout = time.Minute })
		g.in <- []service.Instance{with("a", 80, service.CheckTCP), hangs}
		time.Sleep(firstWait - time.Millisecond)
		g.want(t)
		time.Sleep(2 * time.Millisecond)
		g.want(t, "[a:ready]")
		g.wantHeld(t, "b: not let through: its first check is under way")
	})
}

// What is an answer of an HTTP check: any of 2xx and 3xx, to a GET with the service's own host, and
// nothing else.
func TestGateHTTPStatus(t *testing.T) {
	for status, want := range map[int]string{
		200: "[a:ready]", 204: "[a:ready]", 299: "[a:ready]", 301: "[a:ready]", 304: "[a:ready]", 399: "[a:ready]",
		400: "[]", 401: "[]", 404: "[]", 500: "[]", 503: "[]", 999: "[]",
	} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := openGate(t)
				g.net.set(a80, true)
				g.net.status = status
				g.in <- []service.Instance{with("a", 80, service.CheckHTTP, func(i *service.Instance) { i.Check.HTTPPath = "/" })}
				g.want(t, want)
				g.net.mu.Lock()
				defer g.net.mu.Unlock()
				if got := g.net.asked[0]; got != a80+"/" { // no host is given, so it is the address
					t.Errorf("asked for %q, want %q", got, a80+"/")
				}
			})
		})
	}
}

// How many outcomes in a row turn a verdict: the first success at once, later what rise and fall say.
func TestHistory(t *testing.T) {
	tests := []struct {
		rise, fall int
		known      *verdict
		outcomes   string // + and -
		want       string // the verdict after each
	}{
		{1, 1, nil, "--+-+", "--+-+"},
		{1, 3, nil, "--+--+---+", "--++++++-+"},
		{3, 1, nil, "+-++-+++", "+------+"},
		{2, 2, nil, "-+-+--+++", "-+++" + "+-" + "-++"},
		{0, 0, nil, "+-+", "+-+"}, // as little as can be
		{2, 2, &verdict{up: true}, "-+--", "+++-"},
		{2, 2, &verdict{}, "+-++", "---+"},
	}
	for _, tt := range tests {
		h := history{last: tt.known, passed: tt.known != nil}
		var got strings.Builder
		for _, o := range tt.outcomes {
			h.turn(&service.Check{Rise: tt.rise, Fall: tt.fall}, verdict{up: o == '+'})
			got.WriteString(map[bool]string{true: "+", false: "-"}[h.last.up])
		}
		if got.String() != tt.want {
			t.Errorf("rise %d, fall %d, known %v, outcomes %s: got %s, want %s", tt.rise, tt.fall, tt.known, tt.outcomes, got.String(), tt.want)
		}
	}
}

// After a restart of the agent the instances are checked at once, and from then on spread over the
// interval.
func TestGateSpreadsChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := openGate(t)
		var set []service.Instance
		const many = 1000
		for k := range many {
			g.net.set(fmt.Sprintf("10.0.0.1:%d", 1000+k), true)
			set = append(set, with(fmt.Sprintf("i%04d", k), uint16(1000+k), service.CheckTCP, func(i *service.Instance) { i.Container = i.ID }))
		}
		g.in <- set
		synctest.Wait()
		begin := time.Now()
		time.Sleep(5 * time.Second)
		g.net.mu.Lock()
		defer g.net.mu.Unlock()
		perTenth := map[int]int{}
		for _, times := range g.net.dials {
			for _, at := range times[1:] {
				perTenth[int(at.Sub(begin)/(500*time.Millisecond))]++
			}
		}
		for tenth := range 10 {
			if n := perTenth[tenth]; n < many/10/3 || n > many/10*3 {
				t.Errorf("%d checks in the %d. tenth of the first interval, want about %d", n, tenth+1, many/10)
			}
		}
	})
}

// TestManyHanging: many that hang do not hold up one that answers.
func TestManyHanging(t *testing.T) {
	for _, n := range []int{50, 100, 200, 400} {
		synctest.Test(t, func(t *testing.T) {
			in, out := make(chan []service.Instance), make(chan []service.Instance)
			ctx, cancel := context.WithCancel(t.Context())
			g := &Gate{Log: quiet(), Dial: func(ctx context.Context, _, a string) (net.Conn, error) {
				if a == "10.0.0.1:80" {
					c, _ := net.Pipe()
					return c, nil
				}
				<-ctx.Done()
				return nil, ctx.Err()
			}}
			done := make(chan struct{})
			go func() { g.Run(ctx, in, out); close(done) }()
			set := []service.Instance{}
			for k := range n {
				i := with(fmt.Sprintf("h%04d", k), 80, service.CheckTCP, started(1))
				c := *i.Check
				c.Target = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(k >> 8), byte(k)}), 80)
				i.Check, i.Address, i.Container = &c, c.Target.Addr(), fmt.Sprintf("c%d", k)
				set = append(set, i)
			}
			in <- set
			<-out // first, after 2 s
			time.Sleep(time.Minute)
			f := with("a", 80, service.CheckTCP, started(1))
			c := *f.Check
			c.Target = netip.MustParseAddrPort("10.0.0.1:80")
			f.Check, f.Address, f.Container = &c, c.Target.Addr(), "fast"
			began := time.Now()
			in <- append([]service.Instance{f}, set...)
			<-out
			if worst := time.Since(began); worst > 100*time.Millisecond {
				t.Errorf("beside %d that hang the first verdict on one that answers took %s", n, worst)
			}
			cancel()
			<-done
		})
	}
}
