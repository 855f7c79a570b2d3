package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/certtest"
)

// put writes a file of an operator's, as a careful program does.
func (w *world) put(file, text string) {
	w.Helper()
	path := w.path(file)
	w.check(os.MkdirAll(filepath.Dir(path), 0o755))
	unfinished := filepath.Join(filepath.Dir(path), ".new")
	w.check(os.WriteFile(unfinished, []byte(text), 0o600))
	w.check(os.Rename(unfinished, path))
}

// serveMutually starts a web server that speaks TLS, and only with clients that show one of these certificates.
// shown is the number of the one that was shown last.
func (s *site) serveMutually(name string, own certtest.Pair, clients ...certtest.Pair) (v *webServer, shown *atomic.Int64) {
	s.Helper()
	shown = &atomic.Int64{}
	config := &tls.Config{Certificates: []tls.Certificate{own.TLS(s)}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()}
	for _, c := range clients {
		config.ClientCAs.AppendCertsFromPEM([]byte(c.Cert))
	}
	config.VerifyConnection = func(state tls.ConnectionState) error {
		shown.Store(state.PeerCertificates[0].SerialNumber.Int64())
		return nil
	}
	return s.serveOver(name, func(l net.Listener) net.Listener { return tls.NewListener(l, config) }), shown
}

// rejects waits until the agent says that so many files are not taken as they are, and why.
func (s *site) rejects(number int, reasons ...string) {
	s.Helper()
	s.until(fmt.Sprintf("%d files are told of", number), func() error {
		n, err := s.metric("sidekick_rejected")
		if err != nil || n != float64(number) {
			return errors.Join(err, fmt.Errorf("%v are", n))
		}
		got := s.get(s.adminAddr(), "/api/v1/services", "").body
		for _, reason := range reasons {
			if !strings.Contains(got, reason) {
				return fmt.Errorf("no %q in %s", reason, got)
			}
		}
		return nil
	})
}

// TestSiteFiles: files of --set that are missing or bad hinder only what needs them, which is closed meanwhile;
// once they were good they stay in force whatever becomes of them; a renewed certificate is shown to servers
// without a restart; no request is lost, and an agent that is started anew reloads nothing. P2, P7, F7.
func TestSiteFiles(t *testing.T) {
	onSites(t, func(s *site) {
		shop, other, staff := app{service: "shop"}, app{service: "other"}, app{service: "staff"}
		server, own, renewed := certtest.Make(s, 1, time.Hour, shop.host()), certtest.Make(s, 2, time.Hour, "proxy"), certtest.Make(s, 3, time.Hour, "proxy")
		one, shown := s.serveMutually("one", server, own, renewed)
		i := one.instance(shop)
		i.Options = map[string]string{"tls": "server"}
		s.register(i)
		s.register(s.serve("two").instance(other))
		i = s.serve("three").instance(staff)
		i.Options = map[string]string{"auth": "users"}
		s.register(i)

		s.put("tls/own.pem", own.Cert)
		s.put("auth/users", "alice:$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1\n")
		s.put("pages/401.html", "who are you?")
		s.begin("--set", "auth-dir="+s.path("auth"), "--set", "error-dir="+s.path("pages"), "--set", "server-ca="+s.path("tls/ca.pem"), "--set", "server-cert="+s.path("tls/own.pem"))
		s.answeredByNames(other, "two")
		asksWho := func() {
			s.Helper()
			s.until("staff is asked who asks", func() error {
				if got := s.ask(staff); got.status != http.StatusUnauthorized || got.body != "who are you?" {
					return fmt.Errorf("got %+v", got)
				}
				return nil
			})
		}
		asksWho()
		s.rejects(2, "own.pem: there is no private key in it", "ca.pem: it does not exist: put it where the agent runs")
		s.check(s.says("shop", "its instances get nothing until"))
		if got := s.ask(shop); got.status != http.StatusServiceUnavailable {
			s.Errorf("without certificates: got %+v, want 503", got)
		}

		s.put("tls/own.pem", own.PEM())
		s.put("tls/ca.pem", server.Cert)
		s.answeredByNames(shop, "one")
		s.rejects(0)
		load := s.load(shop)
		s.flows(load, 50)
		s.put("tls/own.pem", renewed.PEM())
		s.until("the server is shown the renewed certificate", func() error {
			if got := s.ask(shop); got.ok() != nil || shown.Load() != 3 {
				return errors.Join(got.ok(), fmt.Errorf("it is shown number %d", shown.Load()))
			}
			return nil
		})
		s.inStep()
		before := s.workers()
		s.put("tls/own.pem", renewed.Key)
		s.check(os.Remove(s.path("tls/ca.pem")))
		s.rejects(2, "its last good content stays in force")
		s.answeredByNames(shop, "one")
		s.put("tls/own.pem", renewed.PEM())
		s.put("tls/ca.pem", server.Cert)
		s.rejects(0)
		s.noReload(before)

		s.check(s.agent.End(patience))
		s.agent = nil
		s.startAgent()
		s.inStep()
		s.flows(load, 50)
		s.noneFailed(load)
		asksWho()
		s.answeredByNames(shop, "one")
		if now := s.workers(); now.reloads != before.reloads || now.failed != before.failed {
			s.Errorf("the agent that was started anew reloaded HAProxy %d times, want none", now.reloads-before.reloads)
		}
	})
}
