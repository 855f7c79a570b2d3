package etcd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/sidekick-proxy/sidekick/pkg/registry/registrytest"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

func put(tb testing.TB, c *clientv3.Client, i service.Instance) {
	tb.Helper()
	v, err := i.Encode()
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := c.Put(limited(tb), i.Key(prefix), string(v)); err != nil {
		tb.Fatal(err)
	}
}

func remove(tb testing.TB, c *clientv3.Client, i service.Instance) {
	tb.Helper()
	if _, err := c.Delete(limited(tb), i.Key(prefix)); err != nil {
		tb.Fatal(err)
	}
}

func web(n int) service.Instance { return registrytest.Instance("a", "web", n) }

func TestCompactionUnderAWatcher(t *testing.T) { // F4
	srv := newServer(t)
	admin := srv.dial(t)
	l := newLink(t, srv)
	kept := registrytest.Instance("a", "kept", 0)
	put(t, admin, kept)
	put(t, admin, web(1))
	feed := registrytest.Watch(t, newWatcher(l.dial(t)))
	before := feed.Until(t, kept, web(1))
	l.cut() // what follows is compacted before the watch can have it
	put(t, admin, web(2))
	remove(t, admin, web(1))
	if _, err := admin.Compact(limited(t), revision(t, admin)); err != nil {
		t.Fatal(err)
	}
	put(t, admin, web(3))
	l.mend(t)
	after := feed.Until(t, kept, web(2), web(3))
	if before.Service("kept") != after.Service("kept") {
		t.Error("a service that did not change is another value after the list")
	}
}

func TestRestoredRegistryIsAccepted(t *testing.T) { // F4, P3: a lower revision
	srv := newServer(t)
	admin := srv.dial(t)
	put(t, admin, web(1))
	srv.stop(t)
	saved := srv.dir + "/saved"
	if err := exec.Command("cp", "-a", srv.dir+"/etcd/data", saved).Run(); err != nil {
		t.Fatal(err)
	}
	srv.start(t)
	for n := range 20 {
		put(t, admin, web(2+n%2))
	}
	remove(t, admin, web(3))
	feed := registrytest.Watch(t, newWatcher(srv.dial(t)))
	feed.Until(t, web(1), web(2))
	srv.stop(t)
	srv.wipe(t)
	if err := os.Rename(saved, srv.dir+"/etcd/data"); err != nil {
		t.Fatal(err)
	}
	srv.start(t)
	feed.Reset()
	feed.Until(t, web(1))
	put(t, admin, web(4))
	feed.Until(t, web(1), web(4))
}

func TestReplacedRegistryWithHigherRevisionIsFoundOut(t *testing.T) { // F4, F5
	srv := newServer(t)
	admin := srv.dial(t)
	l := newLink(t, srv)
	put(t, admin, web(1))
	feed := registrytest.Watch(t, newWatcher(l.dial(t)))
	feed.Until(t, web(1))
	l.cut()
	srv.stop(t)
	srv.wipe(t)
	srv.start(t)
	for range 30 { // by its revision it might be the old one
		put(t, admin, web(2))
	}
	l.mend(t)
	feed.Until(t, web(2))
}

// reports returns a Report function, and what it is told until ctx ends.
func reports(ctx context.Context) (report func(error), told <-chan error) {
	c := make(chan error)
	return func(err error) {
		select {
		case c <- err:
		case <-ctx.Done():
		}
	}, c
}

// until reads reports until one is as wanted.
func until(t *testing.T, told <-chan error, want func(error) bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case err := <-told:
			if want(err) {
				return
			}
		case <-deadline:
			t.Fatal("the wanted report did not come")
		}
	}
}

func TestFrozenConnectionIsNoticed(t *testing.T) { // F4, P3: staleness is shown
	srv := newServer(t)
	admin := srv.dial(t)
	l := newLink(t, srv)
	put(t, admin, web(1))
	w := newWatcher(l.dial(t))
	w.Progress = 100 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	report, told := reports(ctx)
	w.Report = report
	out, done := make(chan *service.Catalog, 100), make(chan error)
	go func() { done <- w.Run(ctx, out) }()
	until(t, told, func(err error) bool { return err == nil })
	l.freeze(true)
	put(t, admin, web(2))
	until(t, told, func(err error) bool { return err != nil })
	l.freeze(false)
	until(t, told, func(err error) bool { return err == nil && len(out) > 0 })
	cancel()
	<-done
	var last *service.Catalog
	for len(out) > 0 {
		last = <-out
	}
	if diff := registrytest.Diff(last, []service.Instance{web(1), web(2)}); diff != "" {
		t.Errorf("afterwards (-got +want):\n%s", diff)
	}
}

