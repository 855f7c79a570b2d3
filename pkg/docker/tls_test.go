package docker

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log" //nolint:depguard // net/http takes no other
	"math/big"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/internal/fakeengine"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// serveTLS puts an engine behind TLS that wants certificates of its clients.
func serveTLS(t *testing.T, e *fakeengine.Engine, pair tls.Certificate, clients *x509.CertPool) (address string) {
	t.Helper()
	server := httptest.NewUnstartedServer(e)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	t.Cleanup(e.DropStreams)
	return "tcp://" + server.Listener.Addr().String()
}

// An engine behind TLS with client certificates, as the DOCKER_ variables name them. What is told of
// while the stream is cut is found after it (F1).
func TestTLSFromEnvironment(t *testing.T) {
	dir := t.TempDir()
	pair, pool := certificate(t, dir)
	for _, from := range []string{"field", "environment"} {
		t.Run(from, func(t *testing.T) {
			e := fakeengine.New(t)
			e.Start(fakeContainer(1))
			host := serveTLS(t, e, pair, pool)
			t.Setenv("DOCKER_TLS_VERIFY", "1")
			t.Setenv("DOCKER_CERT_PATH", dir)
			if from == "environment" {
				t.Setenv("DOCKER_HOST", host)
				host = ""
			}
			w := watch(t, e, func(s *Source) { s.Host = host })
			if got, want := w.next(t), "c1:ready"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			release := e.Hold("/events")
			e.DropStreams()
			e.Start(fakeContainer(2))
			e.Kill(fakeContainer(1).ID, "15")
			release()
			w.until(t, "c1:draining c2:ready")
		})
	}
}

// What does not fit together is said, and is tried again: certificates are renewed on disk.
func TestTLSThatDoesNotFit(t *testing.T) {
	engines, others := t.TempDir(), t.TempDir()
	pair, pool := certificate(t, engines)
	certificate(t, others)
	mixed := t.TempDir()
	for file, dir := range map[string]string{"ca.pem": engines, "cert.pem": others, "key.pem": others} {
		copyFile(t, filepath.Join(dir, file), filepath.Join(mixed, file))
	}
	for name, tt := range map[string]struct{ dir, want string }{
		"the engine's certificate is of another authority": {others, "certificate signed by unknown authority"},
		"our certificate is of another authority":          {mixed, "tls: "},
		"no TLS at all": {"", "event stream: "},
	} {
		t.Run(name, func(t *testing.T) {
			e := fakeengine.New(t)
			e.Start(fakeContainer(1))
			host := serveTLS(t, e, pair, pool)
			t.Setenv("DOCKER_TLS_VERIFY", tt.dir)
			t.Setenv("DOCKER_CERT_PATH", tt.dir)
			w := watch(t, e, func(s *Source) { s.Host = host })
			w.reported(t, tt.want, func(err error) bool { return err != nil && strings.Contains(err.Error(), tt.want) })
			if tt.dir != others {
				return
			}
			for _, file := range []string{"ca.pem", "cert.pem", "key.pem"} {
				copyFile(t, filepath.Join(engines, file), filepath.Join(others, file))
			}
			w.until(t, "c1:ready")
		})
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A certificate that is named and not there is a matter of the settings.
func TestTLSWithoutItsFiles(t *testing.T) {
	t.Setenv("DOCKER_TLS_VERIFY", "1")
	t.Setenv("DOCKER_CERT_PATH", t.TempDir())
	s := &Source{Host: "tcp://127.0.0.1:1", Node: "h1", Log: logrus.New()}
	err := s.Run(t.Context(), make(chan []service.Instance))
	if err == nil || !strings.Contains(err.Error(), "check --docker and the DOCKER_ variables") {
		t.Errorf("got %v, want an error that names the settings", err)
	}
}

// certificate writes one that signs itself, for both sides, into dir under the engine's names.
func certificate(t *testing.T, dir string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "engine"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	secret := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})
	for name, b := range map[string][]byte{"ca.pem": cert, "cert.pem": cert, "key.pem": secret} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(cert, secret)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return pair, pool
}
