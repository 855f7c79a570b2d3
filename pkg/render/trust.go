package render

import (
	"cmp"
	"fmt"
)

// ServerFile is what there is of the file of --set server-ca or server-cert.
type ServerFile struct {
	Text string // as HAProxy is given it; a secret, if it has a key
	Why  string // its path, and why there is none, with the mend; empty if there is
}

// Files beside the configuration that are about servers.
const (
	serverCAFile   = "server-ca.pem"
	serverCertFile = "server-cert.pem"
)

// trust is by what proxy and servers know each other in TLS.
type trust struct {
	ca, cert ServerFile
	files    []File
	certFile string // the one with what servers are shown, empty for none
	// lacking is why servers cannot be spoken to in TLS as the operator wants it, with the mend, or "". They are
	// then not spoken to at all: neither without telling them from others, nor without showing who asks.
	lacking string
}

func newTrust(ca, cert ServerFile, c Choices) *trust {
	t := &trust{ca: ca, cert: cert}
	if ca.Text != "" {
		t.files = append(t.files, fileOf(serverCAFile, ca.Text))
	}
	if cert.Text != "" {
		t.files, t.certFile = append(t.files, fileOf(serverCertFile, cert.Text)), serverCertFile
	}
	if why := sentences(ca.lacking("server-ca", c.ServerCA), cert.lacking("server-cert", c.ServerCert)); why != "" {
		t.lacking = "sidekick.tls=server: its instances get nothing until this is mended: " + why
	}
	return t
}

// lacking says why there is nothing of a file that is chosen, or "".
func (f ServerFile) lacking(name, path string) string {
	if path == "" || f.Text != "" {
		return ""
	}
	return fmt.Sprintf("--set %s: %s", name, cmp.Or(f.Why, path+": it is not read yet"))
}

// decideTrust takes in the files about servers: services that need them may be served now, or not any more.
func (b *builder) decideTrust(ca, cert ServerFile) {
	before := b.trust
	if before != nil && before.ca == ca && before.cert == cert {
		return
	}
	b.trust = newTrust(ca, cert, b.settings.choices)
	if before != nil && before.lacking == b.trust.lacking {
		return
	}
	for _, r := range b.records {
		if r.base.Upstream.TLS {
			r.model = nil
		}
	}
}
