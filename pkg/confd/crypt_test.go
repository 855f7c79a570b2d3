package confd

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
)

// newKeyring makes a key, and what it opens.
func newKeyring(t *testing.T) (keyring string, encrypt func(string) string) {
	t.Helper()
	entity, err := openpgp.NewEntity("app", "", "app@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w, err := armor.Encode(&out, openpgp.PrivateKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := entity.SerializePrivate(w, nil); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return out.String(), func(text string) string {
		var encrypted bytes.Buffer
		w, err := openpgp.Encrypt(&encrypted, []*openpgp.Entity{entity}, nil, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		z := gzip.NewWriter(w)
		_, _ = z.Write([]byte(text))
		z.Close()
		w.Close()
		return base64.StdEncoding.EncodeToString(encrypted.Bytes())
	}
}

// Values that are encrypted, as `crypt` writes them, with the key that confd.toml names.
func TestEncryptedValues(t *testing.T) {
	keyring, encrypt := newKeyring(t)
	keys := newRegistry("/app/a", encrypt("mary"), "/app/b", encrypt("abc"), "/db", "plain")
	b := newBed(t, keys, "secring.gpg", keyring,
		"templates/app.tmpl", `{{cgetv "/app/a"}} {{with cget "/app/b"}}{{.Key}}={{.Value}}{{end}}{{range cgets "/app/*"}} {{.Key}}={{.Value}}{{end}}{{len (cgetvs "/app/*")}}`,
		"conf.d/app.toml", appFile, "templates/db.tmpl", `{{cgetv "/db"}}`, "conf.d/db.toml", dbFile)
	b.write("confd.toml", "secret_keyring = \""+b.dir+"/confd/secring.gpg\"\n")
	b.run()
	b.holds("app", "mary /app/b=abc /app/a=mary /app/b=abc2")
	b.says("conf.d/db.toml: template: db.tmpl:1:2: executing \"db.tmpl\" at <cgetv \"/db\">: error calling cgetv: /db: the value is not encrypted")
	foreign, _ := newKeyring(t)
	b.write("secring.gpg", foreign)
	b.write("confd.toml", "secret_keyring = \""+b.dir+"/confd/secring.gpg\" # another\n")
	b.says("error calling cgetv: /app/a: decrypt: ")
	b.write("confd.toml", "secret_keyring = \"/no/such\"\n")
	b.says("secret_keyring /no/such: no such file or directory")
	if got := b.read("app"); !strings.HasPrefix(got, "mary") {
		t.Errorf("the file holds %q", got)
	}
}
