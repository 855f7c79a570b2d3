package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/sidekick-proxy/sidekick/pkg/register"
	"github.com/sidekick-proxy/sidekick/pkg/registry/registrytest"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// told is what a stage last reported.
type told struct {
	mu   sync.Mutex
	last error
	any  bool
}

func (r *told) report(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last, r.any = err, true
}

// is finds a fault unless the stage fails for that cause, with a sentence that says all this; "" means
// that it works.
func (r *told) is(cause Cause, says ...string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var p *Problem
	switch known := errors.As(r.last, &p); {
	case !r.any:
		return errors.New("nothing was reported")
	case cause == "" && r.last != nil, cause != "" && (!known || p.Is != cause):
		return fmt.Errorf("got %w, want the cause %q", r.last, cause)
	}
	for _, text := range says {
		if !strings.Contains(r.last.Error(), text) {
			return fmt.Errorf("got %w, want it to say %q", r.last, text)
		}
	}
	return nil
}

// agent is the two ends of an agent that use a registry, as they run in one.
type agent struct {
	register, watch told
	sets            chan register.Set
	feed            *registrytest.Feed
	log             *logtest.Hook
}

func newAgent(t *testing.T, c *clientv3.Client) *agent {
	t.Helper()
	log, hook := logtest.NewNullLogger()
	a := &agent{sets: make(chan register.Set), log: hook}
	r := newRegistry(c, registrytest.Node("a", "agent-a"))
	r.Report, r.TTL, r.Log = a.register.report, time.Minute, log
	ctx, cancel := context.WithCancel(t.Context())
	p := &register.Publisher{Registry: r, Log: log, Report: a.register.report}
	var running sync.WaitGroup
	running.Go(func() { _ = p.Run(ctx, a.sets) })
	t.Cleanup(func() { cancel(); running.Wait() })
	w := newWatcher(c)
	w.Report, w.Log = a.watch.report, log
	a.feed = registrytest.Watch(t, w)
	return a
}

func (a *agent) set(t *testing.T, instances ...service.Instance) {
	t.Helper()
	select {
	case a.sets <- registrytest.Of(instances...):
	case <-time.After(patience):
		t.Fatal("no set is taken")
	}
}

// fails waits until both ends say the cause.
func (a *agent) fails(t *testing.T, cause Cause, says ...string) {
	t.Helper()
	eventually(t, "register fails: "+string(cause), func() error { return a.register.is(cause, says...) })
	eventually(t, "watch fails: "+string(cause), func() error { return a.watch.is(cause, says...) })
}

// works waits until the registry holds exactly these instances, and both ends say that all is well.
func (a *agent) works(t *testing.T, instances ...service.Instance) {
	t.Helper()
	a.set(t, instances...)
	a.feed.Until(t, instances...)
	eventually(t, "register works", func() error { return a.register.is("") })
	eventually(t, "watch works", func() error { return a.watch.is("") })
}

// warned counts the warnings that carry a cause.
func (a *agent) warned(cause Cause) (n int) {
	for _, e := range a.log.AllEntries() {
		if e.Level == logrus.WarnLevel && fmt.Sprint(e.Data["cause"]) == string(cause) {
			n++
		}
	}
	return n
}

// TestLostQuorum: with two of three members gone the third says so, and all goes on when they are back.
func TestLostQuorum(t *testing.T) {
	t.Parallel()
	members := newCluster(t, 3, nil)
	c := dialed(t, Config{Endpoints: endpointsOf(members...)})
	a := newAgent(t, c)
	web1, web2 := registrytest.Instance("a", "web", 1), registrytest.Instance("a", "web", 2)
	a.works(t, web1)
	members[1].stop(t)
	members[2].stop(t)
	a.set(t, web1, web2)
	a.fails(t, NoQuorum, "etcd has no leader", "more than half")
	told := a.warned(NoQuorum) // by both; by the watch once more if it went on with two members for a moment
	for range 3 {              // attempts go by
		a.register.report(nil)
		eventually(t, "register fails again", func() error { return a.register.is(NoQuorum) })
	}
	if n := a.warned(NoQuorum); n != told || n > 3 {
		t.Errorf("got %d warnings of two stages, and %d before the last attempts", n, told)
	}
	members[1].start(t)
	members[1].ready(t)
	members[1].way.mend(t)
	a.feed.Until(t, web1, web2)
	a.works(t, web1)
}

