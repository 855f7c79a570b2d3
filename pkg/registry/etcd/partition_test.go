package etcd

import (
	"sync/atomic"
	"testing"

	"github.com/sidekick-proxy/sidekick/pkg/registry/registrytest"
)

// TestPartitionedMemberIsNotBelieved: a member that the others do not reach has a watch on which nothing
// comes. That is told as a failure, and what was known stays; a client that knows other members goes on
// there; when the member is back, so is all (F4, P3).
func TestPartitionedMemberIsNotBelieved(t *testing.T) {
	t.Parallel() // it waits most of the time
	all := newCluster(t, 3, nil)
	partition := func(on bool) {
		lonely := all[0].running.Server
		for _, m := range all[1:] {
			other := m.running.Server
			if on {
				lonely.CutPeer(other.MemberID())
				other.CutPeer(lonely.MemberID())
			} else {
				lonely.MendPeer(other.MemberID())
				other.MendPeer(lonely.MemberID())
			}
		}
	}
	admin := dialed(t, Config{Endpoints: endpointsOf(all[1:]...)})
	put(t, admin, web(1))
	var fails atomic.Bool
	alone := newWatcher(dialed(t, Config{Endpoints: endpointsOf(all[0])}))
	alone.Report = func(err error) { fails.Store(err != nil) }
	between := newWatcher(dialed(t, Config{Endpoints: endpointsOf(all...)}))
	feedAlone, feedBetween := registrytest.Watch(t, alone), registrytest.Watch(t, between)
	feedAlone.Until(t, web(1))
	feedBetween.Until(t, web(1))
	partition(true)
	t.Cleanup(func() { partition(false) })
	if !becomes(fails.Load) {
		t.Fatal("the watcher of the lonely member does not say that it fails")
	}
	put(t, admin, web(2))
	feedBetween.Until(t, web(1), web(2))
	partition(false)
	feedAlone.Until(t, web(1), web(2))
}
