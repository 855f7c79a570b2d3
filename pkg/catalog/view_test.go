package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const prefix = "/sidekick"

func instance(name string, n int) service.Instance {
	return service.Instance{
		Node: "a", ID: fmt.Sprintf("c%d.%s.80", n, name), Service: name,
		Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), Port: 80,
		State: service.Ready, Weight: service.DefaultWeight, Mode: service.HTTP, Path: "/",
	}
}

// registry is a registry's content, which makes catalogs as a Watcher does.
type registry struct {
	t   *testing.T
	b   *service.Builder
	rev int64
}

func newRegistry(t *testing.T) *registry {
	t.Helper()
	return &registry{t: t, b: service.NewBuilder(prefix)}
}

// with makes these services, with one instance each, all that there is.
func (r *registry) with(names ...string) *service.Catalog {
	r.rev++
	r.b.Replace(func(yield func(string, []byte) bool) {
		for n, name := range names {
			i := instance(name, 1+n)
			i.ID = "c." + name
			v, err := i.Encode()
			if err != nil {
				r.t.Fatal(err)
			}
			if !yield(i.Key(prefix), v) {
				return
			}
		}
	})
	return r.b.Catalog(r.rev)
}

// running is a View that runs.
type running struct {
	in     chan *service.Catalog
	out    chan *Snapshot
	cancel context.CancelFunc
	done   chan error
}

func run(t *testing.T, v *View) *running {
	t.Helper()
	if v.Log == nil {
		log := logrus.New()
		log.SetOutput(io.Discard)
		v.Log = log
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{in: make(chan *service.Catalog), out: make(chan *Snapshot), cancel: cancel, done: make(chan error)}
	go func() { r.done <- v.Run(ctx, r.in, r.out) }()
	return r
}

func (r *running) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	if err := <-r.done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v, want %v", err, context.Canceled)
	}
}

// text writes a snapshot as a list of its services, those without instances in parentheses.
func text(s *Snapshot) string {
	var all []string
	for _, svc := range s.Catalog.Services {
		if len(svc.Instances) == 0 {
			all = append(all, "("+svc.Name+")")
		} else {
			all = append(all, svc.Name)
		}
	}
	if !s.Live {
		all = append(all, "from disk")
	}
	return strings.Join(all, " ")
}

func (r *running) want(t *testing.T, want string) *Snapshot {
	t.Helper()
	s := <-r.out
	if got := text(s); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	return s
}

func (r *running) wantNothing(t *testing.T) {
	t.Helper()
	synctest.Wait()
	select {
	case s := <-r.out:
		t.Errorf("got %q, want nothing", text(s))
	default:
	}
}

func TestEmptyServicesAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := newRegistry(t)
		r := run(t, &View{KeepEmpty: time.Hour})
		r.in <- reg.with("a", "b", "c")
		r.want(t, "a b c")
		time.Sleep(time.Minute)
		r.in <- reg.with("a")
		first := r.want(t, "a (b) (c)")
		if got := first.Catalog.Service("b").Spec.Path; got != "/" {
			t.Errorf("the empty service lost its path: %q", got)
		}
		if b, now := first.Catalog.Service("b"), time.Now(); !b.Since.Equal(now) || !b.Until.Equal(now.Add(time.Hour)) {
			t.Errorf("empty since %v and kept until %v, want %v and an hour more", b.Since, b.Until, now)
		}
		time.Sleep(time.Minute)
		r.in <- reg.with("a", "c")
		second := r.want(t, "a (b) c")
		if first.Catalog.Service("b") != second.Catalog.Service("b") {
			t.Error("an empty service that did not change is another value")
		}
		time.Sleep(2 * time.Hour)
		r.wantNothing(t) // dropping it alone would cost a reload
		r.in <- reg.with("c")
		r.want(t, "(a) (b) c")
		time.Sleep(time.Minute)
		r.in <- reg.with("c", "new")
		r.want(t, "(a) c new") // b went with a reload that happens anyway
		r.stop(t)
	})
}

// TestMissing: what one catalog has and another has not, whether a service is the same value in both or
// not.
func TestMissing(t *testing.T) {
	names := func(services []*service.Service) string {
		var all []string
		for _, s := range services {
			all = append(all, s.Name)
		}
		return strings.Join(all, "")
	}
	catalog := func(letters string) *service.Catalog {
		return newRegistry(t).with(strings.Split(letters, "")...)
	}
	shared := catalog("abcd")
	for _, tt := range []struct {
		a, b *service.Catalog
		want string
	}{
		{nil, shared, ""},
		{shared, nil, "abcd"},
		{nil, nil, ""},
		{shared, shared, ""},
		{shared, catalog("abcd"), ""},
		{shared, catalog("bd"), "ac"},
		{catalog("bd"), shared, ""},
		{catalog("xyz"), shared, "xyz"},
		{shared, catalog("xyz"), "abcd"},
		{catalog("bcx"), catalog("acz"), "bx"},
	} {
		if got := names(missing(tt.a, tt.b)); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

func TestNothingIsKeptWithoutKeepEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := newRegistry(t)
		r := run(t, &View{})
		r.in <- reg.with("a", "b")
		r.want(t, "a b")
		r.in <- reg.with("a")
		r.want(t, "a")
		r.stop(t)
	})
}

