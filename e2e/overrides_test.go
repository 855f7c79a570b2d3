package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/internal/load"
	"github.com/sidekick-proxy/sidekick/internal/proctest"
)

// outcome is what became of a command.
type outcome struct {
	code           int
	stdout, stderr string
}

// sidekick runs a command of the program with the world's registry.
func (w *world) sidekick(args ...string) outcome {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, programs.sidekick, append(args, "--registry", w.registry, "--node", "here")...)
	cmd.Env = proctest.Environ()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	err := cmd.Run()
	exit, ended := errors.AsType[*exec.ExitError](err)
	if err != nil && !ended {
		w.Fatalf("sidekick %v: %v", args, err)
	}
	o := outcome{stdout: stdout.String(), stderr: stderr.String()}
	if ended {
		o.code = exit.ExitCode()
	}
	w.Logf("sidekick %s: %d after %s\n%s%s", strings.Join(args, " "), o.code, time.Since(began).Round(time.Millisecond), o.stdout, o.stderr)
	return o
}

// does runs a command that must end well.
func (w *world) does(args ...string) {
	w.Helper()
	if o := w.sidekick(args...); o.code != 0 {
		w.Fatalf("sidekick %v: exit code %d\n%s", args, o.code, o.stderr)
	}
}

// fails runs a command that must end with the code for a failure and say these words.
func (w *world) fails(words string, args ...string) {
	w.Helper()
	if o := w.sidekick(args...); o.code != 1 || !strings.Contains(o.stderr, words) {
		w.Errorf("sidekick %v: exit code %d, want 1 and %q in:\n%s", args, o.code, words, o.stderr)
	}
}

// beside is another host of the same cluster, with a proxy and an agent of its own, and no containers.
func (w *world) beside(node string) *world {
	w.Helper()
	other := emptyWorld(w.T)
	other.bin, other.registry, other.extra = w.bin, w.registry, []string{"--node", node, "--docker", "off"}
	other.startProxy()
	other.startAgent()
	return other
}

// withoutProxy is one whose agent has no HAProxy.
func (w *world) withoutProxy(node string) {
	w.Helper()
	other := emptyWorld(w.T)
	other.registry, other.extra = w.registry, []string{"--node", node, "--docker", "off", "--haproxy", "off"}
	other.startAgent()
}

// avoided lets more of a load flow, and fails if that server answered any of it.
func (w *world) avoided(run *load.Run, server string) {
	w.Helper()
	before := run.Now().Servers[server]
	w.flows(run, 40)
	if now := run.Now().Servers[server]; now != before {
		w.Errorf("%s answered %d requests after it was taken out", server, now-before)
	}
}

// reaches waits until a server answers some of a load.
func (w *world) reaches(run *load.Run, server string) {
	w.Helper()
	before := run.Now().Servers[server]
	w.until(server+" answers", func() error {
		if run.Now().Servers[server] == before {
			return errors.New("not yet")
		}
		return nil
	})
}

// cluster is a site with a second host.
type cluster struct {
	*site
	second *site
	loads  []*load.Run // of requests, through each proxy
	others []*load.Run // of downloads and WebSockets
}

func newCluster(s *site) *cluster {
	s.begin()
	s.withoutProxy("third")
	return &cluster{site: s, second: &site{world: s.beside("second"), etcd: s.etcd, ledger: s.ledger}}
}

// loaded begins to send requests and downloads of one service, and WebSockets of another, through both
// proxies.
func (c *cluster) loaded(web, chat app) {
	for _, s := range []*site{c.site, c.second} {
		s.answers(web, "a", "b")
		c.others = append(c.others, s.sockets(chat, 4), s.run(web, load.Options{
			Kinds: []load.Kind{{Method: http.MethodGet, Download: downloadTime}}, Workers: 2, Timeout: patience,
		}))
		c.loads = append(c.loads, s.run(web, load.Options{Workers: workersPerKind, Pause: 20 * time.Millisecond}))
	}
	for _, run := range c.loads {
		c.flows(run, 50)
	}
}

// answers waits until the service is answered by all these servers.
func (s *site) answers(a app, names ...string) {
	s.Helper()
	s.until(fmt.Sprintf("%s is answered by %v", a.service, names), func() error {
		missing := map[string]bool{}
		for _, n := range names {
			missing[n] = true
		}
		for range 8 * len(names) {
			got := s.ask(a)
			if err := got.ok(); err != nil {
				return err
			}
			delete(missing, got.server)
		}
		if len(missing) > 0 {
			return fmt.Errorf("not by %v", missing)
		}
		return nil
	})
}

