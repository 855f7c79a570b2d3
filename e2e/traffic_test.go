package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/internal/load"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// site is a world without an engine, under load: its servers are of this process, and the test
// registers them itself, as anybody may.
type site struct {
	*world

	etcd   *clientv3.Client
	ledger *load.Ledger // of all servers
}

// onSites runs a test on a site for each HAProxy, beside other such tests, for most of its time is
// waiting. An etcd runs there already.
func onSites(t *testing.T, test func(s *site)) {
	t.Helper()
	leftOut(t, "haproxy")
	t.Parallel()
	haproxytest.Each(t, func(t haproxytest.T) {
		t.Parallel()
		w := emptyWorld(t.T)
		w.bin, w.host = t.Bin, "192.0.2.1" // nobody's, for nothing of this host is registered
		w.startEtcd()
		client := w.registryClient()
		w.until("etcd answers", func() error {
			_, err := client.Get(w.ctx, "/")
			return err
		})
		test(&site{world: w, etcd: client, ledger: &load.Ledger{}})
	})
}

// begin starts HAProxy and the agent, with the given settings.
func (s *site) begin(settings ...string) {
	s.Helper()
	s.extra = append([]string{"--docker", "off"}, settings...)
	s.startProxy()
	s.startAgent()
}

// write changes a key.
func (s *site) write(op clientv3.Op) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	_, err := s.etcd.Do(ctx, op)
	s.check(err)
}

// register writes an instance's key.
func (s *site) register(i service.Instance) {
	s.Helper()
	value, err := i.Encode()
	s.check(err)
	s.write(clientv3.OpPut(i.Key("/sidekick"), string(value)))
}

// deregister removes an instance's key.
func (s *site) deregister(i service.Instance) {
	s.Helper()
	s.write(clientv3.OpDelete(i.Key("/sidekick")))
}

// webServer is a server of this process.
type webServer struct {
	name   string
	addr   netip.AddrPort
	server *http.Server
	served sync.WaitGroup
}

// serve starts a web server for every kind of request. The test's end is also its end.
func (s *site) serve(name string) *webServer {
	s.Helper()
	return s.serveOver(name, func(l net.Listener) net.Listener { return l })
}

// serveOver does so over what becomes of its listener.
func (s *site) serveOver(name string, over func(net.Listener) net.Listener) *webServer {
	s.Helper()
	listener, err := new(net.ListenConfig).Listen(s.ctx, "tcp", s.at(0))
	s.check(err)
	v := &webServer{
		name: name, addr: netip.MustParseAddrPort(listener.Addr().String()),
		server: &http.Server{Handler: load.Handler(name, s.ledger), ReadHeaderTimeout: time.Minute},
	}
	v.served.Go(func() { v.server.Serve(over(listener)) }) // ended by the test
	s.Cleanup(func() {
		v.server.Close()
		v.served.Wait()
	})
	return v
}

// leave stops to accept, and lets everything that was accepted go on.
func (v *webServer) leave() {
	v.served.Go(func() { v.server.Shutdown(context.Background()) }) // its listener is closed
}

// instance is the server's registration with a service.
func (v *webServer) instance(of app) service.Instance {
	return service.Instance{
		Node: "there", ID: v.name, Service: of.service, Hosts: []string{of.host()}, Path: "/", Mode: service.HTTP,
		Address: v.addr.Addr(), Port: v.addr.Port(), State: service.Ready, Weight: 100,
	}
}

// traffic is a load of all kinds at once: GET and POST with and without keep-alive, slow downloads,
// and WebSockets that are held.
type traffic struct {
	requests, downloads, sockets *load.Run
}

// downloadTime is how long a slow download takes: less than HAProxy lets an old worker live.
const downloadTime = 2 * time.Second

// traffic begins a load of all kinds. The WebSockets come first, so that they are spread evenly.
func (s *site) traffic(a app) *traffic {
	s.Helper()
	t := &traffic{sockets: s.sockets(a, 8)}
	t.requests = s.run(a, load.Options{Workers: workersPerKind, Pause: 20 * time.Millisecond})
	t.downloads = s.run(a, load.Options{
		Kinds: []load.Kind{{Method: http.MethodGet, Download: downloadTime}}, Workers: 4, Timeout: patience,
	})
	s.flows(t.requests, 100)
	return t
}

// sockets opens WebSockets, and returns when each has carried a frame.
func (s *site) sockets(a app, number int) *load.Run {
	s.Helper()
	run := s.run(a, load.Options{Kinds: []load.Kind{{WebSocket: true}}, Workers: number, Pause: 100 * time.Millisecond, Timeout: patience})
	s.flows(run, number)
	return run
}

func (s *site) run(a app, options load.Options) *load.Run {
	options.Target, options.Host = s.httpAddr(), a.host()
	run := load.Start(s.ctx, options)
	s.Cleanup(func() { run.Stop() })
	return run
}

