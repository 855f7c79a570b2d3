package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// validateServerFiles judges the files of --set server-ca and server-cert. HAProxy refuses all that it is
// given while one of them is missing or spoilt. Where somebody else runs HAProxy, its files are elsewhere.
func (s *settings) validateServerFiles() error {
	if s.haproxy != haproxyManaged {
		return nil
	}
	c := s.choices()
	return errors.Join(serverFile("server-ca", c.ServerCA, authorities), serverFile("server-cert", c.ServerCert, pair))
}

// serverFile judges one file, if it is given.
func serverFile(name, path string, judge func(text []byte) error) error {
	if path == "" {
		return nil
	}
	text, err := os.ReadFile(path)
	if err == nil {
		err = judge(text)
	}
	if err != nil {
		return fmt.Errorf("--set %s=%s: %w", name, path, err)
	}
	return nil
}

func authorities(text []byte) error {
	if !x509.NewCertPool().AppendCertsFromPEM(text) {
		return errors.New("there is no certificate in it: put those in it, as PEM, that vouch for servers")
	}
	return nil
}

func pair(text []byte) error {
	if _, err := tls.X509KeyPair(text, text); err != nil {
		return fmt.Errorf("it has no certificate with its key (%w): put both in it, as PEM", err)
	}
	return nil
}
