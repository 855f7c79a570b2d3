package declared

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// watched is a directory with a running Source, and what has come out of it.
type watched struct {
	t      *testing.T
	dir    string
	memory string
	stop   func()

	mu   sync.Mutex
	sets []string
	last []service.Instance
	bad  []service.Rejection
	logs strings.Builder
}

func newWatched(t *testing.T) *watched {
	t.Helper()
	return &watched{t: t, dir: filepath.Join(t.TempDir(), "services"), memory: filepath.Join(t.TempDir(), "memory.json")}
}

func (w *watched) run() {
	w.t.Helper()
	log := logrus.New()
	log.SetOutput(&lockedWriter{w: &w.logs, mu: &w.mu})
	s := &Source{Dir: w.dir, Host: Host{Node: "h1"}, Memory: w.memory, Log: log, Rejected: func(r []service.Rejection) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.bad = r
	}}
	ctx, cancel := context.WithCancel(w.t.Context())
	out, done := make(chan []service.Instance), make(chan error, 1)
	go func() { done <- s.Run(ctx, out) }()
	go func() {
		for {
			select {
			case set := <-out:
				w.mu.Lock()
				w.last, w.sets = set, append(w.sets, names(set))
				w.mu.Unlock()
			case <-ctx.Done():
				return
			}
		}
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			w.t.Errorf("Run: got %v, want %v", err, context.Canceled)
		}
	})
	w.t.Cleanup(w.stop)
}

type lockedWriter struct {
	w  io.Writer
	mu *sync.Mutex
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

func names(set []service.Instance) string {
	var all []string
	for _, i := range set {
		all = append(all, fmt.Sprintf("%s@%d*%d", i.Service, i.Address.As4()[3], i.Weight))
	}
	slices.Sort(all)
	return "[" + strings.Join(all, " ") + "]"
}

func (w *watched) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// put replaces a file as a careful editor does, by a rename.
func (w *watched) put(name, text string) {
	w.t.Helper()
	w.write("."+name+".new", text)
	w.check(os.Rename(filepath.Join(w.dir, "."+name+".new"), filepath.Join(w.dir, name)))
}

// write writes over a file.
func (w *watched) write(name, text string) {
	w.t.Helper()
	w.check(os.MkdirAll(w.dir, 0o700))
	w.check(os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600))
}

func (w *watched) remove(name string) {
	w.t.Helper()
	w.check(os.Remove(filepath.Join(w.dir, name)))
}

// entry is an item of a services file for 10.0.0.n.
func entryOf(name string, n int, more ...string) string {
	return fmt.Sprintf("- service: %s\n  address: 10.0.0.%d:80\n", name, n) + strings.Join(more, "")
}

// want compares all sets since the last call, and what is wrong now, after a while.
func (w *watched) want(sets, wrong string) {
	w.t.Helper()
	time.Sleep(3 * time.Second)
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if got := strings.Join(w.sets, " "); got != sets {
		w.t.Errorf("got sets %s, want %s", got, sets)
	}
	w.sets = nil
	var reasons []string
	for _, r := range w.bad {
		reasons = append(reasons, strings.ReplaceAll(r.Reason, w.dir, "DIR"))
	}
	if got := strings.Join(reasons, " | "); got != wrong {
		w.t.Errorf("got wrong %q, want %q", got, wrong)
	}
}

