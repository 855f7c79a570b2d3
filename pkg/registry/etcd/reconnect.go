package etcd

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/connectivity"
)

// Reconnects tells back whenever the client gets a connection after it had none at all, until ctx is
// cancelled: true if it had one before that, false for the first. What is told while nobody reads is
// dropped if something waits already.
func Reconnects(ctx context.Context, c *clientv3.Client, back chan<- bool) {
	conn := c.ActiveConnection()
	state := conn.GetState()
	again := state == connectivity.Ready
	for conn.WaitForStateChange(ctx, state) {
		// Ready after a change is a new connection, even if it was ready before.
		if state = conn.GetState(); state != connectivity.Ready {
			continue
		}
		select {
		case back <- again:
		default:
		}
		again = true
	}
}
