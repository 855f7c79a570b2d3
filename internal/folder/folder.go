// Package folder follows an operator's folder of files, or a single one: services files, certificates. It
// looks at them instead of subscribing to changes, because what is mounted into a container changes without
// a notice.
//
// What is seen counts once it is seen twice in a row ([Folder.Look]), so that a file that is just being
// written, or replaced by way of a gap, is not taken at its word in between. [Files] keeps the last good
// content of each item, so that a bad one hinders no other and takes nothing away. A [Teller] says what is
// wrong, once.
package folder

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

// fresh is the age up to which a file is read again although it looks the same: some file systems
// keep times in whole seconds.
const fresh = 3 * time.Second

// Folder is what was seen of a directory. Hidden files are none: editors and volumes keep their own there.
type Folder struct {
	Dir string
	// File is the path of the one file that counts, if there is no Dir: an item by that name, which is never
	// gone. That it is not there is its fault.
	File string
	// Item names the item that a file is, or is a part of; "" for a file that does not count. The files of
	// one item are one text, in the order of their names.
	Item func(file string) string
	// Below makes files in the directories of Dir count too, under names like "directory/file".
	Below bool
	// Largest is the size that a file may have, in bytes, and Advice what to do with more.
	Largest int
	Advice  string
	// Make says how to mend it that Dir, or File, does not exist.
	Make string

	seen map[string]content // at the last look, by file; nil before the first
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

// Content is an item's text, or why it cannot be read.
type Content struct{ Text, Fault string }

// Sight is what a look has shown.
type Sight struct {
	Settled map[string]Content // items that are as they were at the look before
	moving  map[string]bool    // items of which a file came, changed or went since
	first   bool               // there was no look before
}

// Moving tells that another look should follow soon.
func (s *Sight) Moving() bool { return s.first || len(s.moving) > 0 }

// Gone tells whether an item was there at neither look.
func (s *Sight) Gone(item string) bool {
	_, there := s.Settled[item]
	return !s.first && !there && !s.moving[item]
}

// Look looks at the directory. An error says that it cannot be read, and nothing of it is known.
func (f *Folder) Look() (Sight, error) {
	files, err := f.files()
	if err != nil {
		return Sight{}, err
	}
	s := Sight{Settled: map[string]Content{}, moving: map[string]bool{}, first: f.seen == nil}
	now := make(map[string]content, len(files))
	for _, file := range files {
		c, item := f.read(file), f.itemOf(file)
		now[file] = c
		s.Settled[item] = s.Settled[item].with(file, c)
		if before, ok := f.seen[file]; !ok || !before.same(c) {
			s.moving[item] = true
		}
	}
	for file := range f.seen {
		if _, ok := now[file]; !ok {
			s.moving[f.itemOf(file)] = true
		}
	}
	maps.DeleteFunc(s.Settled, func(item string, _ Content) bool { return s.moving[item] })
	f.seen = now
	return s, nil
}

// itemOf is the item that a file is a part of.
func (f *Folder) itemOf(file string) string {
	if f.File != "" {
		return file
	}
	return f.Item(file)
}

// with adds a file to what is known of its item.
func (c Content) with(file string, more content) Content {
	if c.Text != "" && !strings.HasSuffix(c.Text, "\n") {
		c.Text += "\n"
	}
	c.Text += more.text
	if c.Fault == "" && more.fault != "" {
		c.Fault = file + ": " + more.fault
	}
	return c
}

// files lists the files that count, sorted.
func (f *Folder) files() ([]string, error) {
	if f.File != "" {
		return []string{f.File}, nil
	}
	list, err := os.ReadDir(f.Dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range list {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if f.Below && f.isDir(e) {
			files = append(files, f.below(e.Name())...)
		} else {
			files = append(files, e.Name())
		}
	}
	return slices.DeleteFunc(files, func(file string) bool {
		return strings.HasPrefix(filepath.Base(file), ".") || f.Item(file) == ""
	}), nil
}

// below lists the files of a directory in the folder. What one held that cannot be read any more is not
// known to be gone; one that could never be read, such as a volume's lost+found, holds nothing.
func (f *Folder) below(dir string) (files []string) {
	list, err := os.ReadDir(filepath.Join(f.Dir, dir))
	for _, e := range list {
		files = append(files, dir+"/"+e.Name())
	}
	if err == nil {
		return files
	}
	for file := range f.seen {
		if strings.HasPrefix(file, dir+"/") && !slices.Contains(files, file) {
			files = append(files, file)
		}
	}
	slices.Sort(files)
	return files
}

// isDir tells whether an entry is a directory, or leads to one.
func (f *Folder) isDir(e os.DirEntry) bool {
	if e.Type()&os.ModeSymlink == 0 {
		return e.IsDir()
	}
	info, err := os.Stat(filepath.Join(f.Dir, e.Name()))
	return err == nil && info.IsDir()
}

// read reads one file, unless it is as it was.
func (f *Folder) read(file string) content {
	path := filepath.Join(f.Dir, file)
	info, err := os.Stat(path)
	if err != nil {
		return content{fault: f.because(err, file == f.File)}
	}
	if !info.Mode().IsRegular() {
		return content{fault: "it is no regular file"}
	}
	c := content{stamp: stampOf(info)}
	before, ok := f.seen[file]
	if ok && before.stamp == c.stamp && before.fault == "" && time.Since(info.ModTime()) > fresh { // what is in the way leaves no mark
		return before
	}
	if c.text, err = f.readText(path); err != nil {
		c.fault = f.because(err, file == f.File)
	}
	return c
}

func (f *Folder) readText(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	tooLarge := fmt.Errorf("it has more than %d bytes; %s", f.Largest, f.Advice)
	if info, err := file.Stat(); err == nil && info.Size() > int64(f.Largest) {
		return "", tooLarge
	}
	b, err := io.ReadAll(io.LimitReader(file, int64(f.Largest)+1)) // it may grow meanwhile
	if err == nil && len(b) > f.Largest {
		err = tooLarge
	}
	if err != nil {
		return "", err
	}
	return string(b), nil
}

// because is why something cannot be read, with the mend: it is the directory itself or the one file, or a
// file in it. Its name is said elsewhere.
func (f *Folder) because(err error, itself bool) string {
	if path, ok := errors.AsType[*os.PathError](err); ok {
		err = path.Err
	}
	switch {
	case itself && errors.Is(err, syscall.ENOENT):
		return "it does not exist: " + f.Make
	case errors.Is(err, syscall.EACCES):
		return err.Error() + ": let the agent's user read it"
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
