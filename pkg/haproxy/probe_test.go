package haproxy

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// TestTakenLowPort: an agent that may not bind a port sees all the same that another program has it, and
// HAProxy is not asked for it.
func TestTakenLowPort(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("left out: only root can start programs as other users")
	}
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		dir := filepath.Dir(b.cfg.Path)
		if err := errors.Join(os.Chown(dir, 0, sharedGroup), os.Chmod(dir, os.ModeSetgid|0o770)); err != nil {
			t.Fatal(err)
		}
		low := lowAddress(t, "127.0.0.24")
		taken, err := net.Listen("tcp", low)
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		one := haproxytest.Server(t, "one")
		for i, text := range []string{b.text("", "s1 "+one), b.text("", "s1 "+one) + "frontend low from web\n    bind " + low + "\n    default_backend be_web\n"} {
			if err := os.WriteFile(textName(b.cfg, i), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		b.container(t)
		b.agentContainer(t)
		want := "the address " + low + " is taken by another program"
		if got, err := os.ReadFile(textName(b.cfg, 1) + ".answer"); err != nil || !strings.Contains(string(got), want) {
			t.Errorf("answer: got %s, %v, want %s", got, err, want)
		}
		p, err := masterCLI{b.cfg.MasterSocket}.processes(t.Context())
		if err != nil || p.reloads != 1 {
			t.Errorf("reloads: got %d, %v, want that of the first text alone", p.reloads, err)
		}
	})
}

// TestTakenAddressIsSeenAfterAKill: an agent that does not know what HAProxy runs still finds out that
// another program has an address, without a reload that would stop HAProxy's listeners for seconds and
// leave a file on disk that HAProxy cannot start with (F8). HAProxy's own addresses do not look taken.
func TestTakenAddressIsSeenAfterAKill(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.start(t)
		one := haproxytest.Server(t, "one")
		taken, err := net.Listen("tcp", "127.0.0.25:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		b.run(t)
		b.apply(t, b.text("", "s1 "+one))
		b.stop()
		if err := os.Remove(b.driver.store.note()); err != nil { // as if it had been killed before it could write it
			t.Fatal(err)
		}
		before := b.worker(t)
		b.run(t)
		var refused *Refused
		bad := b.text("", "s1 "+one) + "frontend other from web\n    bind " + taken.Addr().String() + "\n    default_backend be_web\n"
		if _, err := b.driver.Apply(t.Context(), files(bad)); !errors.As(err, &refused) || refused.Stage != StageProbe {
			t.Errorf("an address that is taken: got %v, want it refused by the probe", err)
		}
		if got := b.worker(t); got != before {
			t.Errorf("worker: got %v, want the same %v", got, before)
		}
		b.accepted(t)
		good := b.text("    timeout http-request 9s\n", "s1 "+one)
		if res := b.apply(t, good); res.How != HowReload {
			t.Errorf("haproxy's own address: got %+v, want a reload", res)
		}
		b.inStep(t, good)
	})
}

// TestOwnAddressBesideMinimalFile: the file on disk may listen nowhere and HAProxy do, for it was started
// before the file was put back after a reload that HAProxy's end had cut short. Its own addresses are not
// another program's, and a text with them is loaded.
func TestOwnAddressBesideMinimalFile(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		one := haproxytest.Server(t, "one")
		for _, text := range []string{MinimalConfig(b.cfg), b.text("", "s1 "+one)} {
			if err := os.WriteFile(b.cfg.Path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			kill := b.start(t)
			haproxytest.Until(t, "haproxy to answer", func() bool { return Alive(t.Context(), b.cfg) == nil })
			if got, want := (runtimeAPI{b.cfg.RuntimeSocket}).listensNowhere(t.Context()), text == MinimalConfig(b.cfg); got != want {
				t.Errorf("listens nowhere: got %v, want %v with\n%s", got, want, text)
			}
			if text == MinimalConfig(b.cfg) {
				kill()
			}
		}
		if err := writeMinimal(b.cfg); err != nil {
			t.Fatal(err)
		}
		b.run(t)
		b.apply(t, b.text("    timeout http-request 9s\n", "s1 "+one))
	})
}

// TestProbeBesideItsOwn: an address that another program has is refused before HAProxy is asked for it, also
// if HAProxy holds a part of it or if IPv6 takes it along (F8).
func TestProbeBesideItsOwn(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.start(t)
		b.run(t)
		one := haproxytest.Server(t, "one")
		b.apply(t, b.text("", "s1 "+one))
		load := haproxytest.Start(t, b.addr, 2, false)
		_, own, _ := net.SplitHostPort(b.addr)
		for want, more := range map[string]string{"127.0.0.99:" + own: "0.0.0.0:" + own, "127.0.0.98:0": ":::"} {
			taken, err := net.Listen("tcp", want)
			if err != nil {
				t.Fatal(err)
			}
			defer taken.Close()
			if strings.HasSuffix(more, ":::") {
				_, port, _ := net.SplitHostPort(taken.Addr().String())
				more += port
			}
			text := strings.Replace(b.text("", "s1 "+one), "bind "+b.addr, "bind "+b.addr+"\n    bind "+more+" ", 1)
			_, err = b.driver.Apply(t.Context(), files(text))
			if r := asRefused(err); r == nil || r.Stage != StageProbe {
				t.Errorf("bind %s beside %s: got %v, want a refusal by the probe", more, taken.Addr(), err)
			}
		}
		haproxytest.Until(t, "requests", func() bool { return load.Sent()["one"] > 100 })
		load.MustLoseNothing(t)
	})
}

// TestProbeable: what HAProxy opens in another way or place, or not at all, is not tried.
func TestProbeable(t *testing.T) {
	for lines, want := range map[string]string{
		"bind :80":                                 "[0.0.0.0:80]",
		"bind :::80":                               "[[::]:80 0.0.0.0:80]",
		"bind :::80 v6only":                        "[[::]:80]",
		"bind 192.0.2.1:80 transparent":            "[]",
		"bind 192.0.2.1:80 namespace blue":         "[]",
		"bind 192.0.2.1:80 interface eth7":         "[]",
		"disabled\n bind :80":                      "[]",
		"bind :80\n disabled\nlisten l\n bind :81": "[0.0.0.0:81]",
		".if feature(X)\n bind :80\n .endif":       "[]",
	} {
		if got := fmt.Sprint(probeable(files("frontend f\n " + lines + "\n"))); got != want {
			t.Errorf("%q: got %s, want %s", lines, got, want)
		}
	}
}
