package statedir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestAgentIDLasts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	first := openAndIdentify(t, path)
	if again := openAndIdentify(t, path); again != first {
		t.Errorf("agent id after a restart = %s, want %s", again, first)
	}
	if other := openAndIdentify(t, t.TempDir()); other == first {
		t.Errorf("two directories have one agent id %s", other)
	}
}

func openAndIdentify(t *testing.T, path string) string {
	t.Helper()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	id, err := d.AgentID()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestOneHolder(t *testing.T) {
	path := t.TempDir()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("second open: %v, want a refusal that says it is in use", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d, err = Open(path)
	if err != nil {
		t.Fatalf("open after close: %v", err)
	}
	d.Close()
}

func TestWaitForTheHolderToEnd(t *testing.T) {
	path := t.TempDir()
	holder, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	var told []error
	if _, err := Wait(t.Context(), path, 200*time.Millisecond, func(why error) { told = append(told, why) }); !errors.Is(err, ErrInUse) {
		t.Errorf("while it is held: %v, want %v", err, ErrInUse)
	}
	if len(told) != 1 || !errors.Is(told[0], ErrInUse) {
		t.Errorf("told %v while it waited, want once that it is in use", told)
	}
	got := make(chan error)
	go func() {
		d, err := Wait(t.Context(), path, time.Minute, func(error) {})
		if err == nil {
			err = d.Close()
		}
		got <- err
	}()
	holder.Close()
	if err := <-got; err != nil {
		t.Errorf("after it was let go: %v", err)
	}
}

func TestUnwritable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(file, "state")); err == nil || !strings.Contains(err.Error(), "--state-dir") {
		t.Errorf("open below a file: %v, want an error that names --state-dir", err)
	}
}

func TestOtherFaultsOfTheLockAreNotCalledUse(t *testing.T) {
	if err := lockError("/d", syscall.EWOULDBLOCK); !strings.Contains(err.Error(), "in use") {
		t.Errorf("got %v, want that it is in use", err)
	}
	err := lockError("/d", syscall.ENOLCK)
	if !errors.Is(err, syscall.ENOLCK) || strings.Contains(err.Error(), "in use") || !strings.Contains(err.Error(), "/d") {
		t.Errorf("got %v, want the directory and the cause", err)
	}
}
