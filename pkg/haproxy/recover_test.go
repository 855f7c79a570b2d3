package haproxy

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// stat is one column of what HAProxy tells of a server of be_web.
func (b *bench) stat(tb testing.TB, server, column string) string {
	tb.Helper()
	answer, err := ask(tb.Context(), b.cfg.RuntimeSocket, "show stat be_web 4 -1")
	if err != nil {
		tb.Fatal(err)
	}
	rows := strings.Split(strings.TrimPrefix(answer, "# "), "\n")
	names := strings.Split(rows[0], ",")
	for _, row := range rows[1:] {
		fields := strings.Split(row, ",")
		for i, name := range names {
			if len(fields) == len(names) && fields[1] == server && name == column {
				return fields[i]
			}
		}
	}
	tb.Fatalf("no %s of server %s in %q", column, server, answer)
	return ""
}

// TestServerComesBackInUse: a server that comes back while its last session goes on is not deleted later,
// nor are its sessions ended: not as it was, not with other words, and not if the agent was restarted
// in between (P6, F6).
func TestServerComesBackInUse(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		one := haproxytest.Server(t, "one")
		for name, tt := range map[string]struct {
			words     string
			restarted bool
			how       string
		}{
			"as it was":           {how: HowRuntime},
			"disabled":            {words: " disabled", how: HowRuntime},
			"other words":         {words: " maxconn 3", how: HowReload},
			"after a restart":     {restarted: true, how: HowRuntime},
			"both of these rules": {words: " backup", restarted: true, how: HowReload},
		} {
			t.Run(name, func(tt2 *testing.T) {
				b := external(tt2, t.Bin)
				b.start(tt2)
				b.run(tt2)
				slow, release := slowServer(tt2)
				b.apply(tt2, b.text("", "s1 "+slow))
				answer := make(chan error, 1)
				go func() {
					_, err := haproxytest.Get(b.addr)
					answer <- err
				}()
				<-release.started
				b.apply(tt2, b.text("", "s2 "+one))
				if tt.restarted {
					b.stop()
					b.run(tt2)
					b.apply(tt2, b.text("", "s2 "+one))
				}
				if res := b.apply(tt2, b.text("", "s2 "+one, "s1 "+slow+tt.words)); res.How != tt.how {
					tt2.Errorf("got %+v, want %s", res, tt.how)
				}
				if err := b.driver.acquire(tt2.Context()); err != nil {
					tt2.Fatal(err)
				}
				if len(b.driver.leaving) > 0 {
					tt2.Errorf("waiting for deletion: %v, want nothing", b.driver.leaving)
				}
				b.driver.release()
				close(release.end)
				if err := <-answer; err != nil {
					tt2.Errorf("the request in flight: %v", err)
				}
			})
		}
	})
}

// TestUnseenChangesAreMade: what cannot be read back from HAProxy, limits and certificates, is changed
// also by a driver that finds another drift (P6).
func TestUnseenChangesAreMade(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.start(t)
		b.run(t)
		one := haproxytest.Server(t, "one")
		set := func(limit string, number int64) render.Files {
			text := strings.Replace(b.text("", "s1 "+one+" maxconn "+limit), "global\n", "global\n    default-path config\n", 1)
			text = strings.Replace(text, "bind "+b.addr, "bind "+b.addr+" ssl crt main.pem", 1)
			return append(files(text), render.File{Name: "main.pem", Blocks: []render.Block{render.NewBlock("", madeCertificate(t, "main.example", number))}})
		}
		b.applyFiles(t, set("5", 1))
		b.stop()
		if _, err := ask(t.Context(), b.cfg.RuntimeSocket, "set server be_web/s1 weight 50"); err != nil {
			t.Fatal(err)
		}
		b.run(t)
		if res := b.applyFiles(t, set("9", 2)); res.How != HowRuntime {
			t.Errorf("got %+v, want runtime", res)
		}
		if got := b.stat(t, "s1", "slim"); got != "9" {
			t.Errorf("limit: got %s, want 9", got)
		}
		if got := serial(b.addr, "main.example"); got != 2 {
			t.Errorf("certificate: got serial %d, want 2", got)
		}
		if got := b.stat(t, "s1", "weight"); got != "1" {
			t.Errorf("weight: got %s, want 1", got)
		}
	})
}

// stepped is a driver without its loop, and a loop whose steps a test makes.
func (b *bench) stepped(tb testing.TB) *loop {
	tb.Helper()
	b.stop()
	d, err := NewDriver(b.cfg)
	if err != nil {
		tb.Fatal(err)
	}
	b.driver = d
	return &loop{Driver: d}
}

