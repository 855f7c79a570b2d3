package etcd

import (
	"context"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

type keyValue = *mvccpb.KeyValue

// pages reads all keys that begin with prefix, as they were at one revision, and returns the header
// of the first answer, which names that revision. Pages keep answers far below the size at which
// servers refuse to send them. They grow with the number of keys: for each page etcd counts all keys
// from there to the end, which for many small pages is more work than the reading.
func pages(ctx context.Context, c *clientv3.Client, prefix string, size int, each func(keyValue), more ...clientv3.OpOption) (*pb.ResponseHeader, error) {
	var first *pb.ResponseHeader
	from, end, limit := prefix, clientv3.GetPrefixRangeEnd(prefix), int64(size)
	for {
		opts := append([]clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(limit)}, more...)
		if first != nil {
			opts = append(opts, clientv3.WithRev(first.GetRevision()))
		}
		resp, err := getWithin(ctx, opLimit*time.Duration(limit)/time.Duration(size), c, from, opts)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", prefix, err)
		}
		if first == nil {
			first, limit = resp.Header, pageOf(size, resp.Count)
		}
		for _, kv := range resp.Kvs {
			each(kv)
		}
		if !resp.More || len(resp.Kvs) == 0 {
			return first, nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// pageOf is how many keys to read at once where there are so many: a tenth of them, but not less than
// size, nor more than ten times that.
func pageOf(size int, keys int64) int64 {
	return max(int64(size), min(keys/10, 10*int64(size)))
}

func get(ctx context.Context, c *clientv3.Client, key string, opts []clientv3.OpOption) (*clientv3.GetResponse, error) {
	return getWithin(ctx, opLimit, c, key, opts)
}

func getWithin(ctx context.Context, limit time.Duration, c *clientv3.Client, key string, opts []clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	resp, err := c.Get(ctx, key, opts...)
	if err != nil {
		return nil, explained(c, err)
	}
	return resp, nil
}