// muted drops what comes through the streams of watches.
type muted struct {
	grpc.ClientStream
	on *atomic.Bool
}

func (m muted) RecvMsg(msg any) error {
	for {
		if err := m.ClientStream.RecvMsg(msg); err != nil || !m.on.Load() {
			return err
		}
	}
}

func TestSilentWatchIsReplaced(t *testing.T) { // F4
	srv := newServer(t)
	admin := srv.dial(t)
	var on atomic.Bool
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"unix://" + srv.dir + "/etcd.sock"}, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			s, err := open(ctx, desc, cc, method, opts...)
			return muted{s, &on}, err
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	put(t, admin, web(1))
	w := newWatcher(c)
	w.Progress = 100 * time.Millisecond
	silent := make(chan struct{}, 100)
	w.Report = func(err error) {
		if errors.Is(err, errSilent) {
			silent <- struct{}{}
		}
	}
	feed := registrytest.Watch(t, w)
	feed.Until(t, web(1))
	on.Store(true)
	put(t, admin, web(2))
	<-silent
	on.Store(false)
	feed.Until(t, web(1), web(2))
}

// TestLostChangeIsFoundOut: servers have had faults by which a watch lost a change and went on as if
// nothing was. The number of keys tells (F4).
func TestLostChangeIsFoundOut(t *testing.T) {
	srv := newServer(t)
	admin := srv.dial(t)
	var s streams
	w := newWatcher(s.dial(t, "unix://"+srv.dir+"/etcd.sock"))
	w.Progress, w.Verify = 50*time.Millisecond, 100*time.Millisecond
	put(t, admin, web(1))
	feed := registrytest.Watch(t, w)
	feed.Until(t, web(1))
	s.mode.Store(streamsLose)
	put(t, admin, web(2))
	feed.Until(t, web(1), web(2))
	remove(t, admin, web(1))
	feed.Until(t, web(2))
}

// TestWatchAheadOfItselfIsNotBelieved: before 3.5.8 a server could say that it had shown all up to a
// revision, and show a change from before that afterwards.
func TestWatchAheadOfItselfIsNotBelieved(t *testing.T) {
	one := web(1)
	w, st := newWatcher(nil), &state{builder: service.NewBuilder(prefix), revision: 7, cluster: 1}
	late := clientv3.WatchResponse{
		Header: &pb.ResponseHeader{Revision: 9, ClusterId: 1},
		Events: []*clientv3.Event{{Type: clientv3.EventTypePut, Kv: &mvccpb.KeyValue{Key: []byte(one.Key(prefix)), ModRevision: 7}}},
	}
	if _, err := w.take(st, late, true); !errors.Is(err, errLate) {
		t.Errorf("got %v, want %v", err, errLate)
	}
	if st.revision != 7 || st.builder.Len() != 0 {
		t.Errorf("it was taken in: revision %d, %d keys", st.revision, st.builder.Len())
	}
	late.Events[0].Kv.ModRevision = 8
	if _, err := w.take(st, late, true); err != nil || st.revision != 8 {
		t.Errorf("got %v at revision %d, want the next change taken in", err, st.revision)
	}
}

