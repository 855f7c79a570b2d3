package haproxy

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// sessions counts those of servers by their names.
func (b *bench) sessions(t haproxytest.T, names ...string) int {
	t.Helper()
	var of []Endpoint
	for _, name := range names {
		of = append(of, Endpoint{Name: name})
	}
	n, err := b.driver.Sessions(t.Context(), of)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestSessionsAreCountedInAllWorkers: what is open on a server counts, in old workers too, until it has
// ended. P1.
func TestSessionsAreCountedInAllWorkers(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managed(t, t.Bin)
		addr, came, end := holdingServer(t)
		other := haproxytest.Server(t, "other")
		lines := []string{"s1 " + addr, "s2 " + other + " weight 0"}
		b.apply(t, b.text("", lines...))
		for n := range 2 {
			b.hold(t, came)
			if got := b.sessions(t, "s1"); got != n+1 {
				t.Errorf("got %d sessions, want %d", got, n+1)
			}
			b.apply(t, b.text(changed(n), lines...)) // the worker becomes an old one
		}
		for name, want := range map[string]int{"s1": 2, "s2": 0, "s3": 0} {
			if got := b.sessions(t, name); got != want {
				t.Errorf("%s: got %d sessions, want %d", name, got, want)
			}
		}
		if n, err := b.driver.Sessions(t.Context(), []Endpoint{{Name: "unheard of", Address: addr}}); n != 2 || err != nil {
			t.Errorf("by its address: got %d sessions, %v, want 2", n, err)
		}
		close(end)
		haproxytest.Until(t, "the sessions to end", func() bool {
			n, err := b.driver.Sessions(t.Context(), []Endpoint{{Name: "s1"}})
			return n == 0 && err == nil // an error while the old workers end
		})
	})
}

// TestParseOpen: rows are found by their servers' names, else by addresses; what is no list is an error.
func TestParseOpen(t *testing.T) {
	const head = "# pxname,svname,qcur,qmax,scur,status,addr,\n"
	tests := []struct {
		answer string
		want   int
		bad    bool
	}{
		{head + "be,s1,1,0,2,UP,1.1.1.1:80,\nbe,s2,0,0,7,UP,1.1.1.2:80,\nb2,s1,0,0,3,MAINT (via x/y),1.1.1.3:80,\n\n", 6, false},
		{head + "be,x,0,0,2,\"UP, or \"\"so\"\"\",1.1.1.1:80,\nbe,y,0,0,1,UP,1.1.1.9:80,\n", 2, false},
		{head, 0, false},
		{head + "be,s1,,,,,,\n", 0, false},
		{head + "be,s1,\"\n", 0, true},
		{"", 0, true},
		{"# pxname,svname\n", 0, true},
		{"Unknown command", 0, true},
	}
	for _, tt := range tests {
		got, err := parseOpen(tt.answer, []Endpoint{{"s1", "1.1.1.1:80"}})
		if got != tt.want || (err != nil) != tt.bad {
			t.Errorf("%q: got %d, %v, want %d", tt.answer, got, err, tt.want)
		}
	}
}

// TestSessionsWithoutHAProxy: unknown is not none.
func TestSessionsWithoutHAProxy(t *testing.T) {
	d := &Driver{master: masterCLI{haproxytest.Dir(t) + "/none.sock"}}
	if n, err := d.Sessions(context.WithoutCancel(t.Context()), []Endpoint{{Name: "s1"}}); err == nil {
		t.Errorf("got %d sessions of a HAProxy that is not there", n)
	}
}

// TestInForceIsTold: of what is wanted only what HAProxy runs as a whole is told, also what it ran before; what
// waits for a reload or was refused is not.
func TestInForceIsTold(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		var told []*render.File
		b := &bench{cfg: configFor(t, t.Bin), addr: haproxytest.Address(t, "127.0.0.19")}
		b.cfg.Managed, b.cfg.ReloadInterval = true, time.Hour
		b.cfg.InForce = func(f render.Files) { told = append(told, &f[0]) }
		b.run(t)
		one := haproxytest.Server(t, "one")
		first := files(b.text("", "s1 "+one))
		b.applyFiles(t, first)
		same, moved := files(b.text("", "s1 "+one)), files(b.text("", "s1 "+one+" weight 7"))
		waits, refused := files(b.text(changed(1), "s1 "+one+" weight 8")), files(b.text("    nonsense\n", "s1 "+one))
		for _, want := range []render.Files{same, waits, moved, refused} {
			_, _, err := b.driver.attempt(t.Context(), want)
			if err != nil && asRefused(err) == nil {
				t.Fatal(err)
			}
		}
		if want := []*render.File{&first[0], &same[0], &moved[0]}; !slices.Equal(told, want) {
			t.Errorf("told %v, want the first, the same and the moved one of %v", told, want)
		}
	})
}
