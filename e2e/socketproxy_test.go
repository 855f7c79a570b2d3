package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/proctest"
	"github.com/sidekick-proxy/sidekick/pkg/docker"
)

// filter is deploy/socket-proxy/haproxy.cfg before the machine's engine.
type filter struct {
	*world
	engine, socket string
	settings       []string // variables of its environment
	process        *proctest.Process
}

// newFilter starts a filter in a world, with these variables, and makes it the agent's engine.
func newFilter(w *world, settings ...string) *filter {
	w.Helper()
	engine, err := docker.SocketOf("")
	w.check(err)
	if engine == "" {
		w.Skip("the engine of the tests has no Unix socket here")
	}
	f := &filter{world: w, engine: engine, socket: w.path("d.sock"), settings: settings}
	w.extra = append(w.extra, "--docker", "unix://"+f.socket)
	w.Cleanup(f.end)
	f.start()
	return f
}

// start runs what the container does, with other paths.
func (f *filter) start() {
	f.Helper()
	var err error
	command := append([]string{"LISTEN_SOCKET=" + f.socket, "ENGINE_SOCKET=" + f.engine}, f.settings...)
	command = append(command, "haproxy", "-W", "-db", "-f", "../deploy/socket-proxy/haproxy.cfg")
	f.process, err = proctest.Start("filter", f.path("filter.log"), "env", command...)
	f.check(err)
	f.until("the filter answers", func() error {
		if ended, how := f.process.Ended(); ended {
			f.Fatalf("the filter ended: %v\n%s", how, f.process.Tail(10))
		}
		return f.ask("GET", "/_ping", "").ok()
	})
}

// end shows what the filter said if the test failed.
func (f *filter) end() {
	if err := f.process.End(patience); err != nil {
		f.Error(err)
	}
	if f.Failed() {
		f.Logf("last words of the filter:\n%s", f.process.Tail(40))
	}
}

// ask sends a request to the filter byte for byte, for clients of more manners mend paths first. The
// header may be empty.
func (f *filter) ask(method, target, header string) answer {
	conn, err := net.DialTimeout("unix", f.socket, time.Second)
	if err != nil {
		return answer{err: err}
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(15 * time.Second))
	if header != "" {
		header += "\r\n"
	}
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: engine\r\n%s\r\n", method, target, header); err != nil {
		return answer{err: err}
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{status: resp.StatusCode, body: string(body), err: err}
}

// TestAgentBehindSocketProxy: an agent that has the filter for its engine registers what starts and
// removes what stops; what happens while the filter is away, it learns afterwards. Nothing is lost.
func TestAgentBehindSocketProxy(t *testing.T) {
	w := newWorld(t)
	f := newFilter(w)
	w.startAll(embedded)
	shop := app{service: "shop"}
	a, b := w.container(shop), w.container(shop)
	w.answeredBy(shop, a, b)
	traffic := w.load(shop)
	w.flows(traffic, 50)

	w.check(a.Stop(w.ctx))
	w.gone("shop", a)
	w.check(a.Remove(w.ctx))
	w.answeredBy(shop, b)

	f.process.Kill()
	w.until("the agent sees that its engine is away", func() error {
		ok, _, err := w.stage("docker")
		if ok {
			err = errors.New("it does not")
		}
		return err
	})
	c, d := w.container(shop), w.container(shop)
	w.check(d.Remove(w.ctx)) // never seen
	w.flows(traffic, 50)
	f.start()
	w.answeredBy(shop, b, c)
	w.check(b.Stop(w.ctx))
	w.gone("shop", b)
	w.answeredBy(shop, c)
	w.flows(traffic, 50)
	w.noneFailed(traffic)
	w.inStep()
}

// TestSocketProxyLetsReadersThrough: the filter passes on what the agent asks.
func TestSocketProxyLetsReadersThrough(t *testing.T) {
	w := newWorld(t)
	f := newFilter(w)
	box := w.container(app{service: "shop"})
	info, err := os.Stat(f.socket)
	w.check(err)
	if got := info.Mode().Perm(); got != 0o660 {
		t.Errorf("mode of the filter's socket: got %o, want 660", got)
	}
	for _, target := range []string{
		"/_ping", "/v1.41/_ping", "/containers/json", "/v1.41/containers/json?all=1", "/containers/" + box.ID + "/json",
		"/v1.41/containers/" + box.Short() + "/json?size=0", "/networks/" + w.run, "/v1.41/networks/" + w.run, "/events?since=0&until=1",
	} {
		if got := f.ask("GET", target, ""); got.ok() != nil {
			t.Errorf("GET %s: %v, want it let through", target, got.ok())
		}
		if got := f.ask("HEAD", target, ""); got.err != nil || got.status == http.StatusForbidden {
			t.Errorf("HEAD %s: got %d %v, want the engine's answer", target, got.status, got.err)
		}
	}
}

