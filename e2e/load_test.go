package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/load"
	"github.com/sidekick-proxy/sidekick/internal/proctest"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// effort is how long the tests under load go on.
type effort struct {
	changes   int // of endpoints
	rounds    int // of replacing all instances
	structure int // changes that need a reload
	crashes   int // of an instance
	kills     int // of a server's process
}

// efforts is what fits into a CI's run; make soak sets TEST_SOAK and gets minutes of each.
func efforts() effort {
	if os.Getenv("TEST_SOAK") != "" {
		return effort{changes: 12_000, rounds: 60, structure: 500, crashes: 1000, kills: 100}
	}
	return effort{changes: 1200, rounds: 3, structure: 50, crashes: 50, kills: 6}
}

// changesEvery makes 20 changes of endpoints per second.
const changesEvery = time.Second / 20

// every does something that many times, at a steady pace.
func (w *world) every(pause time.Duration, times int, do func(n int)) {
	w.Helper()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for n := range times {
		select {
		case <-tick.C:
			do(n)
		case <-w.ctx.Done():
			w.Fatal(w.ctx.Err())
		}
	}
}

// TestEndpointChangesUnderLoad: endpoints come and go, change their weights, are taken out of service
// and put back, 20 times a second for a minute. No request fails, no WebSocket is cut, not even on a
// server that is out of service, no kept connection is closed, and HAProxy is not reloaded; in the end
// it runs what is registered. P6, P8, P11, F5, F6.
func TestEndpointChangesUnderLoad(t *testing.T) {
	onSites(t, func(s *site) {
		s.begin()
		shop := app{service: "shop"}
		staying := s.serveAll(shop, "stays", 4)
		s.inStep()
		traffic := s.traffic(shop)
		if held := traffic.sockets.Now().Servers; len(held) != len(staying) {
			s.Fatalf("WebSockets are held by %v, want some on each server", held)
		}
		before := s.workers()

		churn := s.churn(shop, 12)
		began, changes := time.Now(), efforts().changes
		s.every(changesEvery, changes, func(n int) {
			if n == changes/4 {
				staying[0].State = service.Draining // with its WebSockets
				s.register(staying[0])
				return
			}
			churn.step()
		})
		s.Logf("%d changes in %s", changes, time.Since(began).Round(time.Second))
		// Changes that come while another is being made go together with the next.
		if commands := s.mustMetric("sidekick_runtime_commands_total"); commands < float64(changes)/2 {
			s.Errorf("HAProxy was given %v commands for %d changes, want most of them one by one", commands, changes)
		}

		s.lossless(traffic)
		if closed := traffic.requests.Now().Reopened; closed > 0 {
			s.Errorf("%d kept connections were closed, want none", closed)
		}
		s.follows(shop, append(churn.registered(), staying...)...)
		s.inStep()
		s.noReload(before)
		if differences := s.mustMetric("sidekick_proxy_differences"); differences != 0 {
			s.Errorf("the agent's audit found %v differences, want none", differences)
		}
	})
}

// serveAll starts and registers servers of a service, and waits until HAProxy has them.
func (s *site) serveAll(a app, name string, number int) []service.Instance {
	s.Helper()
	var all []service.Instance
	for n := range number {
		i := s.serve(name + strconv.Itoa(n)).instance(a)
		s.register(i)
		all = append(all, i)
	}
	s.follows(a, all...)
	return all
}

// churn is a set of places at which instances come and go.
type churn struct {
	*site

	rng    *rand.Rand
	places []place
}

// place is one identity, which has one of two servers each time it comes.
type place struct {
	servers [2]service.Instance
	now     service.Instance
	there   bool
}

func (s *site) churn(a app, places int) *churn {
	s.Helper()
	c := &churn{site: s, rng: rand.New(rand.NewPCG(1, 2)), places: make([]place, places)} // the same each time
	for n := range c.places {
		for k := range 2 {
			i := s.serve(fmt.Sprintf("comes%d-%d", n, k)).instance(a)
			i.ID = "comes" + strconv.Itoa(n)
			c.places[n].servers[k] = i
		}
	}
	return c
}

