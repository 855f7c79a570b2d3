// Package statedir is the directory in which an agent keeps what outlives it: who it is, the last
// good catalog, an embedded registry. One process at a time may hold it.
package statedir

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/atomicfile"
)

// Dir is a held state directory.
type Dir struct {
	path string
	lock *os.File
}

// Open makes the directory if it is missing and takes its lock. It fails with a sentence for the
// operator when the directory cannot be written or another process holds it.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w; give a writable one with --state-dir", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state directory is not writable: %w; give a writable one with --state-dir", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, lockError(path, err)
	}
	return &Dir{path: path, lock: lock}, nil
}

// ErrInUse says that another process holds the directory.
var ErrInUse = errors.New("in use by another sidekick")

// Wait is Open for a directory whose holder may just be ending, as when an agent is restarted: it
// goes on trying for as long as patience lasts. busy is called if it has to wait.
func Wait(ctx context.Context, path string, patience time.Duration, busy func(why error)) (*Dir, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for waits := false; ; waits = true {
		dir, err := Open(path)
		if !errors.Is(err, ErrInUse) {
			return dir, err
		}
		if !waits {
			busy(err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, err
		}
	}
}

// lockError says why a directory's lock could not be taken.
func lockError(path string, err error) error {
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("state directory %s is %w; stop that one or give this one its own --state-dir", path, ErrInUse)
	}
	return fmt.Errorf("state directory %s cannot be locked: %w; give one on a file system that has locks with --state-dir", path, err)
}

// Close lets the directory go.
func (d *Dir) Close() error { return d.lock.Close() }

// Path is the path of a file in the directory.
func (d *Dir) Path(name string) string { return filepath.Join(d.path, name) }

// AgentID returns the identity that the agent keeps over restarts: a random UUID made on first use.
func (d *Dir) AgentID() (string, error) {
	path := d.Path("agent-id")
	b, err := os.ReadFile(path)
	if err == nil {
		if id := strings.TrimSpace(string(b)); id != "" {
			return id, nil
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("agent id: %w", err)
	}
	id := newUUID()
	err = atomicfile.Write(path, 0o600, func(w io.Writer) error {
		_, err := io.WriteString(w, id+"\n")
		return err
	})
	if err != nil {
		return "", fmt.Errorf("agent id: %w", err)
	}
	return id, nil
}

// newUUID returns a random UUID, version 4 of RFC 9562.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Machine returns the host's machine id and the id of its present boot, each empty if the host
// tells none. Two agents with one agent id but different machines are clones.
func Machine() (machine, boot string) {
	read := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	return read("/etc/machine-id"), read("/proc/sys/kernel/random/boot_id")
}
