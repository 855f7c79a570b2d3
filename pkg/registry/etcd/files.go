package etcd

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// Files name what an agent shows to a cluster, and by what it knows one. They are read again whenever
// they are needed, so that a change of them needs no restart.
type Files struct {
	CA        string // of the authorities that signed the cluster's certificates; the system's if ""
	Cert, Key string // of the certificate that is shown to the cluster; none if ""
	Password  string // of the user's password
}

// Check tells what is wrong with the files as they are now.
func (f Files) Check() error {
	_, err := openWallet(f, nil)
	if f.Password != "" {
		_, bad := f.password()
		err = errors.Join(err, bad)
	}
	return err
}

// password reads the user's password.
func (f Files) password() (string, error) {
	text, err := os.ReadFile(f.Password)
	if err != nil {
		return "", fmt.Errorf("--registry-password-file: %w", err)
	}
	password := strings.TrimRight(string(text), "\r\n")
	if password == "" {
		return "", fmt.Errorf("--registry-password-file: %s is empty: write the user's password into it", f.Password)
	}
	return password, nil
}

// wallet holds what the certificates' files last held that was good: while one is half written, or the
// two of a pair are not yet both changed, what was in force stays. It is safe for concurrent use.
type wallet struct {
	authorities kept[*x509.CertPool]
	pair        kept[*tls.Certificate]
	log         logrus.FieldLogger
	mu          sync.Mutex
}

// openWallet reads the files, which must be good at first.
func openWallet(f Files, log logrus.FieldLogger) (*wallet, error) {
	w := &wallet{log: log}
	if f.CA != "" {
		w.authorities = kept[*x509.CertPool]{what: "--registry-ca", files: []string{f.CA}, parse: authorities}
	}
	if f.Cert != "" || f.Key != "" {
		w.pair = kept[*tls.Certificate]{what: "--registry-cert and --registry-key", files: []string{f.Cert, f.Key}, parse: pair}
	}
	_, err1 := w.authorities.look()
	_, err2 := w.pair.look()
	return w, errors.Join(err1, err2)
}

// config is for the next connection.
func (w *wallet) config() *tls.Config {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: fresh(&w.authorities, w.log)}
	if pair := fresh(&w.pair, w.log); pair != nil {
		// Given by a function it is also shown to a server that names other authorities, whose refusal
		// then says what is wrong.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil }
	}
	return c
}

// fresh is what the files hold now if that is good, else what they held before. Each change is
// logged once, and each fault.
func fresh[T any](k *kept[T], log logrus.FieldLogger) T {
	changed, err := k.look()
	switch {
	case err != nil && err.Error() != k.complained:
		k.complained = err.Error()
		log.WithError(err).Warn("changed files for the registry's connection cannot be used; what they held before stays in use")
	case err == nil && (changed || k.complained != ""):
		k.complained = ""
		log.WithField("files", k.what).Info("files for the registry's connection were read again")
	}
	return k.value
}

// kept is what files last held that was good. Without files it is the zero value.
type kept[T any] struct {
	what       string // for messages
	files      []string
	parse      func(texts [][]byte) (T, error)
	texts      [][]byte // that value is made of
	value      T
	complained string
}

// look reads the files, and tells whether they hold something new that is good.
func (k *kept[T]) look() (changed bool, err error) {
	if len(k.files) == 0 {
		return false, nil
	}
	texts := make([][]byte, len(k.files))
	same := k.texts != nil
	for i, file := range k.files {
		if texts[i], err = os.ReadFile(file); err != nil {
			return false, fmt.Errorf("%s: %w", k.what, err)
		}
		same = same && bytes.Equal(texts[i], k.texts[i])
	}
	if same {
		return false, nil
	}
	value, err := k.parse(texts)
	if err != nil {
		return false, fmt.Errorf("%s: %s: %w", k.what, strings.Join(k.files, ", "), err)
	}
	k.texts, k.value = texts, value
	return true, nil
}

func authorities(texts [][]byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(texts[0]) {
		return nil, errors.New("no certificate in PEM form")
	}
	return pool, nil
}

// pair is a certificate with its key.
func pair(texts [][]byte) (*tls.Certificate, error) {
	p, err := tls.X509KeyPair(texts[0], texts[1])
	if err != nil {
		return nil, err
	}
	return &p, nil
}

// mend says what to do when etcd does not trust the certificate that is shown, or is shown none.
func (w *wallet) mend() string {
	const none = ": give --registry-cert and --registry-key"
	if w == nil {
		return none
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch pair := w.pair.value; {
	case pair == nil:
		return none
	case pair.Leaf != nil && time.Now().After(pair.Leaf.NotAfter):
		return ", and the one in --registry-cert ran out at " + pair.Leaf.NotAfter.UTC().Format(time.RFC3339)
	default:
		return ", which --registry-cert " + w.pair.files[0] + " is not: its authority must be one of etcd's (ETCD_TRUSTED_CA_FILE), and it must be for clients"
	}
}
