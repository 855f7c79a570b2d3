package registrytest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sidekick-proxy/sidekick/pkg/catalog"
	"github.com/sidekick-proxy/sidekick/pkg/register"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// Store is a real registry of the kind to be tested, empty at first, and of use to one test only.
type Store struct {
	// Registry returns what opens sessions for that node. The leases should be of a few seconds.
	Registry func(n service.Node) register.Registry
	// Parting is like Registry, but what is registered stays for a long time after Close.
	Parting func(n service.Node) register.Registry
	// Commands says that these are sessions of commands, which write ids of their own kind.
	Commands bool
	// Watcher returns what follows the registry.
	Watcher func() catalog.Watcher
	// Writes counts all that was ever written to the registry.
	Writes func(t *testing.T) int64
	// Expire ends the lease that holds the node, as the registry does when it is not renewed.
	Expire func(t *testing.T, node string)
	// Delete deletes what is registered for the node, but not the node, as somebody may by hand.
	Delete func(t *testing.T, node string)
	// Stop makes the registry unreachable, and Start brings it back with its data.
	Stop, Start func(t *testing.T)
	// Save keeps a copy of a stopped registry's data, and Restore takes it back.
	Save, Restore func(t *testing.T)
}

// Node is a node of that name with that agent's identity, for tests.
func Node(name, agent string) service.Node {
	return service.Node{Name: name, Agent: agent, Machine: "machine-of-" + agent, Address: "192.0.2.1", Version: "test"}
}

// Instance is an instance that is like no other of another node and number, for tests.
func Instance(node, name string, n int) service.Instance {
	return service.Instance{
		Node: node, ID: fmt.Sprintf("c%d.%s.80", n, name), Service: name,
		Address: netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), Port: 8080, //nolint:gosec // no test counts so far
		State: service.Ready, Weight: service.DefaultWeight, Mode: service.HTTP, Path: "/",
	}
}

// instance is one of the service web that the store's sessions may write.
func (s *Store) instance(node string, n int) service.Instance {
	i := Instance(node, "web", n)
	if s.Commands {
		i.ID = string(service.FromCommand) + "." + i.ID
	}
	return i
}

// Of is the set of these instances, and of no others.
func Of(instances ...service.Instance) register.Set { return register.Set{Instances: instances} }

// Open opens a session and closes it at the end of the test, unless the test does.
func Open(t *testing.T, r register.Registry) register.Session {
	t.Helper()
	ctx := limited(t)
	s, err := r.Open(ctx)
	if err != nil {
		t.Fatalf("open a session: %v", err)
	}
	once := &closer{Session: s}
	t.Cleanup(func() { _ = once.Close(context.WithoutCancel(ctx)) })
	return once
}

// closer makes a second Close do nothing.
type closer struct {
	register.Session
	closed bool
}

// Close closes the session the first time.
func (c *closer) Close(ctx context.Context) error {
	if c.closed {
		return nil
	}
	c.closed = true
	return c.Session.Close(ctx)
}

// Set makes the session hold these instances.
func Set(t *testing.T, s register.Session, want ...service.Instance) {
	t.Helper()
	if err := s.Set(limited(t), Of(want...)); err != nil {
		t.Fatalf("set %d instances: %v", len(want), err)
	}
}

// Watch runs a Watcher until the end of the test, and returns what it sends.
func Watch(t *testing.T, w catalog.Watcher) *Feed {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	f := &Feed{catalogs: make(chan *service.Catalog)}
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx, f.catalogs) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != context.Canceled { //nolint:errorlint // exactly that
			t.Errorf("Run returned %v, want %v", err, context.Canceled)
		}
	})
	return f
}

// Feed is what a Watcher sends.
type Feed struct {
	catalogs chan *service.Catalog
	last     int64
}

// Next waits for the next catalog. Revisions must never go back but after reset.
func (f *Feed) Next(t *testing.T) *service.Catalog {
	t.Helper()
	select {
	case c := <-f.catalogs:
		if c.Revision < f.last {
			t.Fatalf("got revision %d after %d", c.Revision, f.last)
		}
		f.last = c.Revision
		return c
	case <-time.After(patience):
		t.Fatal("no catalog came")
		return nil
	}
}

// Reset lets the revision go back once.
func (f *Feed) Reset() { f.last = 0 }

// Until reads catalogs until one holds exactly these instances, and returns it.
func (f *Feed) Until(t *testing.T, want ...service.Instance) *service.Catalog {
	t.Helper()
	deadline := time.After(patience)
	var diff string
	for {
		select {
		case c := <-f.catalogs:
			if c.Revision < f.last {
				t.Fatalf("got revision %d after %d", c.Revision, f.last)
			}
			f.last = c.Revision
			if diff = Diff(c, want); diff == "" {
				return c
			}
		case <-deadline:
			t.Fatalf("the wanted catalog did not come; the last one (-got +want):\n%s", diff)
		}
	}
}

// Diff says how the instances of a catalog differ from these; "" if they do not.
func Diff(c *service.Catalog, want []service.Instance) string {
	var got []service.Instance
	for _, s := range c.Services {
		for _, i := range s.Instances {
			instance := *i
			instance.Leased = false // of the registry, not of the instance
			got = append(got, instance)
		}
	}
	order := func(a, b service.Instance) int { return strings.Compare(a.Key(""), b.Key("")) }
	slices.SortFunc(got, order)
	want = slices.SortedFunc(slices.Values(want), order)
	return cmp.Diff(got, want, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}))
}

// limited is a context that ends before the test's patience does.
func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// waitDone waits for the session's end.
func waitDone(t *testing.T, s register.Session) {
	t.Helper()
	select {
	case <-s.Done():
	case <-time.After(patience):
		t.Fatal("the session was not done")
	}
}
