package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// apart is the pause between changes: longer than --settle, so that each is a lone one.
const apart = 50 * time.Millisecond

// changes replaces the probe service's only instance again and again, and measures by each way the
// time from the write to the first answer of the new one.
func (b *bed) changes(ctx context.Context, rounds int) (agent, hand []time.Duration, err error) {
	old := b.registered(ctx)
	follow, err := b.follow(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer follow.stop()
	for round := range rounds {
		next := b.probe((round + 1) % 2)
		want := fmt.Sprintf("server-%d", (round+1)%2)
		took := [2]time.Duration{}
		ended := make(chan error, 2)
		began := time.Now()
		// One way at a time is watched closely, so that the two pollers do not slow each other.
		first, second := b.agentFront, b.handFront
		if round%2 == 1 {
			first, second = second, first
		}
		if err := b.replace(ctx, old, next); err != nil {
			return nil, nil, err
		}
		ended <- until(ctx, "change", b.agent, func() bool { return answers(first) == want })
		took[0] = time.Since(began)
		ended <- until(ctx, "change", b.agent, func() bool { return answers(second) == want })
		for range 2 {
			if err := <-ended; err != nil {
				return nil, nil, err
			}
		}
		if round%2 == 0 {
			agent = append(agent, took[0])
		} else {
			hand = append(hand, took[0])
		}
		old = next.Key(prefix)
		time.Sleep(apart)
	}
	return agent, hand, nil
}

func (b *bed) registered(ctx context.Context) string {
	reply, err := b.client.Get(ctx, service.InstancesKey(prefix, node)+"probe-", clientv3.WithPrefix())
	if err != nil || len(reply.Kvs) == 0 {
		return ""
	}
	return string(reply.Kvs[0].Key)
}

func (b *bed) replace(ctx context.Context, old string, next *service.Instance) error {
	op, err := put(next)
	if err != nil {
		return err
	}
	_, err = b.client.Txn(ctx).Then(op, clientv3.OpDelete(old)).Commit()
	return err
}

// follower is the hand-made path: a watch, and one runtime command for each change.
type follower struct{ stop func() }

func (b *bed) follow(ctx context.Context) (*follower, error) {
	name, err := firstServer(filepath.Join(b.dir, "hand", "haproxy.cfg"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ready, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		n := 0
		for response := range b.client.Watch(ctx, service.InstancesKey(prefix, node), clientv3.WithPrefix(), clientv3.WithCreatedNotify()) {
			if response.Created {
				close(ready)
			}
			for _, i := range written(response) {
				n++
				name = b.swap(ctx, name, fmt.Sprintf("hand-%d", n), i.Endpoint())
			}
		}
	}()
	<-ready
	return &follower{stop: func() { cancel(); <-ended }}, nil
}

// written lists the instances that a watch response says were written.
func written(response clientv3.WatchResponse) []service.Instance {
	var all []service.Instance
	for _, event := range response.Events {
		if event.Type != clientv3.EventTypePut {
			continue
		}
		if i, err := service.DecodeInstance(node, "x", event.Kv.Value); err == nil {
			all = append(all, i)
		}
	}
	return all
}

// swap puts a new server in the place of the old one by one line to the runtime API.
func (b *bed) swap(ctx context.Context, old, name string, at netip.AddrPort) string {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", b.handSocket)
	if err != nil {
		return old
	}
	defer conn.Close()
	fmt.Fprintf(conn, "add server be_probe/%s %s weight 100; enable server be_probe/%s; set server be_probe/%s state maint; del server be_probe/%s\n", name, at, name, old, old)
	_, _ = io.Copy(io.Discard, conn)
	return name
}

// firstServer returns the name of the probe backend's server in the file.
func firstServer(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	_, after, _ := strings.Cut(string(text), "backend be_probe")
	for line := range strings.Lines(after) {
		if words := strings.Fields(line); len(words) > 2 && words[0] == "server" {
			return words[1], nil
		}
	}
	return "", fmt.Errorf("%s has no server in be_probe", path)
}
