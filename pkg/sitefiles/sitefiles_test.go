package sitefiles

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/sidekick-proxy/sidekick/internal/certtest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

const (
	one = "alice:$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1\n"
	two = one + "bob:$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1\n"
)

// put makes a file what it is to be in one step; "" removes it.
func put(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if text == "" {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// names are the users by file, or why there are none, and the pages.
func names(s *Set) map[string]string {
	all := map[string]string{}
	for file, f := range s.Users {
		var users []string
		for _, u := range f.Users {
			users = append(users, u.Name)
		}
		all[file] = strings.Join(users, " ") + f.Why
	}
	maps.Copy(all, s.Pages)
	return all
}

func TestRead(t *testing.T) {
	users, pages := t.TempDir(), t.TempDir()
	put(t, users, "staff", two)
	put(t, users, "broken", "carol:plain\n")
	put(t, users, "no name", "x")
	put(t, pages, "503.html", "<p>503</p>")
	put(t, pages, "418.html", "<p>tea</p>")
	put(t, pages, "style.css", "p {}")
	got, err := Read(render.Choices{AuthDir: users, ErrorDir: pages})
	want := map[string]string{
		"staff": "alice bob", "broken": `broken: line 1: user "carol" has no hash that HAProxy can check: use htpasswd -5, htpasswd -B or mkpasswd -m sha512crypt`,
		"503.html": "<p>503</p>",
	}
	if diff := cmp.Diff(want, names(got)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if err == nil || !strings.Contains(err.Error(), `broken: line 1: user "carol"`) || !strings.Contains(err.Error(), "418.html: HAProxy answers nothing with 418") || strings.Contains(err.Error(), "plain") {
		t.Errorf("got %v, want both faults without the password", err)
	}
	none, err := Read(render.Choices{})
	if err != nil || len(names(none)) != 0 {
		t.Errorf("without folders: %v, %v", names(none), err)
	}
	if _, err := Read(render.Choices{AuthDir: users + "/none"}); err == nil || !strings.Contains(err.Error(), "it does not exist: make it, or leave --set auth-dir out") {
		t.Errorf("got %v, want that the folder does not exist", err)
	}
}

// A file that is spoilt keeps its users until it is mended or gone; one that never was good has none, and
// says why (P7, fail closed).
func TestSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		users, pages := t.TempDir(), t.TempDir()
		put(t, users, "staff", one)
		log, _ := logtest.NewNullLogger()
		var rejected atomic.Int32
		sets := make(chan *Set)
		ctx, cancel := context.WithCancel(t.Context())
		source := &Source{
			Choices: render.Choices{AuthDir: users, ErrorDir: pages}, Node: "host1", Log: log,
			Rejected: func(list []service.Rejection) { rejected.Store(int32(len(list))) },
		}
		ended := make(chan error, 1)
		go func() { ended <- source.Run(ctx, sets) }()
		for _, step := range []struct {
			what   string
			change func()
			want   map[string]string // nil for no other set
			wrong  int32
		}{
			{"start", func() {}, map[string]string{"staff": "alice"}, 0},
			{"another user", func() { put(t, users, "staff", two) }, map[string]string{"staff": "alice bob"}, 0},
			{"spoilt", func() { put(t, users, "staff", "alice") }, nil, 1},
			{"a page", func() { put(t, pages, "503.html", "x") }, map[string]string{"staff": "alice bob", "503.html": "x"}, 1},
			{"spoilt page", func() { put(t, pages, "503.html", " ") }, nil, 2},
			{"mended", func() { put(t, users, "staff", one); put(t, pages, "503.html", "") }, map[string]string{"staff": "alice"}, 0},
			{"bad from the start", func() { put(t, users, "bad", "x") }, map[string]string{"staff": "alice", "bad": `bad: line 1: user "x" has no hash that HAProxy can check: use htpasswd -5, htpasswd -B or mkpasswd -m sha512crypt`}, 1},
			{"gone", func() { put(t, users, "staff", ""); put(t, users, "bad", "") }, map[string]string{}, 0},
		} {
			step.change()
			time.Sleep(5 * time.Second)
			synctest.Wait()
			var got map[string]string
			select {
			case set := <-sets:
				got = names(set)
			default:
			}
			if diff := cmp.Diff(step.want, got); diff != "" || rejected.Load() != step.wrong {
				t.Errorf("%s: %d rejections, want %d; -want +got:\n%s", step.what, rejected.Load(), step.wrong, diff)
			}
		}
		cancel()
		<-ended
	})
}

