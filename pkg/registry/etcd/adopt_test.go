package etcd

import (
	"errors"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/register"
	"github.com/sidekick-proxy/sidekick/pkg/registry/registrytest"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// F12: after an outage longer than its lease's time, which etcd then gives the lease once more, an agent
// claims its node again, by one write, and writes none of its instances anew: every agent would be sent
// those of all the others.
func TestLostSessionTakesItsLeaseUpAgain(t *testing.T) {
	srv := newServer(t)
	r := newRegistry(srv.dial(t), registrytest.Node("a", "agent-a"))
	renewals := make(chan bool, 100)
	r.TTL = time.Second
	r.Report = func(err error) {
		if err == nil {
			renewals <- true
		}
	}
	admin := srv.dial(t)
	set := register.Set{Instances: []service.Instance{registrytest.Instance("a", "web", 1), registrytest.Instance("a", "web", 2)}}
	first := outlived(t, srv, r, set)
	before, was := revision(t, admin), written(t, admin)

	second, err := r.Open(limited(t))
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close(limited(t))
	if err := second.Set(limited(t), set); err != nil {
		t.Fatal(err)
	}
	if now := revision(t, admin); now != before+1 {
		t.Errorf("coming back took %d writes, want 1, the claim", now-before)
	}
	now := written(t, admin)
	if len(now) != 2 || len(was) != 2 {
		t.Fatalf("%d instances before and %d after, want 2", len(was), len(now))
	}
	for n := range now {
		if now[n].ModRevision != was[n].ModRevision || now[n].Lease != was[n].Lease {
			t.Errorf("%s was written anew", now[n].Key)
		}
	}
	if err := first.Set(limited(t), register.Set{}); err == nil {
		t.Error("the first session can still write")
	}
	for len(renewals) > 0 {
		<-renewals
	}
	select {
	case <-renewals:
	case <-limited(t).Done():
		t.Error("the lease is not renewed")
	}
}

// A lease that is gone is not taken up, and everything is written again.
func TestLostLeaseIsNotTakenUp(t *testing.T) {
	srv := newServer(t)
	r := newRegistry(srv.dial(t), registrytest.Node("a", "agent-a"))
	r.TTL = time.Second
	admin := srv.dial(t)
	set := register.Set{Instances: []service.Instance{registrytest.Instance("a", "web", 1)}}
	outlived(t, srv, r, set)
	was := written(t, admin)
	if len(was) != 1 {
		t.Fatalf("%d instances, want 1", len(was))
	}
	if _, err := admin.Revoke(limited(t), clientv3.LeaseID(was[0].Lease)); err != nil {
		t.Fatal(err)
	}
	again, err := r.Open(limited(t))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close(limited(t))
	if err := again.Set(limited(t), set); err != nil {
		t.Fatal(err)
	}
	if now := written(t, admin); len(now) != 1 || now[0].Lease == was[0].Lease {
		t.Errorf("got %v, want the instance under another lease", now)
	}
}

// outlived is a session that is over because the server was away for longer than its lease's time. The
// server is back, and has the lease.
func outlived(t *testing.T, srv *server, r *Registry, set register.Set) register.Session {
	t.Helper()
	s, err := r.Open(limited(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Set(limited(t), set); err != nil {
		t.Fatal(err)
	}
	srv.stop(t)
	select {
	case <-s.Done():
	case <-limited(t).Done():
		t.Fatal("the session outlives its lease")
	}
	why := s.(interface{ Err() error }).Err()
	var p *Problem
	if !errors.Is(why, ErrLeaseLost) || !errors.As(why, &p) || p.Is != Unreachable {
		t.Errorf("the session is done because %v, want that its lease is lost as the registry is out of reach", why)
	}
	if err := s.Close(limited(t)); err != nil {
		t.Fatal(err)
	}
	srv.start(t)
	return s
}

func written(t *testing.T, c *clientv3.Client) []keyValue {
	t.Helper()
	resp, err := c.Get(limited(t), service.InstancesKey(prefix, "a"), clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	return resp.Kvs
}
