package service

import (
	"fmt"
	"slices"
	"strings"
)

// Setting is what a user asks for one field of a definition: a label, or what another program's way
// of saying it comes to.
type Setting struct {
	Label string // by its name without "sidekick." (and "services.NAME.")
	Text  string // the label's value
	Mark  string // how the user wrote it, such as `label SERVICE_NAME="web"`; empty for a label of ours
	Err   error  // why what was written has no value as a label; written to follow Mark

	full string // a label's whole name after "sidekick."
}

// Define makes a definition of settings. Of several for one label the last one counts, also in place
// of one that is in error. All faults of those that count are in the definition's Err.
func Define(settings []Setting) Definition {
	last := make(map[string]int, len(settings))
	for at, s := range settings {
		last[s.Label] = at
	}
	d := newDefinition("")
	for at, s := range settings {
		if last[s.Label] == at {
			d.apply(s)
		}
	}
	return *d
}

func (d *Definition) apply(s Setting) {
	switch {
	case s.Err != nil:
		d.complain(fmt.Errorf("%s: %w", s.Mark, s.Err))
	case s.Label == enableLabel:
		if err := checkBool(s.Text); err != nil {
			d.complain(labelError(s.full, s.Text, err))
		}
	case s.Mark == "":
		d.set(s.full, s.Label, s.Text)
	default:
		if _, err := d.put(s.Label, s.Text); err != nil {
			d.complain(fmt.Errorf("%s means the label %s=%.40q: %w", s.Mark, printLabel(s.Label), s.Text, err))
		}
	}
}

// Settings returns what a container's labels say of the service under a key, as [Definition] has it:
// "" for the plain labels. They are sorted by name, and include enable.
func Settings(labels map[string]string, key string) []Setting {
	prefix := labelPrefix
	if key != "" {
		prefix += servicesPrefix + key + "."
	}
	var settings []Setting
	for _, full := range sortedKeys(labels) {
		name, ok := strings.CutPrefix(full, prefix)
		if !ok || key == "" && strings.HasPrefix(name, servicesPrefix) {
			continue
		}
		settings = append(settings, Setting{Label: name, Text: labels[full], full: strings.TrimPrefix(full, labelPrefix)})
	}
	return settings
}

// Disabled tells whether settings hide the service that they are for.
func Disabled(settings []Setting) bool {
	return slices.ContainsFunc(settings, func(s Setting) bool { return s.Label == enableLabel && s.Text == "false" })
}
