package haproxy

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// proxy compares one proxy before and after. Either all of it is done by commands or nothing.
func (c *comparison) proxy(before, after *proxy, text section) {
	p := proxyChange{before: before, after: after, can: c.can, tracked: c.tracked}
	if why, kind := p.read(); why != "" {
		c.reload(kind, after.id+": "+why)
		return
	}
	c.up, c.down = append(c.up, p.up...), append(c.down, p.down...)
	c.cost += p.cost()
	c.moved = append(c.moved, text)
}

// proxyChange collects the commands for one proxy.
type proxyChange struct {
	before, after *proxy
	can           Capabilities
	tracked       tracked
	up, down      []Command
	settled       *int // see lastSettled
}

// cost is what the commands cost HAProxy.
func (p *proxyChange) cost() time.Duration {
	cost := time.Duration(len(p.up)+len(p.down)) * commandCost
	neighbours := time.Duration(len(p.before.servers))
	for _, c := range slices.Concat(p.up, p.down) {
		switch c.Op {
		case OpAdd:
			cost += neighbours * neighbourCost
		case OpRemove:
			cost += neighbours * partingCost
		default:
		}
	}
	return cost
}

// read fills the commands or says why there cannot be any.
func (p *proxyChange) read() (why, kind string) {
	if what := became(p.before.others, p.after.others); what != "" {
		return what, ReasonSection
	}
	for _, side := range []*proxy{p.before, p.after} {
		if side.why != "" {
			return side.why, ReasonServer
		}
	}
	if !slices.Equal(p.kept(p.before), p.kept(p.after)) {
		return "the order of servers differs, and it counts", ReasonServer
	}
	for i := range p.after.servers {
		s := &p.after.servers[i]
		if why := p.server(p.before.find(s.name), s); why != "" {
			return "server " + s.name + ": " + why, ReasonServer
		}
	}
	for i := range p.before.servers {
		s := &p.before.servers[i]
		if p.after.find(s.name) == nil {
			if why := p.remove(s); why != "" {
				return "server " + s.name + ": " + why, ReasonServer
			}
		}
	}
	return "", ""
}

// server compares one server with what it was; was is nil for a new one.
func (p *proxyChange) server(was, s *server) string {
	switch {
	case was == nil:
		return p.add(s)
	case s.why != "" || was.why != "":
		if s.raw == was.raw {
			return ""
		}
		return "it differs and has " + s.why + was.why
	case was.address != s.address:
		return "its address differs"
	case !was.sameOptions(s) && !was.onlyLimit(s):
		return "its words differ"
	case !safeName.MatchString(s.name):
		return "its name cannot be used at run time"
	}
	return p.adjust(was, s)
}

// adjust changes weight, limit and state of a living server.
func (p *proxyChange) adjust(was, s *server) string {
	if was.maxconn() != s.maxconn() {
		c := p.command(OpMaxconn, s)
		c.Maxconn = s.maxconn()
		p.up = append(p.up, c)
	}
	if was.weight != s.weight {
		if !p.after.dynamic {
			return "the weight differs and this way of balancing is not dynamic"
		}
		if s.weight == 0 { // as good as none
			p.down = append(p.down, p.command(OpWeight, s))
		} else {
			p.up = append(p.up, p.command(OpWeight, s))
		}
	}
	switch {
	case was.disabled && !s.disabled:
		p.up = append(p.up, p.command(OpEnable, s))
	case !was.disabled && s.disabled && p.tracked.has(p.after.name, s.name):
		return "others track it, which would go out of service with it"
	case !was.disabled && s.disabled:
		p.down = append(p.down, p.command(OpDisable, s))
	}
	return ""
}

func (p *proxyChange) command(op Op, s *server) Command {
	return Command{Op: op, Backend: p.after.name, Server: s.name, Weight: s.weight}
}

// add is a new server.
func (p *proxyChange) add(s *server) string {
	if why := p.mayChange(); why != "" {
		return why
	}
	if why := s.addable(p.can); why != "" {
		return "it is new and has " + why
	}
	if p.after.external && s.has("check") {
		return "it is new, and haproxy cannot begin checks by a program at run time"
	}
	if why := p.misplaced(s); why != "" {
		return why
	}
	p.up = append(p.up, addCommand(p.after.name, s))
	return ""
}

// misplaced says why a server that comes at run time would not get the place that its line has.
// HAProxy puts it behind all others, and gives it the lowest id that is free.
func (p *proxyChange) misplaced(s *server) string {
	switch {
	case !p.after.placed(s):
		return ""
	case p.after.byID && !s.has("id"):
		return "it is new, has no id, and this way of balancing prefers servers by their ids"
	case p.after.index[s.name] < p.lastSettled():
		return "it is new, and its place before others counts"
	}
	return ""
}

