package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// changes are the lines by which files differ from those of the built-in template, each run of them below
// the section that it is in. There are neither other lines nor numbers in it, so that what a later version
// does in another place changes nothing here.
func changes(builtin, files render.Files) []byte {
	var out bytes.Buffer
	for _, name := range fileNames(builtin, files) {
		before, after := textOf(builtin, name), textOf(files, name)
		w := changesWriter{out: &out, file: name, after: strings.Split(after, "\n")}
		for line := range strings.Lines(string(diff.Diff("", []byte(before), "", []byte(after)))) {
			w.line(line)
		}
	}
	return out.Bytes()
}

// fileNames are those of the files in either, the configuration first.
func fileNames(sets ...render.Files) []string {
	var names []string
	for _, f := range slices.Concat(sets...) {
		names = append(names, f.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func textOf(files render.Files, name string) string {
	at := slices.IndexFunc(files, func(f render.File) bool { return f.Name == name })
	if at < 0 {
		return ""
	}
	return files[at].Shown()
}

// changesWriter takes in the lines of a unified diff.
type changesWriter struct {
	out    *bytes.Buffer
	file   string
	after  []string // the lines of the new file
	at     int      // how many of these were passed
	inside bool     // of a hunk, not before the first
	told   string   // the section that was named last
}

func (w *changesWriter) line(line string) {
	switch {
	case strings.HasPrefix(line, "@@ "):
		w.inside = true
		plus := strings.Fields(line)[2] // +FIRST,COUNT, FIRST being one too low if COUNT is 0
		var first, count int
		if n, _ := fmt.Sscanf(plus, "+%d,%d", &first, &count); n == 2 && count > 0 {
			first--
		}
		w.at = first
	case !w.inside:
	case line[0] == ' ':
		w.at++
	case line[0] == '+':
		w.write(line)
		w.at++
		if w.begins(line[1:]) {
			w.told = strings.TrimSpace(line[1:])
		}
	default:
		w.write(line)
	}
}

// write prints a line that differs, unless it is blank.
func (w *changesWriter) write(line string) {
	if strings.TrimSpace(line[1:]) == "" {
		return
	}
	if section := w.section(); section != w.told && !w.begins(line[1:]) {
		w.told = section
		fmt.Fprintf(w.out, "@@ %s\n", section)
	}
	w.out.WriteString(line)
}

// section is where the next line stands.
func (w *changesWriter) section() string {
	if w.file != "" {
		return "file " + w.file
	}
	for _, line := range slices.Backward(w.after[:w.at]) {
		if w.begins(line) {
			return line
		}
	}
	return "haproxy.cfg"
}

// begins tells whether a line begins a section.
func (w *changesWriter) begins(line string) bool {
	return w.file == "" && strings.TrimSpace(line) != "" && !strings.ContainsAny(line[:1], " \t#")
}
