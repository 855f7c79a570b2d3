package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/internal/enginetest"
)

func containsAll(text string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(text, p) {
			return false
		}
	}
	return true
}

// noService is what HAProxy answers for a host that nobody serves. A request that was sent to an
// instance and failed is answered otherwise.
const noService = "no such service"

// TestNothingReachesWhoDoesNotListen: a container that listens two seconds after its start gets no
// request before. P1.
func TestNothingReachesWhoDoesNotListen(t *testing.T) {
	for _, publish := range []bool{false, true} {
		t.Run(map[bool]string{false: "unpublished", true: "published"}[publish], func(t *testing.T) {
			w := newWorld(t)
			w.startAll(embedded)
			slow := app{service: "slow", delay: "2s", publish: publish}
			box := w.container(slow)
			early := 0
			w.until("the container answers", func() error {
				got := w.ask(slow)
				if got.ok() == nil {
					return nil
				}
				if early++; got.status != http.StatusServiceUnavailable || !containsAll(got.body, noService) {
					t.Errorf("a request before the container listened: got %+v, want %q", got, noService)
				}
				return fmt.Errorf("not yet: %+v", got)
			})
			if early == 0 {
				t.Error("no request came before the container listened: the test shows nothing")
			}
			traffic := w.load(slow)
			w.answeredBy(slow, box)

			// A slow one beside one that serves: it is listed as held back, and the load feels nothing.
			second := w.container(slow)
			held := false
			w.until("the second answers", func() error {
				for _, s := range must(w.services()) {
					for _, i := range s.Instances {
						held = held || !i.Routed && i.State == "starting" && i.Why != ""
					}
				}
				if traffic.Now().Servers[second.Short()] == 0 {
					return errors.New("not yet")
				}
				return nil
			})
			if !held {
				t.Error("the services never listed the container as starting, with the reason")
			}
			w.answeredBy(slow, box, second)
			w.noneFailed(traffic)
		})
	}
}

func must[T any](v T, _ error) T { return v }

// TestHealthcheckGates: where the image has a HEALTHCHECK, its word counts. P1.
func TestHealthcheckGates(t *testing.T) {
	w := newWorld(t)
	w.startAll(embedded)
	// The check asks a port at which nobody listens, so the container never becomes healthy.
	sick, err := w.engine.Start(w.ctx, enginetest.Spec{
		Image: programs.image, Network: w.run,
		Labels: map[string]string{"sidekick.service": "sick", "sidekick.host": "sick.example.test"},
		Health: &enginetest.Health{Cmd: []string{"/app", "-check", "-port", "9"}, Interval: 100 * time.Millisecond, Timeout: time.Second, Retries: 1},
	})
	w.check(err)
	well, err := w.engine.Start(w.ctx, enginetest.Spec{
		Image: programs.image, Network: w.run,
		Labels: map[string]string{"sidekick.service": "well", "sidekick.host": "well.example.test"},
		Health: &enginetest.Health{Cmd: []string{"/app", "-check"}, Interval: 100 * time.Millisecond, Timeout: time.Second, Retries: 1},
	})
	w.check(err)
	w.answeredBy(app{service: "well"}, well)
	w.until("the sick one is listed with the reason", func() error {
		i, err := w.instance("sick", sick)
		if err == nil && (i.Routed || i.Why == "") {
			err = fmt.Errorf("listed as %+v", i)
		}
		return err
	})
	if got := w.ask(app{service: "sick"}); got.status != http.StatusServiceUnavailable {
		t.Errorf("the sick one: got %+v, want 503", got)
	}
}

