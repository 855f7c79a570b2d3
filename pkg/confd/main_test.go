package confd

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// registry is a Source whose keys the test sets.
type registry struct {
	mu      sync.Mutex
	keys    map[string]string
	away    error // why it does not answer
	changed chan struct{}
	running int // followers
}

func newRegistry(pairs ...string) *registry {
	r := &registry{keys: map[string]string{}, changed: make(chan struct{})}
	r.set(pairs...)
	return r
}

// set sets keys, given in turn with their values; "-" deletes.
func (r *registry) set(pairs ...string) {
	r.update(func() {
		for i := 0; i < len(pairs); i += 2 {
			if r.keys[pairs[i]] = pairs[i+1]; pairs[i+1] == "-" {
				delete(r.keys, pairs[i])
			}
		}
	})
}

func (r *registry) update(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *registry) fail(err error) { r.update(func() { r.away = err }) }

func (r *registry) followers() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.running
}

func (r *registry) look(roots []string) (keys map[string]string, changed chan struct{}, away error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys = map[string]string{}
	for key, value := range r.keys {
		for _, root := range roots {
			if below(root, key) {
				keys[key] = value
			}
		}
	}
	return keys, r.changed, r.away
}

// Run implements Source.
func (r *registry) Run(ctx context.Context, roots []string, out chan<- map[string]string, report func(error)) error {
	var sent map[string]string
	r.update(func() { r.running++ })
	defer r.update(func() { r.running-- })
	for {
		keys, changed, away := r.look(roots)
		report(away)
		if away == nil && (sent == nil || !maps.Equal(keys, sent)) {
			select {
			case out <- maps.Clone(keys):
				sent = keys
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// bed is a directory that is served.
type bed struct {
	*testing.T
	dir     string // with confd and out below it
	keys    *registry
	server  *Server
	mu      sync.Mutex
	reports []error
	end     func()
}

// newBed makes a directory of files, given in turn with their texts. In texts, OUT is a directory for what
// they write.
func newBed(t *testing.T, keys *registry, files ...string) *bed {
	t.Helper()
	b := &bed{T: t, dir: t.TempDir(), keys: keys}
	for _, dir := range []string{"confd/conf.d", "confd/templates", "out"} {
		if err := os.MkdirAll(filepath.Join(b.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < len(files); i += 2 {
		b.write(files[i], files[i+1])
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	b.server = &Server{
		Dir: b.dir + "/confd", Keys: keys, Log: log, Memory: b.dir + "/owed.json", Settle: time.Millisecond, SettleMax: 20 * time.Millisecond,
		every: 5 * time.Millisecond, again: time.Millisecond, retry: 20 * time.Millisecond,
		Report: func(err error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.reports = append(b.reports, err)
		},
	}
	return b
}

// run starts the server; end ends it.
func (b *bed) run() {
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- b.server.Run(ctx) }()
	b.end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			b.Errorf("Run ended with %v", err)
		}
	})
	b.Cleanup(func() { b.end() })
}

func (b *bed) write(name, text string) {
	b.Helper()
	path := filepath.Join(b.dir, "confd", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.Fatal(err)
	}
	if filepath.Ext(name) != ".gpg" { // a key may have these letters
		text = strings.ReplaceAll(text, "OUT", b.dir+"/out")
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
}

func (b *bed) out(name string) string { return filepath.Join(b.dir, "out", name) }

// read returns what is in a file of out, "-" if there is none.
func (b *bed) read(name string) string {
	text, err := os.ReadFile(b.out(name))
	if err != nil {
		return "-"
	}
	return string(text)
}

// until waits for a condition.
func (b *bed) until(what string, ok func() bool) {
	b.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			b.mu.Lock()
			defer b.mu.Unlock()
			var last error
			if n := len(b.reports); n > 0 {
				last = b.reports[n-1]
			}
			b.Fatalf("not in time: %s; last report: %v", what, last)
		}
	}
}

// holds waits until a file of out has this text.
func (b *bed) holds(name, want string) {
	b.Helper()
	b.until(name+" holds "+want, func() bool { return b.read(name) == want })
}

// says waits until the last report has this text, "" for none.
func (b *bed) says(part string) {
	b.Helper()
	b.until("the last report says "+part, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.reports) == 0 {
			return false
		}
		err := b.reports[len(b.reports)-1]
		return part == "" && err == nil || part != "" && err != nil && strings.Contains(err.Error(), part)
	})
}