func TestEqualCatalogsAreNotPassed(t *testing.T) { // P11
	synctest.Test(t, func(t *testing.T) {
		reg := newRegistry(t)
		r := run(t, &View{KeepEmpty: time.Hour})
		r.in <- reg.with("a", "b")
		r.want(t, "a b")
		r.in <- reg.with("a")
		r.want(t, "a (b)")
		for range 3 {
			r.in <- reg.with("a")
			time.Sleep(time.Second)
			r.wantNothing(t)
		}
		r.stop(t)
	})
}

func TestBurstBecomesTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := newRegistry(t)
		r := run(t, &View{Settle: 10 * time.Millisecond, SettleMax: 250 * time.Millisecond})
		start := time.Now()
		r.in <- reg.with("a")
		r.want(t, "a")
		if took := time.Since(start); took != 0 {
			t.Errorf("a lone change took %v, want no delay", took)
		}
		r.in <- reg.with("a", "b")
		r.in <- reg.with("a", "b", "c")
		r.want(t, "a b c")
		if took := time.Since(start); took != 10*time.Millisecond {
			t.Errorf("the burst took %v, want %v", took, 10*time.Millisecond)
		}
		r.stop(t)
	})
}

func TestSlowReaderStallsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := newRegistry(t)
		r := run(t, &View{})
		for n := range 50 {
			r.in <- reg.with("a", fmt.Sprint("s", n))
		}
		time.Sleep(time.Second)
		r.want(t, "a s49")
		r.stop(t)
	})
}

func TestColdStartServesTheCopy(t *testing.T) { // P4, F3
	path := filepath.Join(t.TempDir(), "catalog.json")
	synctest.Test(t, func(t *testing.T) {
		v := View{CachePath: path, Source: prefix, KeepEmpty: time.Hour, MaxCacheAge: 24 * time.Hour}
		first := v
		reg := newRegistry(t)
		r := run(t, &first)
		r.in <- reg.with("a", "b")
		r.want(t, "a b")
		synctest.Wait() // what is new is written at once
		r.stop(t)

		time.Sleep(time.Hour)
		start := time.Now()
		second := v
		r = run(t, &second)
		s := r.want(t, "a b from disk")
		if took := time.Since(start); took != 500*time.Millisecond {
			t.Errorf("the copy came after %v, want %v", took, 500*time.Millisecond)
		}
		if got, want := start.Sub(s.Saved), time.Hour; got != want {
			t.Errorf("it is of %v before, want %v", got, want)
		}
		if s.Catalog.Revision != 1 || s.Catalog.Prefix != prefix {
			t.Errorf("got revision %d of %q, want 1 of %q", s.Catalog.Revision, s.Catalog.Prefix, prefix)
		}
		// The registry is back, and has less: what is gone stays as an empty service.
		r.in <- newRegistry(t).with("a")
		r.want(t, "a (b)")
		r.stop(t)
	})
}

func TestLiveCatalogComesBeforeTheCopy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.json")
	synctest.Test(t, func(t *testing.T) {
		if err := writeCopy(path, prefix, newRegistry(t).with("old"), time.Now()); err != nil {
			t.Fatal(err)
		}
		r := run(t, &View{CachePath: path, Source: prefix})
		time.Sleep(400 * time.Millisecond)
		r.in <- newRegistry(t).with("new")
		r.want(t, "new")
		time.Sleep(time.Second)
		r.wantNothing(t)
		r.stop(t)
	})
}

// TestServicesOfTheCopyAreKept: the services of a host whose agent was away for longer than its lease
// stay in the model until they are registered again.
func TestServicesOfTheCopyAreKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.json")
	synctest.Test(t, func(t *testing.T) {
		if err := writeCopy(path, prefix, newRegistry(t).with("a", "own"), time.Now()); err != nil {
			t.Fatal(err)
		}
		reg := newRegistry(t)
		r := run(t, &View{CachePath: path, Source: prefix, KeepEmpty: time.Hour, MaxCacheAge: 24 * time.Hour})
		r.in <- reg.with("a")
		r.want(t, "a (own)")
		r.in <- reg.with("a", "own")
		r.want(t, "a own")
		r.stop(t)
	})
}

