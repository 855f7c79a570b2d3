package haproxy

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// TestRefusalsHoldForAStructure: other servers do not make a refused text new, another structure does.
func TestRefusalsHoldForAStructure(t *testing.T) {
	text := func(frontend, server string) string {
		return "frontend x\n    bind :80\n" + frontend + "backend y\n    server " + server + "\n"
	}
	bad, servers, mended := files(text("    a\n", "s1 :1")), files(text("    a\n", "s2 :2")), files(text("    b\n", "s1 :1"))
	tests := map[string]struct{ same, servers []time.Duration }{
		StageReload:  {[]time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute, 30 * time.Minute}, nil},
		StageProbe:   {[]time.Duration{10 * time.Second, 10 * time.Second}, nil},
		StageConfirm: {[]time.Duration{time.Minute, time.Minute}, nil},
		StageCheck: {
			[]time.Duration{time.Minute, time.Minute, time.Minute},
			[]time.Duration{time.Second, 2 * time.Second, 4 * time.Second},
		},
	}
	for stage, tt := range tests {
		t.Run(stage, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var r refusal
				for i, want := range tt.same {
					r.note(bad, fmt.Errorf("x: %w", &Refused{Stage: stage}))
					r.note(bad, errors.New("something else")) // changes nothing
					wantServers := want
					if tt.servers != nil {
						wantServers = tt.servers[i]
					}
					_, until := r.of(bad)
					_, untilServers := r.of(servers)
					if got, gotServers := time.Until(until), time.Until(untilServers); got != want || gotServers != wantServers {
						t.Errorf("%d: held for %s, with other servers %s, want %s and %s", i, got, gotServers, want, wantServers)
					}
					if r.holds(bad) == nil || r.holds(servers) == nil || r.holds(mended) != nil {
						t.Errorf("%d: want the refusal to hold for the structure alone", i)
					}
					time.Sleep(want)
					if r.holds(bad) != nil {
						t.Errorf("%d: it holds after its time", i)
					}
				}
				r.lift(Worker{Start: time.Now().Add(-time.Hour * 2).Unix()})
				if err, _ := r.of(bad); err == nil {
					t.Error("an older worker ends it")
				}
				r.lift(Worker{Start: time.Now().Add(time.Second).Unix()})
				if err, _ := r.of(bad); err != nil {
					t.Error("a later worker does not end it")
				}
				r.note(bad, &Refused{Stage: stage})
				r.note(bad, nil)
				if err, _ := r.of(bad); err != nil {
					t.Error("a success does not end it")
				}
			})
		})
	}
}

// TestDeathsAreCountedByStructure: only what HAProxy did not survive twice is left alone as what kills it. A
// text is not blamed for the failures of another one, nor for one that HAProxy survived (P7).
func TestDeathsAreCountedByStructure(t *testing.T) {
	text := func(global, server string) string {
		return "global\n    " + global + "\nbackend b\n    server " + server + "\n"
	}
	type load struct {
		text   string
		deadly bool
	}
	killer, other := text("chroot /nonexistent", "s1 :1"), text("maxconn 7", "s1 :1")
	tests := map[string]struct {
		before []load
		last   load
		want   time.Duration
	}{
		"once":                    {nil, load{other, true}, retryDeadly},
		"after another's failure": {[]load{{killer, false}}, load{other, true}, retryDeadly},
		"after another's death":   {[]load{{killer, true}, {killer, true}}, load{other, true}, retryDeadly},
		"after its own failure":   {[]load{{other, false}}, load{other, true}, retryDeadly},
		"twice":                   {[]load{{killer, true}}, load{killer, true}, retryKiller},
		"twice, other servers":    {[]load{{killer, true}}, load{text("chroot /nonexistent", "s2 :2"), true}, retryKiller},
		"a failure between":       {[]load{{killer, true}, {killer, false}}, load{killer, true}, retryKiller},
		"failure after a death":   {[]load{{killer, true}}, load{other, false}, retryLoad(2)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var r refusal
				for _, l := range append(tt.before, tt.last) {
					r.note(files(l.text), &Refused{Stage: StageReload, deadly: l.deadly})
				}
				if _, until := r.of(files(tt.last.text)); time.Until(until) != tt.want {
					t.Errorf("left alone for %s, want %s", time.Until(until), tt.want)
				}
			})
		})
	}
}

