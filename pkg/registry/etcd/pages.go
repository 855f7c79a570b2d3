package etcd

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

type keyValue = *mvccpb.KeyValue

// pages reads all keys that begin with prefix, as they were at one revision, and returns the header
// of the first answer, which names that revision. Pages keep answers far below the size at which
// servers refuse to send them.
func pages(ctx context.Context, c *clientv3.Client, prefix string, size int, each func(keyValue), more ...clientv3.OpOption) (*pb.ResponseHeader, error) {
	var first *pb.ResponseHeader
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	for {
		opts := append([]clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(int64(size))}, more...)
		if first != nil {
			opts = append(opts, clientv3.WithRev(first.GetRevision()))
		}
		resp, err := get(ctx, c, from, opts)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", prefix, err)
		}
		if first == nil {
			first = resp.Header
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

func get(ctx context.Context, c *clientv3.Client, key string, opts []clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, opLimit)
	defer cancel()
	resp, err := c.Get(ctx, key, opts...)
	if err != nil {
		return nil, explained(c, err)
	}
	return resp, nil
}
