package service

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Definition is what the labels of one container, or another source, say about one service. What
// labels leave open has its default here.
type Definition struct {
	Key     string // NAME of "sidekick.services.NAME.…", "" for plain labels
	Service string // "" = derive it from the container
	Port    uint16 // container port, 0 = the only exposed or published TCP port
	Mode    Mode
	Hosts   []string
	Path    string
	Listen  uint16
	Weight  int
	Address string            // "", "published" or "container"
	Network string            // "" = any
	Check   string            // "", "docker", "tcp", "http:/path", "none"
	Options map[string]string // every label that is no field of an Instance, by its name without "sidekick."
	Tags    []string
	Meta    map[string]string
	Err     error // all that is wrong with these labels; a definition with an error is not registered
}

const (
	labelPrefix    = "sidekick."
	servicesPrefix = "services."
	enableLabel    = "enable"
)

// ParseLabels reads a container's labels, of which those that do not begin with "sidekick." are
// none of its business. There is a definition for the plain labels, if there are any, then one for
// each NAME of "sidekick.services.NAME.KEY", sorted; at least one when there is a label at all.
// Those with faults say so in their Err, and do not touch the others.
//
// enabled is what sidekick.enable says, nil if it says nothing. One of several services is left out
// by its own enable=false; when that leaves none, enabled is false.
func ParseLabels(labels map[string]string) (defs []Definition, enabled *bool) {
	p := labelParser{defs: map[string]*Definition{}, off: map[string]bool{}}
	for _, full := range sortedKeys(labels) {
		if name, ok := strings.CutPrefix(full, labelPrefix); ok {
			p.label(name, labels[full])
		}
	}
	if len(p.defs) == 0 && p.any {
		p.definition("")
	}
	for _, key := range sortedKeys(p.defs) {
		if d := p.defs[key]; !p.off[key] {
			d.Err = errors.Join(p.enableErr, d.Err)
			defs = append(defs, *d)
		}
	}
	if len(defs) == 0 && p.any {
		return nil, new(bool)
	}
	return defs, p.enabled
}

// labelParser is what is known of a container's labels while they are read.
type labelParser struct {
	defs      map[string]*Definition // by key
	off       map[string]bool        // keys of services with enable=false
	any       bool                   // whether there was a label
	enabled   *bool
	enableErr error
}

// definition returns the one under key, made on first use.
func (p *labelParser) definition(key string) *Definition {
	if p.defs[key] == nil {
		p.defs[key] = newDefinition(key)
	}
	return p.defs[key]
}

// newDefinition is one of which nothing is said yet.
func newDefinition(key string) *Definition {
	return &Definition{
		Key: key, Service: key, Mode: HTTP, Path: "/", Weight: DefaultWeight,
		Options: map[string]string{}, Meta: map[string]string{},
	}
}

// NewDefinition returns the definition of a service of which nothing is said yet.
func NewDefinition() Definition { return *newDefinition("") }

// label takes one label in; name is what follows "sidekick.".
func (p *labelParser) label(name, text string) {
	p.any = true
	rest, several := strings.CutPrefix(name, servicesPrefix)
	switch {
	case several:
		p.ofService(name, rest, text)
	case name == enableLabel:
		on, err := parseBool(text)
		if err != nil {
			p.enableErr = labelError(name, text, err)
			return
		}
		p.enabled = &on
	default:
		p.definition("").set(name, name, text)
	}
}

// ofService takes a label of one of several services; rest is what follows "sidekick.services.".
func (p *labelParser) ofService(name, rest, text string) {
	key, label, ok := strings.Cut(rest, ".")
	if !ValidName(key) {
		d := p.definition(DeriveName(key))
		d.complain(fmt.Errorf("label %s: %.40q is no service name: use lower-case letters, digits and inner hyphens, at most %d", printLabel(name), key, maxName))
		return
	}
	d := p.definition(key)
	switch {
	case !ok || label == "":
		d.complain(fmt.Errorf("label %s sets nothing: write %s%s%s.KEY, such as %s.port", printLabel(name), labelPrefix, servicesPrefix, key, key))
	case label == enableLabel:
		on, err := parseBool(text)
		if err != nil {
			d.complain(labelError(name, text, err))
			return
		}
		p.off[key] = !on
	default:
		d.set(name, label, text)
	}
}

// set gives the definition what the label says, or notes why it cannot. full is the label's name as
// the user wrote it after "sidekick.", name the part that is in the table.
func (d *Definition) set(full, name, text string) {
	switch known, err := d.put(name, text); {
	case !known:
		d.complain(fmt.Errorf("label %s %s", printLabel(full), proposal(labelPrefix, name)))
	case err != nil:
		d.complain(labelError(full, text, err))
	}
}

// proposal says of an unknown label which one may be meant.
func proposal(prefix, name string) string {
	if like := closestLabel(name); like != "" {
		return "is unknown: did you mean " + prefix + like + "?"
	}
	return "is unknown, and like no other: remove it, or take one of the README's table of labels"
}

// UnknownError says that no label has a name, and which one may be meant.
type UnknownError struct{ Name string }

// Error proposes the name that is meant.
func (e UnknownError) Error() string { return proposal("", e.Name) }

// Set gives the definition what is said of the service under a label's name, without "sidekick.". The
// error is an [UnknownError], or says what the text should be; then nothing has changed.
func (d *Definition) Set(name, text string) error {
	known, err := d.put(name, text)
	if !known {
		return UnknownError{name}
	}
	return err
}

// put gives the definition what the label of that name says, if it is known and its text is valid.
func (d *Definition) put(name, text string) (known bool, err error) {
	l, arg, ok := findLabel(name)
	if !ok {
		return false, nil
	}
	if err := l.validate(arg, text); err != nil {
		return true, err
	}
	if twin := sameHeader(d.Options, name); twin != "" {
		return true, fmt.Errorf("want one label for each header: %s is for the same one, remove one of the two", printLabel(twin))
	}
	if l.option {
		d.Options[name] = text
	}
	if l.field != nil {
		l.field(d, arg, text)
	}
	return true, nil
}

func (d *Definition) complain(err error) { d.Err = errors.Join(d.Err, err) }

// labelError names the label, its value and what it should be.
func labelError(name, text string, err error) error {
	return fmt.Errorf("label %s=%.40q: %w", printLabel(name), text, err)
}

// printLabel writes a label's name so that it can be read in a log whatever is in it.
func printLabel(name string) string {
	const most = 100
	if len(name) <= most && isWord(name) {
		return labelPrefix + name
	}
	return strconv.Quote(labelPrefix + strings.ToValidUTF8(name[:min(len(name), most)], "?"))
}

// ValidateOption checks an option's text by the grammar of the label of that name. Names that this
// version does not know are allowed, so that a newer agent can say more than an older one reads,
// but even of these the text is at most 1024 bytes without control characters.
func ValidateOption(name, text string) error {
	l, arg, ok := findLabel(name)
	switch {
	case !ok && (!isWord(name) || len(name) > maxOptionName):
		return fmt.Errorf("option %.40q has no option's name ([A-Za-z0-9._-], at most %d)", name, maxOptionName)
	case !ok:
		l = label{check: checkText}
	case !l.option:
		return fmt.Errorf("option %q: that is a field of the value by itself, not one of its options", name)
	}
	if err := l.validate(arg, text); err != nil {
		return fmt.Errorf("option %s=%.40q: %w", name, text, err)
	}
	return nil
}

const maxOptionName = 128
