package histories

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/sidekick-proxy/sidekick/pkg/register"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// memory is a registry in memory, whose writes can fail and whose leases can be lost.
type memory struct {
	mu       sync.Mutex
	keys     map[string]service.Instance
	failures int           // writes that are still to fail
	lease    chan struct{} // of the last session
}

var errNoLeader = errors.New("no leader")

// Open implements register.Registry. What is registered stays, as when the agent is the same.
func (m *memory) Open(context.Context) (register.Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lease = make(chan struct{})
	return &memorySession{m, m.lease}, nil
}

func (m *memory) fail(writes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failures = writes
}

// expire takes the lease away, with all that is under it.
func (m *memory) expire() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lease == nil {
		return
	}
	m.keys = nil
	select {
	case <-m.lease:
	default:
		close(m.lease)
	}
}

func (m *memory) all(context.Context) ([]service.Instance, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.keys)), nil
}

type memorySession struct {
	*memory
	lost chan struct{}
}

// Set implements register.Session.
func (s *memorySession) Set(_ context.Context, want register.Set) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.lost:
		return errors.New("the lease is lost")
	default:
	}
	if s.failures > 0 {
		s.failures--
		return errNoLeader
	}
	s.keys = make(map[string]service.Instance, len(want.Instances))
	for _, i := range want.Instances {
		s.keys[i.ID] = i
	}
	return nil
}

// Done implements register.Session.
func (s *memorySession) Done() <-chan struct{} { return s.lost }

// Close implements register.Session; all stays under the parting lease.
func (s *memorySession) Close(context.Context) error { return nil }

// watched shows each set to somebody before it is written.
type watched struct {
	register.Registry
	show func(want []service.Instance)
}

// Open implements register.Registry.
func (w watched) Open(ctx context.Context) (register.Session, error) {
	s, err := w.Registry.Open(ctx)
	if err != nil {
		return nil, err
	}
	return watchedSession{s, w.show}, nil
}

type watchedSession struct {
	register.Session
	show func(want []service.Instance)
}

// Set implements register.Session.
func (s watchedSession) Set(ctx context.Context, want register.Set) error {
	s.show(want.Instances)
	return s.Session.Set(ctx, want)
}