// TestFullRegistry: a registry that takes no writes is shown although leases are renewed, what is gone
// leaves nevertheless, and all goes on when there is space. A registry that is full from the start is
// said to be.
func TestFullRegistry(t *testing.T) {
	t.Parallel()
	members := newCluster(t, 1, func(c *embed.Config) { c.QuotaBackendBytes = 1 << 20 })
	c := dialed(t, Config{Endpoints: endpointsOf(members...)})
	a := newAgent(t, c)
	web1, web2, web3 := registrytest.Instance("a", "web", 1), registrytest.Instance("a", "web", 2), registrytest.Instance("a", "web", 3)
	a.works(t, web1, web2)
	eventually(t, "the registry is full", func() error {
		if _, err := c.Put(limited(t), "/elsewhere", strings.Repeat("x", 100_000)); err == nil {
			return errors.New("it takes a write")
		}
		return nil
	})
	a.set(t, web1) // a deletion alone goes through
	a.feed.Until(t, web1)
	a.set(t, web2, web3)
	mend := []string{"compact", "defragment", "alarm disarm", "deploy/etcd.md"}
	eventually(t, "register fails", func() error { return a.register.is(NoSpace, mend...) })
	a.feed.Until(t) // what is gone has gone
	if err := a.watch.is(""); err != nil {
		t.Errorf("watch: %v", err)
	}
	late := newRegistry(c, registrytest.Node("b", "agent-b"))
	if _, err := late.Open(limited(t)); explainedAs(err) != NoSpace {
		t.Errorf("Open: got %v, want the cause %s", err, NoSpace)
	}
	mended(t, c, members[0].direct())
	a.feed.Until(t, web2, web3)
	eventually(t, "register works", func() error { return a.register.is("") })
	if n := a.warned(NoSpace); n != 1 {
		t.Errorf("got %d warnings, want one", n)
	}
}

func explainedAs(err error) Cause {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p.Is
	}
	return ""
}

// mended makes space as the section "When etcd is full" says.
func mended(t *testing.T, c *clientv3.Client, endpoint string) {
	t.Helper()
	_, err1 := c.Compact(limited(t), revision(t, c))
	_, err2 := c.Defragment(limited(t), endpoint)
	_, err3 := c.AlarmDisarm(limited(t), &clientv3.AlarmMember{})
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
}

// guarded is a member that wants a user, and what makes clients of users.
func guarded(t *testing.T) (*member, func(user, password string) *clientv3.Client) {
	t.Helper()
	m := newCluster(t, 1, nil)[0]
	protect(t, dialed(t, Config{Endpoints: endpointsOf(m)}))
	return m, func(user, password string) *clientv3.Client {
		return dialed(t, Config{Endpoints: endpointsOf(m), Username: user, Files: Files{Password: secretFile(t, password)}})
	}
}

