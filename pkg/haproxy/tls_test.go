package haproxy

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/certtest"
	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
	"github.com/sidekick-proxy/sidekick/templates"
)

// secured is the built-in template over services and certificates that a test changes, before a HAProxy of
// its own.
type secured struct {
	*bench
	https        string
	services     *service.Builder
	certificates map[string]render.Certificate
	renderer     *render.Renderer
}

func newSecured(t haproxytest.T) *secured {
	t.Helper()
	b := external(t, t.Bin)
	b.start(t)
	b.run(t)
	s := &secured{b, haproxytest.Address(t, "127.0.0.11"), service.NewBuilder("/p"), map[string]render.Certificate{}, nil}
	var err error
	s.renderer, err = render.New("haproxy.cfg.tmpl", templates.HAProxy, render.Settings{
		Node: "here", HTTPListen: b.addr, HTTPSListen: s.https, Stats: haproxytest.Address(t, "127.0.0.12"),
		HTTPSSocket: filepath.Join(filepath.Dir(b.cfg.Path), "https.sock"), RuntimeSocket: b.cfg.RuntimeSocket,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *secured) register(name, addr, rest string) {
	var host string
	var port int
	fmt.Sscanf(addr, "127.0.0.1:%d", &port)
	host = "127.0.0.1"
	s.services.Put("/p/v1/instances/here/"+name, fmt.Appendf(nil, `{"service":%q,"address":%q,"port":%d,%s}`, name, host, port, rest))
}

// certify puts a certificate there, or another one of that name.
func (s *secured) certify(tb testing.TB, name string, serial int64, hosts ...string) {
	tb.Helper()
	s.certificates[name] = render.Certificate{
		Name: name, Names: hosts, NotAfter: time.Now().Add(time.Duration(serial) * time.Hour),
		Text: certtest.Make(tb, serial, time.Duration(serial)*time.Hour, hosts...).PEM(),
	}
}

// serve puts all in force.
func (s *secured) serve(tb testing.TB) Result {
	tb.Helper()
	var all []render.Certificate
	for _, c := range s.certificates {
		all = append(all, c)
	}
	files, _, err := s.renderer.Render(render.Input{Catalog: s.services.Catalog(1), Certificates: all})
	if err != nil {
		tb.Fatal(err)
	}
	return s.applyFiles(tb, files)
}

// TestRenewedCertificatesNeedNoReload: certificates are renewed, come and go, for other hosts too and
// whichever is the default one, without a reload or a lost request; and so does a redirect (P11).
func TestRenewedCertificatesNeedNoReload(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		s := newSecured(t)
		s.register("web", haproxytest.Server(t, "web"), `"hosts":["m.test"]`)
		s.certify(t, "m", 1, "m.test")
		s.serve(t)
		before := s.worker(t)
		l := certtest.Start(t, s.https, "m.test", 2)
		for _, step := range []struct {
			what   string
			change func()
			shown  map[string]int64
		}{
			{"renewed", func() { s.certify(t, "m", 2, "m.test") }, map[string]int64{"m.test": 2, "other": 2}},
			{"one more, first by its name", func() { s.certify(t, "a", 3, "a.test", "*.a.test") }, map[string]int64{"m.test": 2, "x.a.test": 3, "other": 3}},
			{"another default one", func() { s.certify(t, "default", 4, "d.test") }, map[string]int64{"m.test": 2, "a.test": 3, "d.test": 4, "other": 4}},
			{"for more hosts", func() { s.certify(t, "m", 5, "m.test", "n.test") }, map[string]int64{"m.test": 5, "n.test": 5}},
			{"another one for the same host", func() { s.certify(t, "z", 6, "m.test") }, map[string]int64{"m.test": 6, "n.test": 5}},
			{"that one gone", func() { delete(s.certificates, "z") }, map[string]int64{"m.test": 5, "n.test": 5}},
			{"the default one gone", func() { delete(s.certificates, "default") }, map[string]int64{"d.test": 3, "other": 3}},
			{"the first gone", func() { delete(s.certificates, "a") }, map[string]int64{"a.test": 5, "m.test": 5, "other": 5}},
		} {
			sent := l.Sent()
			step.change()
			if res := s.serve(t); res.How != HowRuntime {
				t.Errorf("%s: got %+v, want runtime", step.what, res)
			}
			for name, want := range step.shown {
				if got, _ := certtest.Shown(s.https, name); got != want {
					t.Errorf("%s: certificate for %s: got number %d, want %d", step.what, name, got, want)
				}
			}
			haproxytest.Until(t, "more requests", func() bool { return l.Sent() > sent+20 })
		}
		s.register("web", haproxytest.Server(t, "web"), `"hosts":["m.test"],"options":{"redirect":"https"}`)
		if res := s.serve(t); res.How != HowRuntime {
			t.Errorf("a redirect: got %+v, want runtime", res)
		}
		l.MustLoseNothing(t)
		if got := s.worker(t); got != before {
			t.Errorf("worker: got %v, want the same %v", got, before)
		}
		s.ownFilesAlone(t)
	})
}

// ownFilesAlone wants files with keys to be for their owner and group.
func (s *secured) ownFilesAlone(tb testing.TB) {
	tb.Helper()
	haproxytest.Until(tb, "the files to follow", func() bool {
		names, err := filepath.Glob(filepath.Join(filepath.Dir(s.cfg.Path), "*.pem"))
		return err == nil && len(names) == 2
	})
	names, _ := filepath.Glob(filepath.Join(filepath.Dir(s.cfg.Path), "*.pem")) // a good pattern
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			tb.Fatal(err)
		}
		if got := info.Mode().Perm(); got != secretMode {
			tb.Errorf("%s has mode %o, want %o", name, got, secretMode)
		}
	}
}

// TestHTTPSOverReloads: reloads lose no request over TLS, neither while its listener is one of HAProxy's
// frontends nor in two parts, nor where it becomes the one or the other (P2).
func TestHTTPSOverReloads(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		s := newSecured(t)
		s.register("web", haproxytest.Server(t, "web"), `"hosts":["m.test"]`)
		s.certify(t, "m", 1, "m.test")
		s.serve(t)
		l := certtest.Start(t, s.https, "m.test", 2)
		plain := haproxytest.Server(t, "vault")
		for i, parts := range []int{1, 2, 2, 1, 2, 1, 2, 1} {
			sent := l.Sent()
			s.services.Delete("/p/v1/instances/here/vault")
			if parts == 2 {
				s.register("vault", plain, `"hosts":["vault.test"],"options":{"tls":"passthrough"}`)
			}
			s.register(fmt.Sprintf("more-%d", i), plain, `"options":{"default":"true"}`)
			if res := s.serve(t); res.How != HowReload {
				t.Errorf("step %d: got %+v, want a reload", i, res)
			}
			haproxytest.Until(t, "more requests", func() bool { return l.Sent() > sent+50 })
		}
		l.MustLoseNothing(t)
	})
}
