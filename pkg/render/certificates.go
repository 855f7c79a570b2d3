package render

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Certificate is a certificate of --certs and what became of it. Who gives it to an [Input] leaves out
// what is decided here: File and Hosts.
type Certificate struct {
	Name     string    // that of its file or files, without an ending
	Names    []string  // the DNS names that it is for, sorted, such as shop.example.com or *.example.com
	NotAfter time.Time // until when it is valid
	Text     string    // certificate, chain and private key as PEM: a secret, that no template should print

	File  string   // the file beside the configuration that holds it
	Hosts []string // those of Names for which clients are shown it, sorted: the others have one that is valid for longer
}

// Files beside the configuration that are for certificates.
const (
	// defaultCertificate holds the certificate for names that no other one is for. Its name stays the same
	// whichever that is, so that another one is a change of content, for which HAProxy needs no reload.
	defaultCertificate = "default.pem"
	certificatePrefix  = "cert-"
	certificateSuffix  = ".pem"
)

// preferred is the name of the certificate that becomes the default one, if there is one with it.
const preferred = "default"

// isCertificateFile tells whether a name is one that certificates have for themselves.
func isCertificateFile(name string) bool {
	return name == defaultCertificate || name == serverCAFile || name == serverCertFile || strings.HasPrefix(name, certificatePrefix) && strings.HasSuffix(name, certificateSuffix)
}

// assign decides for which names clients are shown which certificate: of two for one name the one that is
// valid for longer, then the first by name. The result is sorted by name.
func assign(given []Certificate) []Certificate {
	all := slices.Clone(given)
	slices.SortFunc(all, func(a, b Certificate) int { return cmp.Compare(a.Name, b.Name) })
	best := map[string]int{}
	for i, c := range all {
		for _, name := range c.Names {
			if at, known := best[name]; !known || c.NotAfter.After(all[at].NotAfter) {
				best[name] = i
			}
		}
	}
	for i := range all {
		c := &all[i]
		c.Hosts = slices.DeleteFunc(slices.Clone(c.Names), func(name string) bool { return best[name] != i })
		c.File = c.fileName()
	}
	return all
}

// unsafeInName are characters of names that the names of files do not have.
var unsafeInName = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// fileName is made of the certificate's name and of all for which clients are shown it: what HAProxy knows
// under one name is always for the same hosts, so that other hosts are a file that comes and one that
// goes, which needs no reload.
func (c *Certificate) fileName() string {
	const longest, hashLen = 64, 8
	sum := sha256.Sum256([]byte(c.Name + "\x00" + strings.Join(c.Hosts, "\x00")))
	name := unsafeInName.ReplaceAllString(c.Name, "-")
	return certificatePrefix + name[:min(len(name), longest)] + "-" + hex.EncodeToString(sum[:])[:hashLen] + certificateSuffix
}

// certificateFiles are the files for certificates that are sorted by name.
func certificateFiles(all []Certificate) Files {
	if len(all) == 0 {
		return nil
	}
	first := max(0, slices.IndexFunc(all, func(c Certificate) bool { return c.Name == preferred }))
	files := Files{fileOf(defaultCertificate, all[first].Text)}
	for _, c := range all {
		if len(c.Hosts) > 0 {
			files = append(files, fileOf(c.File, c.Text))
		}
	}
	return files
}

func fileOf(name, text string) File {
	return File{Name: name, Blocks: []Block{NewBlock(name, text)}}
}

// sameCertificate tells whether two certificates are given alike.
func sameCertificate(a, b Certificate) bool {
	return a.Name == b.Name && a.Text == b.Text && a.NotAfter.Equal(b.NotAfter) && slices.Equal(a.Names, b.Names)
}

// coverage is for which hosts there is a certificate.
type coverage map[string]bool

func coverageOf(all []Certificate) coverage {
	names := coverage{}
	for _, c := range all {
		for _, name := range c.Names {
			names[name] = true
		}
	}
	return names
}

// has tells whether clients of a host get a certificate for it. A wildcard stands for one label.
func (c coverage) has(host string) bool {
	_, parent, _ := strings.Cut(host, ".")
	return c[host] || c["*."+parent]
}
