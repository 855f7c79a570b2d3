package declared

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// largest is the size of a services file, in bytes.
const largest = 1 << 20

// fresh is the age up to which a file is read again although it looks the same: some file systems
// keep times in whole seconds.
const fresh = 3 * time.Second

// folder is what was seen of a directory of services files. What is seen counts once it is seen twice
// in a row, so that a file that is just being written, or replaced by way of a gap, is not taken at
// its word in between.
type folder struct {
	dir  string
	seen map[string]content // at the last look, by name; nil before the first
}

// content is a file's text, or why it cannot be read.
type content struct {
	text  string
	fault string
	stamp stamp
}

func (c content) same(other content) bool { return c.text == other.text && c.fault == other.fault }

// stamp tells of a file without reading it whether it may have changed.
type stamp struct {
	device, inode    uint64
	size             int64
	changed, written int64
}

// sight is what a look has shown.
type sight struct {
	settled map[string]content // files that are as they were at the look before
	moving  map[string]bool    // files that came, changed or went since
	first   bool               // there was no look before
}

// look looks at the directory. An error says that it cannot be read, and nothing of it is known.
func (f *folder) look() (sight, error) {
	names, err := f.names()
	if err != nil {
		return sight{}, err
	}
	now := make(map[string]content, len(names))
	s := sight{settled: map[string]content{}, moving: map[string]bool{}, first: f.seen == nil}
	for _, name := range names {
		c := f.read(name)
		now[name] = c
		if before, ok := f.seen[name]; ok && before.same(c) {
			s.settled[name] = c
		} else {
			s.moving[name] = true
		}
	}
	for name := range f.seen {
		if _, ok := now[name]; !ok {
			s.moving[name] = true
		}
	}
	f.seen = now
	return s, nil
}

// gone tells whether a file was there at neither look.
func (s *sight) gone(name string) bool {
	_, there := s.settled[name]
	return !s.first && !there && !s.moving[name]
}

// names lists the services files. Hidden ones are none: editors and volumes keep their own there.
func (f *folder) names() ([]string, error) {
	list, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range list {
		if ext := filepath.Ext(e.Name()); (ext == ".yaml" || ext == ".yml") && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// read reads one file, unless it is as it was.
func (f *folder) read(name string) content {
	path := filepath.Join(f.dir, name)
	info, err := os.Stat(path)
	if err != nil {
		return content{fault: withoutPath(err)}
	}
	if !info.Mode().IsRegular() {
		return content{fault: "it is no regular file"}
	}
	c := content{stamp: stampOf(info)}
	if before, ok := f.seen[name]; ok && before.stamp == c.stamp && time.Since(info.ModTime()) > fresh {
		return before
	}
	if c.text, err = readText(path); err != nil {
		c.fault = withoutPath(err)
	}
	return c
}

func readText(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, largest+1))
	if err == nil && len(b) > largest {
		err = fmt.Errorf("it has more than %d bytes; spread its services over several files", largest)
	}
	if err != nil {
		return "", err
	}
	return string(b), nil
}

// withoutPath is why a file cannot be used; its name is said elsewhere.
func withoutPath(err error) string {
	if path, ok := errors.AsType[*os.PathError](err); ok {
		err = path.Err
	}
	return err.Error()
}

func stampOf(info os.FileInfo) stamp {
	s := stamp{size: info.Size(), written: info.ModTime().UnixNano()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.device, s.inode, s.changed = sys.Dev, sys.Ino, sys.Ctim.Nano()
	}
	return s
}

// sortedNames lists the keys of a map in a fixed order.
func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
