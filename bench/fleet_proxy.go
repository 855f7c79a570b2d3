package main

import (
	"context"
	"net"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// fleetProxy is what `etcd grpc-proxy start` is, as far as agents use it.
func fleetProxy(ctx context.Context, listen, endpoint string) error {
	client, err := clientv3.New(clientv3.Config{Context: ctx, Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer client.Close()
	kv, _ := grpcproxy.NewKvProxy(client)
	watch, _ := grpcproxy.NewWatchProxy(ctx, zap.NewNop(), client)
	lease, _ := grpcproxy.NewLeaseProxy(ctx, client)
	server := grpc.NewServer()
	pb.RegisterKVServer(server, kv)
	pb.RegisterWatchServer(server, watch)
	pb.RegisterLeaseServer(server, lease)
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, server.Stop)()
	return server.Serve(listener)
}
