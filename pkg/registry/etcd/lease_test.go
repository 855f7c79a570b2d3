package etcd

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/register"
	"github.com/sidekick-proxy/sidekick/pkg/registry/registrytest"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// TestTimeThatTheServerGrantsCounts: a server grants no less than one and a half times its election
// timeout. Renewals, and the decision that the lease is lost, go by that and not by what was asked for.
func TestTimeThatTheServerGrantsCounts(t *testing.T) {
	t.Parallel()                       // it waits most of the time
	member := newCluster(t, 1, nil)[0] // elections take a second
	r := newRegistry(dialed(t, Config{Endpoints: endpointsOf(member)}), registrytest.Node("a", "agent-a"))
	r.TTL = time.Second
	told := make(chan time.Time, 100)
	r.Report = func(err error) {
		if err == nil {
			told <- time.Now()
		}
	}
	s := openSession(t, r)
	if s.ttl != 2*time.Second {
		t.Fatalf("the session goes by %v, want the 2s that the server grants", s.ttl)
	}
	<-told
	first, second := <-told, <-told
	if pause := second.Sub(first); pause < 450*time.Millisecond {
		t.Errorf("a renewal came %v after the one before, want a third of 2s", pause)
	}
	member.way.freeze(true)
	began := time.Now() // at most a third of its time after the last renewal
	endOf(t, s)
	if took := time.Since(began); took < 1200*time.Millisecond {
		t.Errorf("the lease was given up after %v without an answer, want 1.3s at least", took)
	}
}

// TestAlarmOfAnUnansweredLease: once half of its time has passed without an answer, people are told, once
// in the log and for as long as it is so where the stage's state is shown.
func TestAlarmOfAnUnansweredLease(t *testing.T) {
	t.Parallel() // it waits most of the time
	l := newLink(t, newServer(t))
	r := newRegistry(l.dial(t), registrytest.Node("a", "agent-a"))
	r.TTL = 12 * time.Second
	log, hook := test.NewNullLogger()
	r.Log = log
	var mu sync.Mutex
	var reports []string
	r.Report = func(err error) {
		mu.Lock()
		defer mu.Unlock()
		reports = append(reports, fmt.Sprint(err))
	}
	alarms := func() (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, said := range reports {
			if strings.HasPrefix(said, "lease unanswered for ") && strings.Contains(said, "lost after 12s: renew the lease of node a: no answer") {
				n++
			}
		}
		return n
	}
	s := openSession(t, r)
	registrytest.Set(t, s, web(1))
	l.freeze(true)
	if !becomes(func() bool { return alarms() >= 2 }) {
		t.Fatalf("got the reports %q, want an alarm more than once", reports)
	}
	l.freeze(false)
	logged := func(level logrus.Level, message string) (n int) {
		for _, e := range hook.AllEntries() {
			if e.Level == level && e.Message == message {
				n++
			}
		}
		return n
	}
	if !becomes(func() bool { return logged(logrus.InfoLevel, "lease is renewed again") == 1 }) {
		t.Error("the log does not say that the lease is renewed again")
	}
	if n := logged(logrus.WarnLevel, "lease is not renewed"); n != 1 {
		t.Errorf("the alarm was logged %d times, want once", n)
	}
	if err := s.over(); err != nil {
		t.Errorf("the session is over: %v", err)
	}
}

// TestAllIsRegisteredAgain: however an agent loses its lease, and for however long the registry is away,
// it takes a new one and registers all as soon as the registry is back, without waiting for the end of a
// pause between two tries (P3, F13).
func TestAllIsRegisteredAgain(t *testing.T) {
	for _, tt := range []struct {
		name       string
		lose, back func(t *testing.T, o *outage)
	}{
		{"its lease was revoked", func(*testing.T, *outage) {}, func(t *testing.T, o *outage) {
			t.Helper()
			expire(t, o.admin, service.NodeKey(prefix, "a"))
		}},
		{
			"the registry was away for longer than it lives",
			func(t *testing.T, o *outage) { t.Helper(); o.link.cut(); o.expires(t); o.failsToOpen(t) },
			func(t *testing.T, o *outage) { t.Helper(); o.link.mend(t) },
		},
		{
			"the agent, or its connection, stood still for longer than it lives",
			func(t *testing.T, o *outage) { t.Helper(); o.link.freeze(true); o.expires(t) },
			func(t *testing.T, o *outage) { t.Helper(); o.link.freeze(false) },
		},
		{
			"the registry comes back empty",
			func(t *testing.T, o *outage) { t.Helper(); o.srv.stop(t); o.srv.wipe(t) },
			func(t *testing.T, o *outage) { t.Helper(); o.srv.start(t) },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // it waits most of the time
			o := newOutage(t)
			if !becomes(o.registered) {
				t.Fatal("not registered")
			}
			was := o.lease(t)
			tt.lose(t, o)
			began := time.Now()
			tt.back(t, o)
			if !becomes(func() bool { return o.registered() && o.lease(t) != was }) {
				t.Fatal("not registered again")
			}
			t.Logf("all %d are registered again %v after the return", len(o.set.Instances), time.Since(began).Round(time.Millisecond))
		})
	}
}

