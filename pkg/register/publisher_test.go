package register

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"go.uber.org/goleak"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() logrus.FieldLogger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return l
}

// memory is a Registry in memory that writes down what is done to it.
type memory struct {
	mu       sync.Mutex
	log      []string
	openErrs int                         // openings that are still to fail
	setErrs  int                         // writings that are still to fail
	hang     bool                        // whether writings hang until their ctx ends
	sessions []*memorySession            // all that were opened
	keys     map[string]service.Instance // what is registered
}

type memorySession struct {
	*memory
	done chan struct{}
}

func (m *memory) Open(context.Context) (Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.openErrs > 0 {
		m.openErrs--
		m.log = append(m.log, "open fails")
		return nil, errors.New("no registry")
	}
	m.log = append(m.log, "open")
	s := &memorySession{memory: m, done: make(chan struct{})}
	m.sessions = append(m.sessions, s)
	return s, nil
}

func (s *memorySession) Set(ctx context.Context, want Set) error {
	s.mu.Lock()
	hang := s.hang
	s.mu.Unlock()
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.setErrs > 0 {
		s.setErrs--
		s.log = append(s.log, "set fails")
		return errors.New("no leader")
	}
	s.keys = map[string]service.Instance{}
	var ids []string
	for _, i := range want.Instances {
		s.keys[i.ID] = i
		ids = append(ids, i.ID)
	}
	s.log = append(s.log, "set "+strings.Join(ids, ","))
	return nil
}

// Err says why it is done.
func (s *memorySession) Err() error { return errors.New("nobody answered for its lease") }

func (s *memorySession) Done() <-chan struct{} { return s.done }

func (s *memorySession) Close(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, "close")
	return nil
}

func (m *memory) lines() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.log, "; ")
}

func (m *memory) do(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func instances(ids ...string) []service.Instance {
	set := []service.Instance{}
	for _, id := range ids {
		set = append(set, service.Instance{Node: "h1", ID: id, Service: "web", Address: netip.MustParseAddr("10.0.0.1"), Port: 80, State: service.Ready})
	}
	return set
}

// publishing runs a Publisher in the bubble; end cancels it and returns what Run returned.
func publish(t *testing.T, p *Publisher) (in chan Set, end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	in = make(chan Set)
	done := make(chan error, 1)
	p.Log = quiet()
	go func() { done <- p.Run(ctx, in) }()
	return in, func() error {
		cancel()
		return <-done
	}
}

func TestPublisher(t *testing.T) {
	tests := map[string]struct {
		registry *memory // a fresh one if nil
		play     func(m *memory, in chan<- Set)
		want     string
	}{
		"nothing is written before the first set (unknown is not empty)": {
			play: func(*memory, chan<- Set) { time.Sleep(time.Hour) },
			want: "open; close",
		},
		"an empty set is a set": {
			play: func(_ *memory, in chan<- Set) { in <- Set{Instances: instances()} },
			want: "open; set ; close",
		},
		"each change is written": {
			play: func(_ *memory, in chan<- Set) {
				in <- Set{Instances: instances("a")}
				synctest.Wait()
				in <- Set{Instances: instances("a", "b")}
				synctest.Wait()
				in <- Set{Instances: instances("b")}
			},
			want: "open; set a; set a,b; set b; close",
		},
		"a registry that is away is tried again (F5)": {
			registry: &memory{openErrs: 3},
			play: func(_ *memory, in chan<- Set) {
				in <- Set{Instances: instances("a")}
				time.Sleep(time.Minute)
			},
			want: "open fails; open fails; open fails; open; set a; close",
		},
		"a write that fails is tried again with the newest set (F5)": {
			registry: &memory{setErrs: 1},
			play: func(_ *memory, in chan<- Set) {
				in <- Set{Instances: instances("a")}
				synctest.Wait()
				in <- Set{Instances: instances("b")}
				time.Sleep(time.Minute)
			},
			want: "open; set fails; set b; close",
		},
		"a lost lease: at once a new session and the whole set (P3)": {
			play: func(m *memory, in chan<- Set) {
				in <- Set{Instances: instances("a", "b")}
				synctest.Wait()
				close(m.sessions[0].done)
				synctest.Wait()
			},
			want: "open; set a,b; close; open; set a,b; close",
		},
		"a lease lost again and again is not taken again at full speed (F15)": {
			play: func(m *memory, in chan<- Set) {
				in <- Set{Instances: instances("a")}
				synctest.Wait()
				close(m.sessions[0].done)
				synctest.Wait()
				close(m.sessions[1].done)
				synctest.Wait()
				m.do(func() { m.log = append(m.log, "pause") })
				time.Sleep(time.Second)
			},
			want: "open; set a; close; open; set a; close; pause; open; set a; close",
		},
		"a lease lost while a write hangs": {
			play: func(m *memory, in chan<- Set) {
				in <- Set{Instances: instances("a")}
				synctest.Wait()
				m.do(func() { m.hang = true })
				in <- Set{Instances: instances("b")}
				synctest.Wait()
				m.do(func() { m.hang = false })
				close(m.sessions[0].done)
				synctest.Wait()
			},
			want: "open; set a; close; open; set b; close",
		},
		"nothing is written while nothing changes (P10)": {
			play: func(_ *memory, in chan<- Set) {
				in <- Set{Instances: instances("a")}
				time.Sleep(time.Hour)
			},
			want: "open; set a; close",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := tt.registry
				if m == nil {
					m = &memory{}
				}
				in, end := publish(t, &Publisher{Registry: m})
				tt.play(m, in)
				synctest.Wait()
				if err := end(); err != nil {
					t.Errorf("Run: %v", err)
				}
				if got := m.lines(); got != tt.want {
					t.Errorf("got  %q\nwant %q", got, tt.want)
				}
			})
		})
	}
}