// step makes one change at one place: somebody comes, goes, gets another weight or another state.
func (c *churn) step() {
	c.Helper()
	p := &c.places[c.rng.IntN(len(c.places))]
	choice := c.rng.IntN(4)
	switch {
	case !p.there:
		p.now, p.there = p.servers[c.rng.IntN(2)], true
		p.now.Weight = c.rng.IntN(257)
	case choice == 0:
		p.there = false
		c.deregister(p.now)
		return
	case choice == 1:
		p.now.Weight = (p.now.Weight + 1 + c.rng.IntN(256)) % 257
	case p.now.State == service.Ready:
		p.now.State = service.Draining
	default:
		p.now.State = service.Ready
	}
	c.register(p.now)
}

func (c *churn) registered() []service.Instance {
	var all []service.Instance
	for _, p := range c.places {
		if p.there {
			all = append(all, p.now)
		}
	}
	return all
}

// TestRollingReplacementUnderLoad: every instance is replaced by one with another address, several
// times over. The old one is marked as draining, accepts for another second, as applications do after
// their stop signal, finishes what it has, and is gone. Nothing is lost, POST and WebSockets included,
// without a reload. P2, P11, F11.
func TestRollingReplacementUnderLoad(t *testing.T) {
	onSites(t, func(s *site) {
		s.begin()
		shop := app{service: "shop"}
		running := make([]*webServer, 4)
		for n := range running {
			running[n] = s.serve("first" + strconv.Itoa(n))
			s.register(running[n].instance(shop))
		}
		s.follows(shop, instances(shop, running)...)
		s.inStep()
		traffic := s.traffic(shop)
		before := s.workers()
		for round := range efforts().rounds {
			for n := range running {
				next := s.serve(fmt.Sprintf("round%d-%d", round, n))
				s.replace(shop, running[n], next)
				running[n] = next
			}
			// Who is gone keeps its WebSockets for its drain time, which is longer than a round.
			s.noneFailed(traffic.sockets)
			traffic.sockets = s.sockets(shop, 2*len(running))
		}
		s.lossless(traffic)
		s.follows(shop, instances(shop, running)...)
		s.noReload(before)
	})
}

func instances(a app, servers []*webServer) []service.Instance {
	var all []service.Instance
	for _, v := range servers {
		all = append(all, v.instance(a))
	}
	return all
}

// replace lets a server take another one's place, as a rolling update does.
func (s *site) replace(a app, old, next *webServer) {
	s.Helper()
	s.register(next.instance(a))
	leaving := old.instance(a)
	leaving.State = service.Draining
	s.register(leaving)
	accepted := time.NewTimer(time.Second)
	defer accepted.Stop()
	// A second is enough on a machine that has time for its work.
	s.until(old.name+" is out of service", func() error {
		return s.has(a, leaving)
	})
	select {
	case <-accepted.C:
	case <-s.ctx.Done():
	}
	old.leave()
	s.deregister(leaving)
}

// maxOldWorkers is what the built-in template allows: mworker-max-reloads.
const maxOldWorkers = 20

// TestStructureChangesUnderLoad: services, hosts, paths, ports and options come one after the other, as
// fast as reloads are allowed. No request fails, no download is cut, a WebSocket is held for as many
// reloads as HAProxy lets a worker live, and when the connections end, the old workers do. P2, P8, F6,
// F10, F11.
func TestStructureChangesUnderLoad(t *testing.T) {
	onSites(t, func(s *site) {
		s.begin("--reload-interval", "200ms")
		shop := app{service: "shop"}
		web := s.serve("web")
		s.register(web.instance(shop))
		s.follows(shop, web.instance(shop))
		s.inStep()
		traffic := s.traffic(shop)
		s.noneFailed(traffic.sockets) // they are held one by one here
		s.build(shop, &builder{site: s, web: web})
		traffic.sockets = s.sockets(shop, 1)
		s.lossless(traffic)
		s.until("the old workers end with their connections", func() error {
			known, err := s.metric("sidekick_old_workers")
			if now := s.workers(); err == nil && (now.old > 0 || known > 0) {
				err = fmt.Errorf("there are %d, and the agent says %v", now.old, known)
			}
			return err
		})
		s.inStep()
		s.noneRefused()
	})
}

