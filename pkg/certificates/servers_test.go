package certificates

import (
	"strings"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/certtest"
)

// What is good of the two files about servers is passed on without what people write between, and what HAProxy
// would refuse is told of with the mend, half of a file too (P7).
func TestFilesAboutServers(t *testing.T) {
	a, b := certtest.Make(t, 1, time.Hour, "a.test"), certtest.Make(t, 2, time.Hour)
	const none, broken = "there is no certificate in it: put ", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
	for name, tt := range map[string]struct {
		understand func(string) (string, error)
		text       string
		want, why  string
	}{
		"own":             {Own, "# ours\n" + a.Key + "\n" + a.Cert, a.Key + a.Cert, ""},
		"own with chain":  {Own, a.Cert + b.Cert + a.Key, a.Cert + b.Cert + a.Key, ""},
		"own, no name":    {Own, b.PEM(), b.PEM(), ""},
		"own, empty":      {Own, "", "", none},
		"own, no cert":    {Own, a.Key, "", none},
		"own, no key":     {Own, a.Cert, "", "there is no private key in it: put it there"},
		"own, other key":  {Own, a.Cert + b.Key, "", "the key is that of another certificate: put"},
		"own, cut":        {Own, a.Key + a.Cert + b.Cert[:200], "", "cut off or damaged: write it anew"},
		"own, short key":  {Own, rsaCertificate(t, 1024), "", "a key that is too short: have it made anew"},
		"authorities":     {Authorities, "a\n" + a.Cert + "\nb\n" + b.Cert, a.Cert + b.Cert, ""},
		"with a key":      {Authorities, a.PEM(), a.Cert, ""},
		"none":            {Authorities, "", "", none},
		"only a key":      {Authorities, a.Key, "", none},
		"cut":             {Authorities, a.Cert + b.Cert[:200], "", "cut off or damaged: write it anew"},
		"without newline": {Authorities, strings.TrimSpace(a.Cert) + b.Cert, "", "cut off or damaged: write it anew"},
		"broken":          {Authorities, a.Cert + broken, "", "certificate 2 in it cannot be read"},
	} {
		got, err := tt.understand(tt.text)
		if tt.why == "" && (err != nil || got != tt.want) {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, tt.want)
		}
		if tt.why != "" && (err == nil || !strings.Contains(err.Error(), tt.why)) {
			t.Errorf("%s: got %v, want %q", name, err, tt.why)
		}
	}
}
