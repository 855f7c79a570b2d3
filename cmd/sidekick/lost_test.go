package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
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
