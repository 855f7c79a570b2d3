// Package atomicfile writes files so that a reader, also one after a crash or a power loss unless it is of
// a [Note], finds either the old content or the new, never a part.
package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Write replaces the file at path by what write puts into it. The content is on disk under another
// name in the same directory before the name changes; on any error the old file is untouched and
// nothing is left behind.
func Write(path string, mode os.FileMode, write func(io.Writer) error) error {
	err := replace(path, mode, func(f *os.File) error { return errors.Join(write(f), f.Sync()) })
	if err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Note is Write for what means nothing after a power loss, and may then be anything: it does not wait for
// the disk.
func Note(path string, mode os.FileMode, write func(io.Writer) error) error {
	return replace(path, mode, func(f *os.File) error { return write(f) })
}

// replace puts what fill writes in the place of a file.
func replace(path string, mode os.FileMode, fill func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // gone already after the rename
	if err := errors.Join(f.Chmod(mode), fill(f), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// SyncDir makes new names in a directory last over a power loss.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
