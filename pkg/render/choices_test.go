package render

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChoicesAreRead(t *testing.T) {
	got, err := ChoicesOf(map[string]string{"accept-proxy": "true", "server-ca": "/etc/ca.pem", "server-cert": "cert.pem", "access-log": "json", "auth-dir": "/users", "error-dir": "pages", "mine": "x"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Choices{AcceptProxy: true, ServerCA: "/etc/ca.pem", ServerCert: "cert.pem", AccessLog: AccessLogJSON, AuthDir: "/users", ErrorDir: "pages"}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestWrongChoicesAreAllReported(t *testing.T) {
	for name, text := range map[string]string{"accept-proxy": "yes", "hsts": "yes", "server-ca": "", "server-cert": "", "access-log": "yes", "auth-dir": "", "error-dir": "", "trusted-proxies": "all"} {
		_, err := ChoicesOf(map[string]string{name: text})
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "write ") {
			t.Errorf("%s=%s: got %v, want an error with the name and what may be written", name, text, err)
		}
	}
}
