package confd

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// files is a Source of what YAML and JSON files say: a value's key are the names that lead to it, and numbers
// in lists. Of two files that say the same the later one counts.
type files struct {
	paths        []string
	filter       string
	every, again time.Duration // between two looks, also while something changes
}

// sheet is a file as it was read.
type sheet struct{ path, text string }

// Run implements Source. As with the directory itself, what is seen twice counts: who writes a file may be
// half done.
func (f files) Run(ctx context.Context, roots []string, out chan<- map[string]string, report func(error)) error {
	var known folder
	var taken, seen []sheet // nil while unknown
	var fault error
	for ctx.Err() == nil {
		now, err := f.look(&known)
		wait := f.every
		switch {
		case err != nil:
			report(err)
		case sameSheets(now, taken):
			report(fault)
		case sameSheets(now, seen):
			var keys map[string]string
			keys, fault = pick(now, roots)
			report(fault)
			if fault == nil && !send(ctx, out, keys) {
				return ctx.Err()
			}
			taken = now
		default:
			wait = f.again
		}
		seen = now
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// sameSheets tells whether both are known and the same.
func sameSheets(a, b []sheet) bool { return a != nil && b != nil && slices.Equal(a, b) }

func send[T any](ctx context.Context, out chan<- T, v T) (sent bool) {
	select {
	case out <- v:
		return true
	case <-ctx.Done():
		return false
	}
}

func (f files) read(roots []string) (map[string]string, error) {
	sheets, err := f.look(&folder{})
	if err != nil {
		return nil, err
	}
	return pick(sheets, roots)
}

// look reads all files, those of them that look changed since the last time with this folder. It returns nil with an
// error alone.
func (f files) look(known *folder) ([]sheet, error) {
	last := known.seen
	known.seen = map[string]sight{}
	sheets := []sheet{}
	for _, path := range f.paths {
		list, err := f.list(path)
		if err != nil {
			return nil, err
		}
		for _, path := range list {
			c := known.read(last, path, largestTemplate)
			if c.fault != "" {
				return nil, fmt.Errorf("file %s: %s", path, c.fault)
			}
			sheets = append(sheets, sheet{path, c.text})
		}
	}
	return sheets, nil
}

// list is a file, or the files in and below a directory whose names the filter matches.
func (f files) list(path string) ([]string, error) {
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		return []string{path}, nil // which tells of itself that it is not there
	}
	all, err := walk(path, levels)
	return slices.DeleteFunc(all, func(path string) bool {
		match, _ := filepath.Match(cmp.Or(f.filter, "*"), filepath.Base(path)) // was checked
		return !match
	}), err
}

// pick takes the keys that begin with one of the roots out of files.
func pick(sheets []sheet, roots []string) (map[string]string, error) {
	keys := map[string]string{}
	for _, s := range sheets {
		tree, err := s.parse()
		if err != nil {
			return nil, fmt.Errorf("file %s: %w", s.path, err)
		}
		f := flat{keys: keys, room: largestTree}
		if f.add("/", tree); f.room < 0 {
			return nil, fmt.Errorf("file %s: its keys and values take more than %d MiB: let aliases repeat less, or spread them over several files", s.path, largestTree>>20)
		}
	}
	for key := range keys {
		if !slices.ContainsFunc(roots, func(root string) bool { return strings.HasPrefix(key, root) }) {
			delete(keys, key)
		}
	}
	return keys, nil
}

// parse reads JSON if the file's name says so, else YAML.
func (s sheet) parse() (tree map[string]any, err error) {
	if filepath.Ext(s.path) == ".json" {
		err = json.Unmarshal([]byte(s.text), &tree)
		return tree, err
	}
	err = readYAML(s.text, &tree)
	return tree, err
}

// largestTree is what the keys and values of one file may take, in bytes, and ofKey what one takes beside its text.
const (
	largestTree = 64 << 20
	ofKey       = 64
)

// flat is what a tree of values comes to. There may be no end to it: a few lines of YAML whose aliases name lists of
// aliases stand for more than any memory holds.
type flat struct {
	keys map[string]string
	room int // in bytes; below zero not all is there
}

// add writes a value, or each one below it, at its key.
func (f *flat) add(key string, v any) {
	if f.room -= ofKey + len(key); f.room < 0 {
		return
	}
	switch v := v.(type) {
	case nil:
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) { // several may come to one key
			f.add(path.Join(key, name), v[name])
		}
	case []any:
		for i, below := range v {
			f.add(path.Join(key, strconv.Itoa(i)), below)
		}
	case string:
		f.put(key, v)
	case float64:
		f.put(key, strconv.FormatFloat(v, 'f', -1, 64))
	default:
		f.put(key, fmt.Sprint(v))
	}
}

func (f *flat) put(key, value string) {
	if f.room -= len(value); f.room >= 0 {
		f.keys[key] = value
	}
}
