package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// TestOverrideOfWhatTheRegistryLost: an instance that the registry has not, and that this host's agent goes on
// routing to, can be taken out; what neither knows cannot, and an agent that does not answer is named.
func TestOverrideOfWhatTheRegistryLost(t *testing.T) {
	board, target, _ := stopsOf(t, 0)
	socket := strings.TrimPrefix(board.Client.Endpoints()[0], "unix://")
	lost := service.NewBuilder("/sidekick")
	lost.Put("/sidekick/v1/instances/n/c.web.80", []byte(`{"service":"web","address":"192.0.2.1","port":80}`))
	file, err := lost.Catalog(7).File()
	if err != nil {
		t.Fatal(err)
	}
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(file)
	}))
	address := strings.TrimPrefix(agent.URL, "http://")
	maint := func(target string) error {
		cmd := newCommand()
		cmd.SetOut(new(bytes.Buffer))
		cmd.SetErr(new(bytes.Buffer))
		cmd.SetArgs([]string{"maint", target, "--registry", "embedded", "--state-dir", strings.TrimSuffix(socket, "/etcd.sock"), "--admin", address})
		return cmd.ExecuteContext(t.Context())
	}
	if err := maint(target.String()); err != nil {
		t.Fatal(err)
	}
	if now := overrideNow(t, board, target); now == nil || now.State != service.Maint {
		t.Errorf("the registry has %+v, want maintenance of %s", now, target)
	}
	if err := maint("web/m"); err == nil || !strings.Contains(err.Error(), `"m"`) || !strings.Contains(err.Error(), "there are: n") {
		t.Errorf("a node that nobody knows: %v", err)
	}
	agent.Close()
	if err := maint("web/m"); err == nil || !strings.Contains(err.Error(), "there is no service") || !strings.Contains(err.Error(), "give its --admin") {
		t.Errorf("without the agent: %v", err)
	}
}

// TestRefusedAtOnce: a registry that refuses who asks has answered, and is not waited for.
func TestRefusedAtOnce(t *testing.T) {
	board, _, _ := stopsOf(t, 0)
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err1 := board.Client.UserAdd(t.Context(), "root", "right")
	_, err2 := board.Client.UserGrantRole(t.Context(), "root", "root")
	_, err3 := board.Client.AuthEnable(t.Context())
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	for want, user := range map[string][]string{
		"etcd wants to know who asks":                             nil,
		"the registry refuses the user name or the password: see": {"--registry-user", "root", "--registry-password-file", password},
	} {
		cmd := newCommand()
		cmd.SetArgs(append([]string{"services", "--direct", "--registry", board.Client.Endpoints()[0]}, user...))
		err := cmd.ExecuteContext(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "did not answer") {
			t.Errorf("got %v, want %q and nothing of a time that is up", err, want)
		}
	}
}

// TestEtcdAlive: a health check of `sidekick etcd` asks that one.
func TestEtcdAlive(t *testing.T) {
	board, _, _ := stopsOf(t, 0)
	dir := strings.TrimSuffix(strings.TrimPrefix(board.Client.Endpoints()[0], "unix://"), "/etcd.sock")
	for dir, want := range map[string]string{dir: "", t.TempDir(): "no etcd answers at"} {
		cmd := newCommand()
		cmd.SetOut(new(bytes.Buffer))
		cmd.SetArgs([]string{"etcd", "--alive", "--state-dir", dir})
		if err := cmd.ExecuteContext(t.Context()); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