// lossless ends the load and asserts that nothing of it was lost: no request, no WebSocket, no
// download, and no POST was executed twice.
func (s *site) lossless(t *traffic) {
	s.Helper()
	s.flows(t.downloads, 4)
	s.noneFailed(t.sockets)
	s.noneFailed(t.downloads)
	report := s.noneFailed(t.requests)
	sent := 0
	for kind, counts := range report.Kinds {
		if kind.Method == http.MethodPost {
			sent += counts.Sent
		}
	}
	if posts, repeated := s.ledger.Executed(); posts != sent || repeated > 0 {
		s.Errorf("%d POSTs were sent, %d executed, %d of them more than once; want each once", sent, posts, repeated)
	}
}

// tell sends one command to a socket of HAProxy and returns its answer.
func (s *site) tell(socket, command string) (string, error) {
	conn, err := (&net.Dialer{Timeout: patience}).DialContext(s.ctx, "unix", s.path(socket))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, command+"\n"); err != nil {
		return "", err
	}
	if half, ok := conn.(*net.UnixConn); ok {
		err = half.CloseWrite() // the master's socket answers for ever otherwise
	}
	answer, readErr := io.ReadAll(conn)
	return string(answer), errors.Join(err, readErr)
}

// workers is what HAProxy's master tells about reloads, good and bad, and workers that they left.
type workers struct{ reloads, failed, old int }

// workers asks the master, whose socket is not served while it executes itself anew for a reload.
func (s *site) workers() workers {
	s.Helper()
	seen := workers{}
	s.until("HAProxy's master tells about its workers", func() (err error) {
		seen, err = s.processes()
		return err
	})
	return seen
}

func (s *site) processes() (workers, error) {
	answer, err := s.tell("run/m.sock", "show proc")
	if err != nil {
		return workers{}, err
	}
	seen, master := workers{old: -1}, false // for the one that serves
	for row := range strings.Lines(answer) {
		fields := strings.Fields(row)
		switch {
		case len(fields) > 2 && fields[1] == "master":
			master, seen.reloads = true, must(strconv.Atoi(fields[2]))
			if len(fields) > 4 && fields[3] == "[failed:" {
				seen.failed = must(strconv.Atoi(strings.TrimSuffix(fields[4], "]")))
			}
		case len(fields) > 2 && fields[1] == "worker":
			seen.old++
		}
	}
	if !master || seen.old < 0 {
		return workers{}, fmt.Errorf("the answer %q names no master or no worker", answer)
	}
	return seen, nil
}

// noReload asserts that HAProxy was not reloaded since, nor tried to.
func (s *site) noReload(since workers) {
	s.Helper()
	if now := s.workers(); now.reloads != since.reloads || now.failed > since.failed {
		s.Errorf("HAProxy was reloaded %d times (%d in vain), want none", now.reloads-since.reloads, now.failed)
	}
	if own := s.mustMetric("sidekick_reloads_total"); int(own) != since.reloads {
		s.Errorf("the agent counts %v reloads, want %d", own, since.reloads)
	}
}

// servers are the servers of a service as they are in HAProxy: address, weight and, if it gets no new
// requests, "disabled".
func (s *site) servers(a app) ([]string, error) {
	answer, err := s.tell("run/r.sock", "show servers state be_"+a.service)
	if err != nil {
		return nil, err
	}
	var all []string
	for row := range strings.Lines(answer) {
		f := strings.Fields(row)
		if len(f) < 19 || strings.HasPrefix(row, "#") {
			continue
		}
		all = append(all, inHAProxy(f[4]+":"+f[18], f[7], f[6] != "0"))
	}
	slices.Sort(all)
	return all, nil
}

func inHAProxy(endpoint, weight string, disabled bool) string {
	text := endpoint + " weight " + weight
	if disabled {
		text += " disabled"
	}
	return text
}

// asRegistered is how HAProxy shows an instance.
func asRegistered(i service.Instance) string {
	return inHAProxy(i.Endpoint().String(), strconv.Itoa(i.Weight), i.State != service.Ready)
}

// has says whether HAProxy has the instance among the service's servers, as it is registered.
func (s *site) has(a app, i service.Instance) error {
	all, err := s.servers(a)
	if want := asRegistered(i); err == nil && !slices.Contains(all, want) {
		err = fmt.Errorf("it has %v, not %s", all, want)
	}
	return err
}

// follows waits until the service's servers in HAProxy are exactly these instances. HAProxy 2.6 deletes
// a server only when it has closed the last idle connection to it, for which it takes its time.
func (s *site) follows(a app, instances ...service.Instance) {
	s.Helper()
	var want []string
	for _, i := range instances {
		want = append(want, asRegistered(i))
	}
	slices.Sort(want)
	s.until("HAProxy runs the instances of "+a.service, func() error {
		got, err := s.servers(a)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("it runs\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		return err
	})
}

// serves waits until the host is answered.
func (s *site) serves(addr, path, host string) {
	s.Helper()
	s.until(addr+path+" of "+host+" is answered", func() error { return s.get(addr, path, host).ok() })
}
