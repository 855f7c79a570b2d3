package render

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
)

// Choices are what an operator chooses by --set of what the built-in template can do: the values of Set
// that the model knows, with their meaning. Other values of Set are free, for templates of one's own.
type Choices struct {
	AcceptProxy bool   // accept-proxy=true: what connects to the proxy begins with a PROXY protocol header, as from another load balancer
	ServerCA    string // server-ca=PATH: a file of certificates, as HAProxy finds it, that vouch for those of servers; empty to take any
	ServerCert  string // server-cert=PATH: a file with the certificate and key that servers are shown, for mutual TLS; empty for none
}

// choice is a row of the table of what --set can choose.
type choice struct {
	name  string
	apply func(c *Choices, text string) error // an error says what may be written instead
}

// choices lists what the model knows of --set. It is never changed.
//
//nolint:gochecknoglobals // a constant, for which Go has no notation
var choices = [...]choice{
	{"accept-proxy", func(c *Choices, text string) error { return applyBool(&c.AcceptProxy, text) }},
	{"server-ca", func(c *Choices, text string) error { return applyPath(&c.ServerCA, text) }},
	{"server-cert", func(c *Choices, text string) error { return applyPath(&c.ServerCert, text) }},
}

// ChoicesOf reads the values of --set that the model knows, and reports each that is wrong.
func ChoicesOf(set map[string]string) (Choices, error) {
	var c Choices
	var errs []error
	for _, known := range choices {
		text, ok := set[known.name]
		if !ok {
			continue
		}
		if err := known.apply(&c, text); err != nil {
			errs = append(errs, fmt.Errorf("--set %s=%.40q: %w", known.name, text, err))
		}
	}
	return c, errors.Join(errs...)
}

// FreeValues are the names in Set that the model does not know, sorted: the built-in template does not
// look at them.
func FreeValues(set map[string]string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(set)), func(name string) bool {
		return slices.ContainsFunc(choices[:], func(c choice) bool { return c.name == name })
	})
}

func applyBool(b *bool, text string) error {
	switch text {
	case "true", "false":
		*b = text == "true"
		return nil
	}
	return errors.New("write true or false")
}

// plainPath is a path that can be said at HAProxy's runtime socket too.
//
//nolint:gochecknoglobals // a constant, for which Go has no notation
var plainPath = regexp.MustCompile(`^/[A-Za-z0-9_./+-]{1,255}$`)

func applyPath(path *string, text string) error {
	if !plainPath.MatchString(text) {
		return errors.New("write an absolute path of letters, digits and ._/+-, as HAProxy finds the file")
	}
	*path = text
	return nil
}
