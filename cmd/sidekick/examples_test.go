package main

import (
	"strings"
	"testing"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// The examples that docs/template.md shows do what they say, and HAProxy takes them.
func TestExampleTemplates(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		var out strings.Builder
		c := cases{haproxyBin: t.Bin, check: true, update: *update}
		if err := c.run(t.Context(), &out, "../../examples/templates"); err != nil {
			t.Errorf("%v\n%s", err, out.String())
		}
	})
}