// The files about servers keep their last good content whatever becomes of them, and hinder nothing while there
// never was any (P7).
func TestFilesAboutServers(t *testing.T) {
	own, renewed := certtest.Make(t, 1, time.Hour, "proxy"), certtest.Make(t, 2, time.Hour, "proxy")
	ca := certtest.Make(t, 3, time.Hour).Cert
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path := func(name string) string { return filepath.Join(dir, name) }
		log, hook := logtest.NewNullLogger()
		var reasons atomic.Value
		sets := make(chan *Set)
		ctx, cancel := context.WithCancel(t.Context())
		source := &Source{
			Choices: render.Choices{ServerCA: path("ca.pem"), ServerCert: path("own.pem")}, Log: log,
			Rejected: func(list []service.Rejection) {
				var text strings.Builder
				for _, r := range list {
					fmt.Fprintln(&text, r.Kind, r.Reason)
				}
				reasons.Store(strings.ReplaceAll(text.String(), dir, "DIR"))
			},
		}
		ended := make(chan error, 1)
		go func() { ended <- source.Run(ctx, sets) }()
		const (
			noCA  = "DIR/ca.pem: it does not exist: put it where the agent runs, which reads it"
			noOwn = "DIR/own.pem: there is no private key in it: put it there, as PEM, behind the certificate"
			kept  = "; its last good content stays in force"
			about = "certificate --set server-"
		)
		put(t, dir, "own.pem", own.Cert)
		for _, step := range []struct {
			what     string
			change   func()
			ca, cert render.ServerFile // of another set
			same     bool              // there is none
			wrong    string
		}{
			{"never good", func() {}, render.ServerFile{Why: noCA}, render.ServerFile{Why: noOwn}, false, about + "ca: " + noCA + "\n" + about + "cert: " + noOwn + "\n"},
			{"one is good", func() { put(t, dir, "own.pem", own.PEM()) }, render.ServerFile{Why: noCA}, render.ServerFile{Text: own.PEM()}, false, about + "ca: " + noCA + "\n"},
			{"both are", func() { put(t, dir, "ca.pem", ca) }, render.ServerFile{Text: ca}, render.ServerFile{Text: own.PEM()}, false, ""},
			{"both are not", func() { put(t, dir, "ca.pem", ""); put(t, dir, "own.pem", own.Cert) }, render.ServerFile{}, render.ServerFile{}, true, about + "ca: " + noCA + kept + "\n" + about + "cert: " + noOwn + kept + "\n"},
			{"renewed", func() { put(t, dir, "own.pem", renewed.PEM()) }, render.ServerFile{Text: ca}, render.ServerFile{Text: renewed.PEM()}, false, about + "ca: " + noCA + kept + "\n"},
			{"back", func() { put(t, dir, "ca.pem", ca) }, render.ServerFile{}, render.ServerFile{}, true, ""},
		} {
			step.change()
			time.Sleep(5 * time.Second)
			synctest.Wait()
			select {
			case set := <-sets:
				if step.same || anonymous(set.ServerCA, dir) != step.ca || anonymous(set.ServerCert, dir) != step.cert {
					t.Errorf("%s: got %+v", step.what, set)
				}
			default:
				if !step.same {
					t.Errorf("%s: no set", step.what)
				}
			}
			if got := reasons.Load(); got != step.wrong {
				t.Errorf("%s: got %q, want %q", step.what, got, step.wrong)
			}
		}
		for _, e := range hook.AllEntries() {
			if line, _ := e.String(); strings.Contains(line, "PRIVATE") {
				t.Errorf("a key is in the log: %s", line)
			}
		}
		cancel()
		<-ended
	})
}

func anonymous(f render.ServerFile, dir string) render.ServerFile {
	f.Why = strings.ReplaceAll(f.Why, dir, "DIR")
	return f
}

// Without folders there is a set at once: nothing waits for them.
func TestSourceWithoutFolders(t *testing.T) {
	log, _ := logtest.NewNullLogger()
	ctx, cancel := context.WithCancel(t.Context())
	sets, ended := make(chan *Set), make(chan error, 1)
	go func() { ended <- (&Source{Log: log}).Run(ctx, sets) }()
	if set := <-sets; len(names(set)) != 0 {
		t.Errorf("got %v", names(set))
	}
	cancel()
	<-ended
}