// everywhere does something with the load of each proxy.
func (c *cluster) everywhere(do func(*load.Run, string), server string) {
	c.Helper()
	for _, run := range c.loads {
		do(run, server)
	}
}

// reloads counts those of both proxies.
func (c *cluster) reloads() int {
	c.Helper()
	return c.workers().reloads + c.second.workers().reloads
}

// TestOverridesUnderLoad: drain, maintenance and weight by command are followed by every proxy without a
// reload, end by themselves or by command, and lose nothing of requests, slow downloads and WebSockets. When
// --wait has returned, no proxy gives the instance a request. P1, P2, P11.
func TestOverridesUnderLoad(t *testing.T) {
	onSites(t, func(s *site) {
		web, chat := app{service: "web"}, app{service: "chat"}
		for _, name := range []string{"a", "b"} {
			s.register(s.serve(name).instance(web))
		}
		s.register(s.serve("c").instance(chat))
		s.register(s.serve("d").instance(chat))
		c := newCluster(s)
		c.loaded(web, chat)
		before := c.reloads()

		s.does("maint", "web/there/b", "--wait")
		c.everywhere(s.avoided, "b")
		s.shows("b", "maint", "in maintenance by an override of")
		s.does("undrain", "web/there/b", "--wait")
		c.everywhere(s.reaches, "b")

		s.does("weight", "web/there/a", "0", "--wait")
		c.everywhere(s.reaches, "b")
		c.everywhere(s.avoidedSoon, "a")
		s.does("weight", "web/there/a", "--wait")
		c.everywhere(s.reaches, "a")

		s.does("drain", "web/there/a", "--for", "3s", "--wait")
		c.everywhere(s.reaches, "a") // it ends by itself
		s.untilKeys("overrides/", 0)

		s.fails("session", "maint", "chat/there/c", "--wait", "--timeout", "1s") // of WebSockets
		s.does("undrain", "chat")                                                // of which there is nothing
		s.does("undrain", "chat/there/c")

		c.killed(web)
		s.untilKeys("asks/", 0)
		s.untilKeys("answers/", 0)
		if now := c.reloads(); now != before {
			s.Errorf("%d reloads, want the %d of before", now, before)
		}
		for _, run := range append(c.loads, c.others...) {
			s.noneFailed(run)
		}
	})
}

// avoidedSoon is avoided for what gets no new requests while those that it has are not waited for.
func (w *world) avoidedSoon(run *load.Run, server string) {
	w.Helper()
	w.until(server+" is avoided", func() error {
		before := run.Now().Servers[server]
		w.flows(run, 40)
		if run.Now().Servers[server] != before {
			return errors.New("not yet")
		}
		return nil
	})
}

// killed: an agent that does not answer is named, the others have applied the override all the same, and
// so has it once it is back.
func (c *cluster) killed(web app) {
	c.Helper()
	c.second.agent.Kill()
	<-c.second.agent.Done()
	c.second.agent = nil
	c.fails("no answer from second", "maint", "web/there/a", "--wait", "--timeout", "2s")
	c.avoided(c.loads[0], "a")
	c.reaches(c.loads[1], "a")
	c.second.startAgent()
	c.avoidedSoon(c.loads[1], "a")
	c.does("undrain", "web/there/a", "--wait")
	c.second.answers(web, "a", "b")
}

// shows waits until the agent lists an instance in that state, with these words.
func (w *world) shows(id, state, why string) {
	w.Helper()
	w.until(id+" is listed as "+state, func() error {
		list, err := w.services()
		for _, s := range list {
			for _, i := range s.Instances {
				if i.ID == id && i.State == state && strings.Contains(i.Why, why) && !i.Routed {
					return nil
				}
			}
		}
		return errors.Join(err, fmt.Errorf("listed: %+v", list))
	})
}

// untilKeys waits until the registry has that many keys of a kind.
func (s *site) untilKeys(kind string, want int64) {
	s.Helper()
	s.until(fmt.Sprintf("%d keys below %s", want, kind), func() error {
		resp, err := s.etcd.Get(s.ctx, "/sidekick/v1/"+kind, clientv3.WithPrefix())
		if err == nil && resp.Count != want {
			err = fmt.Errorf("%d: %v", resp.Count, resp.Kvs)
		}
		return err
	})
}
