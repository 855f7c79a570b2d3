package haproxy

import (
	"strings"
	"testing"

	logtest "github.com/sirupsen/logrus/hooks/test"
)

// TestWarnings: a drain comment that says nothing to the driver is not passed over in silence.
func TestWarnings(t *testing.T) {
	for line, wrong := range map[string]bool{
		"server a 192.0.2.1:80 # drain 2m":          false,
		"server a 192.0.2.1:80 # drain 500":         false,
		"server a 192.0.2.1:80 # drain soon":        true,
		"server a 192.0.2.1:80 # drain 2 minutes":   true,
		"server a 192.0.2.1:80 #drain":              true,
		"server a 192.0.2.1:80 # drain 1m30s":       true,
		"server a 192.0.2.1:80 # drained by hand":   false,
		"server a 192.0.2.1:80 cookie '# drain x'":  false,
		"bind 192.0.2.1:80 # drain soon":            false,
		"# server a 192.0.2.1:80 # drain soon":      false,
		"server a 192.0.2.1:80 # see\n# drain soon": false,
	} {
		got := Warnings(files("backend be\n    " + line + "\n"))
		if (len(got) == 1) != wrong || wrong && !strings.Contains(got[0], "server a: the comment") {
			t.Errorf("%s: got %q, want a warning: %v", line, got, wrong)
		}
	}
}

// TestWarningsAreLoggedOnce: each such line is news once, not with each text that has it.
func TestWarningsAreLoggedOnce(t *testing.T) {
	log, seen := logtest.NewNullLogger()
	l := &loop{Driver: &Driver{cfg: Config{Log: log}}}
	text := func(weight, drain string) string {
		return "backend be\n    server a 192.0.2.1:80 weight " + weight + " # drain " + drain + "\n"
	}
	for i, step := range []struct {
		text string
		want int
	}{
		{text("1", "2m"), 0}, {text("1", "soon"), 1}, {text("1", "soon"), 1}, {text("2", "soon"), 1}, {text("2", "later"), 2},
	} {
		l.warn(files(step.text))
		l.want = files(step.text)
		if got := len(seen.AllEntries()); got != step.want {
			t.Errorf("text %d: got %d warnings so far, want %d", i, got, step.want)
		}
	}
}
