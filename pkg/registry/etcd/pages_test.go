package etcd

import (
	"context"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// reads counts the requests of a client.
type reads struct {
	clientv3.KV
	n int
}

func (r *reads) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	r.n++
	return r.KV.Get(ctx, key, opts...)
}

// F12: for each page etcd counts all keys that are still to come, so that the number of pages must not
// grow with the number of keys.
func TestManyKeysAreFewPages(t *testing.T) {
	c := newServer(t).dial(t)
	kv := &reads{KV: c.KV}
	c.KV = kv
	const size = 10
	have := 0
	for _, step := range []struct{ keys, most int }{
		{0, 1}, {size, 1}, {size + 1, 2}, {10 * size, 10}, {100 * size, 11},
	} {
		for ; have < step.keys; have++ {
			if _, err := kv.Put(limited(t), fmt.Sprintf("%s/%04d", prefix, have), "x"); err != nil {
				t.Fatal(err)
			}
		}
		kv.n = 0
		var got []string
		if _, err := pages(limited(t), c, prefix+"/", size, func(kv keyValue) { got = append(got, string(kv.Key)) }); err != nil {
			t.Fatal(err)
		}
		if kv.n > step.most {
			t.Errorf("%d keys were read by %d requests, want %d at most", step.keys, kv.n, step.most)
		}
		if len(got) != step.keys {
			t.Fatalf("read %d keys, want %d", len(got), step.keys)
		}
		for n, key := range got {
			if want := fmt.Sprintf("%s/%04d", prefix, n); key != want {
				t.Fatalf("key %d is %s, want %s", n, key, want)
			}
		}
	}
}

// F12: a list costs etcd the more, the more keys there are, and so do the agents spread that all list
// after an outage: a thousand of them must not ask for all of 100,000 keys within half a minute.
func TestListsSpreadWithTheKeys(t *testing.T) {
	for _, step := range []struct {
		keys        int
		least, most time.Duration // of what 1,000 agents draw, the longest
	}{
		{0, 0, 2 * time.Millisecond},
		{1_000, time.Second, 3 * time.Second},
		{100_000, 150 * time.Second, 201 * time.Second},
		{10_000_000, 4 * time.Minute, 5 * time.Minute},
	} {
		longest := time.Duration(0)
		for range 1000 {
			longest = max(longest, spread(step.keys))
		}
		if longest < step.least || longest > step.most {
			t.Errorf("with %d keys the last of 1,000 agents lists after %v, want between %v and %v", step.keys, longest, step.least, step.most)
		}
	}
}
