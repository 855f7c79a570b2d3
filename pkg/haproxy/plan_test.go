package haproxy

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// modelServer and modelBackend are a configuration as a test means it, before it becomes text.
type modelServer struct {
	Name, Address string
	Weight        int // -1: none given
	Disabled      bool
	Words         string
}

type modelBackend struct {
	Name, From, Balance, Default, Option string
	Behind                               string // the section: a condition and what it holds
	Servers                              []modelServer
}

type modelConfig struct {
	Global   string
	Backends []modelBackend
}

// runs is what a HAProxy with one server runs.
type runs struct {
	Address  string
	Words    string // in order of the words
	Weight   int
	Disabled bool
}

// state is what a HAProxy with this configuration runs, said independently of the planner's reader.
func (c modelConfig) state() map[string]runs {
	out := map[string]runs{}
	for _, b := range c.Backends {
		for _, s := range b.Servers {
			r := runs{Address: s.Address, Weight: 1, Disabled: s.Disabled, Words: normal(b.Default + " " + s.Words)}
			if s.Weight >= 0 {
				r.Weight = s.Weight
			}
			out[b.Name+"/"+s.Name] = r
		}
	}
	return out
}

// rest is everything but the servers.
func (c modelConfig) rest() modelConfig {
	c.Backends = slices.Clone(c.Backends)
	for i := range c.Backends {
		c.Backends[i].Servers = nil
	}
	return c
}

// normal sorts words, the last of each winning.
func normal(words string) string {
	f := strings.Fields(words)
	last := map[string]string{}
	for i := 0; i < len(f); i++ {
		if f[i] == "inter" || f[i] == "maxconn" {
			last[f[i]] = f[i+1]
			i++
			continue
		}
		last[f[i]] = ""
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(last)) {
		out = append(out, strings.TrimSpace(k+" "+last[k]))
	}
	return strings.Join(out, " ")
}

// apply is the model HAProxy: it does what a command says, or complains.
func apply(t interface{ Fatalf(string, ...any) }, state map[string]runs, cmds []Command) {
	for _, c := range cmds {
		s, known := state[c.target()]
		if known == (c.Op == OpAdd) {
			t.Fatalf("%s %s on a server that is known: %v", c.Op, c.target(), known)
		}
		switch c.Op { //nolint:exhaustive // only servers are drawn
		case OpAdd:
			s = runs{Address: c.Address, Words: normal(strings.Join(c.Words, " ")), Weight: c.Weight, Disabled: c.Disabled}
		case OpWeight:
			s.Weight = c.Weight
		case OpMaxconn:
			s.Words = normal(s.Words + fmt.Sprintf(" maxconn %d", c.Maxconn))
		case OpEnable:
			s.Disabled = false
		case OpDisable:
			s.Disabled = true
		case OpRemove:
			delete(state, c.target())
			continue
		}
		state[c.target()] = s
	}
}

// serving are the backends with a server that gets requests.
func serving(state map[string]runs) map[string]bool {
	out := map[string]bool{}
	for target, s := range state {
		backend, _, _ := strings.Cut(target, "/")
		out[backend] = out[backend] || !s.Disabled && s.Weight > 0
	}
	return out
}

// mustServe fails if one of the commands leaves a backend without a server although it has one
// before and after all of them.
func mustServe(t interface{ Fatalf(string, ...any) }, state map[string]runs, cmds []Command) {
	before, after := maps.Clone(state), maps.Clone(state)
	apply(t, after, cmds)
	first, last := serving(before), serving(after)
	for i, c := range cmds {
		apply(t, before, []Command{c})
		now := serving(before)
		for backend := range first {
			if first[backend] && last[backend] && !now[backend] {
				t.Fatalf("%s has no server after command %d of %+v", backend, i+1, cmds)
			}
		}
	}
}

// text writes the configuration down in blocks; the draw decides how they are cut and how blanks and
// comments look.
func (c modelConfig) files(t *rapid.T, salt byte) render.Files {
	blocks := []string{"global\n    maxconn 100" + c.Global + "\ndefaults one\n    mode http\ndefaults two\n    mode http\n    balance roundrobin\n"}
	for _, b := range c.Backends {
		blocks = append(blocks, b.text(rapid.SampledFrom([]string{" ", "\t", "    "}).Draw(t, "blank")))
	}
	switch rapid.SampledFrom([]string{"one", "sections", "anywhere"}).Draw(t, "blocks") {
	case "one":
		return files(strings.Join(blocks, ""))
	case "anywhere":
		blocks = cutAnywhere(strings.Join(blocks, ""), salt)
	}
	var f render.File
	for _, b := range blocks {
		f.Blocks = append(f.Blocks, render.NewBlock("", b))
	}
	return render.Files{f}
}

