package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// inUse says that another server holds a directory.
type inUse struct{ error }

func (e inUse) Unwrap() error { return e.error }

// hold makes the data directory and takes its lock. One that another server holds may become free while
// patience lasts.
func hold(ctx context.Context, dir string, patience time.Duration) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, Refused{fmt.Errorf("data of the embedded etcd: %w; give a writable directory with --state-dir", err)}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		lock, err := tryHold(dir)
		if !errors.As(err, new(inUse)) {
			return lock, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, Refused{err}
		}
	}
}

// tryHold takes our own lock, and sees to it that no etcd of another make works on the data.
func tryHold(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, Refused{fmt.Errorf("data of the embedded etcd: %w; give a writable directory with --state-dir", err)}
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close() // nothing was written to it
		return nil, lockError(dir, err)
	}
	if err := heldByOther(database(dir)); err != nil {
		_ = lock.Close() // nothing was written to it
		return nil, err
	}
	return lock, nil
}

// database is the file that every etcd locks while it works on it.
func database(dir string) string { return filepath.Join(dir, "data", "member", "snap", "db") }

// heldByOther refuses a database that another program has locked. The server would wait for it for ever.
func heldByOther(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return nil //nolint:nilerr // there is none, or the server says better what is wrong with it
	}
	defer file.Close() // gives the lock back
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		return inUse{fmt.Errorf("another etcd works on %s: stop that one or give this one its own --state-dir", path)}
	}
	return nil
}

// lockError says why a directory's lock could not be taken.
func lockError(dir string, err error) error {
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return inUse{fmt.Errorf("an embedded etcd runs in %s already: stop that one or give this one its own --state-dir", dir)}
	}
	return Refused{fmt.Errorf("data of the embedded etcd in %s cannot be locked: %w; give a directory on a file system that has locks with --state-dir", dir, err)}
}