// TestEqualCatalogsCostNothing: writing the same things anew changes the registry's revision and
// nothing else. P11.
func TestEqualCatalogsCostNothing(t *testing.T) {
	w := newWorld(t)
	w.startAll(etcdURL)
	shop := app{service: "shop"}
	a := w.container(shop)
	w.answeredBy(shop, a)
	w.inStep()
	reloads, commands := w.mustMetric("sidekick_reloads_total"), w.mustMetric("sidekick_runtime_commands_total")
	config, err := os.Stat(w.config())
	w.check(err)

	// After all that is equal comes a value that breaks a rule: the agent has seen it, so it has seen
	// the others too, and no instance has changed by it either.
	w.touchAll()
	w.until("the agent has seen all that was written", func() error {
		got, err := w.metric("sidekick_rejected")
		if err == nil && got == 0 {
			err = errors.New("nothing is rejected yet")
		}
		return err
	})
	// A change that does reach HAProxy comes after all that went before it.
	b := w.container(app{service: "other"})
	w.answeredBy(app{service: "other"}, b)
	w.until("the reload for the new service is counted, which HAProxy serves a moment earlier", func() error {
		got, err := w.metric("sidekick_reloads_total")
		if err == nil && got == reloads {
			err = errors.New("it is not yet")
		}
		return err
	})
	w.inStep()
	if got := w.mustMetric("sidekick_reloads_total"); got != reloads+1 {
		t.Errorf("reloads: got %v, want %v: none for equal catalogs, one for the new service", got, reloads+1)
	}
	if got := w.mustMetric("sidekick_runtime_commands_total"); got != commands {
		t.Errorf("runtime commands: got %v, want still %v", got, commands)
	}
	if now := must(os.Stat(w.config())); now.ModTime().Equal(config.ModTime()) {
		t.Error("the new service is not in the file: the test shows nothing")
	}
}

// touchAll writes every instance's key again with its own value and lease, several times, and at
// last a value that no reader can take.
func (w *world) touchAll() {
	w.Helper()
	client := w.registryClient()
	ctx, cancel := context.WithTimeout(w.ctx, 30*time.Second)
	defer cancel()
	for range 5 {
		list, err := client.Get(ctx, "/sidekick/v1/instances/", clientv3.WithPrefix())
		w.check(err)
		if len(list.Kvs) == 0 {
			w.Fatal("no instance is registered")
		}
		for _, kv := range list.Kvs {
			_, err := client.Put(ctx, string(kv.Key), string(kv.Value), clientv3.WithLease(clientv3.LeaseID(kv.Lease)))
			w.check(err)
		}
	}
	_, err := client.Put(ctx, "/sidekick/v1/instances/there/broken", `{"service":"shop"}`)
	w.check(err)
}

// TestBrokenTemplates: a template that does not parse, one that fails, and one whose text HAProxy
// refuses leave everything as it is, and the reason is shown; each is mended by mending the file.
// P7, F8.
func TestBrokenTemplates(t *testing.T) {
	w := newWorld(t)
	builtin, err := os.ReadFile("../templates/haproxy.cfg.tmpl")
	w.check(err)
	good := string(builtin)
	template := w.path("mine.tmpl")
	write := func(text string) { w.check(os.WriteFile(template, []byte(text), 0o600)) }
	write(good)
	w.extra = []string{"--template", template}
	w.startAll(embedded)
	shop := app{service: "shop"}
	boxes := []*enginetest.Container{w.container(shop)}
	w.answeredBy(shop, boxes...)
	traffic := w.load(shop)

	breakages := []struct{ name, text, stage, reason string }{
		{"does not parse", good + "{{if}}", "render", "missing value for if"},
		{"fails", good + "{{.NoSuchField}}", "render", "NoSuchField"},
		{"is refused by HAProxy", strings.Replace(good, "retries 7", "retires 7", 1), "haproxy", "retires"},
	}
	for _, b := range breakages {
		write(b.text)
		w.until("the agent says that the template "+b.name, func() error { return w.faulty(b.stage, b.reason) })
		w.answeredBy(shop, boxes...)
		write(good)
		boxes = append(boxes, w.container(shop))
		w.answeredBy(shop, boxes...)
		w.inStep()
	}
	text, err := os.ReadFile(w.config())
	w.check(err)
	if !containsAll(string(text), "retries 7") || containsAll(string(text), "retires") {
		t.Errorf("the file on disk is not the good one:\n%s", text)
	}
	w.noneFailed(traffic)
}

