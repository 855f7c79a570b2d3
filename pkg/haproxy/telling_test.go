package haproxy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// TestDifferencesInWords: what was changed by hand is told by name, with what it was, and not endlessly.
func TestDifferencesInWords(t *testing.T) {
	const text = `backend be
    server s1 192.0.2.1:80
    server s2 192.0.2.2:80 weight 5
    server s3 192.0.2.3:80 disabled
    server s4 192.0.2.4:80 check
    server s5 192.0.2.5:80
    server s6 192.0.2.6:80
`
	live := []liveServer{
		{backend: "be", name: "s1", address: netip.MustParseAddrPort("192.0.2.1:80"), weight: 1, maint: true},
		{backend: "be", name: "s2", address: netip.MustParseAddrPort("192.0.2.2:80"), weight: 9, drained: true},
		{backend: "be", name: "s3", address: netip.MustParseAddrPort("192.0.2.3:80"), weight: 1},
		{backend: "be", name: "s4", address: netip.MustParseAddrPort("192.0.2.4:80"), weight: 1, unchecked: true},
		{backend: "be", name: "s5", address: netip.MustParseAddrPort("192.0.2.50:80"), weight: 1},
		{backend: "be", name: "s9", address: netip.MustParseAddrPort("192.0.2.9:80"), weight: 1},
	}
	m := compare(text, live, Capabilities{}, nil)
	want := "be/s1 is out of service; be/s2 has weight 9 instead of 5, is drained; be/s3 is in service; be/s4 is not checked; " +
		"be/s5 runs with another address; and 2 more"
	if got := some(m.what); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	want = "be/s6 is missing; be/s9 is in service and not in the text"
	if got := some(m.what[5:]); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestReasonsInWords: who reads why a reload was made finds the line in the template, and no password.
func TestReasonsInWords(t *testing.T) {
	const text = `global
    nbthread 2
defaults
    timeout client 1s
defaults slow
    timeout client 9s
userlist people
    user ann insecure-password one
frontend fe
    bind 127.0.0.1:80
    stats auth ann:one
backend be
    balance roundrobin # for all
    option redispatch
    server s1 192.0.2.1:80
`
	long := strings.Repeat("é", 100)
	for _, tt := range []struct{ old, new, want string }{
		{"balance roundrobin", "balance leastconn", `backend be: "balance roundrobin" became "balance leastconn"`},
		{"    option redispatch\n", "", `backend be: "option redispatch" is gone`},
		{"    option redispatch\n", "    option redispatch\n    retries 2\n", `backend be: "retries 2" is new`},
		{"    balance", "    retries 2\n    balance", `backend be: "retries 2" is new`},
		{"option redispatch", "description " + long, `backend be: "option redispatch" became "description ` + long[:68] + `…"`},
		{"nbthread 2", "nbthread 3", `global differs: "nbthread 2" became "nbthread 3"`},
		{"ann:one", "ann:two", `frontend fe differs: "stats …" became "stats …"`},
		{"password one", "password two", `userlist people differs: "user …" became "user …"`},
		{"client 9s", "client 8s", `defaults slow differs: "timeout client 9s" became "timeout client 8s"`},
		{"defaults slow\n    timeout client 9s\n", "", `defaults slow is gone`},
		{"userlist", "defaults slower\nuserlist", `defaults slower is new`},
	} {
		_, reason := Plan(files(text), files(strings.Replace(text, tt.old, tt.new, 1)), Capabilities{})
		if reason.Kind != ReasonSection || reason.Detail != tt.want {
			t.Errorf("%q -> %q:\ngot  %s: %s\nwant %s", tt.old, tt.new, reason.Kind, reason.Detail, tt.want)
		}
	}
}

// TestUnknownIsExplained: the reason for a reload says why the driver did not know what ran.
func TestUnknownIsExplained(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		kill := b.start(t)
		b.run(t)
		one := haproxytest.Server(t, "one")
		text := b.text("", "s1 "+one)
		explained := func(res Result, want string) {
			t.Helper()
			if res.How != HowReload || res.Reason.Kind != ReasonStart || !strings.Contains(res.Reason.Detail, want) {
				t.Errorf("got %+v, want a reload and %q", res, want)
			}
		}
		explained(b.apply(t, text), "for the first time")
		before := b.worker(t)
		if err := b.driver.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		// A worker that was started in a later second than the file was written is known to run it.
		b.driver.diskTime = time.Now().Add(time.Hour)
		b.driver.release()
		if _, _, err := b.driver.master.reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		haproxytest.Until(t, "another worker", func() bool { // 2.6 answers before it has one
			i, err := b.driver.api.info(t.Context())
			return err == nil && i.worker != before
		})
		explained(b.apply(t, b.text("", "s2 "+one)), "reloaded by somebody else")
		b.stop()
		if _, err := ask(t.Context(), b.cfg.RuntimeSocket, "set server be_web/s2 weight 50"); err != nil {
			t.Fatal(err)
		}
		b.run(t)
		explained(b.apply(t, b.text("    retries 2\n", "s2 "+one)), "be_web/s2 has weight 50 instead of 1")
		kill()
	})
}

// TestRuntimeChangesAreLogged: the debug log answers when a server came or left.
func TestRuntimeChangesAreLogged(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		log, seen := logtest.NewNullLogger()
		log.SetLevel(logrus.DebugLevel)
		b.cfg.Log = log
		b.start(t)
		b.run(t)
		one := haproxytest.Server(t, "one")
		b.apply(t, b.text("", "s1 "+one, "s2 "+one))
		seen.Reset()
		b.apply(t, b.text("", "s1 "+one+" weight 7", "s3 "+one+" maxconn 4"))
		want := "weight be_web/s1 to 7; add be_web/s3 at " + one + " with weight 1; remove be_web/s2"
		var got []any
		for _, entry := range seen.AllEntries() {
			got = append(got, entry.Data["changes"])
		}
		if !slices.Contains(got, any(want)) {
			t.Errorf("got %q, want %q among it", got, want)
		}
	})
}
