package render

import (
	"maps"
	"slices"
	"strings"
)

// Unacted are the names of those options that the built-in template does not act on yet, sorted: whoever
// gives them must not take their lack of effect for an effect.
func Unacted(options map[string]string) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(options)) {
		first, _, _ := strings.Cut(name, ".")
		switch first {
		case "redirect", "tls":
			if name == "tls" && options[name] == "server" {
				continue
			}
			names = append(names, name)
		}
	}
	return names
}