// A registry that comes back is written within the longest pause and its jitter (P3).
func TestPublisherPausesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{openErrs: 200}
		in, end := publish(t, &Publisher{Registry: m, MinRetry: 100 * time.Millisecond, MaxRetry: time.Second})
		in <- Set{Instances: instances("a")}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		failures := strings.Count(m.lines(), "open fails")
		if failures < 13 || failures > 50 {
			t.Errorf("got %d attempts in 20 s, want 13 to 50", failures)
		}
		m.do(func() { m.openErrs = 0 })
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if got := m.lines(); !strings.HasSuffix(got, "open; set a") {
			t.Errorf("got %q, want it to end in the set", got)
		}
		if err := end(); err != nil {
			t.Error(err)
		}
	})
}

// A registry that is back is written soon, however long the pause was that began before (P3).
func TestPublisherGoesOnWhenTheRegistryIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{openErrs: 8}
		back := make(chan bool, 1)
		in, end := publish(t, &Publisher{Registry: m, MinRetry: time.Hour, MaxRetry: time.Hour, Back: back, Spread: time.Second})
		in <- Set{Instances: instances("a")}
		synctest.Wait()
		m.do(func() { m.openErrs = 0 })
		back <- true
		time.Sleep(time.Second)
		synctest.Wait()
		if got, want := m.lines(), "open fails; open; set a"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		back <- true // no pause to end
		time.Sleep(time.Hour)
		if err := end(); err != nil {
			t.Error(err)
		}
		if got, want := m.lines(), "open fails; open; set a; close"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// When all agents of a cluster lose their sessions at once, or find the registry back, they do not all