// cutAnywhere cuts a text into blocks behind some of its lines, and within a few. Equal lines are cut
// in the same way, so that texts have blocks in common.
func cutAnywhere(text string, salt byte) []string {
	blocks := []string{""}
	for raw := range strings.Lines(text) {
		sum := sha256.Sum256(append([]byte(raw), salt))
		if sum[0]%16 == 0 {
			n := int(sum[1]) % len(raw)
			blocks[len(blocks)-1] += raw[:n]
			blocks, raw = append(blocks, ""), raw[n:]
		}
		blocks[len(blocks)-1] += raw
		if sum[2]%3 == 0 {
			blocks = append(blocks, "")
		}
	}
	return blocks
}

func (b modelBackend) text(blank string) string {
	var s strings.Builder
	fmt.Fprintf(&s, "backend %s", b.Name)
	if b.From != "" {
		s.WriteString(" from " + b.From)
	}
	s.WriteString("\n")
	for _, l := range []string{b.Balance, b.Option} {
		if l != "" {
			fmt.Fprintf(&s, "%s%s # why\n", blank, l)
		}
	}
	if b.Default != "" {
		fmt.Fprintf(&s, "%sdefault-server %s\n", blank, b.Default)
	}
	for _, v := range b.Servers {
		fmt.Fprintf(&s, "%sserver %s%s'%s'", blank, v.Name, blank, v.Address)
		if v.Weight >= 0 {
			fmt.Fprintf(&s, " weight %d", v.Weight)
		}
		if v.Disabled {
			s.WriteString(" disabled")
		}
		s.WriteString(blank + v.Words + "\n")
	}
	return s.String() + b.Behind
}

func drawConfig(t *rapid.T) modelConfig {
	c := modelConfig{Global: rapid.SampledFrom([]string{"", "", "", "0", "\n.if feature(OPENSSL)\n    ssl-dh-param-file x\n.endif"}).Draw(t, "global")}
	for i := range rapid.IntRange(0, 3).Draw(t, "backends") {
		b := modelBackend{
			Name:    fmt.Sprintf("be_%d", i),
			From:    rapid.SampledFrom([]string{"one", "one", "two", ""}).Draw(t, "from"),
			Balance: rapid.SampledFrom([]string{"", "balance leastconn", "balance leastconn", "balance source"}).Draw(t, "balance"),
			Option:  rapid.SampledFrom([]string{"", "", "", "timeout server 5s", "use-server s1 if FALSE", ".if 1\nretries 2\n.endif", ".if 1\nserver x 10.0.0.9:1\n.endif"}).Draw(t, "option"),
			Behind:  rapid.SampledFrom([]string{"", "", "", ".if 0\nfrontend x\n.endif\n", ".if 1\nbackend x\n.else\nretries 1\n.endif\n"}).Draw(t, "behind"),
			Default: rapid.SampledFrom([]string{"", "", "check inter 5s", "maxconn 7"}).Draw(t, "default"),
		}
		for j := range rapid.IntRange(0, 4).Draw(t, "servers") {
			if rapid.IntRange(0, 3).Draw(t, "left out") == 0 {
				continue
			}
			b.Servers = append(b.Servers, drawServer(t, j))
		}
		c.Backends = append(c.Backends, b)
	}
	return c
}

func drawServer(t *rapid.T, j int) modelServer {
	return modelServer{
		Name:     fmt.Sprintf("s%d", j),
		Address:  fmt.Sprintf("10.0.0.%d:%d", j+1, rapid.SampledFrom([]int{80, 80, 80, 81}).Draw(t, "port")),
		Weight:   rapid.SampledFrom([]int{-1, 1, 100}).Draw(t, "weight"),
		Disabled: rapid.Bool().Draw(t, "disabled"),
		Words:    rapid.SampledFrom([]string{"", "", "backup", "check", "inter 2s", "maxconn 5"}).Draw(t, "words"),
	}
}

