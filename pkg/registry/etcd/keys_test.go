package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// keysRun is a Keys that runs, and what it has sent and reported.
type keysRun struct {
	out     chan map[string]string
	reports chan error
	last    map[string]string
}

func runKeys(t *testing.T, c *clientv3.Client, roots ...string) *keysRun {
	t.Helper()
	r := &keysRun{out: make(chan map[string]string), reports: make(chan error)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	k := &Keys{Client: c, Page: 3, Progress: 300 * time.Millisecond}
	go func() {
		done <- k.Run(ctx, roots, r.out, func(err error) {
			select {
			case r.reports <- err:
			default: // nobody waits for one
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
	return r
}

// until waits for these keys.
func (r *keysRun) until(t *testing.T, want map[string]string) {
	t.Helper()
	ctx := limited(t)
	for {
		select {
		case r.last = <-r.out:
			if cmp.Equal(r.last, want) {
				return
			}
		case <-ctx.Done():
			t.Fatalf("not sent in time; last (-got +want):\n%s", cmp.Diff(r.last, want))
		}
	}
}

// reported waits for a report that is a failure, or for one that is none.
func (r *keysRun) reported(t *testing.T, failure bool) {
	t.Helper()
	ctx := limited(t)
	for {
		select {
		case err := <-r.reports:
			if (err != nil) == failure {
				return
			}
		case got := <-r.out:
			t.Fatalf("sent %v while waiting for a report", got)
		case <-ctx.Done():
			t.Fatalf("no report with failure = %v", failure)
		}
	}
}

func putAll(t *testing.T, c *clientv3.Client, pairs map[string]string) {
	t.Helper()
	for key, value := range pairs {
		if _, err := c.Put(limited(t), key, value); err != nil {
			t.Fatal(err)
		}
	}
}

func removeKey(t *testing.T, c *clientv3.Client, key string, opts ...clientv3.OpOption) {
	t.Helper()
	if _, err := c.Delete(limited(t), key, opts...); err != nil {
		t.Fatal(err)
	}
}

// The set is complete from the first on, holds what is a root or below one and nothing beside it, and
// follows each change.
func TestKeysBelowRoots(t *testing.T) {
	s := newServer(t)
	admin := s.dial(t)
	putAll(t, admin, map[string]string{
		"/app": "itself", "/app/a": "1", "/app/b/c": "2", "/app-x": "beside", "/app.d": "beside", "/apple": "beside",
		"/db/host": "h", "/db/hosts": "beside", "other": "beside",
	})
	for n := range 8 { // more than a page
		putAll(t, admin, map[string]string{fmt.Sprintf("/app/n/%d", n): "x"})
	}
	r := runKeys(t, s.dial(t), "/app", "/db/host")
	want := map[string]string{"/app": "itself", "/app/a": "1", "/app/b/c": "2", "/db/host": "h"}
	for n := range 8 {
		want[fmt.Sprintf("/app/n/%d", n)] = "x"
	}
	if first := <-r.out; !cmp.Equal(first, want) {
		t.Fatalf("first set (-got +want):\n%s", cmp.Diff(first, want))
	}
	putAll(t, admin, map[string]string{"/apple": "2", "/db/hosts": "2"}) // concerns nobody
	removeKey(t, admin, "/app/n/", clientv3.WithPrefix())
	putAll(t, admin, map[string]string{"/app/a": "new"})
	r.until(t, map[string]string{"/app": "itself", "/app/a": "new", "/app/b/c": "2", "/db/host": "h"})
	removeKey(t, admin, "/db/host")
	r.until(t, map[string]string{"/app": "itself", "/app/a": "new", "/app/b/c": "2"})
}

// No keys is an answer as well: the empty set.
func TestKeysOfAnEmptyRoot(t *testing.T) {
	s := newServer(t)
	r := runKeys(t, s.dial(t), "/")
	r.until(t, map[string]string{})
	putAll(t, s.dial(t), map[string]string{"/x": "1"})
	r.until(t, map[string]string{"/x": "1"})
}

// F4: an outage changes nothing and is reported; afterwards everything is as the registry says, also if
// that was emptied, or written to while the watch could not see it and compacted.
func TestKeysOutliveOutages(t *testing.T) {
	s := newServer(t)
	putAll(t, s.dial(t), map[string]string{"/app/a": "1", "/app/b": "1"})
	r := runKeys(t, s.dial(t), "/app")
	r.until(t, map[string]string{"/app/a": "1", "/app/b": "1"})

	s.stop(t)
	r.reported(t, true)
	s.start(t)
	admin := s.dial(t)
	removeKey(t, admin, "/app/b")
	putAll(t, admin, map[string]string{"/app/a": "2"})
	if _, err := admin.Compact(limited(t), revision(t, admin)); err != nil {
		t.Fatal(err)
	}
	r.until(t, map[string]string{"/app/a": "2"})

	s.stop(t)
	s.wipe(t)
	s.start(t)
	r.until(t, map[string]string{})
	putAll(t, s.dial(t), map[string]string{"/app/c": "3"})
	r.until(t, map[string]string{"/app/c": "3"})
}

// A watch that hears nothing of its own keys in a registry that others write to is not taken for
// silent, and says that all is well.
func TestKeysAmongOthersWrites(t *testing.T) {
	s := newServer(t)
	admin := s.dial(t)
	r := runKeys(t, s.dial(t), "/app", "/db")
	r.until(t, map[string]string{})
	for range 4 { // a probe each; three failures would be needed to see a relist
		putAll(t, admin, map[string]string{"/other": "x"})
		r.reported(t, false)
	}
	putAll(t, admin, map[string]string{"/db/x": "1"})
	r.until(t, map[string]string{"/db/x": "1"})
}

// F4: what was written while the watch was cut off, and compacted before it came back, is there all the same.
func TestKeysOfACompactedRegistry(t *testing.T) {
	srv := newServer(t)
	admin := srv.dial(t)
	l := newLink(t, srv)
	putAll(t, admin, map[string]string{"/app/a": "1", "/app/b": "1"})
	r := runKeys(t, l.dial(t), "/app")
	r.until(t, map[string]string{"/app/a": "1", "/app/b": "1"})
	l.cut()
	removeKey(t, admin, "/app/a")
	putAll(t, admin, map[string]string{"/app/b": "2"})
	if _, err := admin.Compact(limited(t), revision(t, admin)); err != nil {
		t.Fatal(err)
	}
	putAll(t, admin, map[string]string{"/app/c": "3"})
	l.mend(t)
	r.until(t, map[string]string{"/app/b": "2", "/app/c": "3"})
}

// F4: a watch that shows nothing any more, though it stands, is given up and another one started.
func TestKeysBySilentWatch(t *testing.T) {
	srv := newServer(t)
	admin := srv.dial(t)
	var on atomic.Bool
	mute := func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		s, err := open(ctx, desc, cc, method, opts...)
		return muted{s, &on}, err
	}
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"unix://" + srv.dir + "/etcd.sock"}, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithChainStreamInterceptor(mute)},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	r := runKeys(t, c, "/app")
	r.until(t, map[string]string{})
	on.Store(true)
	putAll(t, admin, map[string]string{"/app/a": "1"})
	r.reported(t, true)
	on.Store(false)
	r.until(t, map[string]string{"/app/a": "1"})
}