// TestSource: what happens to a directory of services files, step by step. Unknown is not empty (P3):
// what is bad or cannot be read takes nothing away, and touches nothing else (P7).
func TestSource(t *testing.T) {
	tests := map[string]func(w *watched){
		"files come, change and go": func(w *watched) {
			w.put("b.yaml", entryOf("db", 1)+entryOf("db", 2))
			w.put("a.yml", entryOf("web", 3))
			w.put("notes.txt", "not for us")
			w.run()
			w.want("[db@1*100 db@2*100 web@3*100]", "")
			w.put("b.yaml", entryOf("db", 1, "  weight: 5\n"))
			w.want("[db@1*5 web@3*100]", "")
			w.remove("a.yml")
			w.want("[db@1*5]", "")
			w.put("b.yaml", "")
			w.want("[]", "")
		},
		"a directory that does not exist yet, and one that goes": func(w *watched) {
			w.run()
			w.want("", "services directory DIR: it does not exist: make it, or leave --services-dir out")
			w.put("a.yaml", entryOf("db", 1))
			w.want("[db@1*100]", "")
			w.check(os.Rename(w.dir, w.dir+".away"))
			w.want("", "services directory DIR: it does not exist: make it, or leave --services-dir out")
			w.check(os.Rename(w.dir+".away", w.dir))
			w.want("", "")
		},
		"an empty directory is nothing, on purpose": func(w *watched) {
			w.check(os.MkdirAll(w.dir, 0o700))
			w.run()
			w.want("[]", "")
		},
		"a file that breaks keeps what it said": func(w *watched) {
			w.put("a.yaml", entryOf("db", 1))
			w.put("b.yaml", entryOf("web", 2))
			w.run()
			w.want("[db@1*100 web@2*100]", "")
			w.put("a.yaml", "- service: [\n")
			w.want("", "a.yaml:1:12: this is no YAML: sequence end token ']' not found; its last good content stays in force")
			w.put("b.yaml", entryOf("web", 3))
			w.want("[db@1*100 web@3*100]", "a.yaml:1:12: this is no YAML: sequence end token ']' not found; its last good content stays in force")
			w.put("a.yaml", entryOf("db", 1))
			w.want("", "")
		},
		"a bad entry goes alone": func(w *watched) {
			w.put("a.yaml", entryOf("db", 1)+entryOf("db", 2))
			w.run()
			w.want("[db@1*100 db@2*100]", "")
			w.put("a.yaml", entryOf("db", 1, "  wieght: 1\n  check: docker\n")+entryOf("db", 2))
			w.want("[db@2*100]", `a.yaml:3:3: "wieght" is unknown: did you mean weight?; a.yaml:4:3: check: docker is for containers alone: want tcp, none or http:/path`)
		},
		"one endpoint of a service twice": func(w *watched) {
			w.put("a.yaml", entryOf("db", 1)+entryOf("web", 1))
			w.put("b.yaml", entryOf("db", 1, "  weight: 1\n"))
			w.run()
			w.want("[db@1*100 web@1*100]", "b.yaml:1:3: service db has 10.0.0.1:80 already, from a.yaml:1:3: remove one of the two")
			w.remove("a.yaml")
			w.want("[db@1*1]", "")
		},
		"a file that cannot be read keeps what it said": func(w *watched) {
			w.put("a.yaml", entryOf("db", 1))
			w.run()
			w.want("[db@1*100]", "")
			w.remove("a.yaml")
			w.check(os.Symlink("nowhere", filepath.Join(w.dir, "a.yaml")))
			w.want("", "a.yaml: no such file or directory; its last good content stays in force")
			w.remove("a.yaml")
			w.check(os.Mkdir(filepath.Join(w.dir, "a.yaml"), 0o700))
			w.want("", "a.yaml: it is no regular file; its last good content stays in force")
			w.remove("a.yaml")
			w.put("a.yaml", strings.Repeat("#", largest+1))
			w.want("", "a.yaml: it has more than 1048576 bytes; spread its services over several files; its last good content stays in force")
			w.remove("a.yaml")
			w.want("[]", "")
		},
		"a file is gone, or half written, for a moment": func(w *watched) {
			w.put("a.yaml", entryOf("db", 1))
			w.run()
			w.want("[db@1*100]", "")
			for range 30 { // at each time within the second between two looks
				w.remove("a.yaml")
				time.Sleep(40 * time.Millisecond)
				w.write("a.yaml", "")
				time.Sleep(40 * time.Millisecond)
				w.write("a.yaml", entryOf("db", 1))
				time.Sleep(1071 * time.Millisecond)
			}
			w.want("", "")
		},
		"a file that changes all the time holds up no other": func(w *watched) {
			w.put("a.yaml", entryOf("db", 1))
			w.put("b.yaml", entryOf("web", 0))
			w.run()
			for n := range 100 {
				w.put("b.yaml", entryOf("web", 2+n))
				time.Sleep(90 * time.Millisecond)
			}
			w.mu.Lock()
			first := slices.Clone(w.sets)
			w.sets = nil
			w.mu.Unlock()
			if len(first) != 1 || first[0] != "[db@1*100]" {
				w.t.Errorf("meanwhile got sets %s, want [db@1*100]", first)
			}
			w.want("[db@1*100 web@101*100]", "")
		},
		"a volume's links are swapped": func(w *watched) {
			version := func(v, text string) {
				w.check(os.MkdirAll(filepath.Join(w.dir, ".."+v), 0o700))
				w.write(".."+v+"/a.yaml", text)
				w.check(os.Symlink(".."+v, filepath.Join(w.dir, "..tmp")))
				w.check(os.Rename(filepath.Join(w.dir, "..tmp"), filepath.Join(w.dir, "..data")))
			}
			version("1", entryOf("db", 1))
			w.check(os.Symlink("..data/a.yaml", filepath.Join(w.dir, "a.yaml")))
			w.run()
			w.want("[db@1*100]", "")
			version("2", entryOf("db", 2))
			w.want("[db@2*100]", "")
		},
		"a bad file at the restart of the agent": func(w *watched) {
			w.put("a.yaml", entryOf("db", 1))
			w.run()
			w.want("[db@1*100]", "")
			w.stop()
			w.put("a.yaml", "service: db")
			w.run()
			w.want("[db@1*100]", "a.yaml:1:1: a services file is a list: write each service as an item that begins with \"- service: NAME\"; its last good content stays in force")
			w.stop()
			w.remove("a.yaml")
			w.run()
			w.want("[]", "")
		},
	}
	for name, play := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWatched(t)
				play(w)
				w.stop()
				synctest.Wait()
			})
		})
	}
}

