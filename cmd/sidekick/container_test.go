package main

import (
	"net"
	"path/filepath"
	"testing"
)

// TestIsShortID: only what an engine makes of an id itself is taken for the name of a container that
// was given none.
func TestIsShortID(t *testing.T) {
	const id = "deadbeef0123456789abcdef0123456789abcdef0123456789abcdef01234567"
	for name, want := range map[string]bool{"deadbeef0123": true, id: true, "dead": false, "d": false, "": false, "deadbeef0124": false, "web1": false} {
		if got := isShortID(name, id); got != want {
			t.Errorf("isShortID(%q) = %v, want %v", name, got, want)
		}
	}
}

// TestCheckSocket: an engine that is not there yet is waited for, so only a missing right is a fault.
func TestCheckSocket(t *testing.T) {
	dir := t.TempDir()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, path := range []string{"", filepath.Join(dir, "s"), filepath.Join(dir, "none")} {
		if err := checkSocket(t.Context(), path); err != nil {
			t.Errorf("checkSocket(%q): %v, want no fault", path, err)
		}
	}
}

// TestNodeGiven: an empty name is none.
func TestNodeGiven(t *testing.T) {
	for value, want := range map[string]bool{"": false, "here": true} {
		s := newSettings()
		if err := s.load([]string{"SIDEKICK_NODE=" + value}); err != nil {
			t.Fatal(err)
		}
		if s.nodeGiven != want {
			t.Errorf("SIDEKICK_NODE=%q: given %v, want %v", value, s.nodeGiven, want)
		}
	}
}