// build makes the changes and holds a WebSocket from each of them on.
func (s *site) build(a app, b *builder) {
	s.Helper()
	before, most, cut := s.workers().reloads, 0, 0
	var all []held
	for n := range efforts().structure {
		b.change(n)
		now := s.bounded()
		most = max(most, now.old)
		all = append(all, held{site: s, run: s.sockets(a, 1), reloads: now.reloads})
		if len(all) > 2*maxOldWorkers {
			cut += all[0].end(now.reloads)
			all = all[1:]
		}
	}
	reloads := s.workers().reloads
	for _, h := range all {
		cut += h.end(reloads)
	}
	s.Logf("%d changes, %d reloads, at most %d old workers; older WebSockets were cut %d times",
		efforts().structure, reloads-before, most, cut)
}

// bounded waits until the workers that are beyond the bound have ended, as they were told to.
func (s *site) bounded() workers {
	s.Helper()
	var now workers
	s.until("there are no more old workers than are allowed", func() error {
		if now = s.workers(); now.old > maxOldWorkers {
			return fmt.Errorf("there are %d, want at most %d", now.old, maxOldWorkers)
		}
		return nil
	})
	return now
}

// held is a WebSocket and what it has to live through.
type held struct {
	*site

	run     *load.Run
	reloads int // when it was opened
}

// end closes the WebSocket. It returns how often it was cut, which may be after as many reloads as a
// worker lives.
func (h held) end(reloads int) int {
	h.Helper()
	if reloads-h.reloads < maxOldWorkers {
		h.noneFailed(h.run)
		return 0
	}
	return h.run.Stop().Failed
}

// builder makes changes that HAProxy cannot take while it runs.
type builder struct {
	*site

	web    *webServer
	latest service.Instance // of the service that came last
}

// change makes one change and waits until it has its effect.
func (b *builder) change(n int) {
	b.Helper()
	switch fresh := "new" + strconv.Itoa(n); n % 4 {
	case 0: // a service
		b.come(app{service: fresh}, "/", 0)
		b.serves(b.httpAddr(), "/", fresh+".example.test")
	case 1: // a service below the path of another one
		b.come(app{service: fresh}, "/below", 0)
		b.serves(b.httpAddr(), "/below/", fresh+".example.test")
	case 2: // a service with a port of its own
		port := 20000 + n
		b.come(app{service: fresh}, "/", uint16(port))
		b.serves(b.at(port), "/", "any")
	case 3: // other options, and another host
		b.latest.Options = map[string]string{"timeout.server": strconv.Itoa(n) + "s"}
		b.latest.Hosts = []string{fresh + ".example.test"}
		b.register(b.latest)
		b.until("the option is in force", func() error {
			text, err := os.ReadFile(b.config())
			if want := fmt.Sprintf("timeout server %d", n); err == nil && !strings.Contains(string(text), want) {
				err = fmt.Errorf("the text has no %q", want)
			}
			return err
		})
		b.serves(b.httpAddr(), "/", fresh+".example.test")
	}
}

func (b *builder) come(a app, path string, listen uint16) {
	b.latest = b.web.instance(a)
	b.latest.ID, b.latest.Path, b.latest.Listen = a.service, path, listen
	b.register(b.latest)
}