// TestFailedLoadIsNotRepeated: a text that HAProxy cannot load stops all listeners for seconds, so it
// is not loaded again for each change of its servers, which are put in force meanwhile (P7, P8).
func TestFailedLoadIsNotRepeated(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managed(t, t.Bin)
		one, two := haproxytest.Server(t, "one"), haproxytest.Server(t, "two")
		b.apply(t, b.text("", "s1 "+one))
		taken, err := net.Listen("tcp", "127.0.0.14:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		b.driver.cfg.Managed = false // no probe
		extra := "    bind " + taken.Addr().String() + "\n"
		bad := func(servers ...string) string {
			return strings.Replace(b.text("", servers...), "    default_backend", extra+"    default_backend", 1)
		}
		if err := b.driver.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		b.driver.diskTime = now.Add(-time.Hour)
		b.driver.release()
		if _, err := b.driver.Apply(t.Context(), files(bad("s1 "+one))); asRefused(err) == nil || asRefused(err).Stage != StageReload {
			t.Fatalf("got %v, want a refusal at the reload", err)
		}
		if _, certain := b.driver.believed(Worker{Pid: 1, Start: now.Add(-time.Minute).Unix()}); certain {
			t.Error("a worker from before the former files were put back is believed to run them")
		}
		if b.holds(t, taken.Addr().String())() || !b.holds(t, b.addr)() {
			t.Errorf("held: %v, want what the former text binds", b.driver.Held())
		}
		before, err := b.driver.master.processes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			server := fmt.Sprintf("t%d %s", i, two)
			if _, err := b.driver.Apply(t.Context(), files(bad(server))); asRefused(err) == nil || asRefused(err).Stage != StageReload {
				t.Errorf("other servers: got %v, want the refusal again", err)
			}
			b.inStep(t, b.text("", server))
		}
		if got, err := haproxytest.Get(b.addr); got != "two" {
			t.Errorf("got %q, %v, want two", got, err)
		}
		after, err := b.driver.master.processes(t.Context())
		if err != nil || after.reloads != before.reloads {
			t.Errorf("reloads: %d, %v, want %d as before", after.reloads, err, before.reloads)
		}
	})
}

// checker is a stand-in for HAProxy's program that counts the checks of texts with "nonsense", and
// fails every check while the file "fail" is there.
func checker(tb testing.TB, b *bench) (checks func() int, fail string) {
	tb.Helper()
	dir := tb.TempDir()
	count, fail := filepath.Join(dir, "count"), filepath.Join(dir, "fail")
	script := "#!/bin/sh\n" +
		"if [ \"$1\" = -c ]; then\n" +
		"  [ -e " + fail + " ] && exit 1\n" +
		"  grep -q nonsense \"$3\" && echo x >>" + count + "\n" +
		"fi\n" +
		"exec " + b.cfg.Bin + " \"$@\"\n"
	bin := filepath.Join(dir, "haproxy")
	if err := os.WriteFile(bin, []byte(script), 0o700); err != nil {
		tb.Fatal(err)
	}
	b.cfg.Bin = bin
	return func() int {
		text, err := os.ReadFile(count)
		if err != nil {
			return 0
		}
		return strings.Count(string(text), "x")
	}, fail
}

// TestRefusedTextIsNotCheckedForEachServer: while HAProxy's check refuses a text, changes of servers
// are made at once and cost no check each (P7).
func TestRefusedTextIsNotCheckedForEachServer(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := &bench{cfg: configFor(t, t.Bin), addr: haproxytest.Address(t, "127.0.0.15")}
		b.cfg.Managed = true
		checks, _ := checker(t, b)
		b.run(t)
		one := haproxytest.Server(t, "one")
		b.apply(t, b.text("", "s1 "+one))
		began := time.Now()
		for i := range 50 {
			server := fmt.Sprintf("s1 %s weight %d", one, i+2)
			if _, err := b.driver.Apply(t.Context(), files(b.text("    nonsense\n", server))); asRefused(err) == nil {
				t.Fatalf("got %v, want a refusal", err)
			}
			live, err := b.driver.api.servers(t.Context(), b.worker(t))
			if err != nil || len(live) != 1 || live[0].weight != i+2 {
				t.Fatalf("%d: running %+v, %v", i, live, err)
			}
		}
		if got, most := checks(), 1+int(time.Since(began)/retryServersMin); got < 1 || got > most {
			t.Errorf("%d checks, want one a second at most: %d", got, most)
		}
		// A mended text does not wait.
		if res := b.apply(t, b.text("    timeout http-request 9s\n", "s1 "+one)); res.How != HowReload {
			t.Errorf("mended: got %+v, want a reload", res)
		}
	})
}

