package etcd

import (
	"context"
	"fmt"
	"testing"

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
