package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/certtest"
)

// certify writes a file of the directory of certificates.
func (w *world) certify(file, text string) {
	w.Helper()
	w.put("certs/"+file, text)
}

// shows waits until clients that ask for the host are shown the certificate of that number.
func (w *world) showsCertificate(host string, serial int64) {
	w.Helper()
	w.until(fmt.Sprintf("%s is shown certificate %d", host, serial), func() error {
		if got, _ := certtest.Shown(w.at(8443), host); got != serial {
			return fmt.Errorf("it is number %d", got)
		}
		return nil
	})
}

// TestCertificates: a directory of certificates is followed without a reload or a lost request; a broken
// one leaves the last good one in force and is told of, and so is a port for HTTPS that another program
// has, which hinders nothing else. P2, P7, P11.
func TestCertificates(t *testing.T) {
	onSites(t, func(s *site) {
		shop := app{service: "shop"}
		own := s.occupy(8443)
		first, second, third := certtest.Make(s, 1, time.Hour, shop.host()), certtest.Make(s, 2, time.Hour, shop.host()), certtest.Make(s, 3, time.Hour, "more.example.test")
		s.certify("shop.crt", first.Cert)
		s.certify("shop.key", first.Key)
		i := s.serve("one").instance(shop)
		i.Options = map[string]string{"redirect": "https"}
		s.register(i)
		s.begin("--certs", s.path("certs"), "--https-listen", s.at(8443))
		s.answeredByNames(shop, "one") // plain, for there is nowhere to be redirected to
		s.until("people are told that there is no HTTPS, and why", func() error {
			return s.says("shop", "port 8443 is in use by another program")
		})
		s.check(own.Close())
		s.showsCertificate(shop.host(), 1)
		if got := s.get(s.httpAddr(), "/", shop.host()); got.err == nil && got.status == 200 {
			s.Errorf("plain HTTP: got %+v, want a redirect", got)
		}

		s.until("the reloads are counted, the first and that for HTTPS", func() error {
			if n, err := s.metric("sidekick_reloads_total"); err != nil || n < 2 {
				return errors.Join(err, fmt.Errorf("%v reloads", n))
			}
			return nil
		})
		reloads := s.mustMetric("sidekick_reloads_total")
		load := certtest.Start(s, s.at(8443), shop.host(), 2)
		s.certify("shop.key", second.Key) // that is a moment in which key and certificate do not match
		s.certify("shop.crt", second.Cert)
		s.showsCertificate(shop.host(), 2)
		s.certify("more.pem", third.PEM())
		s.showsCertificate("more.example.test", 3)
		s.certify("shop.key", first.Key)
		s.until("the broken one is told of", func() error {
			got := s.get(s.adminAddr(), "/api/v1/services", "").body
			if n, err := s.metric(`sidekick_rejected{kind="certificate"}`); err != nil || n != 1 || !strings.Contains(got, "certificate shop: the key is that of another certificate") {
				return errors.Join(err, fmt.Errorf("%v rejected, services are %s", n, got))
			}
			return nil
		})
		s.showsCertificate(shop.host(), 2)
		s.check(os.Remove(s.path("certs/more.pem")))
		s.showsCertificate("more.example.test", 2)
		s.certify("shop.key", second.Key)
		s.until("all is well again", func() error {
			if n, err := s.metric("sidekick_rejected"); err != nil || n != 0 {
				return errors.Join(err, fmt.Errorf("%v rejected", n))
			}
			return nil
		})
		if got := s.mustMetric(`sidekick_certificate_expiry_timestamp_seconds`); got < float64(time.Now().Unix()) {
			s.Errorf("expiry: got %f, want a time to come", got)
		}
		if got := s.mustMetric("sidekick_reloads_total"); got != reloads {
			s.Errorf("got %v more reloads, want none", got-reloads)
		}
		s.check(s.agent.End(patience))
		s.agent = nil
		s.startAgent()
		s.showsCertificate(shop.host(), 2)
		sent := load.Sent()
		s.until("more requests", func() error {
			if load.Sent() < sent+50 {
				return errors.New("not yet")
			}
			return nil
		})
		load.MustLoseNothing(s)
		s.inStep()
		if n, err := s.metric("sidekick_reloads_total"); err == nil && n != 0 {
			s.Errorf("the agent that was started anew made %v reloads, want none", n)
		}
		s.keepsKeys(first, second)
	})
}

// keepsKeys fails the test if a private key is told of anywhere.
func (s *site) keepsKeys(pairs ...certtest.Pair) {
	s.Helper()
	secret := func(text string) bool {
		for _, p := range pairs {
			if strings.Contains(text, strings.Split(p.Key, "\n")[1]) {
				return true
			}
		}
		return false
	}
	shown := map[string]string{}
	for _, path := range []string{"/metrics", "/api/v1/config", "/api/v1/services", "/api/v1/status", "/api/v1/events"} {
		shown[path] = s.get(s.adminAddr(), path, "").body
	}
	for _, command := range [][]string{{"render"}, {"render", "--diff"}} {
		out := s.sidekick(append(command, "--admin", s.adminAddr(), "--certs", s.path("certs"), "--https-listen", s.at(8443), "--haproxy-config", s.config())...)
		shown[strings.Join(command, " ")] = out.stdout + out.stderr
	}
	log, err := os.ReadFile(s.path("agent.log"))
	s.check(err)
	shown["the log"] = string(log)
	for what, text := range shown {
		if secret(text) {
			s.Errorf("%s shows a private key", what)
		}
	}
	if !strings.Contains(shown["render"], "(a private key, ") {
		s.Errorf("render shows no certificate: %.300s", shown["render"])
	}
}
