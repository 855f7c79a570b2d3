package enginetest_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/enginetest"
)

func TestMakeUseAndSweep(t *testing.T) {
	if strings.Contains(os.Getenv("TEST_WITHOUT"), "docker") {
		t.Skip("left out on demand: docker")
	}
	ctx := t.Context()
	run := fmt.Sprintf("enginetest-%d", os.Getpid())
	engine, err := enginetest.Open(ctx, run)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Sweep(context.Background()); err != nil {
			t.Errorf("sweep: %v", err)
		}
		engine.Close()
	})
	if err := engine.BuildImage(ctx, run, buildWhoami(t), "8000"); err != nil {
		t.Fatal(err)
	}
	gateway, err := engine.Network(ctx, run)
	if err != nil || !gateway.IsValid() {
		t.Fatalf("gateway: got %v (%v), want an address", gateway, err)
	}
	box, err := engine.Start(ctx, enginetest.Spec{Image: run, Name: run, Network: run, Env: map[string]string{"GRACE": "0s"}})
	if err != nil {
		t.Fatal(err)
	}
	addr, err := box.Address(ctx, run)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := ask(t, "http://"+addr.String()+":8000/"), box.Short(); got != want {
		t.Errorf("X-Whoami: got %q, want the short id %q", got, want)
	}
	if err := box.Crash(ctx); err != nil {
		t.Errorf("crash: %v", err)
	}
	if err := engine.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if err := box.Stop(ctx); err == nil {
		t.Error("the container is still there after the sweep")
	}
}

func buildWhoami(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "whoami")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", path, "github.com/sidekick-proxy/sidekick/examples/whoami")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build whoami: %v\n%s", err, out)
	}
	return path
}

// ask repeats a GET until it is answered and returns the name of who answered.
func ask(t *testing.T, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			return resp.Header.Get("X-Whoami")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("ask %s: %v", url, err)
		}
	}
}