// TestCrashLoopUnderLoad: the only instance of a service comes and goes several times a second, now
// with another address, now with its own. After its first arrival there is no reload, hence no old
// worker, nothing piles up in HAProxy, and others notice nothing. P8, F9, F10.
func TestCrashLoopUnderLoad(t *testing.T) {
	onSites(t, func(s *site) {
		s.begin()
		shop, looping := app{service: "shop"}, app{service: "looping"}
		web := s.serve("web")
		s.register(web.instance(shop))
		crashing := s.serve("crashing").instance(looping)
		s.register(crashing)
		s.follows(looping, crashing)
		s.follows(shop, web.instance(shop))
		s.inStep()
		traffic := s.traffic(shop)
		before := s.workers()
		s.every(300*time.Millisecond, 2*efforts().crashes, func(n int) {
			switch n % 4 {
			case 0:
				s.deregister(crashing)
			case 1: // as a container that its engine restarts
			case 2:
				s.deregister(crashing)
			case 3: // as one that is made anew
				crashing.ID = "crashing" + strconv.Itoa(n)
				crashing.Port++
			}
			if n%2 == 1 {
				s.register(crashing)
			}
			if now := s.workers(); now.old > 0 {
				s.Fatalf("after %d changes: %+v, want no old worker", n, now)
			}
		})
		s.follows(looping, crashing)
		s.deregister(crashing)
		s.follows(looping)
		s.lossless(traffic)
		s.inStep()
		s.noReload(before)
	})
}

// TestTakenAddressUnderLoad: an address that another program has, asked for by a service or by the
// user's own template, is refused before HAProxy sees it, whose listeners are not paused for it. What
// was in force serves on, endpoints go on changing, and a free address is had. P2, P7, F11.
func TestTakenAddressUnderLoad(t *testing.T) {
	onSites(t, func(s *site) {
		s.check(os.WriteFile(s.path("mine.tmpl"), s.template(), 0o600))
		s.begin("--template", s.path("mine.tmpl"))
		shop := app{service: "shop"}
		s.serveAll(shop, "web", 2)
		s.inStep()
		traffic := s.traffic(shop)
		const asked, written = 9900, 9901 // by a service, in the template
		others := []net.Listener{s.occupy(asked), s.occupy(written)}
		s.askFor(asked)
		s.listenInTemplate(shop, written)
		s.flows(traffic.requests, 100)

		for _, other := range others {
			s.check(other.Close())
		}
		s.serves(s.at(written), "/", "any")
		s.serves(s.at(asked), "/", "any")
		s.lossless(traffic)
		s.inStep()
		s.noneRefused()
	})
}

// template is the built-in one.
func (s *site) template() []byte {
	s.Helper()
	text, err := os.ReadFile("../templates/haproxy.cfg.tmpl")
	s.check(err)
	return text
}

// askFor registers a service that wants a port of its own, which another program has: the service goes
// without.
func (s *site) askFor(port uint16) {
	s.Helper()
	other := app{service: "other"}
	i := s.serve("other").instance(other)
	i.Listen = port
	s.register(i)
	s.until("the service says why it lacks its port", func() error { return s.says("other", "in use by another program") })
	s.serves(s.httpAddr(), "/", other.host())
}

// listenInTemplate writes a template that wants a port which another program has: it is not in force,
// and endpoints go on changing.
func (s *site) listenInTemplate(a app, port int) {
	s.Helper()
	before := s.workers()
	mine := fmt.Sprintf("\nfrontend fe_mine from http\n    bind %s\n    default_backend be_%s\n", s.at(port), a.service)
	s.check(os.WriteFile(s.path("mine.tmpl"), append(s.template(), mine...), 0o600))
	s.until("the agent says why the template is not in force", func() error { return s.faulty("haproxy", "is taken by another program") })
	late := s.serve("late").instance(a)
	for _, change := range []func(){func() {}, func() { late.Weight = 1 }, func() { late.State = service.Draining }} {
		change()
		s.register(late)
		s.until("HAProxy has the late server as it is registered", func() error { return s.has(a, late) })
	}
	s.noReload(before)
}

