package render

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Choices are what an operator chooses by --set of what the built-in template can do: the values of Set
// that the model knows, with their meaning. Other values of Set are free, for templates of one's own.
type Choices struct {
	AcceptProxy bool // accept-proxy=true: what connects to the proxy begins with a PROXY protocol header, as from another load balancer
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
