package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
)

// startHAProxy runs HAProxy as `sidekick haproxy` does.
func startHAProxy(tb testing.TB, bin string) haproxy.Config {
	tb.Helper()
	dir := haproxytest.Dir(tb)
	at := func(name string) string { return filepath.Join(dir, name) }
	config := haproxy.Config{Bin: bin, Path: at("haproxy.cfg"), MasterSocket: at("master.sock"), RuntimeSocket: at("haproxy.sock")}
	if err := haproxy.Prepare(tb.Context(), config); err != nil {
		tb.Fatal(err)
	}
	args := haproxy.ExecArgs(config)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	})
	haproxytest.Until(tb, "haproxy to answer", func() bool { return haproxy.Alive(tb.Context(), config) == nil })
	return config
}

// TestBeside: no second HAProxy starts beside one that does not hand over its listening sockets, as one
// without its runtime socket does not: they would share its ports.
func TestBeside(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		config := startHAProxy(t, t.Bin)
		refuses := func(takeOver bool, words ...string) {
			t.Helper()
			args, err := beside(t.Context(), config, takeOver)
			if err == nil {
				t.Errorf("--take-over=%v: got %q, want a refusal", takeOver, args)
			}
			for _, w := range words {
				if err != nil && !strings.Contains(err.Error(), w) {
					t.Errorf("--take-over=%v: %q does not say %q", takeOver, err, w)
				}
			}
		}
		refuses(false, config.MasterSocket, config.RuntimeSocket, "--take-over")
		args, err := beside(t.Context(), config, true)
		if want := []string{"-x", config.RuntimeSocket}; err != nil || !slices.Equal(args, want) {
			t.Errorf("--take-over: got %q, %v, want %q", args, err, want)
		}
		remove(t, config.RuntimeSocket)
		for _, takeOver := range []bool{false, true} {
			refuses(takeOver, "answers at "+config.MasterSocket+", but not at "+config.RuntimeSocket, "stop it, then start")
		}
		remove(t, config.MasterSocket)
		if args, err := beside(t.Context(), config, false); err != nil || len(args) > 0 {
			t.Errorf("nobody answers: got %q, %v, want a plain start", args, err)
		}
	})
}

// TestBesideWithoutMaster names the socket that answers, and not the one that is gone.
func TestBesideWithoutMaster(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		config := startHAProxy(t, t.Bin)
		remove(t, config.MasterSocket)
		_, err := beside(t.Context(), config, false)
		if err == nil || !strings.Contains(err.Error(), config.RuntimeSocket) || strings.Contains(err.Error(), config.MasterSocket) {
			t.Errorf("got %v, want a refusal that names %s alone", err, config.RuntimeSocket)
		}
		if args, err := beside(t.Context(), config, true); err != nil || len(args) != 2 {
			t.Errorf("--take-over: got %q, %v, want the runtime socket's arguments", args, err)
		}
	})
}

func remove(tb testing.TB, path string) {
	tb.Helper()
	if err := os.Remove(path); err != nil {
		tb.Fatal(err)
	}
}
