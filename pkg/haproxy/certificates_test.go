package haproxy

import (
	"strings"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/certtest"
	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// madeCertificate is a fresh self-signed certificate for a name, with its key.
func madeCertificate(tb testing.TB, name string, serial int64) string {
	tb.Helper()
	p := certtest.Make(tb, serial, time.Hour, name)
	return p.Cert + "\n" + p.Key // people leave blank lines
}

// serial is the number of the certificate that a client is shown for a name.
func serial(addr, name string) int64 {
	number, _ := certtest.Shown(addr, name)
	return number
}

// TestCertificatesNeedNoReload: certificates are replaced, come and go without a reload; one that
// cannot be served is refused by HAProxy's own check, and the former one stays.
func TestCertificatesNeedNoReload(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.start(t)
		b.run(t)
		one := haproxytest.Server(t, "one")
		set := func(certificates ...string) render.Files {
			text := strings.Replace(b.text("", "s1 "+one), "global\n", "global\n    default-path config\n", 1)
			text = strings.Replace(text, "bind "+b.addr, "bind "+b.addr+" ssl crt main.pem crt-list more.list", 1)
			all := append(files(text), render.File{Name: "main.pem", Blocks: []render.Block{render.NewBlock("", certificates[0])}})
			var list strings.Builder
			list.WriteString("main.pem main.example\n")
			for i, c := range certificates[1:] {
				name := string(rune('a'+i)) + ".pem"
				if c == "" {
					continue
				}
				list.WriteString(name + " [alpn h2,http/1.1] " + string(rune('a'+i)) + ".example\n")
				all = append(all, render.File{Name: name, Blocks: []render.Block{render.NewBlock("", c)}})
			}
			return append(all, render.File{Name: "more.list", Blocks: []render.Block{render.NewBlock("", "# names\n"+list.String())}})
		}
		first, second := madeCertificate(t, "main.example", 1), madeCertificate(t, "main.example", 2)
		a, other := madeCertificate(t, "a.example", 3), madeCertificate(t, "b.example", 4)
		b.applyFiles(t, set(first))
		before := b.worker(t)
		for i, step := range []struct {
			files render.Files
			shown map[string]int64
		}{
			{set(second), map[string]int64{"main.example": 2}},
			{set(second, a), map[string]int64{"main.example": 2, "a.example": 3}},
			{set(second, a, other), map[string]int64{"a.example": 3, "b.example": 4}},
			{set(first, "", other), map[string]int64{"main.example": 1, "a.example": 1, "b.example": 4}},
			{set(first, a, other), map[string]int64{"a.example": 3, "b.example": 4}},
		} {
			if res := b.applyFiles(t, step.files); res.How != HowRuntime {
				t.Fatalf("step %d: got %+v, want runtime", i, res)
			}
			for name, want := range step.shown {
				if got := serial(b.addr, name); got != want {
					t.Errorf("step %d: certificate for %s: got serial %d, want %d", i, name, got, want)
				}
			}
		}
		last := set(first, a, other)
		haproxytest.Until(t, "the files to follow", func() bool {
			disk, err := b.driver.store.read(namesOf(last))
			return err == nil && sameFiles(disk, last)
		})
		if _, err := b.driver.Apply(t.Context(), set("rubbish\n", a, other)); asRefused(err) == nil {
			t.Errorf("rubbish: got %v, want a refusal", err)
		}
		if got := serial(b.addr, "main.example"); got != 1 {
			t.Errorf("after rubbish: got serial %d, want 1", got)
		}
		if got := b.worker(t); got != before {
			t.Errorf("worker: got %v, want the same %v", got, before)
		}
	})
}

