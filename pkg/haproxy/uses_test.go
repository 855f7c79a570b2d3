package haproxy

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// mapped is a set of a configuration in blocks and a map.
func mapped(blocks []string, rows string) render.Files {
	return append(blocksOf(blocks), render.File{Name: "a.map", Blocks: []render.Block{render.NewBlock("", rows)}})
}

// TestMapChangeCostsTheMap: what a change of a map costs does not grow with the services beside it, whatever
// signs stand in their blocks (P12).
func TestMapChangeCostsTheMap(t *testing.T) {
	allocations := func(services int) float64 {
		blocks := []string{"defaults d\n mode http\n", "frontend f from d\n use_backend %[path,map_beg(a.map)]\n"}
		for i := range services {
			blocks = append(blocks, fmt.Sprintf("backend b%d from d\n http-request set-header X 'a b'\n server s 10.0.0.1:80\n", i))
		}
		before, after := mapped(blocks, "/a b1\n"), mapped(blocks, "/a b2\n")
		known := diff(before, before, Capabilities{}, nil).reading
		return testing.AllocsPerRun(10, func() {
			if d := diff(before, after, Capabilities{}, known); len(d.commands()) != 1 || d.reason.needed() {
				t.Fatalf("got %v, %+v, want one command", d.commands(), d.reason)
			}
		})
	}
	// Pools of the standard library make the count uneven; one allocation per service would be 990 more.
	if few, many := allocations(10), allocations(1000); many > 2*few {
		t.Errorf("allocations: got %v with 10 services and %v with 1,000, want about as many", few, many)
	}
}

// TestReloadReadsWhatMayNameAFile: how a text that waits for a reload uses a map is found out without reading all
// its services, also if it has a condition somewhere.
func TestReloadReadsWhatMayNameAFile(t *testing.T) {
	allocations := func(services int) float64 {
		blocks := []string{"defaults d\n mode http\n .if version_atleast(3.0)\n  retries 1\n .endif\n", "frontend f from d\n use_backend %[path,map_beg(a.map)]\n"}
		for i := range services {
			blocks = append(blocks, fmt.Sprintf("backend b%d from d\n http-request set-header X 'a b'\n server s 10.0.0.1:80\n", i))
		}
		text := blocksOf(blocks)[0]
		return testing.AllocsPerRun(10, func() {
			if u := namedIn(text, "a.map"); u.kind() != useMap || u.other != "" {
				t.Fatalf("got %+v, want a map", u)
			}
		})
	}
	// Patterns come from a pool, which the race detector empties at random; to read a service takes far more.
	if few, many := allocations(10), allocations(1000); many > few+2*990 {
		t.Errorf("allocations: got %v with 10 services and %v with 1,000, want less than two more for each", few, many)
	}
}

// TestConditionalUses: a file that is named under a condition is HAProxy's to know, wherever the condition begins.
func TestConditionalUses(t *testing.T) {
	const bind = " bind :1 ssl crt a.pem\n"
	for name, tt := range map[string]struct {
		blocks []string
		other  bool
	}{
		"beside a condition":          {blocks: []string{"frontend f\n .if defined(X)\n retries 1\n .endif\n" + bind}},
		"in a condition":              {blocks: []string{"frontend f\n .if defined(X)\n" + bind + " .endif\n"}, other: true},
		"of another block":            {blocks: []string{".if defined(X)\n", "frontend f\n" + bind, ".endif\n"}, other: true},
		"a condition elsewhere":       {blocks: []string{"frontend f\n" + bind, "backend b\n .if defined(X)\n retries 1\n .endif\n"}},
		"a variable in a condition":   {blocks: []string{"frontend f\n .if defined(X)\n bind :1 ssl crt \"$X\"\n .endif\n"}, other: true},
		"what looks like a condition": {blocks: []string{"frontend f\n" + bind + " description x.if\n"}},
	} {
		u := namedIn(blocksOf(tt.blocks)[0], "a.pem")
		if (u.other != "") != tt.other {
			t.Errorf("%s: got %+v, want it known: %v", name, u, !tt.other)
		}
	}
}

// TestUsesCarried: how files are used is found out anew once a block that matters for it has changed, and
// what is remembered is what a new look finds (P11, P12).
func TestUsesCarried(t *testing.T) {
	const head, used, unused, last = "defaults d\n", "frontend f from d\n use_backend %[path,map_beg(a.map)]\n", "frontend f from d\n retries 1\n", "backend b from d\n retries 2\n"
	named := "backend b from d\n http-request set-header X a.map\n"
	for name, steps := range map[string][]string{
		"a use comes":                {unused, used},
		"a use goes":                 {used, unused},
		"another method":             {used, "frontend f from d\n use_backend %[path,map_reg(a.map)]\n"},
		"a name that may be the map": {used + last, used + named},
		"nothing that matters":       {used + last, used + "backend b from d\n retries 3\n"},
		"a script":                   {unused, "global\n lua-load x.lua\n"},
	} {
		first, second := mapped([]string{head, steps[0]}, "/a b\n"), mapped([]string{head, steps[1]}, "/a b\n")
		third := slices.Concat(second[:1], mapped(nil, "/a c\n")[1:])
		known := diff(first, mapped([]string{head, steps[0]}, "/z b\n"), Capabilities{}, nil).reading // it has looked for the file
		known = diff(first, second, Capabilities{}, known).reading
		carried, fresh := diff(second, third, Capabilities{}, known), diff(second, third, Capabilities{}, nil)
		if !cmp.Equal(carried.commands(), fresh.commands()) || carried.reason != fresh.reason {
			t.Errorf("%s: got %v, %+v, without the earlier reading %v, %+v", name, carried.commands(), carried.reason, fresh.commands(), fresh.reason)
		}
	}
}
