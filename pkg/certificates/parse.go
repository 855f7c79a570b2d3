package certificates

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

const (
	// largest is the size of a file, in bytes.
	largest = 1 << 20
	// Its DNS names are one line of HAProxy's list, which is a runtime command as well: so many may there
	// be, with so many bytes.
	mostNames  = 500
	longestAll = 15000
	// certificateBlock is what certificates are called in PEM.
	certificateBlock = "CERTIFICATE"
	// anyName is the name of a certificate that need not be for any DNS name: it is for those that have no other.
	anyName = "default"
)

// nameOf is the name of the certificate that a file is a part of, "" for other files.
func nameOf(file string) string {
	if dir, base := path.Split(file); dir != "" {
		if base == "fullchain.pem" || base == "privkey.pem" {
			return strings.TrimSuffix(dir, "/")
		}
		return ""
	}
	switch ext := path.Ext(file); ext {
	case ".pem", ".crt", ".key":
		return strings.TrimSuffix(file, ext)
	}
	return ""
}

// parse understands the text of a certificate's files. What it lets pass HAProxy takes: one certificate
// that HAProxy refuses would hold up everything else.
func parse(name, text string) (render.Certificate, error) {
	c := render.Certificate{Name: name}
	var leaf *x509.Certificate
	var err error
	if c.Text, leaf, err = pair(text); err == nil {
		c.NotAfter, c.Names = leaf.NotAfter.UTC(), namesOf(leaf)
		err = named(name, c.Names)
	}
	if err != nil {
		return c, fmt.Errorf("certificate %s: %w", name, err)
	}
	return c, nil
}

// pair understands a certificate with its chain and its key. The text is that of these alone.
func pair(text string) (canonical string, leaf *x509.Certificate, err error) {
	p, err := tls.X509KeyPair([]byte(text), []byte(text))
	if err != nil {
		return "", nil, mend(text, err)
	}
	if canonical, err = withoutRemarks(text); err != nil {
		return "", nil, err
	}
	return canonical, p.Leaf, strong(p.Certificate)
}

// mend adds to the reason why a certificate cannot be used what to do about it.
func mend(text string, err error) error {
	reason := strings.TrimPrefix(err.Error(), "tls: ")
	switch {
	case !strings.Contains(text, "-----BEGIN CERTIFICATE-----"):
		return errors.New("there is no certificate: put it, with its chain, into NAME.pem or NAME.crt")
	case !strings.Contains(text, "PRIVATE KEY-----"):
		return errors.New("there is no private key: put it into NAME.pem behind the certificate, or into NAME.key")
	case strings.Contains(text, "ENCRYPTED"):
		return errors.New("its key is encrypted: take the passphrase off, as by openssl pkey")
	case strings.Contains(reason, "does not match"):
		return errors.New("the key is that of another certificate: put the one there that the certificate was made with, and that certificate before its chain")
	}
	return fmt.Errorf("%s: have it made anew", reason)
}

// withoutRemarks is the certificates and the key of a text alone, without what people and programs write
// between them.
func withoutRemarks(text string) (string, error) {
	blocks, err := blocksOf(text)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	keys := 0
	for _, block := range blocks {
		key := strings.HasSuffix(block.Type, "PRIVATE KEY")
		if key {
			keys++
		}
		if key && keys > 1 || !key && block.Type != certificateBlock {
			continue
		}
		encode(&out, block)
	}
	return out.String(), nil
}

// blocksOf are the blocks of PEM in a text. One that is not whole is an error, not less of them.
func blocksOf(text string) (blocks []*pem.Block, err error) {
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		blocks = append(blocks, block)
	}
	if len(blocks) != strings.Count(text, "-----BEGIN ") {
		return nil, errors.New("a part of it is cut off or damaged: write it anew")
	}
	return blocks, nil
}

// encode writes a block without the headers that it may have.
func encode(out *bytes.Buffer, block *pem.Block) {
	out.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
}

// strong refuses what OpenSSL refuses as too weak.
func strong(chain [][]byte) error {
	weak := []x509.SignatureAlgorithm{x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1}
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("certificate %d of its chain cannot be read (%w): remove it from there", i+1, err)
		}
		short := false
		switch key := c.PublicKey.(type) {
		case *rsa.PublicKey:
			short = key.N.BitLen() < 2040 // some programs' 2048 are a few less
		case *ecdsa.PublicKey:
			short = key.Curve.Params().BitSize < 224
		}
		selfSigned := bytes.Equal(c.RawIssuer, c.RawSubject)
		if !selfSigned && slices.Contains(weak, c.SignatureAlgorithm) {
			return fmt.Errorf("certificate %d of its chain is signed by %s, which is too weak: have it made anew", i+1, c.SignatureAlgorithm)
		}
		if short {
			return fmt.Errorf("certificate %d of its chain has a key that is too short: have it made anew, with RSA of 2048 bits or more, or an elliptic curve", i+1)
		}
	}
	return nil
}

// dnsName is a DNS name as it may stand in a certificate, in lower case. Nothing else gets into a file of
// HAProxy: who makes certificates may write anything there.
var dnsName = regexp.MustCompile(`^(?:\*\.)?[a-z0-9_](?:[a-z0-9_.-]{0,250}[a-z0-9_])?$`)

// namesOf are the DNS names that a certificate is for, sorted. Old ones have theirs as the common name.
func namesOf(c *x509.Certificate) []string {
	given := c.DNSNames
	if len(given) == 0 {
		given = []string{c.Subject.CommonName}
	}
	var names []string
	for _, name := range given {
		if name = strings.TrimSuffix(strings.ToLower(name), "."); dnsName.MatchString(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func named(name string, names []string) error {
	switch {
	case len(names) == 0 && name != anyName:
		return fmt.Errorf("it is for no DNS name: have one made that is, or name it %s to have it shown for all names that have no other", anyName)
	case len(names) > mostNames || len(strings.Join(names, " ")) > longestAll:
		return fmt.Errorf("it is for more than %d DNS names, or they have more than %d bytes: spread them over several certificates", mostNames, longestAll)
	}
	return nil
}