// What is declared keeps its age over edits, a short absence and restarts of the agent, so that the
// oldest of a service leads whatever happens to its neighbours; what comes anew is the youngest.
func TestSourceKeepsAges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatched(t)
		began := time.Now().UTC()
		w.put("a.yaml", entryOf("db", 1))
		w.run()
		age := func(when string, want ...time.Duration) {
			t.Helper()
			time.Sleep(3 * time.Second)
			synctest.Wait()
			w.mu.Lock()
			defer w.mu.Unlock()
			var got []time.Duration
			for _, i := range w.last {
				got = append(got, i.Started.Sub(began).Round(time.Minute))
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%s: got starts %v after the beginning, want %v", when, got, want)
			}
		}
		age("at first", 0)
		time.Sleep(time.Minute)
		w.put("a.yaml", entryOf("db", 2)+entryOf("db", 1, "  weight: 1\n"))
		age("with a younger one, and edited", 0, time.Minute)
		w.stop()
		time.Sleep(time.Minute)
		w.run()
		age("after a restart", 0, time.Minute)
		w.remove("a.yaml")
		time.Sleep(time.Minute)
		w.put("b.yaml", entryOf("db", 1))
		age("away for a minute", 0)
		w.remove("b.yaml")
		time.Sleep(forgetAfter + time.Minute)
		w.put("b.yaml", entryOf("db", 1))
		age("away for long", forgetAfter+4*time.Minute)
		w.stop()
		synctest.Wait()
	})
}

// Each fault is logged once, and so is the mend.
func TestSourceLogsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatched(t)
		w.put("a.yaml", "x")
		w.run()
		time.Sleep(time.Minute)
		w.put("a.yaml", "")
		time.Sleep(time.Minute)
		w.stop()
		synctest.Wait()
		if got := strings.Count(w.logs.String(), "\n"); got != 2 || !strings.Contains(w.logs.String(), "in order again") {
			t.Errorf("got the log\n%s\nwant one line of the fault and one of its mend", w.logs.String())
		}
	})
}

// A memory that cannot be read or written holds nothing up (P7).
func TestSourceWithoutMemory(t *testing.T) {
	for name, text := range map[string]string{"broken": "{", "null": "null", "other": `{"files":{"a.yaml":"- [","z.yaml":"x"},"first":null}`} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWatched(t)
				w.check(os.WriteFile(w.memory, []byte(text), 0o600))
				w.put("a.yaml", entryOf("db", 1))
				w.run()
				w.want("[db@1*100]", "")
				w.stop()
				synctest.Wait()
			})
		})
	}
	t.Run("no directory for it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWatched(t)
			w.memory = "/no/such/directory"
			w.put("a.yaml", entryOf("db", 1))
			w.run()
			w.want("[db@1*100]", "")
			w.stop()
			synctest.Wait()
		})
	})
}