func TestIdleWatchShowsThatItLives(t *testing.T) {
	srv := newServer(t)
	admin := srv.dial(t)
	w := newWatcher(srv.dial(t))
	w.Progress = 50 * time.Millisecond
	seen := make(chan int64)
	w.seen = func(rev int64) {
		select {
		case seen <- rev:
		case <-t.Context().Done():
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	out, done := make(chan *service.Catalog, 100), make(chan error)
	go func() { done <- w.Run(ctx, out) }()
	first := <-seen
	// A write elsewhere moves the revision, without a change that a catalog would show.
	if _, err := admin.Put(limited(t), "/elsewhere", ""); err != nil {
		t.Fatal(err)
	}
	for rev := range seen {
		if rev > first {
			break
		}
	}
	cancel()
	go func() {
		for range seen { // lets seen go on until Run has returned
		}
	}()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	close(seen)
	if len(out) != 1 {
		t.Errorf("got %d catalogs, want the first only", len(out))
	}
}

func TestRefusedWatchDoesNotHotLoop(t *testing.T) {
	srv := newServer(t)
	admin := srv.dial(t)
	c := password(t, srv)
	w := newWatcher(c)
	w.Prefix = "/not-allowed"
	failed := make(chan error, 1000)
	w.Report = func(err error) { failed <- err }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	start := time.Now()
	go func() { done <- w.Run(ctx, make(chan *service.Catalog)) }()
	var err error
	for range 5 {
		err = <-failed
	}
	if took := time.Since(start); took < 50*time.Millisecond {
		t.Errorf("5 failures within %v, want pauses that grow", took)
	}
	if err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("got %v, want the cause", err)
	}
	cancel()
	<-done
	_ = admin
}

// TestSlowReaderGetsTheNewest: a reader that reads nothing while thousands of changes come holds nothing
// up: all are taken in, so that what is kept grows with the catalog and not with the changes, and the
// next that it gets is the newest.
func TestSlowReaderGetsTheNewest(t *testing.T) {
	srv := newServer(t)
	admin := srv.dial(t)
	w := newWatcher(srv.dial(t))
	var reached atomic.Int64
	w.seen = func(rev int64) { reached.Store(rev) }
	feed := registrytest.Watch(t, w)
	feed.Next(t)
	var last int64
	for n := range 60 {
		var ops []clientv3.Op
		for k := range 100 {
			i := web(k)
			i.Weight = n + k
			v, err := i.Encode()
			if err != nil {
				t.Fatal(err)
			}
			ops = append(ops, clientv3.OpPut(i.Key(prefix), string(v)))
		}
		resp, err := admin.Txn(limited(t)).Then(ops...).Commit()
		if err != nil {
			t.Fatal(err)
		}
		last = resp.Header.Revision
	}
	if !becomes(func() bool { return reached.Load() >= last }) {
		t.Fatalf("the watch is at revision %d and waits for its reader, want %d", reached.Load(), last)
	}
	if c := feed.Next(t); c.Revision != last || len(c.Service("web").Instances) != 100 {
		t.Errorf("got revision %d, want the newest, %d", c.Revision, last)
	}
}

// TestWatcherSaysThatTheRegistryIsBack: what follows an outage is what all agents see at once, so it is
// told before that is sent; the first list of an agent that was just started is none.
func TestWatcherSaysThatTheRegistryIsBack(t *testing.T) { // F12
	srv := newServer(t)
	admin := srv.dial(t)
	l := newLink(t, srv)
	put(t, admin, web(1))
	w := newWatcher(l.dial(t))
	var back atomic.Int64
	w.Back = func() { back.Add(1) }
	feed := registrytest.Watch(t, w)
	feed.Until(t, web(1))
	put(t, admin, web(2))
	feed.Until(t, web(1), web(2))
	if n := back.Load(); n != 0 {
		t.Errorf("told %d times without an outage", n)
	}
	l.cut()
	put(t, admin, web(3))
	l.mend(t)
	feed.Until(t, web(1), web(2), web(3))
	if !becomes(func() bool { return back.Load() > 0 }) {
		t.Error("not told after the connection was lost and came back")
	}
	// An agent that starts while the registry is away finds it back as well.
	l.cut()
	late := newWatcher(l.dial(t))
	var failed atomic.Bool
	late.Report = func(err error) { failed.Store(failed.Load() || err != nil) }
	var found atomic.Int64
	late.Back = func() { found.Add(1) }
	feed = registrytest.Watch(t, late)
	if !becomes(failed.Load) {
		t.Fatal("the watcher does not say that there is no registry")
	}
	l.mend(t)
	feed.Next(t)
	if found.Load() == 0 {
		t.Error("not told before the first catalog after the registry was away")
	}
}

// TestReplacementIsNoFailureToFollow: what comes of it is told by who takes the catalog. A watch that is lost is one.
func TestReplacementIsNoFailureToFollow(t *testing.T) {
	for err, want := range map[error]int{errOlder: 0, errCluster: 0, errSilent: 1} {
		log, hook := logtest.NewNullLogger()
		w, st := &Watcher{Log: log}, &state{revision: 7}
		w.failed(st, fmt.Errorf("watch: %w", err))
		got := len(slices.DeleteFunc(hook.AllEntries(), func(e *logrus.Entry) bool { return e.Level > logrus.WarnLevel }))
		if got != want || !st.failing {
			t.Errorf("%v: %d warnings, want %d; it is to be told when the registry is followed again: %v", err, got, want, st.failing)
		}
	}
}
