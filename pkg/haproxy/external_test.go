package haproxy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// external is a driver whose HAProxy is a process of its own.
func external(tb testing.TB, bin string) *bench {
	tb.Helper()
	cfg := configFor(tb, bin)
	cfg.SameNetwork = true
	return &bench{cfg: cfg, addr: haproxytest.Address(tb, "127.0.0.21")}
}

// start runs HAProxy as `sidekick haproxy` does and returns what ends all of it.
func (b *bench) start(tb testing.TB) (kill func()) {
	tb.Helper()
	if err := Prepare(tb.Context(), b.cfg); err != nil {
		tb.Fatal(err)
	}
	cmd := b.launch(tb)
	killed := false
	kill = func() {
		if killed {
			return
		}
		killed = true
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		haproxytest.Until(tb, "nobody to answer", func() bool {
			_, err := haproxytest.Get(b.addr)
			return err != nil
		})
	}
	tb.Cleanup(kill)
	return kill
}

func (b *bench) send(tb testing.TB, text string) {
	tb.Helper()
	select {
	case b.in <- files(text):
	case <-time.After(haproxytest.Patience):
		tb.Fatal("the driver does not take a text")
	}
}

// TestExternalStartAndStop: HAProxy may come and go; what is wanted is on disk for its start and in
// force soon after.
func TestExternalStartAndStop(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.run(t)
		one, two := haproxytest.Server(t, "one"), haproxytest.Server(t, "two")
		b.send(t, b.text("", "s1 "+one))
		haproxytest.Until(t, "the file to be there before haproxy", func() bool {
			got, err := os.ReadFile(b.cfg.Path)
			return err == nil && string(got) == b.text("", "s1 "+one)
		})
		kill := b.start(t)
		haproxytest.Until(t, "one to answer", answers(b.addr, "one"))
		haproxytest.Until(t, "the driver to be in step", func() bool { return b.driver.State().Status == "in step" })
		b.send(t, b.text("", "s2 "+two))
		haproxytest.Until(t, "two to answer", answers(b.addr, "two"))
		kill()
		b.send(t, b.text("", "s1 "+one, "s2 "+two+" disabled"))
		haproxytest.Until(t, "the driver to notice", func() bool { return b.driver.State().LastError != "" })
		b.accepted(t)
		b.start(t)
		haproxytest.Until(t, "one to answer again", answers(b.addr, "one"))
		haproxytest.Until(t, "the driver to be in step", func() bool { return b.driver.State().Status == "in step" })
		b.inStep(t, b.text("", "s1 "+one, "s2 "+two+" disabled"))
	})
}

// TestChangesWithoutHAProxy: while HAProxy is not there, many changes are not a check and a write of
// everything each; the last text is on disk for its start all the same (P6, P8).
func TestChangesWithoutHAProxy(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		checks, _ := checker(t, b)
		b.run(t)
		const changes = 40
		text := func(i int) string { return b.text("    # nonsense\n", fmt.Sprintf("s1 127.0.0.1:9 weight %d", i+1)) }
		for i := range changes {
			b.send(t, text(i))
		}
		haproxytest.Until(t, "the last text to be on disk", func() bool {
			got, err := os.ReadFile(b.cfg.Path)
			return err == nil && string(got) == text(changes-1)
		})
		if got := checks(); got > changes/2 {
			t.Errorf("%d checks for %d changes, want far fewer", got, changes)
		}
	})
}

// TestAdoptWithoutReload: a driver that is started anew finds its HAProxy and changes nothing (P2);
// after that it uses the runtime path, also after a driver that was killed before the file followed.
func TestAdoptWithoutReload(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.start(t)
		one, two := haproxytest.Server(t, "one"), haproxytest.Server(t, "two")
		b.run(t)
		b.apply(t, b.text("", "s1 "+one))
		b.apply(t, b.text("", "s1 "+one, "s2 "+two+" weight 5"))
		before := b.worker(t)
		load := haproxytest.Start(t, b.addr, 2, true)
		b.stop() // lets the file follow
		b.run(t)
		if res := b.apply(t, b.text("", "s1 "+one, "s2 "+two+" weight 5")); res.How != HowNone {
			t.Errorf("same text after a restart: got %+v, want nothing done", res)
		}
		if res := b.apply(t, b.text("", "s1 "+one)); res.How != HowRuntime {
			t.Errorf("after the restart: got %+v, want runtime", res)
		}
		if got := b.worker(t); got != before {
			t.Errorf("worker: got %v, want the same %v", got, before)
		}
		b.stop()
		killed, err := NewDriver(b.cfg) // without its loop: the file does not follow
		if err != nil {
			t.Fatal(err)
		}
		b.driver = killed
		if res := b.apply(t, b.text("", "s1 "+one, "s3 "+two)); res.How != HowRuntime {
			t.Errorf("by another driver: got %+v, want runtime", res)
		}
		b.run(t)
		if res := b.apply(t, b.text("", "s3 "+two)); res.How != HowRuntime {
			t.Errorf("after a kill: got %+v, want runtime", res)
		}
		b.inStep(t, b.text("", "s3 "+two))
		if got := b.worker(t); got != before {
			t.Errorf("worker: got %v, want the same %v", got, before)
		}
		load.MustLoseNothing(t)
	})
}

