package haproxy

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// TestConditions: what conditions mean for plans (P11), however the text is cut into blocks (P12).
func TestConditions(t *testing.T) {
	const weight = "set server be_a/s2 weight 7"
	tests := map[string]struct {
		old, new string    // in planBase, for both texts
		end      string    // behind both
		wanted   [2]string // in the wanted text alone, besides the weight
		cmds     []string
		reload   string
	}{
		"in global":               {old: "defaults d\n", new: ".if feature(OPENSSL)\n    ssl-dh-param-file x\n.endif\ndefaults d\n", cmds: []string{weight}},
		"before all":              {old: "global\n", new: ".if version_atleast(2.4)\n.endif\nglobal\n", cmds: []string{weight}},
		"in defaults":             {old: "mode http\n", new: "mode http\n.if defined(LOGS)\n    option httplog\n.endif\n", cmds: []string{weight}},
		"in the section":          {old: "    balance roundrobin\n", new: "    balance roundrobin\n.if 1\n    timeout server 5s\n.else\n    timeout server 6s\n.endif\n", cmds: []string{weight}},
		"around a section":        {old: "backend be_a", new: ".if feature(QUIC)\nfrontend q from d\n    bind quic4@:443\n.endif\nbackend be_a", cmds: []string{weight}},
		"around other servers":    {old: "    balance roundrobin\n", new: "    balance roundrobin\n.if 1\n    server x 10.0.0.9:80\n.endif\n", reload: `a line "server" stands in a condition`},
		"around the balance":      {old: "    balance roundrobin\n", new: ".if 1\n    balance roundrobin\n.endif\n", reload: `a line "balance" stands in a condition`},
		"around inherited words":  {old: "mode http\n", new: "mode http\n.if 1\n    default-server weight 5\n.endif\n", reload: `a line "default-server" stands in a condition`},
		"around the defaults":     {old: "defaults d\n    mode http\n", new: "global\n.if 1\ndefaults d\n    mode http\n.else\ndefaults d\n    mode tcp\n.endif\n", reload: "defaults d (2) stands in a condition"},
		"around the section":      {old: "backend be_a", new: ".if 1\nbackend be_x from d\n.endif\n.if 1\nbackend be_a", end: ".endif\n", reload: "backend be_a differs and stands in a condition"},
		"behind a section":        {old: "backend be_a", new: "backend be_z from d\n.if 1\nbackend be_a", end: ".endif\n    retries 3\n", reload: "be_a differs and stands in a condition"},
		"another condition":       {old: "defaults d\n", new: ".if 1\n    nbthread 1\n.endif\ndefaults d\n", wanted: [2]string{".if 1", ".if 0"}, cmds: []string{weight}, reload: "global differs"},
		"that comes":              {wanted: [2]string{"    balance roundrobin\n", "    balance roundrobin\n.if 1\n    retries 3\n.endif\n"}, reload: `".if 1" is new`},
		"that goes on":            {old: "    balance roundrobin\n", new: ".if 1\n    balance roundrobin\n.endif\n.if 1\n    retries 3\n.endif\n", wanted: [2]string{".endif\n.if 1\n    retries 3\n", "    retries 3\n"}, reload: "be_a"},
		"that is for haproxy":     {old: "    balance roundrobin\n", new: "    balance roundrobin\n    \"${NO}\" retries 3\n", reload: "environment"},
		"that is for haproxy too": {old: "    balance roundrobin\n", new: "    balance \"${B}\"\n    hash-type consistent\n", reload: `a line "balance" is for haproxy alone`},
		"notices":                 {old: "    balance roundrobin\n", new: "    .notice \"all is well\"\n", cmds: []string{weight}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before := replaced(planBase, tt.old, tt.new) + tt.end
			after := replaced(replaced(before, "10.0.0.2:80 weight 100", "10.0.0.2:80 weight 7"), tt.wanted[0], tt.wanted[1])
			for _, cut := range []func(string) render.Files{files, sectionBlocks, lineBlocks} {
				cmds, reason := Plan(cut(before), cut(after), Capabilities{})
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

// replaced replaces the first old in a text, if that is not empty.
func replaced(text, old, instead string) string {
	if old == "" {
		return text
	}
	return strings.Replace(text, old, instead, 1)
}

// TestConditionalServersAreNotDrift: servers that only HAProxy can name, or that stand in a condition,
// are neither missed nor taken away by the audit (P6).
func TestConditionalServersAreNotDrift(t *testing.T) {
	live := []liveServer{{backend: "b", name: "s1", address: netip.MustParseAddrPort("10.0.0.1:80"), weight: 1}}
	for name, text := range map[string]string{
		"in a condition":          "backend b\n.if 0\n server s2 10.0.0.2:80\n.else\n server s1 10.0.0.1:80\n.endif\n",
		"a section in one":        ".if 0\nbackend b\n server s2 10.0.0.2:80\n.else\nbackend b\n server s1 10.0.0.1:80\n.endif\n",
		"a section behind one":    "backend b\n.if 0\nbackend c\n.endif\n server s1 10.0.0.1:80\n",
		"named by a variable":     "backend b\n server \"$NAME\" 10.0.0.1:80\n",
		"a section of a variable": "backend \"$NAME\"\n server s1 10.0.0.1:80\n",
		"any line":                "backend b\n \"$LINE\" s1 10.0.0.1:80\n",
		"switched off by one":     "backend b\n.if 0\n disabled\n.endif\n server s2 10.0.0.1:80\n",
		"defaults in one":         ".if 0\ndefaults\n default-server disabled\n.endif\nbackend b\n server s1 10.0.0.1:80\n",
	} {
		t.Run(name, func(t *testing.T) {
			m := compare(text, live, Capabilities{}, nil)
			if len(m.what) != 0 || m.reload != "" || len(m.repair) > 0 {
				t.Errorf("got differences %q, reload %q, repair %v, want none", m.what, m.reload, m.repair)
			}
		})
	}
}

// TestConditionalBindsAreNotProbed: a bind that HAProxy may pass over holds no text back.
func TestConditionalBindsAreNotProbed(t *testing.T) {
	text := "frontend a\n bind 127.0.0.1:80\n .if streq(\"$SSL_ONLY\",no)\n bind 127.0.0.1:81\n .if 1\n bind 127.0.0.1:82\n .endif\n .endif\n bind 127.0.0.1:83\n"
	want := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:80"), netip.MustParseAddrPort("127.0.0.1:83")}
	for _, cut := range []func(string) render.Files{files, lineBlocks} {
		if diff := cmp.Diff(want, binds(cut(text)), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("addresses (-want +got):\n%s", diff)
		}
	}
}

// TestConditionalSocketIsLeftToHAProxy: a runtime socket that HAProxy may open refuses no text.
func TestConditionalSocketIsLeftToHAProxy(t *testing.T) {
	const socket = " stats socket /r.sock level admin\n"
	for text, refused := range map[string]bool{
		"global\n" + socket: false,
		"global\n.if feature(THREAD)\n" + socket + ".endif\n":   false,
		"global\n" + strings.Replace(socket, "/r", "/other", 1): true,
	} {
		if err := drivable(files(text), "/r.sock", false); (err != nil) != refused {
			t.Errorf("drivable(%q): got %v, want a refusal: %v", text, err, refused)
		}
	}
}
