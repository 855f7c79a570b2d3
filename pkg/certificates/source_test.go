package certificates

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/sidekick-proxy/sidekick/internal/certtest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// followed is a directory that a Source follows, and what came of it.
type followed struct {
	t   *testing.T
	dir string
	log *logtest.Hook

	mu   sync.Mutex
	sets [][]render.Certificate
	bad  []service.Rejection
}

// follow runs a Source in a bubble until the test ends.
func follow(t *testing.T, dir string) *followed {
	t.Helper()
	log, hook := logtest.NewNullLogger()
	f := &followed{t: t, dir: dir, log: hook}
	s := &Source{Dir: dir, Node: "h1", Log: log, Rejected: func(r []service.Rejection) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.bad = r
	}}
	ctx, cancel := context.WithCancel(t.Context())
	out, done := make(chan []render.Certificate), make(chan error, 1)
	go func() { done <- s.Run(ctx, out) }()
	go func() {
		for {
			select {
			case set := <-out:
				f.mu.Lock()
				f.sets = append(f.sets, set)
				f.mu.Unlock()
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: got %v, want %v", err, context.Canceled)
		}
	})
	return f
}

func (f *followed) put(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// want waits for some seconds of the bubble and wants one more set, as name=first DNS name, or none for
// "", and what is rejected.
func (f *followed) want(set, rejected string) {
	f.t.Helper()
	time.Sleep(3 * time.Second)
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	var got []string
	for _, s := range f.sets {
		words := []string{}
		for _, c := range s {
			words = append(words, fmt.Sprintf("%s=%s", c.Name, strings.Join(c.Names, ",")))
		}
		got = append(got, "["+strings.Join(words, " ")+"]")
	}
	f.sets = nil
	if strings.Join(got, " ") != set {
		f.t.Errorf("got sets %q, want %q", got, set)
	}
	var reasons []string
	for _, r := range f.bad {
		if r.Kind != service.RejectedCertificate || r.Node != "h1" {
			f.t.Errorf("got rejection %+v", r)
		}
		reasons = append(reasons, strings.TrimPrefix(r.Reason, f.dir+": "))
		if !strings.Contains(r.Reason, f.dir) {
			f.t.Errorf("%q does not name the directory", r.Reason)
		}
	}
	if got := strings.Join(reasons, "; "); got != rejected {
		f.t.Errorf("got rejected %q, want %q", got, rejected)
	}
}

// A certificate that comes, is renewed, breaks, is mended and goes; a bad one keeps its last good content
// and is told of once, and the others go on (P7).
func TestSource(t *testing.T) {
	a, b, renewed := certtest.Make(t, 1, time.Hour, "a.test"), certtest.Make(t, 2, time.Hour, "b.test"), certtest.Make(t, 3, time.Hour, "a.test", "c.test")
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, t.TempDir())
		f.want("[]", "")
		f.put("a.crt", a.Cert)
		f.want("", "certificate a: there is no private key: put it into NAME.pem behind the certificate, or into NAME.key")
		f.put("a.key", a.Key)
		f.want("[a=a.test]", "")
		f.put("b.pem", b.PEM())
		f.want("[a=a.test b=b.test]", "")
		f.put("a.crt", renewed.Cert)
		const other = "certificate a: the key is that of another certificate: put the one there that the certificate was made with, and that certificate before its chain; its last good content stays in force"
		f.want("", other)
		f.put("b.pem", "")
		f.want("", other+"; certificate b: there is no certificate: put it, with its chain, into NAME.pem or NAME.crt; its last good content stays in force")
		f.put("a.key", renewed.Key)
		f.put("b.pem", b.PEM())
		f.want("[a=a.test,c.test b=b.test]", "")
		if err := os.Rename(f.dir, f.dir+".away"); err != nil {
			t.Fatal(err)
		}
		f.want("", "directory of certificates "+f.dir+": it does not exist: make it, or leave --certs out")
		if err := os.Rename(f.dir+".away", f.dir); err != nil {
			t.Fatal(err)
		}
		f.want("", "")
		if err := os.Remove(filepath.Join(f.dir, "b.pem")); err != nil {
			t.Fatal(err)
		}
		f.want("[a=a.test,c.test]", "")
		warnings := 0
		for _, e := range f.log.AllEntries() {
			if e.Level == logrus.WarnLevel {
				warnings++
			}
			if line, _ := e.String(); strings.Contains(line, "PRIVATE") {
				t.Errorf("a key is in the log: %s", line)
			}
		}
		if warnings != 4 {
			t.Errorf("got %d warnings, want one of each fault", warnings)
		}
	})
}

// What has expired is served, and warned of once.
func TestExpiredIsWarnedOf(t *testing.T) {
	a := certtest.Make(t, 1, -time.Minute, "a.test")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.pem"), []byte(a.PEM()), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := Read(dir)
	if err != nil || len(all) != 1 {
		t.Fatalf("got %v, %v", all, err)
	}
	log, hook := logtest.NewNullLogger()
	w := (&Source{Dir: dir, Log: log}).watch()
	w.files.Now()
	w.warn(time.Now())
	w.warn(time.Now())
	if n := len(hook.AllEntries()); n != 1 || !strings.Contains(hook.LastEntry().Message, "expired") {
		t.Errorf("got %d log entries, want one that it has expired", n)
	}
}

// A directory that is not there holds nobody up: there are no certificates.
func TestSourceWithoutDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "later")
		f := follow(t, dir)
		f.want("[]", "directory of certificates "+dir+": it does not exist: make it, or leave --certs out")
	})
}
