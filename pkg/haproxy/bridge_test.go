package haproxy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// TestOnlyServers: the running text takes the servers of the wanted one, and nothing else of it.
func TestOnlyServers(t *testing.T) {
	const head = "defaults d\n mode http\n"
	proxy := func(option string, servers ...string) string {
		return "backend b from d\n balance " + option + "\n" + strings.Join(append(servers, ""), "\n")
	}
	s1, s2, s3 := "    server s1 10.0.0.1:80", "    server s2 10.0.0.2:80 weight 7 # drain 1m", "    server s3 10.0.0.3:80"
	for name, tt := range map[string]struct{ running, wanted, want string }{
		"comes and goes":      {proxy("roundrobin", s1, s2), proxy("blance", s2, s3), proxy("roundrobin", s2, s3)},
		"all go":              {proxy("roundrobin", s1), proxy("blance"), proxy("roundrobin")},
		"the first":           {proxy("roundrobin"), proxy("blance", s1), proxy("roundrobin", s1)},
		"weight and state":    {proxy("roundrobin", s1), proxy("blance", s1+" weight 3 disabled"), proxy("roundrobin", s1+" weight 3 disabled")},
		"other words":         {proxy("roundrobin", s1), proxy("blance", s1+" chek"), proxy("roundrobin", s1)},
		"other words, goes":   {proxy("roundrobin", s1), proxy("blance", s1+" check disabled"), proxy("roundrobin", "    server s1 10.0.0.1:80 disabled")},
		"at another address":  {proxy("roundrobin", s1), proxy("blance", "    server s1 10.0.0.9:80"), proxy("roundrobin", s1)},
		"comes with a fault":  {proxy("roundrobin", s1), proxy("blance", s1, s3+" chek"), proxy("roundrobin", s1)},
		"another section":     {proxy("roundrobin", s1), "backend c from d\n" + s2 + "\n", proxy("roundrobin", s1)},
		"in a condition":      {proxy("roundrobin", s1), proxy("blance", ".if 1", s2, ".endif"), proxy("roundrobin", s1)},
		"the defaults differ": {proxy("roundrobin", s1), "defaults d\n klient\n" + proxy("roundrobin", s2), proxy("roundrobin", s2)},
	} {
		got := onlyServers(files(head+tt.running), files(head+tt.wanted))
		if text := got[0].Text(); text != head+tt.want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, text, head+tt.want)
		}
	}
}

// TestServersOfARefusedStructure: whatever of a text HAProxy refuses, servers that are gone get no requests any
// more, and new ones of known services do. P7, F2.
func TestServersOfARefusedStructure(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.start(t)
		b.run(t)
		one, two, three := haproxytest.Server(t, "one"), haproxytest.Server(t, "two"), haproxytest.Server(t, "three")
		b.apply(t, b.text("", "s1 "+one, "s2 "+two))
		for fault, change := range map[string][2]string{
			"in the defaults": {"timeout client", "timeout klient"}, "in the section": {"balance", "blance"}, "at a server": {"server s3", "server s3-x"},
		} {
			want := b.text("", "s1 "+one, "s3 "+three)
			b.send(t, strings.Replace(want, change[0], change[1], 1)+"nonsense\n")
			haproxytest.Until(t, "the servers beside a fault "+fault, func() bool {
				live, err := b.driver.api.servers(t.Context(), b.worker(t))
				names := ""
				var namesSb55 strings.Builder
				for _, s := range live {
					fmt.Fprint(&namesSb55, s.name, s.maint, " ")
				}
				names += namesSb55.String()
				return err == nil && (names == "s1false s3false " || fault == "at a server" && names == "s1false s3-xfalse ")
			})
			b.send(t, want)
			b.inStep(t, want)
			back := b.text("", "s1 "+one, "s2 "+two)
			b.send(t, back)
			b.inStep(t, back)
		}
	})
}