// lastSettled is the place of the last server that was there before and whose place counts, -1 if
// there is none.
func (p *proxyChange) lastSettled() int {
	if p.settled != nil {
		return *p.settled
	}
	last := len(p.after.servers) - 1
	for last >= 0 && (!p.after.placed(&p.after.servers[last]) || p.before.find(p.after.servers[last].name) == nil) {
		last--
	}
	p.settled = &last
	return last
}

// kept are the servers that there were and will be and whose place counts, in the order of one text.
func (p *proxyChange) kept(in *proxy) []string {
	var names []string
	for i := range in.servers {
		name := in.servers[i].name
		if now := p.after.find(name); now != nil && p.before.find(name) != nil && p.after.placed(now) {
			names = append(names, name)
		}
	}
	return names
}

// addCommand adds a server with all that its line and its defaults say.
func addCommand(backend string, s *server) Command {
	c := Command{
		Op: OpAdd, Backend: backend, Server: s.name,
		Address: s.address, Weight: s.weight, Disabled: s.disabled,
	}
	for _, o := range s.options {
		c.Words = append(c.Words, o.word)
		if o.arg != "" {
			c.Words = append(c.Words, o.arg)
		}
	}
	return c
}

// remove is a server that is gone.
func (p *proxyChange) remove(s *server) string {
	if why := p.mayChange(); why != "" {
		return why
	}
	if !safeName.MatchString(s.name) {
		return "its name cannot be used at run time"
	}
	if p.tracked.has(p.before.name, s.name) {
		return "others track it, which would go out of service with it"
	}
	if p.tracked.isAsked(p.before.name, s.name) {
		return "the configuration looks at it by its name"
	}
	c := addCommand(p.after.name, s) // the words tell whether it is the same server that comes back
	c.Op, c.Drain = OpRemove, s.drain
	p.down = append(p.down, c)
	return ""
}

// mayChange says why servers cannot come and go in this proxy.
func (p *proxyChange) mayChange() string {
	switch {
	case p.after.why != "":
		return p.after.why
	case !p.after.dynamic:
		return "this way of balancing is not dynamic"
	case p.after.namesServers:
		return "the section names servers in use-server"
	case p.after.dynamicCookie:
		return "dynamic-cookie-key gives servers that come at run time no cookie"
	case !safeName.MatchString(p.after.name):
		return "the section's name cannot be used at run time"
	}
	return ""
}

// afterCommands is the text in force once the commands of d ran on a HAProxy with the running text:
// that text with the wanted form of the sections and files that they changed. With no reload needed
// it is the wanted text. d.reading holds for it as well.
func (d *difference) afterCommands(running, wanted render.Files) render.Files {
	if !d.reason.needed() {
		return wanted
	}
	if len(d.moved) == 0 && len(d.named) == 0 {
		return running
	}
	files := byName(running[1:])
	for _, f := range d.named {
		files[f.Name] = f
	}
	after := render.Files{{Blocks: d.textAfter(running[0].Blocks, wanted[0].Blocks)}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		after = append(after, files[name])
	}
	return after
}

// textAfter puts the sections that moved into the running blocks. Where blocks were compared, only those
// that differ are read, and the others stay as they are for the next comparison.
func (d *difference) textAfter(running, wanted []render.Block) []render.Block {
	moved := map[string]string{}
	for _, s := range d.moved {
		moved[s.id()] = s.text
	}
	if d.reading == nil {
		var blocks []render.Block
		for _, s := range parse(joined(running)) {
			blocks = append(blocks, render.NewBlock(s.id(), cmp.Or(moved[s.id()], s.text)))
		}
		return blocks
	}
	n, end, endWanted := sharedEnds(running, wanted)
	kept := hashesOf(wanted[n:endWanted])
	after, seen := slices.Clone(running), map[string]int{}
	for i := n; i < end; i++ {
		if block := running[i]; !kept[block.Hash] {
			after[i] = exchanged(block, moved, seen)
		}
	}
	return after
}

// exchanged is a block with the sections that moved.
func exchanged(block render.Block, moved map[string]string, seen map[string]int) render.Block {
	var text strings.Builder
	for _, s := range parseBlock(block, seen) {
		text.WriteString(cmp.Or(moved[s.id()], s.text))
	}
	if text.Len() == 0 { // it says nothing
		return block
	}
	return render.NewBlock(block.Name, text.String())
}