// Certificates that are about servers take a reload, though HAProxy has commands for them. After `set ssl cert` it goes on
// resuming sessions by which servers know it by the former one, for ever under load, as 2.6 and 3.0 do; after `set ssl
// ca-file` it goes on with connections that were verified by the former ones.
func TestCertificatesOfServers(t *testing.T) {
	was, now := madeCertificate(t, "a", 1), madeCertificate(t, "a", 2)
	for _, words := range []string{"crt own.pem", "ca-file own.pem"} {
		for _, text := range []string{
			"defaults d\nbackend b from d\n default-server ssl verify none " + words + "\n server s 10.0.0.1:80\n",
			"defaults d\nbackend b from d\n server s 10.0.0.1:80 ssl verify none " + words + "\n",
			"defaults d\nbackend b from d\n server s 10.0.0.1:80 ssl verify none " + words + "\nfrontend f from d\n bind :80 ssl crt own.pem\n",
		} {
			set := func(certificate string) render.Files {
				return append(files(text), render.File{Name: "own.pem", Blocks: []render.Block{render.NewBlock("", certificate)}})
			}
			if cmds, reason := Plan(set(was), set(now), Capabilities{}); len(cmds) > 0 || reason.Kind != ReasonFile {
				t.Errorf("%s: got %d commands and reason %+v, want a reload", text, len(cmds), reason)
			}
		}
	}
}

func TestListChanges(t *testing.T) {
	tests := map[string]struct {
		was, now string
		why      string
	}{
		"at the end":           {was: "a\nb\n", now: "a\nb\nc\n"},
		"between":              {was: "a\nc\n", now: "a\nb\nc\n", why: "order"},
		"between, with names":  {was: "a a.x\nc c.x\n", now: "a a.x\nb b.x\nc c.x\n"},
		"one name twice":       {was: "a a.x\nc c.x\n", now: "a a.x\nb c.x\nc c.x\n", why: "order"},
		"gone":                 {was: "a\nb\nc\n", now: "a\nc\n"},
		"the first":            {was: "a\nb\n", now: "b\n", why: "first line"},
		"other options":        {was: "a\nb [alpn h2]\n", now: "a\nb [alpn http/1.1]\n", why: "options"},
		"twice":                {was: "a\nb x\nb y\n", now: "a\nb x\n", why: "twice"},
		"a semicolon":          {was: "a\n", now: "a\nb;c\n", why: "options or names"},
		"another order":        {was: "a\nb\nc\n", now: "a\nc\nb\n", why: "order"},
		"only blanks":          {was: "a\nb  [alpn h2]   x\n", now: "a\nb [alpn h2] x\n# c\n"},
		"nothing left":         {was: "a\n", now: "", why: "first line"},
		"negative names count": {was: "a x\nc *.y\n", now: "a x\nb !z.y\nc *.y\n", why: "order"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, _, why := listChanges(readList(tt.was), readList(tt.now))
			if (why != "") != (tt.why != "") || !strings.Contains(why, tt.why) {
				t.Errorf("got %q, want %q", why, tt.why)
			}
		})
	}
}

// TestKilledBetweenCertificateAndNote: what an agent did to certificates and limits cannot be read back,
// so the next one reloads once instead of trusting the file (P6).
func TestKilledBetweenCertificateAndNote(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.start(t)
		b.run(t)
		one := haproxytest.Server(t, "one")
		b.apply(t, b.text("", "s1 "+one+" maxconn 5"))
		b.stop()
		killed, err := NewDriver(b.cfg) // without its loop: the file does not follow
		if err != nil {
			t.Fatal(err)
		}
		b.driver = killed
		if res := b.apply(t, b.text("", "s1 "+one+" maxconn 9")); res.How != HowRuntime {
			t.Errorf("another limit: got %+v, want runtime", res)
		}
		b.run(t)
		if res := b.apply(t, b.text("", "s1 "+one+" maxconn 5")); res.How != HowReload {
			t.Errorf("after a kill: got %+v, want a reload", res)
		}
	})
}

// TestNoKeyInReasons: what HAProxy answers to a certificate is told without the certificate, which has its
// private key beside it.
func TestNoKeyInReasons(t *testing.T) {
	err := (&commandError{statement: "set ssl cert a.pem" + payloadMark + "-----BEGIN PRIVATE KEY-----\n", answer: "no"}).Error()
	if strings.Contains(err, "PRIVATE") || !strings.Contains(err, "set ssl cert a.pem") {
		t.Errorf("got %s, want the statement without what it carries", err)
	}
}
