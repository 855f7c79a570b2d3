package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// Of many runtime commands the first are shown, and the others counted.
func TestOutlookOfManyCommands(t *testing.T) {
	for _, n := range []int{commandsShown, commandsShown + 3} {
		var f haproxy.Foresight
		for i := range n {
			f.Commands = append(f.Commands, fmt.Sprintf("weight be/s%d to 7", i))
		}
		lines := strings.Split(outlook(f), "\n")
		want := fmt.Sprintf("%d runtime commands, no reload:", n)
		if lines[0] != want || lines[commandsShown] != "  weight be/s19 to 7" {
			t.Errorf("%d: got %q", n, lines)
		}
		last := lines[len(lines)-1]
		if more := n - commandsShown; more > 0 && last != fmt.Sprintf("  and %d more", more) || len(lines) > commandsShown+2 {
			t.Errorf("%d: got %q", n, lines)
		}
	}
}

// Files that come and go are shown as a whole, those that stay the same not at all.
func TestDifferencesOfFiles(t *testing.T) {
	file := func(name, text string) render.File {
		return render.File{Name: name, Blocks: []render.Block{render.NewBlock("", text)}}
	}
	var out strings.Builder
	writeDifferences(&out, "/run/h.cfg",
		render.Files{file("", "global\n"), file("gone.map", "a b\n"), file("same.map", "c d\n")},
		render.Files{file("", "global\n"), file("new.map", "e f\n"), file("same.map", "c d\n")})
	want := `diff /dev/null /run/new.map as it would be
--- /dev/null
+++ /run/new.map as it would be
@@ -0,0 +1,1 @@
+e f
diff /run/gone.map /dev/null
--- /run/gone.map
+++ /dev/null
@@ -1,1 +0,0 @@
-a b
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
