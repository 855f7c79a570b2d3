package certificates

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
)

// Own understands the file of the certificate that servers are shown, and returns it as HAProxy takes it.
func Own(text string) (string, error) {
	switch {
	case !strings.Contains(text, "-----BEGIN "+certificateBlock+"-----"):
		return "", errors.New("there is no certificate in it: put it there, as PEM, with its chain and its key")
	case !strings.Contains(text, "PRIVATE KEY-----"):
		return "", errors.New("there is no private key in it: put it there, as PEM, behind the certificate")
	}
	text, _, err := pair(text)
	return text, err
}

// Authorities understands the file of the certificates that vouch for servers, and returns it as HAProxy
// takes it.
func Authorities(text string) (string, error) {
	blocks, err := blocksOf(text)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	number := 0
	for _, block := range blocks {
		if block.Type != certificateBlock {
			continue
		}
		number++
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", fmt.Errorf("certificate %d in it cannot be read (%w): remove it from there", number, err)
		}
		encode(&out, block)
	}
	if number == 0 {
		return "", errors.New("there is no certificate in it: put those there, as PEM, that vouch for servers")
	}
	return out.String(), nil
}
