package haproxy

import (
	"slices"
	"testing"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// TestServersDownAreShown: what HAProxy's own check takes out of service is known by name, as long as it
// lasts, and what the text itself takes out is not among it.
func TestServersDownAreShown(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managed(t, t.Bin)
		good := haproxytest.Server(t, "good")
		nobody := haproxytest.Address(t, "127.0.0.12")
		shown := func(what string, want ...string) {
			t.Helper()
			haproxytest.Until(t, what, func() bool {
				b.driver.lookDown(t.Context())
				return slices.Equal(b.driver.State().Down, want)
			})
		}
		const often = " check inter 100ms fall 1"
		b.apply(t, b.text("", "s1 "+good+often, "s2 "+nobody+often, "s3 "+nobody+often+" disabled"))
		shown("the dead server to be shown", "be_web/s2")
		b.apply(t, b.text("", "s1 "+good+often, "s3 "+nobody+often+" disabled"))
		shown("the removed server not to be shown")
		b.apply(t, b.text("", "s1 "+good+often, "s2 "+nobody+often))
		shown("the dead server to be shown again", "be_web/s2")
		b.apply(t, b.text("", "s1 "+good, "s2 "+nobody))
		shown("nothing to be shown of servers without checks")
	})
}
