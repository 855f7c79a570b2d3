package histories

import (
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/internal/fakeengine"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// BenchmarkStartToKey is the time from the engine's event of a start, of a container that listens, to
// its key in etcd, as a watcher sees it; beside a bare put of as much, seen the same way.
func BenchmarkStartToKey(b *testing.B) {
	s, e := newEtcd(b), fakeengine.New(b)
	runAgent(b, e, s.registry("/key"))
	s.untilRegistered(b, "/key", 0)
	all := crowd(b, 2000)
	b.Run("start", func(b *testing.B) {
		seen := s.Watch(b.Context(), service.InstancesKey("/key", node), clientv3.WithPrefix())
		for b.Loop() {
			e.Start(all[0])
			<-seen
			b.StopTimer()
			all = all[1:]
			<-time.After(20 * time.Millisecond) // each is a lone one
			b.StartTimer()
		}
	})
	b.Run("bare put", func(b *testing.B) {
		seen := s.Watch(b.Context(), "/bare", clientv3.WithPrefix())
		value := string(make([]byte, 300))
		for b.Loop() {
			if _, err := s.Put(b.Context(), "/bare", value); err != nil {
				b.Fatal(err)
			}
			<-seen
			b.StopTimer()
			<-time.After(20 * time.Millisecond)
			b.StartTimer()
		}
	})
}