// outage is a Publisher as agents have it, and the registry that it loses.
type outage struct {
	srv     *server
	admin   *clientv3.Client
	link    *link
	set     register.Set
	openErr chan error // why no session could be opened
}

func newOutage(t *testing.T) *outage {
	t.Helper()
	o := &outage{srv: newServer(t), openErr: make(chan error, 100)}
	o.admin, o.link = o.srv.dial(t), newLink(t, o.srv)
	for n := range 300 { // more than one transaction holds
		o.set.Instances = append(o.set.Instances, registrytest.Instance("a", "web", n))
	}
	c := o.link.dial(t)
	r := newRegistry(c, registrytest.Node("a", "agent-a"))
	r.TTL = 2 * time.Second
	back := make(chan bool, 1)
	p := &register.Publisher{
		Registry: r, Log: quiet(), Back: back, Spread: 100 * time.Millisecond,
		MinRetry: time.Hour, MaxRetry: time.Hour, // so that nothing but the return ends a pause
		Report: func(err error) {
			if err != nil && strings.HasPrefix(err.Error(), "open the registry") {
				o.openErr <- err
			}
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	in := make(chan register.Set, 1)
	in <- o.set
	var running sync.WaitGroup
	running.Go(func() { Reconnects(ctx, c, back) })
	running.Go(func() { _ = p.Run(ctx, in) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return o
}

// registered tells whether the registry holds the whole set.
func (o *outage) registered() bool {
	ctx, cancel := context.WithTimeout(context.Background(), opLimit)
	defer cancel()
	resp, err := o.admin.Get(ctx, service.InstancesKey(prefix, "a"), clientv3.WithPrefix(), clientv3.WithCountOnly())
	return err == nil && resp.Count == int64(len(o.set.Instances))
}

// lease is the one of the node, 0 if it is not registered.
func (o *outage) lease(t *testing.T) int64 {
	t.Helper()
	resp, err := o.admin.Get(limited(t), service.NodeKey(prefix, "a"))
	if err != nil || len(resp.Kvs) == 0 {
		return 0
	}
	return resp.Kvs[0].Lease
}

// expires waits until the server has let the lease run out.
func (o *outage) expires(t *testing.T) {
	t.Helper()
	if !becomes(func() bool { return o.lease(t) == 0 }) {
		t.Fatal("the lease does not run out")
	}
}

// failsToOpen waits until the agent has tried to open a session, and makes a pause.
func (o *outage) failsToOpen(t *testing.T) {
	t.Helper()
	select {
	case <-o.openErr:
	case <-time.After(30 * time.Second):
		t.Fatal("no try to open a session failed")
	}
}

// TestLooksOfAFleetComeApart: agents that find the registry back do not all read it at the same moment
// (F12).
func TestLooksOfAFleetComeApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const agents = 200
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		looked := make(chan time.Duration, agents)
		began := time.Now()
		for range agents {
			s := newTenure(nil, "", quiet())
			again := make(chan struct{}, 1)
			again <- struct{}{}
			running.Go(func() {
				s.inspect(ctx, again, func(context.Context) error {
					looked <- time.Since(began)
					return nil
				})
			})
		}
		apart(t, agents, 500*time.Millisecond, func() time.Duration { return <-looked })
		cancel()
		running.Wait()
	})
}

// TestListsOfAFleetComeApart: the more there is to be listed after an outage, the more the lists come
// apart, and that has a bound (F12).
func TestListsOfAFleetComeApart(t *testing.T) {
	for keys, want := range map[int]time.Duration{0: 2 * time.Millisecond, 1000: 2002 * time.Millisecond, 1_000_000: 5 * time.Minute} {
		apart(t, 1000, want, func() time.Duration { return spread(keys) })
	}
}

// apart checks that so many draws are spread over that time.
func apart(t *testing.T, draws int, over time.Duration, draw func() time.Duration) {
	t.Helper()
	var quarters [4]int
	for range draws {
		d := draw()
		if d < 0 || d >= over {
			t.Fatalf("got %v, want less than %v", d, over)
		}
		quarters[4*d/over]++
	}
	for n, count := range quarters {
		if count < draws/8 {
			t.Errorf("%d of %d come in quarter %d of %v", count, draws, n, over)
		}
	}
}