// TestFileFollowsAfterAFailedReload: a reload that fails while the file is about to follow does not leave
// it behind (P6, F8).
func TestFileFollowsAfterAFailedReload(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.cfg.SameNetwork = false // no probe, so that the load fails
		b.start(t)
		b.run(t)
		one, two := haproxytest.Server(t, "one"), haproxytest.Server(t, "two")
		b.apply(t, b.text("", "s1 "+one))
		l := b.stepped(t)
		b.apply(t, b.text("", "s1 "+one))
		text := b.text("", "s1 "+one, "s2 "+two)
		b.apply(t, text)
		l.follow(t.Context())
		taken, err := net.Listen("tcp", "127.0.0.13:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		bad := strings.Replace(text, "    default_backend", "    bind "+taken.Addr().String()+"\n    default_backend", 1)
		if _, err := l.Apply(t.Context(), files(bad)); asRefused(err) == nil {
			t.Fatalf("an address that is taken: got %v, want a refusal", err)
		}
		l.followed(t.Context(), <-l.following)
		l.follow(t.Context())
		if l.following == nil {
			t.Fatal("nothing is planned for the file")
		}
		l.followed(t.Context(), <-l.following)
		if got, err := os.ReadFile(b.cfg.Path); err != nil || string(got) != text {
			t.Errorf("the file: got %v\n%s\nwant\n%s", err, got, text)
		}
	})
}

// TestNoteIsOfWhatRuns: a note that was begun before a change that cannot be read back is not left for
// the next agent (P6).
func TestNoteIsOfWhatRuns(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.start(t)
		b.run(t)
		one := haproxytest.Server(t, "one")
		b.apply(t, b.text("", "s1 "+one+" maxconn 5"))
		l := b.stepped(t)
		b.apply(t, b.text("", "s1 "+one+" maxconn 5 weight 7"))
		l.follow(t.Context())
		b.apply(t, b.text("", "s1 "+one+" maxconn 9 weight 7"))
		l.followed(t.Context(), <-l.following)
		b.run(t) // as after a kill
		b.apply(t, b.text("", "s1 "+one+" maxconn 5 weight 7"))
		if got := b.stat(t, "s1", "slim"); got != "5" {
			t.Errorf("limit: got %s, want 5", got)
		}
	})
}

// TestDrainOutlivesTheAgent: the sessions of a server that is gone go on for as long as its line said,
// also if the agent is stopped, or killed before the file on disk follows, and another one takes over (P8).
func TestDrainOutlivesTheAgent(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		for _, killed := range []bool{false, true} {
			b := external(t, t.Bin)
			b.cfg.DrainLimit = time.Millisecond
			b.start(t)
			b.run(t)
			slow, release := slowServer(t)
			one := haproxytest.Server(t, "one")
			with, without := b.text("", "s1 "+slow+" # drain 1h"), b.text("", "s2 "+one)
			b.apply(t, with)
			b.inStep(t, with)
			answer := make(chan error, 1)
			go func() {
				_, err := haproxytest.Get(b.addr)
				answer <- err
			}()
			<-release.started
			if killed {
				b.stop()
				d, err := NewDriver(b.cfg)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := d.Apply(t.Context(), files(without)); err != nil {
					t.Fatal(err)
				}
			} else {
				b.apply(t, without)
				b.stop()
			}
			b.run(t)
			b.apply(t, without)
			b.inStep(t, without)
			for range 3 { // each of them ends the sessions of servers whose time is over
				if err := b.driver.acquire(t.Context()); err != nil {
					t.Fatal(err)
				}
				if gone := b.driver.leaving["be_web/s1"]; gone == nil || gone.Drain != time.Hour {
					t.Errorf("killed %v: waiting for its deletion: %+v, want s1 for an hour", killed, gone)
				}
				if err := b.driver.deleteLeaving(t.Context()); err != nil {
					t.Error(err)
				}
				b.driver.release()
			}
			close(release.end)
			if err := <-answer; err != nil {
				t.Errorf("killed %v: the request in flight: %v", killed, err)
			}
			b.stop()
		}
	})
}

// TestSameNameOtherWords: a server that left and came back with other words, of which HAProxy tells nothing,
// is not taken for the one in the file by the next agent (P6).
func TestSameNameOtherWords(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.start(t)
		b.run(t)
		one := haproxytest.Server(t, "one")
		first := b.text("", "s1 "+one, "s2 "+one)
		b.apply(t, first)
		b.inStep(t, first)
		b.stop()
		for _, texts := range [][]string{ // of an agent that is killed before the file follows, and of the next one
			{first, b.text("", "s1 "+one), b.text("", "s1 "+one, "s2 "+one+" backup")},
			{first},
		} {
			d, err := NewDriver(b.cfg)
			if err != nil {
				t.Fatal(err)
			}
			for _, text := range texts {
				if _, err := d.Apply(t.Context(), files(text)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got := b.stat(t, "s2", "bck"); got != "0" {
			t.Errorf("backup: got %s, want 0 as the text says", got)
		}
	})
}
