// Package certtest makes certificates for tests.
package certtest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// Pair is a certificate with its key, each as PEM.
type Pair struct{ Cert, Key string }

// PEM is both in one text.
func (p Pair) PEM() string { return p.Cert + p.Key }

// TLS is the pair as a server uses it.
func (p Pair) TLS(tb testing.TB) tls.Certificate {
	tb.Helper()
	pair, err := tls.X509KeyPair([]byte(p.Cert), []byte(p.Key))
	if err != nil {
		tb.Fatal(err)
	}
	return pair
}

// Make makes a self-signed certificate, valid for so long, for these DNS names.
func Make(tb testing.TB, serial int64, valid time.Duration, names ...string) Pair {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"}, DNSNames: names,
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(valid),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return Pair{Cert: encode(tb, "CERTIFICATE", der), Key: encode(tb, "PRIVATE KEY", secret)}
}

func encode(tb testing.TB, kind string, der []byte) string {
	tb.Helper()
	var out bytes.Buffer
	if err := pem.Encode(&out, &pem.Block{Type: kind, Bytes: der}); err != nil {
		tb.Fatal(err)
	}
	return out.String()
}

// Shown is the number of the certificate that a client is shown which asks for a name at an address, -1 if
// it is shown none, and the protocol that both chose.
func Shown(addr, name string) (serial int64, protocol string) {
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}}} //nolint:gosec // which one it is, not whether it is good
	conn, err := dialer.Dial("tcp", addr)
	if err != nil {
		return -1, ""
	}
	defer conn.Close()
	state := conn.(*tls.Conn).ConnectionState()
	return state.PeerCertificates[0].SerialNumber.Int64(), state.NegotiatedProtocol
}

// Client asks over TLS for a host, at an address whatever the name.
func Client(addr, host string) *http.Client {
	return &http.Client{
		Timeout:       10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, addr)
			},
			TLSClientConfig:   &tls.Config{ServerName: host, InsecureSkipVerify: true}, //nolint:gosec // see Shown
			ForceAttemptHTTP2: true,
		},
	}
}

// Load is a stream of requests over TLS, each of which counts: nothing is tried again.
type Load struct {
	cancel context.CancelFunc
	group  sync.WaitGroup

	mu     sync.Mutex
	sent   int
	failed []error
}

// Start sends requests for a host, from some clients over kept connections and from as many over new ones.
func Start(tb testing.TB, addr, host string, clients int) *Load {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	l := &Load{cancel: cancel}
	for n := range 2 * clients {
		client := Client(addr, host)
		client.Transport.(*http.Transport).DisableKeepAlives = n%2 == 0
		l.group.Go(func() {
			for ctx.Err() == nil {
				l.count(ctx, get(ctx, client, host))
			}
		})
	}
	tb.Cleanup(l.stop)
	return l
}

func (l *Load) stop() {
	l.cancel()
	l.group.Wait()
}

func (l *Load) count(ctx context.Context, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case ctx.Err() != nil: // cut off
	case err != nil:
		l.failed = append(l.failed, err)
	default:
		l.sent++
	}
}

func get(ctx context.Context, client *http.Client, host string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+host+"/", strings.NewReader("x")) // Go repeats no POST
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", resp.Status)
	}
	return errors.Join(err, resp.Body.Close())
}

// Sent is how many requests were answered so far.
func (l *Load) Sent() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent
}

// MustLoseNothing ends the load and fails the test if a request failed or none was sent.
func (l *Load) MustLoseNothing(tb testing.TB) {
	tb.Helper()
	l.stop()
	if len(l.failed) > 0 || l.sent == 0 {
		tb.Errorf("%d requests failed and %d were answered, want no failure of many; the first: %v", len(l.failed), l.sent, errors.Join(l.failed[:min(3, len(l.failed))]...))
	}
}