// drawChange is a configuration that differs from c, mostly in servers.
func drawChange(t *rapid.T, c modelConfig) modelConfig {
	if rapid.IntRange(0, 4).Draw(t, "all new") == 0 {
		return drawConfig(t)
	}
	c.Backends = slices.Clone(c.Backends)
	for i := range c.Backends {
		servers := slices.Clone(c.Backends[i].Servers)
		for k := range servers {
			if rapid.Bool().Draw(t, "touch") {
				servers[k].Weight = rapid.SampledFrom([]int{-1, 1, 0, 256}).Draw(t, "weight")
				servers[k].Disabled = rapid.Bool().Draw(t, "disabled")
			}
		}
		if len(servers) > 0 && rapid.Bool().Draw(t, "remove") {
			servers = servers[1:]
		}
		if rapid.Bool().Draw(t, "add") {
			servers = append(servers, drawServer(t, 8))
		}
		c.Backends[i].Servers = slices.DeleteFunc(servers, func(s modelServer) bool { return false })
	}
	return c
}

// TestPlanLaw: applying Plan(a, b) to a proxy that runs a gives b, Plan(a, a) is empty, commands that
// come with a reason for a reload lead to what afterCommands says, and no command leaves a backend
// without a server that has one before and after (P6, P11).
func TestPlanLaw(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := drawConfig(t)
		b := drawChange(t, a)
		salt := rapid.Byte().Draw(t, "salt")
		fa, fb := a.files(t, salt), b.files(t, salt)
		for _, f := range []render.Files{fa, fb} {
			if cmds, reason := Plan(f, f, Capabilities{}); len(cmds) > 0 || reason.needed() {
				t.Fatalf("plan of equal files: got %v, %v, want nothing", cmds, reason)
			}
		}
		d := diff(fa, fb, Capabilities{}, nil)
		one := diff(files(fa[0].Text()), files(fb[0].Text()), Capabilities{}, nil)
		if !cmp.Equal(d.commands(), one.commands()) || d.reason.needed() != one.reason.needed() {
			t.Fatalf("by blocks: got %v, %v, as one block: %v, %v", d.commands(), d.reason, one.commands(), one.reason)
		}
		state := a.state()
		mustServe(t, state, d.commands())
		apply(t, state, d.commands())
		// What was read once holds for the next comparison.
		fc := drawChange(t, b).files(t, salt)
		after := d.afterCommands(fa, fb)
		carried, fresh := diff(after, fc, Capabilities{}, d.reading), diff(after, fc, Capabilities{}, nil)
		if !cmp.Equal(carried.commands(), fresh.commands()) || carried.reason != fresh.reason {
			t.Fatalf("with an earlier reading: got %v, %v, want %v, %v", carried.commands(), carried.reason, fresh.commands(), fresh.reason)
		}
		if !d.reason.needed() {
			if diff := cmp.Diff(b.state(), state); diff != "" {
				t.Fatalf("after the commands (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(b.rest(), a.rest()); diff != "" && len(a.Backends) == len(b.Backends) {
				t.Fatalf("no reload although more than servers differs:\n%s", diff)
			}
			return
		}
		inOne := one.afterCommands(files(fa[0].Text()), files(fb[0].Text()))
		if !slices.EqualFunc(parse(after[0].Text()), parse(inOne[0].Text()), sameLines) {
			t.Fatalf("the text after the commands, by blocks:\n%s\nas one block:\n%s", after[0].Text(), inOne[0].Text())
		}
		again := diff(after, fb, Capabilities{}, nil)
		if len(again.commands()) > 0 || !again.reason.needed() {
			t.Fatalf("after the commands: got %v, %v, want no more commands and a reload", again.commands(), again.reason)
		}
		back := diff(after, fa, Capabilities{}, nil)
		if back.reason.needed() && !strings.Contains(back.reason.Detail, "place before others counts") { // a backup that went
			t.Fatalf("the text after the commands differs in more than servers: %v\n%s", back.reason, after[0].Text())
		}
	})
}

const planBase = `global
    maxconn 10
defaults d
    mode http
backend be_a from d
    balance roundrobin
    server s1 10.0.0.1:80 weight 100
    server s2 10.0.0.2:80 weight 100
`

// pools is what every server that is added at run time is told besides its own words.
const pools = " pool-max-conn -1 pool-purge-delay 5s"

