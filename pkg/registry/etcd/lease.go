package etcd

import (
	"context"
	"errors"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
)

// granted takes a lease. Servers may grant more time than was asked for.
func granted(ctx context.Context, c *clientv3.Client, ttl time.Duration) (*clientv3.LeaseGrantResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, opLimit)
	defer cancel()
	resp, err := c.Grant(ctx, max(1, int64(math.Ceil(ttl.Seconds()))))
	if err != nil {
		return nil, explained(c, err)
	}
	return resp, nil
}

// revoked ends a lease, which need not be there any more, and all keys under it.
func revoked(ctx context.Context, c *clientv3.Client, lease clientv3.LeaseID) error {
	ctx, cancel := context.WithTimeout(ctx, opLimit)
	defer cancel()
	if _, err := c.Revoke(ctx, lease); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return explained(c, err)
	}
	return nil
}

// renewed renews a lease, and returns the answer.
func renewed(ctx context.Context, c *clientv3.Client, lease clientv3.LeaseID) (*pb.LeaseKeepAliveResponse, error) {
	resp, err := askRenewal(ctx, c, lease)
	if e := rpctypes.Error(err); errors.Is(e, rpctypes.ErrInvalidAuthToken) || errors.Is(e, rpctypes.ErrUserEmpty) || errors.Is(e, rpctypes.ErrAuthOldRevision) {
		resp, err = askRenewal(ctx, c, lease) // a token that ran out is no failure: the next stream has a new one
	}
	return resp, err
}

func askRenewal(ctx context.Context, c *clientv3.Client, lease clientv3.LeaseID) (*pb.LeaseKeepAliveResponse, error) {
	stream, err := pb.NewLeaseClient(c.ActiveConnection()).LeaseKeepAlive(ctx, grpc.WaitForReady(true))
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(lease)}); err != nil {
		return nil, err
	}
	resp, err := stream.Recv()
	if at, ok := peer.FromContext(stream.Context()); ok { //nolint:contextcheck // the stream's says where it goes
		if l := connectionOf(c); l != nil {
			l.transport.took(at, time.Since(began), err)
		}
	}
	return resp, err
}
