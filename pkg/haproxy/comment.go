package haproxy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// drainWord is what looks like a comment to the driver.
var drainWord = regexp.MustCompile(`#\s*drain\b[^#]*$`)

// Warnings says what of a configuration HAProxy accepts and the driver does not understand: comments of
// server lines that begin like its own and name no time.
func Warnings(files render.Files) []string {
	if len(files) == 0 {
		return nil
	}
	return unread(files[0].Blocks)
}

// unread finds such lines in some blocks.
func unread(blocks []render.Block) []string {
	var wrong []string
	for raw := range strings.Lines(joined(blocks)) {
		at := drainWord.FindStringIndex(raw)
		if at == nil {
			continue
		}
		l := splitLine(raw)
		if word(l, 0) != "server" || drainOf(l) != 0 || !slices.Equal(splitLine(raw[:at[0]]).words, l.words) {
			continue
		}
		wrong = append(wrong, fmt.Sprintf("server %s: the comment %q has no time that haproxy could read, so the usual one holds: write \"# drain 2m\", with nothing behind it",
			word(l, 1), strings.TrimSpace(raw[at[0]:])))
	}
	return wrong
}

// warn logs what of a wanted text the driver does not understand: of its changed blocks, and each line
// once.
func (l *loop) warn(want render.Files) {
	if len(want) == 0 {
		return
	}
	blocks := want[0].Blocks
	if len(l.want) > 0 {
		n, _, end := sharedEnds(l.want[0].Blocks, blocks)
		blocks = blocks[n:end]
	}
	wrong := unread(blocks)
	if len(wrong) == 0 || wrong[0] == l.warnedOf {
		return
	}
	l.warnedOf = wrong[0]
	l.cfg.Log.WithField("what", some(wrong)).Warn("comments for sidekick are not understood")
}
