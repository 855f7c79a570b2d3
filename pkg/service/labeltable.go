package service

import (
	"strconv"
	"strings"
)

// label is a row of the table of labels.
type label struct {
	name   string                                // without "sidekick."; one that ends in a dot is followed by a name of the user's choice, the argument
	arg    func(arg string) error                // grammar of the argument
	check  func(text string) error               // grammar of the value
	both   func(arg, text string) error          // grammar of the two together, if there is more to it
	option bool                                  // kept in Options under its name
	field  func(d *Definition, arg, text string) // sets a field; text has passed the check
}

func (l *label) validate(arg, text string) error {
	if l.arg != nil {
		if err := l.arg(arg); err != nil {
			return err
		}
	}
	if err := l.check(text); err != nil || l.both == nil {
		return err
	}
	return l.both(arg, text)
}

// labels lists what may follow "sidekick." (and "sidekick.services.NAME."), but for enable. It is
// never changed.
//
//nolint:gochecknoglobals // a constant, for which Go has no notation
var labels = [...]label{
	// Fields of an instance.
	{name: "service", check: checkName, field: func(d *Definition, _, s string) { d.Service = s }},
	{name: "port", check: checkPort, field: func(d *Definition, _, s string) { d.Port = uint16(number(s)) }},
	{name: "host", check: checkHosts, field: func(d *Definition, _, s string) { d.Hosts = splitHosts(s) }},
	{name: "path", check: validPath, field: func(d *Definition, _, s string) { d.Path = trimPath(s) }},
	{name: "listen", check: checkPort, field: func(d *Definition, _, s string) { d.Listen = uint16(number(s)) }},
	{name: "mode", check: oneOf("http", "tcp"), field: func(d *Definition, _, s string) { d.Mode = Mode(s) }},
	{name: "weight", check: checkRange(0, 256), field: func(d *Definition, _, s string) { d.Weight = number(s) }},
	{name: "tags", check: checkTags, field: func(d *Definition, _, s string) { d.Tags = splitList(s) }},
	{name: "meta.", arg: checkMetaKey, check: checkMetaText, field: func(d *Definition, k, s string) { d.Meta[k] = s }},

	// Options that the owner's agent acts upon as well.
	{name: "address", check: oneOf("published", "container"), option: true, field: func(d *Definition, _, s string) { d.Address = s }},
	{name: "network", check: checkNetwork, option: true, field: func(d *Definition, _, s string) { d.Network = s }},
	{name: "check", check: checkCheck, option: true, field: func(d *Definition, _, s string) { d.Check = s }},
	{name: "check.interval", check: checkDuration, option: true},
	{name: "check.timeout", check: checkDuration, option: true},
	{name: "check.rise", check: checkRange(1, 100), option: true},
	{name: "check.fall", check: checkRange(1, 100), option: true},

	// Options for the proxies.
	{name: "path.strip", check: checkBool, option: true},
	{name: "default", check: checkBool, option: true},
	{name: "balance", check: checkBalance, option: true},
	{name: "backup", check: checkBool, option: true},
	{name: "maxconn", check: checkRange(1, 1_000_000), option: true},
	{name: "sticky", check: checkCookie, option: true},
	{name: "drain", check: checkDurationOrZero, option: true},
	{name: "locality", check: oneOf("prefer", "any"), option: true},
	{name: "split", check: checkSplit, option: true},
	{name: "tls", check: oneOf("terminate", "passthrough", "server"), option: true},
	{name: "redirect", check: oneOf("https"), option: true},
	{name: "proxy-protocol", check: oneOf("v1", "v2"), option: true},
	{name: "h2", check: checkBool, option: true},
	{name: "timeout.server", check: checkDuration, option: true},
	{name: "timeout.connect", check: checkDuration, option: true},
	{name: "timeout.tunnel", check: checkDuration, option: true},
	{name: "timeout.queue", check: checkDuration, option: true},
	{name: "retry", check: oneOf("post"), option: true},
	{name: "ratelimit", check: checkRange(1, 1_000_000), option: true},
	{name: "auth", check: checkFileName, option: true},
	{name: "header.request.", arg: checkHeaderName, check: checkText, both: checkRequestHeader, option: true},
	{name: "header.response.", arg: checkHeaderName, check: checkText, option: true},
}

// LabelNames are the names of all labels without "sidekick.", in the table's order. One that ends in a dot
// is followed by a name of the user's choice. What [Definition.Set] takes under them is valid.
func LabelNames() []string {
	names := make([]string, 0, len(labels))
	for i := range labels {
		names = append(names, labels[i].name)
	}
	return names
}

// findLabel returns the row for a label and the argument at its end, if it takes one.
func findLabel(name string) (l label, arg string, ok bool) {
	for i := range labels {
		known := labels[i].name
		if known == name && known[len(known)-1] != '.' {
			return labels[i], "", true
		}
		if known[len(known)-1] == '.' && strings.HasPrefix(name, known) {
			return labels[i], name[len(known):], true
		}
	}
	return label{}, "", false
}

// closestLabel is the known label with the least difference to name, of equals the first in the
// table, without "sidekick."; "" if none is so like it that it may be meant.
func closestLabel(name string) string {
	const enough = 40 // a longer one is no slip of the finger
	name = strings.ToLower(name[:min(len(name), enough)])
	best, least := "", 1+max(2, len(name)/6)
	try := func(known string) {
		if d := Distance(leading(name, known), known); d < least && d < len(known)-1 {
			best, least = known, d
		}
	}
	try(enableLabel)
	for i := range labels {
		try(labels[i].name)
	}
	if strings.HasSuffix(best, ".") {
		best += "NAME"
	}
	return best
}

// leading is the part of a name that stands where known does: all of it, unless known is followed by a name
// of the user's choice.
func leading(name, known string) string {
	if !strings.HasSuffix(known, ".") {
		return name
	}
	parts := strings.SplitAfter(name, ".")
	return strings.Join(parts[:min(len(parts), strings.Count(known, "."))], "")
}

// number reads what checkRange has let pass.
func number(text string) int {
	n, _ := strconv.Atoi(text) // cannot fail after the check
	return n
}