// TestHostileContainers: whatever a container's labels say, others are served as before, and it is
// told why it is not. P7, F7.
func TestHostileContainers(t *testing.T) {
	w := newWorld(t)
	w.startAll(embedded)
	shop := app{service: "shop"}
	a := w.container(shop)
	w.answeredBy(shop, a)
	traffic := w.load(shop)

	host := func(v string) map[string]string { return map[string]string{"sidekick.host": v} }
	hostile := []map[string]string{
		host("evil.test\n    http-request deny"),
		host(`evil.test" deny "`),
		host("evil.test # comment"),
		host("${HOME}.test"),
		host("'; set server be_shop/x state maint; '"),
		host(strings.Repeat("a", 10_000)),
		{"sidekick.path": "/%[env(HOME)]\r\n", "sidekick.host": "evil.test"},
		{"sidekick.service": "../../nodes/other", "sidekick.host": "evil.test"},
		{"sidekick.service": "UPPER case", "sidekick.host": "evil.test"},
		{"sidekick.port": "99999", "sidekick.host": "evil.test"},
		{"sidekick.port": "8000\n", "sidekick.host": "evil.test"},
		{"sidekick.weight": "257", "sidekick.host": "evil.test"},
		{"sidekick.meta.x": strings.Repeat("m", 10_000), "sidekick.host": "evil.test"},
		{"sidekick.balance": "roundrobin\n    http-request deny", "sidekick.host": "evil.test"},
		{"sidekick.nonsense": "1", "sidekick.host": "evil.test"},
	}
	names := map[string]string{}
	for n, labels := range hostile {
		name := "hostile-" + strconv.Itoa(n) + "-" + w.run
		box := w.container(app{name: name, labels: labels})
		names[name] = fmt.Sprintf("%.80q", labels)
		_ = box
	}
	for name, labels := range names {
		w.until(labels+" is listed with the reason why it is not served", func() error { return w.refused(name) })
	}
	if got := w.get(w.httpAddr(), "/", "evil.test"); got.status != http.StatusServiceUnavailable {
		t.Errorf("evil.test: got %+v, want 503: nobody may serve it", got)
	}
	// The label is valid, but the port is one at which nobody listens.
	w.container(app{service: "deaf", labels: map[string]string{"sidekick.port": "9"}})
	// And one that is valid through and through, and wants what another service has.
	thief := w.container(app{service: "thief", labels: map[string]string{"sidekick.host": shop.host()}})
	w.until("the thief is told that the host is taken", func() error {
		for _, s := range must(w.services()) {
			if s.Name == "thief" && len(s.Instances) == 1 && strings.Contains(s.Why+s.Instances[0].Why, shop.host()) {
				return nil
			}
		}
		return fmt.Errorf("services: %+v", must(w.services()))
	})
	w.until("the deaf one is held back with the reason", func() error { return w.refused("deaf") })

	b := w.container(shop)
	w.answeredBy(shop, a, b)
	w.until("the load reaches both", func() error {
		if by := traffic.Now().Servers; len(by) < 2 {
			return fmt.Errorf("answered by %v", by)
		}
		return nil
	})
	report := w.noneFailed(traffic)
	if n := report.Servers[thief.Short()]; n > 0 {
		t.Errorf("the thief answered %d requests for another service's host", n)
	}
	if n := len(report.Servers); n != 2 {
		t.Errorf("answered by %v, want the two of the shop alone", report.Servers)
	}
	w.inStep()
}

// refused says whether a container or service of that name is listed, not routed, with a reason.
func (w *world) refused(name string) error {
	list, err := w.services()
	if err != nil {
		return err
	}
	for _, s := range list {
		for _, i := range s.Instances {
			if !strings.Contains(s.Name+" "+i.ID+" "+i.Why, name) {
				continue
			}
			if i.Routed || i.Why == "" {
				return fmt.Errorf("it is listed as %+v", i)
			}
			return nil
		}
	}
	return fmt.Errorf("%s is not listed", name)
}