// TestEmptyServicesOutliveARestart: a service without instances costs no reload because an agent ends.
func TestEmptyServicesOutliveARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.json")
	synctest.Test(t, func(t *testing.T) {
		view := func() *View {
			return &View{CachePath: path, Source: prefix, KeepEmpty: time.Hour, MaxCacheAge: 24 * time.Hour}
		}
		reg := newRegistry(t)
		r := run(t, view())
		r.in <- reg.with("a", "b")
		r.want(t, "a b")
		time.Sleep(time.Minute)
		r.in <- reg.with("a")
		r.want(t, "a (b)")
		synctest.Wait()
		r.stop(t)
		for range 2 { // it is in the next copy as well
			r = run(t, view())
			r.in <- newRegistry(t).with("a")
			if b := r.want(t, "a (b)").Catalog.Service("b"); b == nil || b.Spec.Path != "/" || b.Spec.Lead == nil {
				t.Errorf("the empty service came back as %+v", b)
			}
			synctest.Wait()
			r.stop(t)
		}
		r = run(t, view())
		r.want(t, "a (b) from disk")
		r.in <- newRegistry(t).with("a")
		r.want(t, "a (b)")
		time.Sleep(2 * time.Hour)
		r.in <- newRegistry(t).with("a", "new")
		r.want(t, "a new") // b went with a reload that happens anyway
		r.stop(t)
		r = run(t, &View{CachePath: path, Source: prefix})
		r.in <- newRegistry(t).with("a")
		r.want(t, "a")
		r.stop(t)
	})
}

func TestLiveCatalogIsPassedThoughItEqualsTheCopy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.json")
	synctest.Test(t, func(t *testing.T) {
		if err := writeCopy(path, prefix, newRegistry(t).with("a"), time.Now()); err != nil {
			t.Fatal(err)
		}
		r := run(t, &View{CachePath: path, Source: prefix})
		r.want(t, "a from disk")
		r.in <- newRegistry(t).with("a")
		r.want(t, "a")
		r.stop(t)
	})
}

func TestCopyIsWrittenOnceASecondAtMost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.json")
	synctest.Test(t, func(t *testing.T) {
		writes := 0
		reg := newRegistry(t)
		r := run(t, &View{CachePath: path, Source: prefix, Report: func(err error) {
			if err != nil {
				t.Error(err)
			}
			writes++
		}})
		read := make(chan struct{})
		go func() {
			defer close(read)
			for range r.out { // only the copy matters here
			}
		}()
		for n := range 100 { // ten a second
			r.in <- reg.with("a", fmt.Sprint("s", n))
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		for range 5 {
			r.in <- reg.with("a", "s99")
			time.Sleep(2 * time.Second)
		}
		r.stop(t)
		close(r.out)
		<-read
		if writes < 5 || writes > 12 {
			t.Errorf("%d writes for changes during 10 s, want about one a second", writes)
		}
		c, _, err := readCopy(path, prefix, 0, time.Now())
		if err != nil || c.Service("s99") == nil {
			t.Errorf("the last change is not in the copy: %v", err)
		}
	})
}

func TestLastChangeIsSavedAtTheEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.json")
	synctest.Test(t, func(t *testing.T) {
		reg := newRegistry(t)
		r := run(t, &View{CachePath: path, Source: prefix})
		r.in <- reg.with("a")
		r.want(t, "a")
		r.in <- reg.with("a", "b")
		synctest.Wait()
		r.stop(t)
		if c, _, err := readCopy(path, prefix, 0, time.Now()); err != nil || c.Service("b") == nil {
			t.Errorf("the last change is not in the copy: %v", err)
		}
	})
}

func TestUnwritableDirectoryOnlyReports(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var failed atomic.Int64
		reg := newRegistry(t)
		r := run(t, &View{CachePath: filepath.Join(file, "catalog.json"), Report: func(err error) {
			if err != nil {
				failed.Add(1)
			}
		}})
		r.in <- reg.with("a")
		r.want(t, "a")
		r.in <- reg.with("b")
		r.want(t, "b")
		time.Sleep(time.Minute)
		if got := failed.Load(); got == 0 || got > 10 {
			t.Errorf("%d failures in a minute, want a few", got)
		}
		r.stop(t)
	})
}

