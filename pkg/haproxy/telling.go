package haproxy

import (
	"fmt"
	"strings"
)

// tellMost is how many things a sentence for people names.
const tellMost = 5

// some names the first few of many things.
func some(things []string) string {
	if more := len(things) - tellMost; more > 0 {
		return strings.Join(things[:tellMost], "; ") + fmt.Sprintf("; and %d more", more)
	}
	return strings.Join(things, "; ")
}
