package certificates

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/certtest"
)

func TestNameOf(t *testing.T) {
	for file, want := range map[string]string{
		"shop.pem": "shop", "shop.crt": "shop", "shop.key": "shop", "a.b.pem": "a.b",
		"shop.example.com/fullchain.pem": "shop.example.com", "shop/privkey.pem": "shop",
		"shop/cert.pem": "", "shop/chain.pem": "", "README": "", "shop.csr": "",
	} {
		if got := nameOf(file); got != want {
			t.Errorf("%s: got %q, want %q", file, got, want)
		}
	}
}

// rsaCertificate is one with a key of so many bits.
func rsaCertificate(t *testing.T, bits int) string {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a.test"}, DNSNames: []string{"a.test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) +
		string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
}

// longNames are few, and long.
func longNames() (names []string) {
	for i := range 100 {
		names = append(names, fmt.Sprintf("n%d.%s.%s.%s.test", i, strings.Repeat("a", 60), strings.Repeat("b", 60), strings.Repeat("c", 60)))
	}
	return names
}

// What cannot be used is refused with the certificate, the cause and the mend.
func TestParseRefuses(t *testing.T) {
	a, b := certtest.Make(t, 1, time.Hour, "a.test"), certtest.Make(t, 2, time.Hour, "b.test")
	many := certtest.Make(t, 3, time.Hour, slices.Collect(func(yield func(string) bool) {
		for i := range mostNames + 1 {
			if !yield(fmt.Sprintf("n%d.test", i)) {
				return
			}
		}
	})...)
	for name, tt := range map[string]struct{ text, want string }{
		"empty":         {"", "there is no certificate: put it"},
		"no key":        {a.Cert, "there is no private key: put it"},
		"no cert":       {a.Key, "there is no certificate: put it"},
		"other key":     {a.Cert + b.Key, "the key is that of another certificate: put"},
		"encrypted":     {a.Cert + "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n", "its key is encrypted: take"},
		"cut":           {a.Cert + a.Key[:100], "have it made anew"},
		"cut chain":     {a.Cert + a.Key + b.Cert[:200], "a part of it is cut off or damaged: write"},
		"broken chain":  {a.Cert + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + a.Key, "certificate 2 of its chain cannot be read"},
		"shorter key":   {rsaCertificate(t, 1024), "a key that is too short: have it made anew"},
		"short key":     {rsaCertificate(t, 1792), "a key that is too short: have it made anew"},
		"long key":      {rsaCertificate(t, 2040), ""},
		"no name":       {certtest.Make(t, 4, time.Hour).PEM(), ""},
		"hostile name":  {certtest.Make(t, 5, time.Hour, "a b", "x\ny", "!a.test", "[alpn]").PEM(), "it is for no DNS name: have"},
		"very many":     {many.PEM(), "more than 500 DNS names, or"},
		"very long":     {certtest.Make(t, 7, time.Hour, longNames()...).PEM(), "more than 15000 bytes: spread"},
		"only the rest": {certtest.Make(t, 6, time.Hour, "*").PEM(), "it is for no DNS name"},
	} {
		_, err := parse("x", tt.text)
		if tt.want == "" { // of one without names the common name counts
			if err != nil {
				t.Errorf("%s: got %v", name, err)
			}
			continue
		}
		if err == nil || !strings.HasPrefix(err.Error(), "certificate x: ") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
}

// The text that HAProxy gets has nothing but certificates and one key; names are in lower case, each once.
func TestParse(t *testing.T) {
	a, other := certtest.Make(t, 1, time.Hour, "B.test", "*.a.test", "a.test.", "b.TEST", "bad name"), certtest.Make(t, 2, time.Hour)
	got, err := parse("x", "# made by hand\n\n"+a.Cert+"\n\n"+other.Cert+"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"+a.Key+other.Key)
	if err != nil {
		t.Fatal(err)
	}
	if want := a.Cert + other.Cert + a.Key; got.Text != want {
		t.Errorf("got text\n%s\nwant\n%s", got.Text, want)
	}
	if want := []string{"*.a.test", "a.test", "b.test"}; !slices.Equal(got.Names, want) {
		t.Errorf("got names %q, want %q", got.Names, want)
	}
	if left := time.Until(got.NotAfter); left > time.Hour || left < 50*time.Minute {
		t.Errorf("valid for %s, want an hour", left)
	}
}

// The three forms of certificates are read; what is wrong is told of each, and hinders no other (P7).
func TestRead(t *testing.T) {
	dir := t.TempDir()
	a, b, c := certtest.Make(t, 1, time.Hour, "a.test"), certtest.Make(t, 2, time.Hour, "b.test"), certtest.Make(t, 3, time.Hour, "c.test")
	for name, text := range map[string]string{
		"a.pem": a.PEM(), "b.crt": b.Cert, "b.key": b.Key, "c.test/fullchain.pem": c.Cert, "c.test/privkey.pem": c.Key,
		"c.test/cert.pem": "not looked at", "bad.pem": a.Cert, "README": "no certificate",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := Read(dir)
	var names []string
	for _, c := range all {
		names = append(names, c.Name+" "+strings.Join(c.Names, ","))
	}
	if want := []string{"a a.test", "b b.test", "c.test c.test"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
	if err == nil || err.Error() != dir+": certificate bad: there is no private key: put it into NAME.pem behind the certificate, or into NAME.key" {
		t.Errorf("got error %v", err)
	}
	if _, err := Read(filepath.Join(dir, "nowhere")); err == nil || !strings.Contains(err.Error(), "it does not exist: make it, or leave --certs out") {
		t.Errorf("got error %v", err)
	}
}
