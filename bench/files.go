package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
)

// benchFiles measures what an entry of a map and a certificate cost HAProxy at run time.
func benchFiles(ctx context.Context, program string) error {
	p, err := newProxy(ctx, program, 10_000, 1)
	if err != nil {
		return err
	}
	defer p.close()
	whole, err := p.spent(ctx, func() error { return p.transaction(ctx) })
	if err != nil {
		return err
	}
	certificate, err := certificateCost(ctx, program)
	if err != nil {
		return err
	}
	fmt.Printf("\nHAProxy's CPU for files\n")
	fmt.Printf("  %-48s %9.2f µs\n", "an entry of a map, of a transaction of 10,000", float64(whole.cpu)/float64(time.Microsecond)/float64(p.size))
	fmt.Printf("  %-48s %9.2f µs\n", "a certificate in place of another", float64(certificate)/float64(time.Microsecond))
	return nil
}

// certificateCost replaces the only certificate of a HAProxy of its own some times.
func certificateCost(ctx context.Context, program string) (time.Duration, error) {
	dir, err := os.MkdirTemp("", "skb")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	addrs, err := freeAddresses(1)
	if err != nil {
		return 0, err
	}
	p := &proxy{cfg: haproxy.Config{
		Bin: program, Path: filepath.Join(dir, "haproxy.cfg"),
		MasterSocket: filepath.Join(dir, "m.sock"), RuntimeSocket: filepath.Join(dir, "r.sock"),
	}}
	crt := filepath.Join(dir, "site.pem")
	text := haproxy.MinimalConfig(p.cfg) + "defaults\n mode http\n timeout client 1s\nfrontend f\n bind " + addrs[0] + " ssl crt " + crt + "\n"
	pair, err := keyPair()
	if err == nil {
		err = os.WriteFile(crt, pair, 0o600)
	}
	if err == nil {
		err = os.WriteFile(p.cfg.Path, []byte(text), 0o600)
	}
	if err == nil {
		err = p.run(ctx)
	}
	if err != nil {
		return 0, err
	}
	defer p.process.stop()
	return p.replaceCertificate(ctx, crt, pair)
}

// replaceCertificate is the cost of a certificate in place of another.
func (p *proxy) replaceCertificate(ctx context.Context, crt string, pair []byte) (time.Duration, error) {
	const times = 20
	c, err := p.spent(ctx, func() error {
		for range times {
			if err := must(ctx, p.cfg.RuntimeSocket, "set ssl cert "+crt+" <<\n"+string(pair), "commit ssl cert "+crt); err != nil {
				return err
			}
		}
		return nil
	})
	return c.cpu / times, err
}

// keyPair is a certificate with its key.
func keyPair() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	crt := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, DNSNames: []string{"bench.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	signed, err := x509.CreateCertificate(rand.Reader, crt, crt, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...), nil
}