// P4: the age of the copy is that of the registry's last word, not of the last change.
func TestQuietCatalogDoesNotAgeOnDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.json")
	synctest.Test(t, func(t *testing.T) {
		const maxAge = 24 * time.Hour
		silentSince := time.Now().Add(3 * maxAge) // the registry's last word
		confirmed := func() time.Time {
			if now := time.Now(); now.Before(silentSince) {
				return now
			}
			return silentSince
		}
		r := run(t, &View{CachePath: path, Source: prefix, MaxCacheAge: maxAge, Confirmed: confirmed})
		r.in <- newRegistry(t).with("a")
		r.want(t, "a")
		time.Sleep(3*maxAge + time.Hour) // nothing changes
		r.stop(t)
		if _, saved, err := readCopy(path, prefix, maxAge, time.Now()); err != nil || !saved.Equal(silentSince) {
			t.Errorf("the copy is of %v (%v), want of the registry's last word at %v", saved, err, silentSince)
		}
		if _, _, err := readCopy(path, prefix, maxAge, silentSince.Add(maxAge+time.Hour)); err == nil {
			t.Error("a copy is used longer than its age allows")
		}
	})
}

// put writes a key beside the services, and returns the catalog.
func (r *registry) put(key, value string) *service.Catalog {
	r.rev++
	r.b.Put(prefix+"/v1/"+key, []byte(value))
	return r.b.Catalog(r.rev)
}

// TestOverridesEndByTheClock: an override whose time is up does not count any more, though the registry
// still has it; services that it was not for stay the same values. P12.
func TestOverridesEndByTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := newRegistry(t)
		r := run(t, &View{})
		reg.with("a", "b")
		until := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339Nano) }
		reg.put("overrides/b", `{"state":"drain","until":"`+until(-time.Second)+`"}`)
		r.in <- reg.put("overrides/a", `{"state":"maint","until":"`+until(10*time.Minute)+`"}`)
		first := r.want(t, "a b")
		if len(first.Catalog.Service("a").Overrides) != 1 || len(first.Catalog.Service("b").Overrides) != 0 || len(first.Catalog.Overrides) != 1 {
			t.Errorf("got overrides %v, want the one of a", first.Catalog.Overrides)
		}
		time.Sleep(10*time.Minute - time.Nanosecond)
		r.wantNothing(t)
		time.Sleep(time.Nanosecond)
		second := r.want(t, "a b")
		if len(second.Catalog.Overrides) != 0 || len(second.Catalog.Service("a").Overrides) != 0 {
			t.Errorf("got overrides %v after their time", second.Catalog.Overrides)
		}
		if first.Catalog.Service("b") != second.Catalog.Service("b") {
			t.Error("a service changed that no override is for")
		}
		time.Sleep(time.Hour)
		r.in <- reg.put("nodes/n", `{"agent":"x"}`)
		if third := r.want(t, "a b"); third.Catalog.Service("a") != second.Catalog.Service("a") {
			t.Error("a service changed though nothing of it did")
		}
		r.stop(t)
	})
}

// TestColdStartHonoursOverrides: the copy on disk has them, and those count whose time is not up. P4.
func TestColdStartHonoursOverrides(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.json")
	synctest.Test(t, func(t *testing.T) {
		reg := newRegistry(t)
		reg.with("a", "b")
		reg.put("overrides/a", `{"state":"maint"}`)
		reg.put("overrides/b", `{"state":"maint","until":"`+time.Now().Add(time.Minute).UTC().Format(time.RFC3339)+`"}`)
		r := run(t, &View{CachePath: path, Source: prefix})
		r.in <- reg.b.Catalog(9)
		r.want(t, "a b")
		synctest.Wait()
		r.stop(t)
		time.Sleep(time.Minute)
		r = run(t, &View{CachePath: path, Source: prefix})
		if s := r.want(t, "a b from disk"); len(s.Catalog.Service("a").Overrides) != 1 || len(s.Catalog.Service("b").Overrides) != 0 {
			t.Errorf("got overrides %v, want the one of a", s.Catalog.Overrides)
		}
		r.stop(t)
	})
}

// TestAsksCauseNoSnapshot: what is asked and answered is told beside the pipe, with the snapshot that says
// all the rest. P10, P12.
func TestAsksCauseNoSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []string
		reg := newRegistry(t)
		r := run(t, &View{Seen: func(s Seen) {
			seen = append(seen, fmt.Sprintf("%d asks at revision %d by snapshot %d", len(s.Catalog.Asks), s.Catalog.Revision, s.Number))
		}})
		r.in <- reg.with("a")
		r.want(t, "a")
		r.in <- reg.put("asks/1", `{"want":"applied"}`)
		r.in <- reg.put("answers/n/1", `{"applied":true}`)
		r.wantNothing(t)
		r.in <- reg.with("a", "b")
		if s := r.want(t, "a b"); s.Number != 2 {
			t.Errorf("got snapshot %d, want 2", s.Number)
		}
		r.stop(t)
		want := "0 asks at revision 1 by snapshot 1, 1 asks at revision 2 by snapshot 1, 1 asks at revision 3 by snapshot 1, 0 asks at revision 4 by snapshot 2"
		if got := strings.Join(seen, ", "); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}