// TestFollowRecovers: when the file can follow again, that is told.
func TestFollowRecovers(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		t.Parallel() // it waits most of the time
		b := &bench{cfg: configFor(t, t.Bin), addr: haproxytest.Address(t, "127.0.0.16")}
		b.cfg.Managed = true
		_, fail := checker(t, b)
		seen := b.reported()
		b.run(t)
		one := haproxytest.Server(t, "one")
		b.send(t, b.text("", "s1 "+one))
		b.untilInStep(t)
		if err := os.WriteFile(fail, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		before := seen.count()
		b.send(t, b.text("", "s1 "+one+" weight 7"))
		haproxytest.Until(t, "the failure to be told", seen.since(before, "refuses"))
		if err := os.Remove(fail); err != nil {
			t.Fatal(err)
		}
		haproxytest.Until(t, "the success to be told", seen.well)
		haproxytest.Until(t, "the file to follow", func() bool {
			got, err := os.ReadFile(b.cfg.Path)
			return err == nil && string(got) == b.text("", "s1 "+one+" weight 7")
		})
	})
}

// TestRefusedCommandStaysTheReason: a reload because of a refused command keeps its reason while it
// has to wait, and what runs is not in step meanwhile (P11).
func TestRefusedCommandStaysTheReason(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := &bench{cfg: configFor(t, t.Bin), addr: haproxytest.Address(t, "127.0.0.17")}
		b.cfg.Managed, b.cfg.ReloadInterval = true, time.Hour
		b.run(t)
		one := haproxytest.Server(t, "one")
		b.apply(t, b.text("", "s1 "+one))
		if _, err := ask(t.Context(), b.cfg.RuntimeSocket, "add server be_web/s2 127.0.0.1:9"); err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			res, wait, err := b.driver.attempt(t.Context(), files(b.text("", "s1 "+one, "s2 "+one)))
			if err != nil || wait <= 0 || res.Reason.Kind != ReasonRefused || !strings.Contains(res.Reason.Detail, "Already exists") {
				t.Errorf("attempt %d: got %+v, %s, %v, want a reload that is due for the refused command", i, res, wait, err)
			}
			if state := b.driver.State(); state.Differences < 1 || !strings.HasPrefix(state.Status, "a reload is due") {
				t.Errorf("attempt %d: got %+v, want it not in step", i, state)
			}
		}
		// The text is refused in the end: what ran before is set right again.
		if err := b.driver.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.driver.reloaded = time.Time{}
		b.driver.release()
		if _, _, err := b.driver.attempt(t.Context(), files(b.text("    nonsense\n", "s1 "+one, "s2 "+one))); asRefused(err) == nil {
			t.Errorf("got %v, want a refusal", err)
		}
		b.inStep(t, b.text("", "s1 "+one))
	})
}

// TestFollowCountsTheSwap: the pause before the file follows again is as long for what the swap costs, for
// which changes wait, as for what the check does.
func TestFollowCountsTheSwap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const checking, writing = time.Second, 3 * time.Second
		d, err := NewDriver(configFor(t, "haproxy"))
		if err != nil {
			t.Fatal(err)
		}
		d.store.step = func(words string, change func() error) error {
			if strings.HasPrefix(words, "write ") {
				time.Sleep(writing)
			}
			return change()
		}
		c, err := d.store.stage(files("global\n"))
		if err != nil {
			t.Fatal(err)
		}
		c.store = d.store
		l := &loop{Driver: d}
		began := time.Now()
		l.followed(t.Context(), followed{candidate: c, epoch: d.epoch, began: began, spent: checking})
		if got, want := l.followAfter.Sub(began), followShare*(checking+writing); got != want {
			t.Errorf("it follows again %s after it began to, want %s", got, want)
		}
	})
}

// TestManyServersBehindARefusal: so many changes that a reload would be cheaper are made by commands while
// no reload can be had (P7).
func TestManyServersBehindARefusal(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.start(t)
		b.run(t)
		one := haproxytest.Server(t, "one")
		lines := func(n int) (all []string) {
			for i := range n {
				all = append(all, fmt.Sprintf("s%d %s", i, one))
			}
			return all
		}
		b.apply(t, b.text("", lines(1000)...))
		for _, n := range []int{2000, 2001} {
			b.send(t, b.text("    nonsense\n", lines(n)...))
			haproxytest.Until(t, fmt.Sprint(n, " servers beside a refused line"), func() bool {
				live, err := b.driver.api.servers(t.Context(), b.worker(t))
				return err == nil && len(live) == n
			})
		}
	})
}
