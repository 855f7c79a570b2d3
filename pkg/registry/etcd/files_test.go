package etcd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/sidekick-proxy/sidekick/pkg/registry/registrytest"
)

// secured is a member that wants certificates, and the files of a host.
type secured struct {
	*member
	authority *ca
	servers   string // directory of the member's files
	files     Files
}

func newSecured(t *testing.T, names ...string) *secured {
	t.Helper()
	s := &secured{authority: newCA(t), servers: t.TempDir()}
	addr, host := address(), t.TempDir()
	cert, key := s.authority.server(t, s.servers, append(names, addr)...)
	trusted := s.authority.write(t, filepath.Join(s.servers, "ca.pem"))
	s.member = newClusterAt(t, []string{addr}, func(c *embed.Config) {
		c.ClientTLSInfo.CertFile, c.ClientTLSInfo.KeyFile = cert, key
		c.ClientTLSInfo.TrustedCAFile, c.ClientTLSInfo.ClientCertAuth = trusted, true
	})[0]
	s.files.CA = s.authority.write(t, filepath.Join(host, "ca.pem"))
	s.files.Cert, s.files.Key = s.authority.client(t, host, "agent", time.Now().Add(time.Hour))
	return s
}

// agent is one with these files, and what its connection logs.
func (s *secured) agent(t *testing.T, files Files) (*agent, *logtest.Hook) {
	t.Helper()
	log, hook := logtest.NewNullLogger()
	return newAgent(t, dialed(t, Config{Endpoints: endpointsOf(s.member), Files: files, Log: log})), hook
}

// reconnects makes clients connect anew.
func (s *secured) reconnects(t *testing.T) {
	t.Helper()
	s.way.cut()
	s.way.mend(t)
}

func TestCertificatesAreSaidToBeWrong(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	web := registrytest.Instance("a", "web", 1)
	none, _ := s.agent(t, Files{CA: s.files.CA})
	stranger := s.files
	stranger.Cert, stranger.Key = newCA(t).client(t, t.TempDir(), "agent", time.Now().Add(time.Hour))
	other, _ := s.agent(t, stranger)
	distrusting := s.files
	distrusting.CA = newCA(t).write(t, filepath.Join(t.TempDir(), "ca.pem"))
	wrong, _ := s.agent(t, distrusting)
	none.fails(t, ClientCertificate, "etcd wants a certificate that it trusts", "--registry-cert")
	other.fails(t, ClientCertificate, "etcd wants a certificate that it trusts, which --registry-cert ", "its authority must be one of etcd's")
	wrong.fails(t, Certificate, "its certificate is not trusted", "--registry-ca")

	right, _ := s.agent(t, s.files)
	right.works(t, web)
	s.authority.server(t, s.servers, "elsewhere.example.com") // the member takes it for each connection anew
	s.reconnects(t)
	right.set(t) // a write shows it at once
	right.fails(t, Certificate, "its certificate is not trusted", "names that it holds")
	s.authority.server(t, s.servers, s.addr)
	right.works(t, web)
}

// TestExpiredCertificateIsReplaced: a new file is enough.
func TestExpiredCertificateIsReplaced(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	host := filepath.Dir(s.files.Cert)
	s.authority.client(t, host, "agent", time.Now().Add(-time.Hour))
	a, _ := s.agent(t, s.files)
	a.fails(t, ClientCertificate, "the one in --registry-cert ran out at")
	s.authority.client(t, host, "agent", time.Now().Add(time.Hour))
	a.works(t, registrytest.Instance("a", "web", 1))
}

// TestFilesThatDoNotBelongTogether: while files are half written, what they held before stays in use.
func TestFilesThatDoNotBelongTogether(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	a, log := s.agent(t, s.files)
	n := 0
	works := func() {
		t.Helper()
		s.reconnects(t)
		n++
		a.works(t, registrytest.Instance("a", "web", n))
	}
	logged := func(level logrus.Level, text string) (n int) {
		for _, e := range log.AllEntries() {
			if line, _ := e.String(); e.Level == level && strings.Contains(line, text) {
				n++
			}
		}
		return n
	}
	works()
	cert, key := s.authority.client(t, t.TempDir(), "agent-2", time.Now().Add(time.Hour))
	text := func(file string) []byte {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for i, half := range [][]byte{text(cert)[:100], text(cert)} { // the key is still the old one
		replace(t, s.files.Cert, half)
		works()
		works()
		if got := logged(logrus.WarnLevel, "--registry-cert and --registry-key"); got != i+1 {
			t.Errorf("fault %d: got %d warnings in all, want one of each", i, got)
		}
	}
	replace(t, s.files.Key, text(key))
	works()
	if got := logged(logrus.InfoLevel, "read again"); got != 1 {
		t.Errorf("got %d messages of the new pair, want one", got)
	}

	// Another authority, which the member changes to first.
	next := newCA(t)
	next.server(t, s.servers, s.addr)
	replace(t, s.files.CA, []byte("half"))
	s.reconnects(t)
	a.set(t) // a write shows it at once
	a.fails(t, Certificate, "its certificate is not trusted")
	replace(t, s.files.CA, fmt.Appendf(next.pem(), "%s", s.authority.pem()))
	works()
}

func TestDialRefusesBadFiles(t *testing.T) {
	authority, dir := newCA(t), t.TempDir()
	ca := authority.write(t, filepath.Join(dir, "ca.pem"))
	cert, _ := authority.client(t, dir, "a", time.Now().Add(time.Hour))
	empty := secretFile(t, "")
	for _, tt := range []struct {
		files Files
		says  string
	}{
		{Files{CA: dir + "/none"}, "--registry-ca"},
		{Files{CA: empty}, "no certificate in PEM form"},
		{Files{CA: ca, Cert: cert}, "--registry-cert and --registry-key"},
		{Files{CA: ca, Cert: cert, Key: empty}, "--registry-cert and --registry-key"},
		{Files{Password: empty}, "is empty"},
	} {
		cfg := Config{Endpoints: []string{"https://127.0.0.1:1"}, Files: tt.files}
		if tt.files.Password != "" {
			cfg.Username = "u"
		}
		c, err := Dial(cfg)
		if err == nil {
			c.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%+v: got %v, want an error that says %q", tt.files, err, tt.says)
		}
	}
}