// refusedRequests are one a line, with a header or none; ID is a container that runs.
const refusedRequests = `
POST    /containers/create                          Content-Length:0
POST    /v1.41/containers/ID/stop                   Content-Length:0
POST    /containers/json                            Content-Length:0
PUT     /containers/ID/archive?path=/               Content-Length:0
DELETE  /containers/ID
OPTIONS /_ping
GET     /containers/ID/archive?path=/
GET     /containers/ID/archive?path=/json
GET     /containers/ID/json/../archive?path=/
GET     /containers/ID/logs?stdout=1
GET     /containers/ID/export
GET     /containers/ID/top
GET     /containers/ID/stats?stream=0
GET     /containers/ID/attach/ws                    Upgrade:websocket
POST    /containers/ID/exec                         Content-Length:0
POST    /build                                      Content-Length:0
PATCH   /containers/json
TRACE   /containers/json
GET     /exec/ID/json
GET     /secrets
GET     /swarm
GET     /system/df
GET     /volumes
GET     /images/json
GET     /v1.41/images/json
GET     /info
GET     /version
GET     /networks
GET     /
GET     //containers/json
GET     /containers/json/
GET     /v1.41//containers/json
GET     /v1.41/v1.41/containers/json
GET     /containers/../images/json
GET     /containers/%2e%2e/json
GET     /containers/..%2fimages/json
GET     /networks/..
GET     /networks/x%2F..%2F..%2Finfo
GET     /%63ontainers/json
GET     /info?/containers/json
GET     /info;/containers/json
GET     http://engine/containers/json
GET     http://engine/info?http://engine/containers/json
GET     /events                                     Upgrade:tcp
GET     /containers/json                            Content-Length:0
GET     /containers/json                            Transfer-Encoding:chunked
`

// TestSocketProxyRefusesAllElse: whatever is not the agent's question gets 403 and a sentence, however
// it is spelt.
func TestSocketProxyRefusesAllElse(t *testing.T) {
	w := newWorld(t)
	f := newFilter(w)
	box := w.container(app{service: "shop"})
	f.refuses(refusedRequests, box.ID)
}

// refuses asserts that the filter passes on none of these requests.
func (f *filter) refuses(requests, id string) {
	f.Helper()
	for line := range strings.Lines(strings.TrimSpace(strings.ReplaceAll(requests, "ID", id))) {
		words := append(strings.Fields(line), "") // no header
		got := f.ask(words[0], words[1], words[2])
		if got.status != http.StatusForbidden || !strings.Contains(got.body, `{"message":"the filter before this engine lets only`) {
			f.Errorf("%s: got %d %q %v, want 403 and a sentence", line, got.status, got.body, got.err)
		}
	}
}

// refusedToOperators are refused also where a stop is let through.
const refusedToOperators = `
POST    /containers/ID/kill                         Content-Length:0
POST    /containers/ID/restart                      Content-Length:0
POST    /containers/ID/start                        Content-Length:0
POST    /containers/ID/stop?signal=SIGHUP           Content-Length:0
POST    /containers/ID/stop?t=1&signal=9            Content-Length:0
POST    /containers/ID/stop?t=-1                    Content-Length:0
POST    /containers/ID/stop/                        Content-Length:0
POST    /containers/ID/stop/../kill                 Content-Length:0
POST    /containers/x%2F../stop                     Content-Length:0
POST    /containers/ID/stop                         Content-Length:2
POST    /containers/ID/stop                         Transfer-Encoding:chunked
POST    /containers/ID/stop                         Upgrade:tcp
POST    /containers/stop                            Content-Length:0
POST    /networks/ID/stop                           Content-Length:0
POST    /events                                     Content-Length:0
PUT     /containers/ID/stop                         Content-Length:0
GET     /containers/ID/stop
`

// TestSocketProxyWithStopRefusesAllElse: with ALLOW_STOP the filter lets a stop through, and refuses every
// other request that it refuses without it.
func TestSocketProxyWithStopRefusesAllElse(t *testing.T) {
	w := newWorld(t)
	f := newFilter(w, "ALLOW_STOP=yes")
	box := w.container(app{service: "shop"})
	const stop = "POST    /v1.41/containers/ID/stop                   Content-Length:0\n"
	without := strings.Replace(refusedRequests, stop, "", 1)
	if without == refusedRequests {
		t.Fatalf("%q is not among the refused requests any more", stop)
	}
	f.refuses(without, box.ID)
	f.refuses(refusedToOperators, box.ID)
	if got := f.ask("POST", "/v1.41/containers/"+box.ID+"/stop?t=1", "Content-Length:0"); got.status != http.StatusNoContent {
		t.Errorf("a stop: got %d %q %v, want 204", got.status, got.body, got.err)
	}
}

// TestComposeSocketProxy is deploy/socket-proxy/docker-compose.yml on top of a host's file: neither
// the agent nor its container has the engine's socket, and it serves all the same, also after a
// restart of the engine, whose socket is then another one.
func TestComposeSocketProxy(t *testing.T) {
	const site = "shop.example.test"
	m := newMachines(t, "one")[0]
	t.Cleanup(m.whatHappened)
	m.restartEngine() // from now on, containers live on without it
	m.sh("docker run -d --name etcd -p 2379:2379 " + etcdImage)
	m.configure("SIDEKICK_REGISTRY=etcd://" + m.at(2379))
	const start = "docker run -d -p 8000 -l sidekick.service=shop -l sidekick.host=" + site + " " + appImage
	m.sh(start)
	m.sh("cd $DEPLOY; docker compose -f docker-compose.yml -f socket-proxy/docker-compose.yml up -d")
	m.servedBy(site, 1)

	m.unprivileged("sidekick", "sidekick-haproxy")
	if got := m.sh("docker inspect -f '{{json .HostConfig.Binds}}{{json .Mounts}}' sidekick sidekick-haproxy"); strings.Contains(got, `"/run"`) || strings.Contains(got, "/run:") {
		t.Errorf("the engine's socket is still mounted: %s", got)
	}
	m.lossless(site, "engine and filter restarted", func() {
		m.restartEngine()
		m.sh("docker restart --time 10 sidekick-socket-proxy")
		m.sh(start)
		m.servedBy(site, 2)
	})
	m.agentInStep("sidekick")
}
