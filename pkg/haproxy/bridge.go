package haproxy

import (
	"slices"
	"strings"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// onlyServers is the running text with the servers that the wanted text has in the sections that are in
// both: what commands can still do when the rest of the wanted text cannot be had. Of a server that is in
// both with words that no command changes only the end is taken over: it is disabled, or gone.
func onlyServers(running, wanted render.Files) render.Files {
	want := read(joined(wanted[0].Blocks))
	if want.whole || read(joined(running[0].Blocks)).whole {
		return running // nobody but HAProxy can tell where a section begins
	}
	proxies := map[string]section{}
	for _, s := range want.all {
		if s.isProxy() && !uncertain(s) {
			proxies[s.id()] = s
		}
	}
	next := slices.Clone(running)
	next[0].Blocks = slices.Clone(running[0].Blocks)
	kept, seen := hashesOf(wanted[0].Blocks), map[string]int{}
	for i, block := range next[0].Blocks {
		sections := parseBlock(block, seen)
		if !kept[block.Hash] {
			next[0].Blocks[i] = withServersOf(block, sections, proxies)
		}
	}
	return next
}

// uncertain tells whether only HAProxy knows which servers a section has.
func uncertain(s section) bool {
	return s.doubt != "" || slices.ContainsFunc(s.lines, func(l line) bool { return l.conditional })
}

// withServersOf is a block whose sections have the servers of the proxies of the same names.
func withServersOf(block render.Block, sections []section, proxies map[string]section) render.Block {
	var text strings.Builder
	for _, s := range sections {
		want, ok := proxies[s.id()]
		if ok && s.isProxy() && !uncertain(s) {
			text.WriteString(s.withServers(want))
		} else {
			text.WriteString(s.text)
		}
	}
	if len(sections) == 0 || text.String() == block.Text {
		return block
	}
	return render.NewBlock(block.Name, text.String())
}

// withServers is a section's text with the servers of another one in the place of its own.
func (s section) withServers(of section) string {
	servers := s.takeServers(of)
	var text strings.Builder
	put := false
	for raw := range strings.Lines(s.text) {
		if word(splitLine(raw), 0) != "server" {
			text.WriteString(raw)
			continue
		}
		if !put {
			text.WriteString(servers)
		}
		put = true
	}
	if !put {
		text.WriteString(servers)
	}
	return text.String()
}

// takeServers are the lines of another section's servers, as far as they can be had here.
func (s section) takeServers(of section) string {
	own := map[string]line{}
	for _, l := range s.lines {
		if word(l, 0) == "server" {
			own[word(l, 1)] = l
		}
	}
	var text strings.Builder
	for _, l := range of.lines {
		if word(l, 0) != "server" {
			continue
		}
		taken := newServer(l)
		if was, known := own[word(l, 1)]; known {
			taken = oldServer(was, l)
		}
		if taken != "" {
			text.WriteString("    " + taken + "\n")
		}
	}
	return text.String()
}

// newServer is the line of a server that was not there, "" if it cannot be had.
func newServer(l line) string {
	if readServer(l, nil, "").why != "" {
		return ""
	}
	return l.raw
}

// oldServer is the line of a server that was there with another line.
func oldServer(was, now line) string {
	before, after := readServer(was, nil, ""), readServer(now, nil, "")
	if before.why == "" && after.why == "" && before.sameOptions(&after) {
		return now.raw
	}
	head := strings.Join(was.words[:min(3, len(was.words))], " ")
	if rest, ok := strings.CutPrefix(was.raw, head); ok && after.disabled && !before.disabled {
		return head + " disabled" + rest
	}
	return was.raw
}
