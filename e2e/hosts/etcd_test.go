package hosts

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal"
)

// asMember makes this program a member of an etcd: `asMember NAME DIR ADDRESS CLUSTER TOKEN`.
const asMember = "etcd-member"

// A member elects as quickly as etcd does by default, which a busy machine keeps up with; it grants
// leases from 2 s on.
const (
	beatMs     = 100
	electionMs = 1000
)

// runMember is a member of an etcd as a process of its own, until SIGTERM.
func runMember(name, dir, address, members, token string) error {
	config := embed.NewConfig()
	config.Name, config.Dir, config.LogLevel = name, dir, "warn"
	config.LogOutputs = []string{"stderr"}
	client, peer := url.URL{Scheme: "http", Host: address + ":2379"}, url.URL{Scheme: "http", Host: address + ":2380"}
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	config.InitialCluster, config.InitialClusterToken = members, token
	config.TickMs, config.ElectionMs = beatMs, electionMs
	// The tests' disk is shared by many, and no member's machine loses its power.
	config.UnsafeNoFsync = true
	wal.SegmentSizeBytes = 1 << 20 // they are copied
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server, err := embed.StartEtcd(config)
	if err != nil {
		return fmt.Errorf("member %s: %w", name, err)
	}
	defer server.Close()
	select {
	case err := <-server.Err():
		return err
	case <-ctx.Done():
		return nil
	}
}

// data is where the host's member keeps its data.
func (h *host) data() string { return h.path("etcd") }

// members is the etcd as its members are told of it.
func (c *cluster) members() string {
	var all []string
	for _, h := range c.hosts {
		all = append(all, h.Name+"=http://"+h.Addr.String()+":2380")
	}
	return strings.Join(all, ",")
}

// token tells one etcd from the next that these members make.
func (c *cluster) token() string { return "round-" + strconv.Itoa(c.round) }

// startMember starts the host's member over what data there is.
func (h *host) startMember() {
	h.Helper()
	h.member = h.start("etcd", os.Args[0], asMember, h.Name, h.data(), h.Addr.String(), h.members(), h.token())
}

// askEtcd asks until there is no error; each time it may be another member that is asked, and perhaps
// one that is gone.
func (c *cluster) askEtcd(what string, ask func(ctx context.Context) error) {
	c.Helper()
	c.until(what, func() error {
		ctx, cancel := context.WithTimeout(c.ctx, time.Second)
		defer cancel()
		return ask(ctx)
	})
}

// etcdAnswers waits until the members that run have a leader, and so the etcd a quorum.
func (c *cluster) etcdAnswers() {
	c.Helper()
	c.askEtcd("etcd answers", func(ctx context.Context) error {
		_, err := c.etcd.Get(ctx, "health")
		return err
	})
}

// leader is the host whose member leads; all must run.
func (c *cluster) leader() *host {
	c.Helper()
	var leader *host
	c.askEtcd("etcd has a leader", func(ctx context.Context) error {
		for _, h := range c.hosts {
			status, err := c.etcd.Status(ctx, h.client())
			if err != nil {
				return err
			}
			if status.Leader == status.Header.MemberId {
				leader = h
				return nil
			}
		}
		return errors.New("none")
	})
	return leader
}

// client is where clients find the host's member.
func (h *host) client() string { return h.Addr.String() + ":2379" }

// stopEtcd kills all members.
func (c *cluster) stopEtcd() {
	for _, h := range c.hosts {
		h.member.Kill()
	}
}

// startEtcd starts all members.
func (c *cluster) startEtcd() {
	c.Helper()
	for _, h := range c.hosts {
		h.startMember()
	}
	c.etcdAnswers()
}

// emptyEtcd removes all that it has stored; all members must have been stopped.
func (c *cluster) emptyEtcd() {
	c.Helper()
	c.round++
	for _, h := range c.hosts {
		c.check(os.RemoveAll(h.data()))
	}
}

// copyOf is where a copy of the host's member's data is kept.
func (h *host) copyOf() string { return h.path("etcd.copy") }

// copyEtcd copies the data of all members as of one moment, as a backup of their disks does.
func (c *cluster) copyEtcd() {
	c.Helper()
	for _, h := range c.hosts {
		h.member.Signal(syscall.SIGSTOP)
	}
	for _, h := range c.hosts {
		c.check(os.RemoveAll(h.copyOf()))
		c.check(os.CopyFS(h.copyOf(), os.DirFS(h.data())))
	}
	for _, h := range c.hosts {
		h.member.Signal(syscall.SIGCONT)
	}
}

// restoreEtcd puts the copies in the place of the data; all members must have been stopped.
func (c *cluster) restoreEtcd() {
	c.Helper()
	for _, h := range c.hosts {
		c.check(os.RemoveAll(h.data()))
		c.check(os.Rename(h.copyOf(), h.data()))
	}
}

// compactEtcd forgets all that was before now, on disk as well.
func (c *cluster) compactEtcd() {
	c.Helper()
	c.askEtcd("etcd forgets what was", func(ctx context.Context) error {
		got, err := c.etcd.Get(ctx, "health")
		if err == nil {
			_, err = c.etcd.Compact(ctx, got.Header.Revision, clientv3.WithCompactPhysical())
		}
		if errors.Is(err, rpctypes.ErrCompacted) {
			return nil // by the try before, whose answer was lost
		}
		return err
	})
}