// TestForeignChangesAreRepaired: what somebody else changed at the runtime socket is found and set
// right.
func TestForeignChangesAreRepaired(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.start(t)
		b.run(t)
		one := haproxytest.Server(t, "one")
		text := b.text("", "s1 "+one, "s2 "+one+" weight 5", "s3 "+one+" disabled", "s4 "+one+" check inter 20s")
		b.apply(t, text)
		before := b.worker(t)
		for _, statements := range []string{
			"set server be_web/s3 state drain",
			"set server be_web/s1 state maint;set server be_web/s2 weight 9;set server be_web/s3 state ready",
			"set server be_web/s1 state maint;del server be_web/s1;add server be_web/s9 127.0.0.1:9",
			"set server be_web/s1 state drain",
			"set server be_web/s1 health down",
			"disable health be_web/s4",
		} {
			if _, err := ask(t.Context(), b.cfg.RuntimeSocket, statements); err != nil {
				t.Fatal(err)
			}
			l := &loop{Driver: b.driver, auditAt: time.Now(), lookAt: time.Now().Add(time.Hour)}
			l.work(t.Context())
			if got := b.driver.State().Differences; got == 0 {
				t.Errorf("after %s: no difference seen", statements)
			}
			if soon := time.Until(l.auditAt); l.running != nil && soon > lookEvery {
				t.Errorf("after %s: looked at again in %s, want it soon, or the difference is shown until then", statements, soon)
			}
			b.inStep(t, text)
		}
		if got := b.worker(t); got != before {
			t.Errorf("worker: got %v, want the same %v: a reload was not needed", got, before)
		}
	})
}

// TestReloadInterval: reloads wait for each other, runtime changes for nobody.
func TestReloadInterval(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.cfg.ReloadInterval = time.Hour
		b.start(t)
		b.run(t)
		one, two := haproxytest.Server(t, "one"), haproxytest.Server(t, "two")
		b.send(t, b.text("", "s1 "+one))
		haproxytest.Until(t, "one to answer", answers(b.addr, "one"))
		haproxytest.Until(t, "the first text to be in force", func() bool { return b.driver.State().Status == "in step" })
		before := b.worker(t)
		b.send(t, b.text("    timeout http-request 9s\n", "s2 "+two))
		haproxytest.Until(t, "two to answer", answers(b.addr, "two"))
		haproxytest.Until(t, "a reload to be due", func() bool {
			return strings.HasPrefix(b.driver.State().Status, "a reload is due")
		})
		if got := b.worker(t); got != before {
			t.Errorf("worker: got %v, want the same %v", got, before)
		}
	})
}

// TestNamedFiles: files that the configuration names come and go with it, and links are no matter to
// HAProxy at a check, a reload and a start (F8).
func TestNamedFiles(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		kill := b.start(t)
		b.run(t)
		one := haproxytest.Server(t, "one")
		withMap := func(name, content string) render.Files {
			text := strings.Replace(b.text("", "s1 "+one), "global\n", "global\n    default-path config\n", 1)
			text = strings.Replace(text, "default_backend be_web", "use_backend %[req.hdr(host),lower,map("+name+",be_web)]", 1)
			return append(files(text), render.File{Name: name, Blocks: []render.Block{render.NewBlock("", content)}})
		}
		for i, want := range []render.Files{withMap("hosts.map", ""), withMap("other.map", "a be_web\n")} {
			if res := b.applyFiles(t, want); i > 0 && res.How != HowReload {
				t.Fatalf("%d: got %+v, want a reload", i, res)
			}
			haproxytest.Until(t, "one to answer", answers(b.addr, "one"))
			b.accepted(t)
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(b.cfg.Path), "hosts.map")); err == nil {
			t.Error("a file that is not named any more is still there")
		}
		kill()
		b.start(t)
		haproxytest.Until(t, "one to answer after a start", answers(b.addr, "one"))
		if err := started(b.cfg.Path); err != nil { // nobody wants anything, so nobody meets the worker
			t.Fatal(err)
		}
		if got := leftOf(t, b.cfg.Path); len(got) != 1 {
			t.Errorf("sets: %v, want one", got)
		}
		for _, bad := range []string{"../x", "maps/x", "..", "/etc/x", ".hidden", "haproxy.cfg", appliedName, "a/../b"} {
			if err := b.driver.store.valid(render.Files{{}, {Name: bad}}); err == nil {
				t.Errorf("the file name %q is allowed", bad)
			}
		}
	})
}

