package hosts

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// fault is one row of the table.
type fault struct {
	name   string
	what   string // was done, in words for the table
	gone   int    // number of the host that the others cannot reach meanwhile; 0 for none
	off    bool   // nothing runs on that one, either
	before func(c *cluster)
	do     func(c *cluster)
	mend   func(c *cluster)
}

// faults is the table.
func faults() []fault {
	return []fault{
		{
			name: "none", what: "nothing is broken; an instance on each host is replaced",
			do: (*cluster).replaceAll, mend: func(*cluster) {},
		},
		{
			name: "host cut off", what: "the link of a host is down until its entries are gone, then up", gone: 2,
			do:   func(c *cluster) { c.lose(c.hosts[1], (*host).cut) },
			mend: func(c *cluster) { c.check(c.hosts[1].Join(c.ctx)) },
		},
		{
			name: "host switched off", what: "a host is cut off, and its engine and all else on it killed; it starts again when its entries are gone", gone: 3, off: true,
			do:   func(c *cluster) { c.lose(c.hosts[2], (*host).powerOff) },
			mend: func(c *cluster) { c.hosts[2].powerOn() },
		},
		{
			name: "partition and compaction", what: "a host is cut off; meanwhile an instance on another one is replaced, and etcd compacted", gone: 3,
			do: func(c *cluster) {
				away := c.hosts[2]
				away.cut()
				c.hosts[0].replace(away)
				c.compactEtcd()
			},
			mend: func(c *cluster) { c.check(c.hosts[2].Join(c.ctx)) },
		},
		{
			name: "etcd member killed", what: "a member of etcd that does not lead is killed; an instance is replaced, then the member starts again",
			do:   func(c *cluster) { c.without(c.others(c.leader())[0]) },
			mend: (*cluster).startDown,
		},
		{
			name: "etcd leader killed", what: "the leader of etcd is killed; an instance is replaced, then the member starts again",
			do:   func(c *cluster) { c.without(c.leader()) },
			mend: (*cluster).startDown,
		},
		{
			name: "quorum lost", what: "two of three members of etcd are killed, the leader among them, for longer than the TTL",
			do: (*cluster).loseQuorum, mend: (*cluster).startDown,
		},
		{
			name: "agents stopped", what: "two of three agents are stopped (SIGSTOP) until their leases have ended, and go on half a TTL later",
			do: func(c *cluster) { c.stopAgents(c.hosts[1:]...) },
			mend: func(c *cluster) {
				for _, h := range c.hosts[1:] {
					h.agent.Signal(syscall.SIGCONT)
				}
			},
		},
		{
			name: "etcd emptied", what: "all members of etcd are killed, and start again without data",
			do: func(c *cluster) {
				c.stopEtcd()
				c.emptyEtcd()
			},
			mend: (*cluster).startEtcd,
		},
		{
			name: "etcd restored", what: "all members of etcd are killed, and start again from a copy of their data; an instance on each host was replaced since it was made",
			before: func(c *cluster) {
				c.copyEtcd()
				c.replaceAll()
			},
			do: func(c *cluster) {
				c.stopEtcd()
				c.restoreEtcd()
			},
			mend: (*cluster).startEtcd,
		},
	}
}

// replaceAll replaces an instance on each host.
func (c *cluster) replaceAll() {
	c.Helper()
	for _, h := range c.hosts {
		h.replace()
	}
}

func (h *host) cut() {
	h.Helper()
	h.check(h.Cut(h.ctx))
}

// powerOff takes the host from the network first: a machine without power refuses nothing any more.
func (h *host) powerOff() {
	h.Helper()
	var pids []int
	for _, box := range slices.Concat(h.boxes, h.alone) {
		pid, err := box.PID(h.ctx)
		h.check(err)
		pids = append(pids, pid)
	}
	h.cut()
	h.switchOff()
	h.check(h.StopEngine(h.ctx, syscall.SIGKILL))
	for _, pid := range pids {
		h.check(h.Kill(h.ctx, pid, syscall.SIGKILL))
	}
}

// powerOn starts all that starts with a machine.
func (h *host) powerOn() {
	h.Helper()
	h.check(h.Join(h.ctx))
	h.startMember()
	h.check(h.StartEngine(h.ctx))
	h.startProxy()
	h.startAgent()
}