// noneRefused asserts that HAProxy has seen no configuration that it could not load: it would have
// stopped to listen for that. That an old worker has ended just when the agent asks the master for its
// memory is an alert to HAProxy 3.0, and none to us.
func (s *site) noneRefused() {
	s.Helper()
	if failed := s.workers().failed; failed > 0 {
		s.Errorf("%d reloads failed, want none", failed)
	}
	text, err := os.ReadFile(s.path("haproxy.log"))
	s.check(err)
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "socketpair: Cannot transfer the fd") {
			continue
		}
		for _, word := range []string{"Paused", "ALERT", "failed"} {
			if strings.Contains(line, word) {
				s.Errorf("HAProxy says %q: %s\n%s", word, line, s.proxy.Tail(100))
			}
		}
	}
}

// TestServerKilledUnderLoad: kill -9 of one of two servers fails no GET, whether HAProxy checks its
// servers or not. A POST fails only if the server had it when it died: at most one for each client.
// P2, P5.
func TestServerKilledUnderLoad(t *testing.T) {
	t.Parallel()
	for _, check := range []string{"on", "off"} {
		t.Run("proxy-check="+check, func(t *testing.T) {
			onSites(t, func(s *site) {
				s.begin("--proxy-check", check)
				s.killServers(app{service: "shop"})
			})
		})
	}
}

// killServers kills one of two servers after the other.
func (s *site) killServers(a app) {
	s.Helper()
	var pair [2]*process
	for n := range pair {
		pair[n] = s.whoami("web"+strconv.Itoa(n), 8001+n)
		s.register(pair[n].instance(a))
	}
	s.follows(a, pair[0].instance(a), pair[1].instance(a))
	const clients = 4 // of each kind
	traffic := s.run(a, load.Options{Path: "/?wait=20ms", Workers: clients, Pause: 5 * time.Millisecond})
	allowed := 0
	for n := range efforts().kills {
		victim := pair[n%2]
		for _, p := range pair { // HAProxy's check may still have the other one down, from when that was killed
			s.answersFrom(traffic, p)
		}
		victim.proc.Kill()
		allowed += 2 * clients // keep-alive and not
		s.flows(traffic, 300)
		victim.start(s)
	}
	report := traffic.Stop()
	s.Logf("load: %s", report)
	failed := map[string]int{}
	for kind, counts := range report.Kinds {
		failed[kind.Method] += counts.Failed
	}
	if failed[http.MethodGet] > 0 {
		s.Errorf("%d GETs failed, want none", failed[http.MethodGet])
	}
	if failed[http.MethodPost] > allowed {
		s.Errorf("%d POSTs failed, want at most the %d that a dying server had", failed[http.MethodPost], allowed)
	}
}

// process is a server that is a process of its own.
type process struct {
	webServer

	proc *proctest.Process
}

// whoami starts a server's process.
func (s *site) whoami(name string, port int) *process {
	s.Helper()
	p := &process{webServer: webServer{name: name, addr: netip.MustParseAddrPort(s.at(port))}}
	s.Cleanup(func() { p.proc.Kill() })
	p.start(s)
	return p
}

// start starts the process, and waits until it listens.
func (p *process) start(s *site) {
	s.Helper()
	var err error
	p.proc, err = proctest.Start(p.name, s.path(p.name+".log"), programs.whoami,
		"--name", p.name, "--address", p.addr.Addr().String(), "--port", strconv.Itoa(int(p.addr.Port())))
	s.check(err)
	s.until(p.name+" listens", func() error { return s.get(p.addr.String(), "/", "").ok() })
}

// answersFrom waits until a server gets its share of the load.
func (s *site) answersFrom(run *load.Run, p *process) {
	s.Helper()
	from := run.Now().Servers[p.name]
	s.until(p.name+" answers", func() error {
		if run.Now().Servers[p.name] < from+20 {
			return fmt.Errorf("answers come from %v", run.Now().Servers)
		}
		return nil
	})
}