// applyUntilKilled is the helper process that alternates between the texts in its directory.
func applyUntilKilled(cfg Config) error {
	cfg.SameNetwork = true
	dir := filepath.Dir(cfg.Path)
	d, err := NewDriver(cfg)
	if err != nil {
		return err
	}
	in := make(chan render.Files)
	go d.Run(context.Background(), in)
	for i := 0; ; i++ {
		want, err := wanted(cfg, i%3)
		if err != nil {
			return err
		}
		if _, err := d.Apply(context.Background(), want); err == nil {
			os.WriteFile(filepath.Join(dir, "applied-one"), nil, 0o600)
		}
	}
}

// TestKilledAtAnyInstruction: an agent that is killed at any time leaves files that HAProxy accepts,
// also where none of them goes with another text, and the next agent brings running and wanted together
// (P6, F8).
func TestKilledAtAnyInstruction(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.start(t)
		one := haproxytest.Server(t, "one")
		mapped := func(method string, servers ...string) string {
			text := strings.Replace(b.text("", servers...), "global\n", "global\n    default-path config\n", 1)
			return strings.Replace(text, "default_backend be_web", "use_backend %[src,"+method+"(hosts.map,be_web)]", 1)
		}
		texts := []string{
			mapped("map_ip", "s1 "+one), mapped("map_ip", "s1 "+one, "s2 "+one), mapped("map_str", "s1 "+one, "s3 "+one+" weight 3"),
		}
		dir := filepath.Dir(b.cfg.Path)
		for i, entries := range []string{"192.0.2.0/24 be_web\n", "192.0.2.0/24 be_web\n", "no-address be_web\n"} {
			name := textName(b.cfg, i)
			plant(t, os.WriteFile(name, []byte(texts[i]), 0o600), os.WriteFile(name+".map", []byte(entries), 0o600))
		}
		for round := range 6 {
			os.Remove(filepath.Join(dir, "applied-one"))
			agent := helper(t, "apply", b.cfg, nil)
			haproxytest.Until(t, "the agent to work", func() bool {
				_, err := os.Stat(filepath.Join(dir, "applied-one"))
				return err == nil
			})
			<-time.After(time.Duration(round*37) * time.Millisecond) // another instruction each time
			agent.Process.Kill()
			agent.Wait()
			b.accepted(t)
		}
		b.run(t)
		want, err := wanted(b.cfg, 0)
		plant(t, err)
		b.applyFiles(t, want)
		b.inStep(t, texts[0])
		haproxytest.Until(t, "the file to follow", func() bool {
			got, err := os.ReadFile(b.cfg.Path)
			return err == nil && string(got) == texts[0]
		})
	})
}

// TestAnySequenceConverges: after any sequence of texts, good and bad, and of killed processes, what
// runs is what was wanted last (P6, F5, F6).
func TestAnySequenceConverges(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managed(t, t.Bin)
		one := haproxytest.Server(t, "one")
		b.apply(t, b.text("", "s1 "+one))
		random := func(t *rapid.T) string {
			var servers []string
			for i := range 4 {
				line := fmt.Sprintf("s%d %s", i, one)
				if rapid.Bool().Draw(t, "there") {
					servers = append(servers, line+rapid.SampledFrom([]string{"", " weight 7", " disabled", " weight 0"}).Draw(t, "words"))
				}
			}
			extra := rapid.SampledFrom([]string{"", "", "    timeout http-request 9s\n", "    nonsense\n"}).Draw(t, "extra")
			return b.text(extra, servers...)
		}
		gen, seed := rapid.Custom(random), drawSeed(t)
		for i := range 40 {
			b.send(t, gen.Example(seed+i))
			if i%20 == 19 {
				if p, err := b.driver.master.processes(t.Context()); err == nil && p.current() != 0 {
					syscall.Kill(p.current(), syscall.SIGKILL)
				}
			}
		}
		last := b.text("", "s1 "+one+" weight 9", "s2 "+one+" disabled")
		b.send(t, last)
		haproxytest.Until(t, "running and the file to be the last text", func() bool {
			got, err := os.ReadFile(b.cfg.Path)
			return err == nil && string(got) == last && b.driver.State().Status == "in step"
		})
		b.inStep(t, last)
		b.accepted(t)
	})
}