// open one at the same moment (F12).
func TestPublishersComeApart(t *testing.T) {
	const agents, spread, never = 200, 400 * time.Millisecond, 1 << 30
	tests := map[string]struct {
		openErrs int
		event    func(m *memory, back chan<- bool)
	}{
		"sessions are lost":    {0, func(m *memory, _ chan<- bool) { close(m.sessions[0].done) }},
		"the registry is back": {never, func(m *memory, back chan<- bool) { m.do(func() { m.openErrs = 0 }); back <- true }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var all []*memory
				var backs []chan bool
				for range agents {
					m, back := &memory{openErrs: tt.openErrs}, make(chan bool, 1)
					in, end := publish(t, &Publisher{Registry: m, MinRetry: time.Hour, MaxRetry: time.Hour, Back: back, Spread: spread})
					defer end()
					in <- Set{Instances: instances("a")}
					all, backs = append(all, m), append(backs, back)
				}
				synctest.Wait()
				for n, m := range all {
					m.do(func() { m.log = nil })
					tt.event(m, backs[n])
				}
				before := 0
				for quarter := range 4 {
					time.Sleep(spread/4 + 1)
					synctest.Wait()
					written := 0
					for _, m := range all {
						written += strings.Count(m.lines(), "open; set a")
					}
					if more := written - before; more < agents/8 {
						t.Errorf("%d of %d agents write in quarter %d of the spread", more, agents, quarter)
					}
					before = written
				}
				if before != agents {
					t.Errorf("%d of %d agents have written when the spread is over", before, agents)
				}
			})
		})
	}
}

// A registry that is too busy to keep sessions gets more and more time: the pauses grow to a minute or so,
// also when each session lasts as long as a lease. After one that lasts, the next loss is mended at once
// (F12, P3).
func TestPublisherGivesABusyRegistryTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const lease, spread = 15 * time.Second, 100 * time.Millisecond
		m := &memory{}
		in, end := publish(t, &Publisher{Registry: m, Spread: spread})
		in <- Set{Instances: instances("a")}
		again := func(lasts time.Duration) (pause time.Duration) {
			time.Sleep(lasts)
			opened, sessions := 0, 0
			m.do(func() { sessions = len(m.sessions); close(m.sessions[sessions-1].done) })
			began := time.Now()
			for opened <= sessions {
				time.Sleep(spread / 10)
				m.do(func() { opened = len(m.sessions) })
			}
			return time.Since(began)
		}
		if pause := again(time.Hour); pause > 2*spread {
			t.Errorf("the first loss: a pause of %v, want %v at most", pause, spread)
		}
		var pauses []time.Duration
		for range 8 {
			pauses = append(pauses, again(lease))
		}
		if first, last := pauses[0], pauses[len(pauses)-1]; first > time.Second || last < 30*time.Second || last > 91*time.Second {
			t.Errorf("one loss after the other: pauses of %v", pauses)
		}
		if pause := again(time.Hour); pause > 2*spread {
			t.Errorf("after a session that lasted: a pause of %v, want %v at most", pause, spread)
		}
		if err := end(); err != nil {
			t.Error(err)
		}
	})
}

// A clean exit goes on publishing for a while: the containers of a host that goes down are told of
// as draining.
// TestPublisherSaysWhyItWaits: after a session was lost, the reason why there is no other is told as
// well, once: an agent whose node another one has taken does not wait in silence (P9).
func TestPublisherSaysWhyItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{openErrs: 3}
		var reported []string
		p := &Publisher{Registry: m, Report: func(err error) { reported = append(reported, fmt.Sprint(err)) }}
		log := &strings.Builder{}
		in, end := publish(t, p)
		p.Log.(*logrus.Logger).SetOutput(log)
		in <- Set{Instances: instances("a")}
		time.Sleep(time.Minute)
		m.do(func() { m.openErrs = 3; close(m.sessions[0].done) })
		time.Sleep(time.Minute)
		if err := end(); err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(log.String()) {
			_, message, _ := strings.Cut(line, "msg=")
			got = append(got, strings.Trim(strings.Split(message, "\" ")[0], "\"\n"))
		}
		want := []string{
			"registry cannot be written; trying again", "registry is in step again",
			"registry session lost; opening a new one", "registry cannot be written; trying again", "registry is in step again",
		}
		if !slices.Equal(got, want) {
			t.Errorf("got the log %q, want %q", got, want)
		}
		if want := "the registry session was lost: nobody answered for its lease"; !slices.Contains(reported, want) {
			t.Errorf("got the reports %q, want %q among them", reported, want)
		}
	})
}

