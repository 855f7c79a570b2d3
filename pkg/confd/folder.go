package confd

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// largestTemplate is the size of a file in templates that is read, in bytes.
	largestTemplate = 4 << 20
	// fresh is the age up to which a file is read again although it looks the same: some file systems
	// keep times in whole seconds.
	fresh = 3 * time.Second
	// levels is how deep directories are searched; a link may lead back.
	levels = 10
)

// content is a file's text, or why there is none.
type content struct{ text, fault string }

// snapshot is what a look at the directory has shown.
type snapshot struct {
	options   content            // confd.toml; empty if there is none
	resources map[string]content // by name, as in conf.d/a.toml
	files     map[string]content // templates, and what else resources name as such, by path
}

func (s *snapshot) same(other *snapshot) bool {
	return s.options == other.options && maps.Equal(s.resources, other.resources) && maps.Equal(s.files, other.files)
}

// folder reads a confd directory, and each file only if it looks changed.
type folder struct {
	dir    string
	config string // its confd.toml
	seen   map[string]sight
}

// sight is a file as it was read last.
type sight struct {
	content
	size             int64
	device, inode    uint64
	written, changed int64
}

// look reads everything, with the given files besides. An error says that nothing is known.
func (f *folder) look(more []string) (*snapshot, error) {
	last := f.seen
	f.seen = map[string]sight{}
	s := &snapshot{resources: map[string]content{}, files: map[string]content{}}
	conf, err := walk(filepath.Join(f.dir, "conf.d"), levels)
	if err != nil {
		f.seen = last
		return nil, fmt.Errorf("%w: resource files lie in conf.d, templates in templates beside it", err)
	}
	for _, path := range conf {
		if !strings.HasSuffix(path, "toml") { // as confd says it: *toml
			continue
		}
		name, _ := filepath.Rel(f.dir, path) // it lies below
		s.resources[name] = f.read(last, path, largest+1)
	}
	templates, err := walk(filepath.Join(f.dir, "templates"), levels)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.seen = last
		return nil, err
	}
	for _, path := range append(templates, more...) {
		f.add(s, last, path)
	}
	if c := f.read(last, f.config, largest+1); c.fault != syscall.ENOENT.Error() && f.config != os.DevNull {
		s.options = c
	}
	return s, nil
}

// add reads a template, if it was not yet. One that is not there is none.
func (f *folder) add(s *snapshot, last map[string]sight, path string) {
	if _, known := s.files[path]; known {
		return
	}
	if c := f.read(last, path, largestTemplate); c.fault != syscall.ENOENT.Error() {
		s.files[path] = c
	}
}

// walk lists the regular files of a directory and those below it. Hidden ones are none: editors and
// volumes keep their own there.
func walk(dir string, deeper int) ([]string, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range list {
		path := filepath.Join(dir, e.Name())
		info, err := os.Stat(path) // what a link leads to
		if strings.HasPrefix(e.Name(), ".") || err != nil && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		switch {
		case err == nil && info.IsDir() && deeper > 0:
			below, err := walk(path, deeper-1)
			if err != nil {
				return nil, err
			}
			files = append(files, below...)
		case err != nil || info.Mode().IsRegular():
			files = append(files, path)
		}
	}
	return files, nil
}

// read reads one file, unless it is as it was.
func (f *folder) read(last map[string]sight, path string, largest int64) content {
	info, err := os.Stat(path)
	if err != nil {
		return content{fault: withoutPath(err)}
	}
	now := sight{size: info.Size()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		now.device, now.inode = stat.Dev, stat.Ino
		now.written, now.changed = stat.Mtim.Nano(), stat.Ctim.Nano()
	}
	before, known := last[path]
	now.content = before.content
	if !known || before != now || now.fault != "" || time.Since(info.ModTime()) < fresh { // what is in the way leaves no mark
		now.content = readFile(path, info, largest)
	}
	f.seen[path] = now
	return now.content
}

func readFile(path string, info fs.FileInfo, largest int64) content {
	switch {
	case !info.Mode().IsRegular():
		return content{fault: "it is no regular file"}
	case info.Size() > largest:
		return content{fault: "it is too large for what it should be"}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return content{fault: withoutPath(err)}
	}
	return content{text: string(text)}
}