func TestPlan(t *testing.T) {
	line := "    server s2 10.0.0.2:80 weight 100\n"
	tests := map[string]struct {
		old, new string // replaced in planBase
		also     [2]string
		cmds     []string
		reload   string
		can      Capabilities
	}{
		"weight":                    {old: line, new: "    server s2 10.0.0.2:80 weight 7\n", cmds: []string{"set server be_a/s2 weight 7"}},
		"out":                       {old: line, new: "    server s2 10.0.0.2:80 weight 100 disabled\n", cmds: []string{"set server be_a/s2 state maint"}},
		"gone":                      {old: line, cmds: []string{"set server be_a/s2 state maint", "del server be_a/s2"}},
		"new":                       {old: line, new: line + "    server s3 [::1]:80 check inter 1s\n", cmds: []string{"add server be_a/s3 [::1]:80 check inter 1s weight 1" + pools, "enable health be_a/s3", "set server be_a/s3 state ready"}},
		"new and out":               {old: line, new: line + "    server s3 10.0.0.3:80 disabled\n", cmds: []string{"add server be_a/s3 10.0.0.3:80 weight 1" + pools}},
		"add comes before remove":   {old: line, new: "    server s3 10.0.0.3:80\n", cmds: []string{"add server be_a/s3 10.0.0.3:80 weight 1" + pools, "set server be_a/s3 state ready", "set server be_a/s2 state maint", "del server be_a/s2"}},
		"order of servers":          {old: "    server s1 10.0.0.1:80 weight 100\n" + line, new: line + "    server s1 10.0.0.1:80 weight 100\n"},
		"address":                   {old: line, new: "    server s2 10.0.0.9:80 weight 100\n", reload: "its address differs"},
		"words":                     {old: line, new: "    server s2 10.0.0.2:80 weight 100 check\n", reload: "its words differ"},
		"only the limit":            {old: line, new: "    server s2 10.0.0.2:80 weight 100 maxconn 9\n", cmds: []string{"set maxconn server be_a/s2 9"}},
		"cookie that is not taken":  {old: line, new: line + "    server s3 10.0.0.3:80 cookie c3\n", reload: `"cookie"`},
		"cookie":                    {old: line, new: line + "    server s3 10.0.0.3:80 cookie c3\n", can: Capabilities{Cookie: true}, cmds: []string{"add server be_a/s3 10.0.0.3:80 cookie c3 weight 1" + pools, "set server be_a/s3 state ready"}},
		"unknown word":              {old: line, new: line + "    server s3 10.0.0.3:80 track be_a/s1\n", reload: `the word "track"`},
		"name of a host":            {old: line, new: line + "    server s3 host:80\n", reload: `"host:80"`},
		"statement smuggled in":     {old: line, new: line + "    server s3 10.0.0.3:80 check sni 'x;y'\n", reload: "argument"},
		"weight out of range":       {old: line, new: "    server s2 10.0.0.2:80 weight 999\n", reload: "weight"},
		"variable":                  {old: line, new: line + "    server s3 \"${HOST}:80\"\n", reload: "only haproxy can read"},
		"another balance":           {old: "balance roundrobin", new: "balance leastconn", reload: "be_a"},
		"new backend":               {old: line, new: line + "backend be_b from d\n", reload: "backend be_b is new"},
		"global":                    {old: "maxconn 10", new: "maxconn 11", reload: "global differs"},
		"defaults":                  {old: "mode http", new: "mode tcp", reload: "defaults"},
		"only a comment":            {old: line, new: "    # a word\n" + line + "\n"},
		"static balance":            {old: line, also: [2]string{"balance roundrobin", "balance source"}, reload: "not dynamic"},
		"hash that is consistent":   {old: line, also: [2]string{"balance roundrobin", "balance source\n    hash-type consistent"}, cmds: []string{"set server be_a/s2 state maint", "del server be_a/s2"}},
		"balance from defaults":     {old: line, also: [2]string{"    mode http\n", "    mode http\n    balance static-rr\n"}, cmds: []string{"set server be_a/s2 state maint", "del server be_a/s2"}},
		"checks by a program":       {old: line, new: line + "    server s3 10.0.0.3:80 check\n", also: [2]string{"    mode http\n", "    mode http\n    option external-check\n"}, reload: "checks by a program"},
		"no check by a program":     {old: line, new: line + "    server s3 10.0.0.3:80 disabled\n", also: [2]string{"    balance", "    option external-check\n    balance"}, cmds: []string{"add server be_a/s3 10.0.0.3:80 weight 1" + pools}},
		"observed":                  {old: line, new: line + "    server s3 10.0.0.3:80 check observe layer4 on-error mark-down\n", cmds: []string{"add server be_a/s3 10.0.0.3:80 check observe layer4 on-error mark-down weight 1" + pools + " error-limit 10", "enable health be_a/s3", "set server be_a/s3 state ready"}},
		"use-server":                {old: line, also: [2]string{"    balance", "    use-server s1 if TRUE\n    balance"}, reload: "use-server"},
		"default-server":            {old: line, new: line + "    server s3 10.0.0.3:80 inter 2s\n", also: [2]string{"    mode http\n", "    mode http\n    default-server check inter 5s weight 9\n"}, cmds: []string{"add server be_a/s3 10.0.0.3:80 check inter 2s weight 9" + pools, "enable health be_a/s3", "set server be_a/s3 state ready"}},
		"default-server is unknown": {old: line, new: line + "    server s3 10.0.0.3:80\n", also: [2]string{"    mode http\n", "    mode http\n    default-server resolvers dns\n"}, reload: `"resolvers"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before := planBase
			if tt.also[0] != "" {
				before = strings.Replace(before, tt.also[0], tt.also[1], 1)
			}
			after := strings.Replace(before, tt.old, tt.new, 1)
			for _, cut := range []func(string) render.Files{files, sectionBlocks} {
				cmds, reason := Plan(cut(before), cut(after), tt.can)
				var got []string
				for _, c := range cmds {
					got = append(got, c.lines()...)
				}
				if diff := cmp.Diff(tt.cmds, got); diff != "" {
					t.Errorf("commands (-want +got):\n%s", diff)
				}
				if reason.needed() != (tt.reload != "") || !strings.Contains(reason.Detail, tt.reload) {
					t.Errorf("reason: got %+v, want %q", reason, tt.reload)
				}
			}
		})
	}
}

// sectionBlocks cuts a text into a block per section.
func sectionBlocks(text string) render.Files {
	var f render.File
	for _, s := range parse(text) {
		f.Blocks = append(f.Blocks, render.NewBlock(s.id(), s.text))
	}
	return render.Files{f}
}

// FuzzPlan: whatever the texts, the planner does not panic, equal texts need nothing, and no command
// holds more than one statement.
func FuzzPlan(f *testing.F) {
	f.Add(planBase, strings.Replace(planBase, "weight 100", "weight 5", 1))
	f.Add(planBase, planBase+"    server s3 'a;b':80\n")
	f.Add("backend a\n server s 1.1.1.1:1\n", "backend a\n server s;x 1.1.1.1:1\n")
	f.Fuzz(func(t *testing.T, a, b string) {
		if cmds, reason := Plan(files(a), files(a), Capabilities{}); len(cmds) > 0 || reason.needed() {
			t.Fatalf("equal texts: got %v, %v", cmds, reason)
		}
		cmds, _ := Plan(files(a), files(b), Capabilities{Cookie: true})
		for _, c := range cmds {
			for _, l := range c.lines() {
				if strings.ContainsAny(l, ";\n\r\"'\\#<") {
					t.Fatalf("the command %q", l)
				}
			}
		}
	})
}

// TestPlanTakesTheCheaperWay: many changes at once are made by commands, but for those that HAProxy
// would take longer for than for a reload (P11).
func TestPlanTakesTheCheaperWay(t *testing.T) {
	text := func(sections, from, to int) render.Files {
		var b strings.Builder
		b.WriteString("defaults d\n")
		for n := range sections {
			fmt.Fprintf(&b, "backend b%d from d\n", n)
			for s := from; s < to; s++ {
				fmt.Fprintf(&b, "server s%d 10.0.%d.%d:80\n", s, s/256, s%256)
			}
		}
		return sectionBlocks(b.String())
	}
	for _, c := range []struct {
		name            string
		running, wanted render.Files
		commands        int
		reload          string
	}{
		{"a server added to each of 1,000 sections", text(1_000, 0, 9), text(1_000, 0, 10), 1_000, ""},
		{"100 added to one section of 10,000", text(1, 0, 10_000), text(1, 0, 10_100), 100, ""},
		{"2,000 added to one section of 10,000", text(1, 0, 10_000), text(1, 0, 12_000), 0, ReasonBatch},
		{"1,000 removed of one section of 10,000", text(1, 0, 10_000), text(1, 1_000, 10_000), 1_000, ""},
		{"nearly all of 10,000 removed", text(1, 0, 10_000), text(1, 9_900, 10_000), 0, ReasonBatch},
	} {
		cmds, reason := Plan(c.running, c.wanted, Capabilities{})
		if len(cmds) != c.commands || reason.Kind != c.reload {
			t.Errorf("%s: got %d commands and the reload %q, want %d and %q", c.name, len(cmds), reason.Kind, c.commands, c.reload)
		}
	}
}