func TestPublisherLingers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		p := &Publisher{Registry: m, Linger: 2 * time.Second}
		in, end := publish(t, p)
		in <- Set{Instances: instances("a", "b")}
		synctest.Wait()
		go func() {
			time.Sleep(1500 * time.Millisecond)
			in <- Set{Instances: instances("b")}
		}()
		begin := time.Now()
		if err := end(); err != nil {
			t.Error(err)
		}
		if got, want := m.lines(), "open; set a,b; set b; close"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got, want := time.Since(begin), 2*time.Second; got != want {
			t.Errorf("lingered for %v, want %v", got, want)
		}
	})
}

// TestPublisherSaysWhatItsEndWaitsFor: an end that takes long is not silent, one that does not is.
func TestPublisherSaysWhatItsEndWaitsFor(t *testing.T) {
	for _, hang := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := &Publisher{Registry: &memory{hang: hang}, Linger: 2 * time.Second}
			in, end := publish(t, p)
			log := logtest.NewLocal(p.Log.(*logrus.Logger))
			in <- Set{Instances: instances("a")}
			synctest.Wait()
			_ = end()
			said := slices.ContainsFunc(log.AllEntries(), func(e *logrus.Entry) bool {
				return strings.HasPrefix(e.Message, "ending: waiting for the registry")
			})
			if said != hang {
				t.Errorf("the registry hangs: %v; said that it is waited for: %v", hang, said)
			}
		})
	}
}

// A registry that hangs delays the end by the close timeout, and newer sets not at all.
func TestPublisherEndsDespiteHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{hang: true}
		in, end := publish(t, &Publisher{Registry: m, CloseTimeout: time.Second})
		in <- Set{Instances: instances("a")}
		synctest.Wait()
		for n := range 10 {
			in <- Set{Instances: instances(fmt.Sprint("b", n))}
		}
		begin := time.Now()
		if err := end(); err != nil {
			t.Error(err)
		}
		if got, want := m.lines(), "open; close"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got := time.Since(begin); got != time.Second {
			t.Errorf("the end took %v, want 1s", got)
		}
	})
}

func TestPublisherReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		m := &memory{setErrs: 1}
		in, end := publish(t, &Publisher{Registry: m, Report: func(err error) { got = append(got, fmt.Sprint(err)) }})
		in <- Set{Instances: instances("a")}
		time.Sleep(time.Minute)
		if err := end(); err != nil {
			t.Error(err)
		}
		if got, want := strings.Join(got, "; "), "write to the registry: no leader; <nil>"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// TestPublisherSaysWhatIsNotWritten: what waits for a registry that was never reached, and what came while one
// that was takes nothing.
func TestPublisherSaysWhatIsNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		m := &memory{openErrs: 3}
		in, end := publish(t, &Publisher{Registry: m, MinRetry: time.Second, MaxRetry: time.Second, Unwritten: func(list []service.Rejection) {
			var ids []string
			for _, r := range list {
				if r.Kind != service.Unwritten || !strings.HasPrefix(r.Reason, "not written to the registry yet: ") {
					t.Errorf("got %+v", r)
				}
				ids = append(ids, r.ID)
			}
			if now := strings.Join(ids, ","); len(got) == 0 || got[len(got)-1] != now {
				got = append(got, now)
			}
		}})
		synctest.Wait()
		in <- Set{Instances: instances("a")}
		synctest.Wait()
		in <- Set{Instances: instances("a", "b")}
		time.Sleep(time.Minute)
		m.mu.Lock()
		m.setErrs = 1
		m.mu.Unlock()
		in <- Set{Instances: instances("a", "b", "c")}
		time.Sleep(time.Minute)
		if err := end(); err != nil {
			t.Error(err)
		}
		if got, want := strings.Join(got, "; "), "; a; a,b; ; c; "; got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	})
}
