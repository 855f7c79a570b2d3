package haproxy

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// logged keeps what the driver logs.
func (b *bench) logged() *logtest.Hook {
	log, hook := logtest.NewNullLogger()
	b.cfg.Log = log
	return hook
}

// count is how many entries of a level have these words.
func count(hook *logtest.Hook, level logrus.Level, words string) int {
	return len(slices.DeleteFunc(hook.AllEntries(), func(e *logrus.Entry) bool {
		return e.Level != level || !strings.Contains(e.Message, words)
	}))
}

// TestGoneIsTold: that nothing serves is an error of its own, with the mend, also when something less
// was wrong before.
func TestGoneIsTold(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t.T, t.Bin)
		log := b.logged()
		kill := b.start(t)
		b.run(t)
		one := "s1 " + haproxytest.Server(t, "one")
		b.send(t, b.text("", one))
		b.untilInStep(t)
		b.send(t, b.text("    nonsense\n", one))
		haproxytest.Until(t, "the refusal to be logged", func() bool { return count(log, logrus.WarnLevel, "stays in force") == 1 })
		kill()
		haproxytest.Until(t, "the end to be logged", func() bool { return count(log, logrus.ErrorLevel, "haproxy is not there") == 1 })
		words := b.driver.State().LastError
		for _, want := range []string{"not running", "serves nothing", "start it", "sidekick haproxy"} {
			if !strings.Contains(words, want) {
				t.Errorf("%q does not say %q", words, want)
			}
		}
	})
}

// TestAwaitedIsTold: an agent that was started without its HAProxy says so in a moment, names the sockets, and
// calls it an error when that has had its time.
func TestAwaitedIsTold(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t.T, t.Bin)
		log := b.logged()
		b.run(t)
		b.send(t, b.text("", "s1 "+haproxytest.Server(t, "one")))
		haproxytest.Until(t, "it to be waited for", func() bool { return count(log, logrus.InfoLevel, "waiting for haproxy") == 1 })
		if n := count(log, logrus.ErrorLevel, "haproxy is not there"); n > 0 {
			t.Error("it was called an error before it could have been started")
		}
		why, _ := log.AllEntries()[0].Data[logrus.ErrorKey].(error)
		if why == nil || !strings.Contains(why.Error(), b.cfg.RuntimeSocket) || !strings.Contains(why.Error(), "start it") {
			t.Errorf("got %v, want the socket and the mend", why)
		}
		haproxytest.Until(t, "it to be called an error", func() bool { return count(log, logrus.ErrorLevel, "haproxy is not there") == 1 })
		b.start(t)
		b.untilInStep(t)
		haproxytest.Until(t, "the end to be told", func() bool { return count(log, logrus.InfoLevel, "as wanted again") == 1 })
	})
}

// TestSocketsAreRemoved: a HAProxy that serves on without its sockets is named, and the command that is
// told ends it, so that the next one does not share its ports.
func TestSocketsAreRemoved(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t.T, t.Bin)
		if err := Prepare(t.Context(), b.cfg); err != nil {
			t.Fatal(err)
		}
		cmd := b.launch(t)
		endsWith(t, cmd)
		b.run(t)
		want := b.text("", "s1 "+haproxytest.Server(t, "one"))
		b.send(t, want)
		haproxytest.Until(t, "one to answer", answers(b.addr, "one"))
		b.untilInStep(t)
		worker := b.worker(t).Pid
		for _, socket := range []string{b.cfg.MasterSocket, b.cfg.RuntimeSocket} {
			if err := os.Remove(socket); err != nil {
				t.Fatal(err)
			}
		}
		haproxytest.Until(t, "the mend to be told", func() bool {
			return strings.Contains(b.driver.State().LastError, fmt.Sprintf("kill -USR1 %d", worker))
		})
		if err := syscall.Kill(worker, syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		haproxytest.Until(t, "master and worker to end", func() bool { return !alive(worker) && !alive(cmd.Process.Pid) })
		b.start(t)
		b.untilInStep(t)
		b.inStep(t, want)
	})
}

// TestFollowFailureIsLoggedOnce: a file that cannot be written for a while is told once, and its return.
func TestFollowFailureIsLoggedOnce(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		t.Parallel() // it waits most of the time
		b := external(t.T, t.Bin)
		b.cfg.WorkDir = filepath.Join(haproxytest.Dir(t), "work")
		log, seen := b.logged(), b.reported()
		b.start(t)
		b.run(t)
		one := haproxytest.Server(t, "one")
		b.send(t, b.text("", "s1 "+one))
		b.untilInStep(t)
		if err := os.Rename(b.cfg.WorkDir, b.cfg.WorkDir+".away"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(b.cfg.WorkDir, nil, 0o600); err != nil { // also root can make no directory there
			t.Fatal(err)
		}
		b.send(t, b.text("", "s2 "+one))
		haproxytest.Until(t, "two failures to be reported", func() bool { return seen.failures() >= 2 })
		if err := os.Remove(b.cfg.WorkDir); err != nil {
			t.Fatal(err)
		}
		haproxytest.Until(t, "the file to follow", func() bool { return count(log, logrus.InfoLevel, "follows again") == 1 })
		if n := count(log, logrus.WarnLevel, "does not follow"); n != 1 {
			t.Errorf("logged %d times, want once", n)
		}
		b.inStep(t, b.text("", "s2 "+one))
	})
}

// failures is how many errors were reported.
func (r *reports) failures() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(r.all), func(err error) bool { return err == nil }))
}
