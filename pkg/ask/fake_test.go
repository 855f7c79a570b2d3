package ask

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const prefix = "/p"

func quiet() logrus.FieldLogger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// memory is a registry: Registry and catalog.Watcher in one.
type memory struct {
	t *testing.T

	mu       sync.Mutex
	builder  *service.Builder
	revision int64
	changed  chan struct{} // closed by the next change
	failing  bool
	history  []string // what asks and answers were written
	leases   int      // that are open
}

func newMemory(t *testing.T) *memory {
	t.Helper()
	return &memory{t: t, builder: service.NewBuilder(prefix), changed: make(chan struct{})}
}

// put writes a key, and delete takes one away: the value is empty then.
func (m *memory) put(key, value string) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.revision++
	if value == "" {
		m.builder.Delete(key)
	} else {
		m.builder.Put(key, []byte(value))
	}
	close(m.changed)
	m.changed = make(chan struct{})
	return m.revision
}

// node makes an agent one that is there.
func (m *memory) node(name string) {
	m.put(service.NodeKey(prefix, name), `{"agent":"agent-of-`+name+`"}`)
}

// instance registers an instance in a state.
func (m *memory) instance(node, id string, state service.State) {
	m.put(service.InstancesKey(prefix, node)+id, fmt.Sprintf(`{"service":"web","address":"10.0.0.1","port":80,"state":%q}`, state))
}

// Run implements catalog.Watcher.
func (m *memory) Run(ctx context.Context, out chan<- *service.Catalog) error {
	for {
		m.mu.Lock()
		c, changed := m.builder.Catalog(m.revision), m.changed
		m.mu.Unlock()
		select {
		case out <- c:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Open implements Registry.
func (m *memory) Open(context.Context, time.Duration) (Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failing {
		return nil, errors.New("the registry is away")
	}
	m.leases++
	return &memoryLease{m: m, keys: map[string]bool{}}, nil
}

// fail makes all writes fail, or work again.
func (m *memory) fail(failing bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failing = failing
}

// wrote returns what was written since it was last asked.
func (m *memory) wrote() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	wrote := m.history
	m.history = nil
	return wrote
}

func (m *memory) note(what string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failing {
		return errors.New("the registry is away")
	}
	m.history = append(m.history, what)
	return nil
}

// memoryLease implements Lease.
type memoryLease struct {
	m    *memory
	keys map[string]bool
}

func (l *memoryLease) Put(_ context.Context, key string, value []byte) (int64, error) {
	if err := l.m.note("put " + key + " " + string(value)); err != nil {
		return 0, err
	}
	l.keys[key] = true
	return l.m.put(key, string(value)), nil
}

func (l *memoryLease) Delete(_ context.Context, key string) error {
	if err := l.m.note("delete " + key); err != nil {
		return err
	}
	delete(l.keys, key)
	l.m.put(key, "")
	return nil
}

func (l *memoryLease) Close(context.Context) error {
	for key := range l.keys {
		l.m.put(key, "")
	}
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	l.m.leases--
	return nil
}

// proxy is a proxy whose sessions are set by the test.
type proxy struct {
	mu       sync.Mutex
	sessions int
	fault    error
	of       []string // instances that were last asked about
}

func (p *proxy) count(_ context.Context, of []*service.Instance) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.of = nil
	for _, i := range of {
		p.of = append(p.of, i.Node+"/"+i.ID)
	}
	return p.sessions, p.fault
}

func (p *proxy) set(sessions int, fault error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sessions, p.fault = sessions, fault
}

// agent is an Answerer that follows a memory. Snapshots come into force when apply says so.
type agent struct {
	*Answerer
	proxy     *proxy
	undrained []string
	stop      func()
}

// start runs the agent of a node.
func start(t *testing.T, m *memory, node string) *agent {
	t.Helper()
	a := &agent{proxy: &proxy{}}
	a.Answerer = &Answerer{
		Node: node, Agent: "agent-of-" + node, Prefix: prefix, Registry: m, Sessions: a.proxy.count, Log: quiet(),
		Undrain: func(id string) { a.undrained = append(a.undrained, id) },
	}
	ctx, cancel := context.WithCancel(t.Context())
	catalogs, done := make(chan *service.Catalog), make(chan struct{}, 3)
	go func() { m.Run(ctx, catalogs); done <- struct{}{} }()
	go func() { a.Run(ctx); done <- struct{}{} }()
	go func() {
		defer func() { done <- struct{}{} }()
		for {
			select {
			case c := <-catalogs:
				a.See(c, uint64(c.Revision))
			case <-ctx.Done():
				return
			}
		}
	}()
	a.stop = sync.OnceFunc(func() {
		cancel()
		for range 3 {
			<-done
		}
	})
	t.Cleanup(a.stop)
	return a
}

// played runs a test in a bubble with a registry, in which the node a is there with the instance 1, and the
// agent of that node, whose proxy runs whatever comes.
func played(t *testing.T, test func(t *testing.T, m *memory, a *agent)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		m.node("a")
		m.instance("a", "1", service.Ready)
		a := start(t, m, "a")
		a.InForce(1 << 32)
		test(t, m, a)
		a.stop()
	})
}