// without kills the host's member of etcd, and changes something.
func (c *cluster) without(h *host) {
	c.Helper()
	c.down = []*host{h}
	h.member.Kill()
	c.hosts[0].replace()
}

// startDown starts the members that are down.
func (c *cluster) startDown() {
	c.Helper()
	for _, h := range c.down {
		h.startMember()
	}
	c.etcdAnswers()
}

// loseQuorum does so, waits until every agent says it, and then for longer than leases last. P3.
func (c *cluster) loseQuorum() {
	c.Helper()
	leader := c.leader()
	c.down = []*host{leader, c.others(leader)[0]}
	for _, h := range c.down {
		h.member.Kill()
	}
	for _, h := range c.hosts {
		h.untilOutOfStep()
	}
	c.hold(ttl + 2*time.Second)
}

// stopAgents stops them until the registry has forgotten their hosts, and a while longer, in which the
// agents that go on see it.
func (c *cluster) stopAgents(hosts ...*host) {
	c.Helper()
	for _, h := range hosts {
		h.agent.Signal(syscall.SIGSTOP)
	}
	for _, h := range hosts {
		c.askEtcd("the lease of "+h.Name+" ends", func(ctx context.Context) error {
			got, err := c.etcd.Get(ctx, "/sidekick/v1/nodes/"+h.Name, clientv3.WithCountOnly())
			if err == nil && got.Count > 0 {
				err = errors.New("its node is registered")
			}
			return err
		})
	}
	c.hold(ttl / 2)
}

// lose loses a host, and waits until the other hosts' agents list nothing of it any more. P5: that is
// after TTL + 5 s, and another TTL if etcd has to elect a leader.
func (c *cluster) lose(gone *host, how func(*host)) {
	c.Helper()
	limit, led := ttl+5*time.Second, ""
	if c.leader() == gone {
		limit, led = limit+ttl, ", it led etcd"
	}
	began := time.Now()
	how(gone)
	for _, h := range c.others(gone) {
		c.until("the agent of "+h.Name+" forgets "+gone.Name, func() error {
			_, listed, err := h.lists()
			for s := range listed {
				if strings.Contains(s, " "+gone.Name+":") {
					err = errors.Join(err, fmt.Errorf("it lists %s", s))
				}
			}
			return err
		})
	}
	after := time.Since(began)
	c.forgotten = fmt.Sprintf("TTL %+.1f s%s", (after - ttl).Seconds(), led)
	if after > limit {
		c.Errorf("the entries of %s were gone after %s, want %s at most", gone.Name, after, limit)
	}
}

// TestFaults breaks one thing after the other, and judges what comes of it by the rules of this package.
// P2, P3, P5, F1, F3, F4, F13, F14.
func TestFaults(t *testing.T) {
	c := newCluster(t)
	for _, f := range faults() {
		whole := c.T
		t.Run(f.name, func(t *testing.T) {
			c.T = t
			defer func() { c.T = whole }()
			if c.broken {
				t.Fatal("not tried: what broke before was not mended")
			}
			c.broken = true
			c.suffer(f)
			c.broken = false
		})
	}
	c.report()
}

// suffer goes through one fault.
func (c *cluster) suffer(f fault) {
	c.Helper()
	if f.before != nil {
		f.before(c)
	}
	c.untilRight()
	c.forgotten = "–"
	before, err := c.runs()
	c.check(err)
	s, clients := spell{}, c.hosts
	if f.gone > 0 {
		s.gone = c.hosts[f.gone-1]
	}
	if f.off { // and so are its clients
		clients = c.others(s.gone)
	}
	all, seen := c.traffic(clients), c.watch(clients)
	s.from = time.Now()
	f.do(c)
	f.mend(c)
	s.mended = time.Now()
	c.untilRight()
	s.right = time.Now()
	after, err := c.runs()
	c.check(err)
	seen.end(c, s.gone, both(before, after), either(before, after))
	c.flows(all)
	all.stop()
	c.conclude(f, s, all.judge(s))
}

// both is what both have.
func both(a, b servers) servers {
	all := servers{}
	for s := range a {
		if b[s] {
			all[s] = true
		}
	}
	return all
}

// either is what either has.
func either(a, b servers) servers {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}