// TestWrongPasswordIsMended: a password file that is corrected is enough (P3).
func TestWrongPasswordIsMended(t *testing.T) {
	t.Parallel()
	m, as := guarded(t)
	file := secretFile(t, "wrong")
	a := newAgent(t, dialed(t, Config{Endpoints: endpointsOf(m), Username: "agent", Files: Files{Password: file}}))
	a.fails(t, Credentials, "--registry-password-file")
	if err := a.register.is(Credentials); err != nil {
		t.Error(err)
	}
	replace(t, file, nil)
	a.fails(t, Credentials, file+" is empty")
	replace(t, file, []byte("word\n"))
	a.works(t, registrytest.Instance("a", "web", 1))

	root := as("root", "secret")
	replace(t, file, []byte("other\n")) // first the file, then etcd: nothing is refused in between
	if _, err := root.UserChangePassword(limited(t), "agent", "other"); err != nil {
		t.Fatal(err)
	}
	a.works(t, registrytest.Instance("a", "web", 2))
	if n := a.warned(Credentials); n != 2 {
		t.Errorf("got %d warnings of two stages, want one of each", n)
	}
}

// TestMissingRight: rights that are missing are said to be, and granting them is enough.
func TestMissingRight(t *testing.T) {
	t.Parallel()
	m, as := guarded(t)
	c, root := as("agent", "word"), as("root", "secret")
	end := clientv3.GetPrefixRangeEnd(prefix)
	if _, err := root.RoleRevokePermission(limited(t), "agent", prefix, end); err != nil {
		t.Fatal(err)
	}
	a := newAgent(t, c)
	a.fails(t, Denied, "grant this host's user the right")
	if _, err := root.RoleGrantPermission(limited(t), "agent", prefix, end, clientv3.PermissionType(clientv3.PermReadWrite)); err != nil {
		t.Fatal(err)
	}
	a.works(t, registrytest.Instance("a", "web", 1))
	anonymous := newAgent(t, dialed(t, Config{Endpoints: endpointsOf(m)}))
	anonymous.fails(t, Credentials, "etcd wants to know who asks")
}

// TestOverridesAreAnOperators: a host's user that may read and not write overrides is told whose right that is.
func TestOverridesAreAnOperators(t *testing.T) {
	t.Parallel()
	_, as := guarded(t)
	root := as("root", "secret")
	end := clientv3.GetPrefixRangeEnd(prefix)
	if _, err := root.RoleGrantPermission(limited(t), "agent", prefix, end, clientv3.PermissionType(clientv3.PermRead)); err != nil {
		t.Fatal(err)
	}
	board := &Board{Client: as("agent", "word"), Prefix: prefix}
	target := service.Target{Service: "web"}
	_, _, err := board.Change(limited(t), target, func(*service.Override) (*service.Override, error) {
		return &service.Override{Target: target, State: service.Drain}, nil
	})
	var p *Problem
	if !errors.As(err, &p) || p.Is != Denied || !strings.Contains(err.Error(), "an operator's settings") || strings.Contains(err.Error(), "grant this host's user") {
		t.Errorf("got %v, want %s and that an operator may", err, Denied)
	}
}

// TestUnreachable: nobody answers, then somebody does.
func TestUnreachable(t *testing.T) {
	srv := newServer(t)
	l := newLink(t, srv)
	l.cut()
	a := newAgent(t, l.dial(t))
	a.fails(t, Unreachable, "is etcd up there", l.path)
	l.mend(t)
	a.works(t, registrytest.Instance("a", "web", 1))
}

func TestCauseOf(t *testing.T) {
	for text, want := range map[string]Cause{
		"dial unix /x: connect: permission denied":                                       Unreachable,
		"etcdserver: too many requests":                                                  Overloaded,
		"user u: rpc error: code = Unavailable desc = etcdserver: no leader":             NoQuorum,
		"error reading server preface: remote error: tls: certificate required":          ClientCertificate,
		"error reading server preface: remote error: tls: unknown certificate authority": ClientCertificate,
		"tls: failed to verify certificate: x509: certificate has expired":               Certificate,
		"etcdserver: mvcc: database space exceeded":                                      NoSpace,
	} {
		if got := causeOf(text, Unreachable); got != want {
			t.Errorf("causeOf(%q) = %s, want %s", text, got, want)
		}
		if !slices.Contains(Causes(), string(want)) {
			t.Errorf("Causes() lacks %s", want)
		}
	}
}
