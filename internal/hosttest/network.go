// Package hosttest makes the hosts of the end-to-end tests: each has an address, a Docker engine and
// a /run of its own, so that a compose file runs on it unchanged, whatever ports it takes, and so that
// its engine can be stopped, killed and started underneath what runs there.
//
// A host is a set of namespaces: network, mounts, host name and process numbers. Within, the engine
// runs as it does on any machine: its socket is /run/docker.sock, its data is in /var/lib/docker, its
// settings are in /etc/docker. All three are directories of the test, and so the same socket is a file
// that programs outside can connect to. Nothing is mounted outside of these namespaces, and the
// kernel ends every process within when the first one ends; that one ends with the test, even if the
// test is killed. What may then be left, a directory and empty control groups, the next [Open] removes.
//
// The hosts are plugged into one switch, a network namespace with a bridge. It has no way out: what a
// host sends elsewhere is answered with "network is unreachable".
package hosttest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// Network is a switch, the hosts that are plugged into it, and this process as one more port.
type Network struct {
	// Addr is this process's own address, under which the hosts reach it.
	Addr netip.Addr

	dir    string
	number int // of which names and addresses are made; no other network on this machine has it
	lock   *os.File
	hub    *space

	mu    sync.Mutex
	names map[string]bool
	hosts []*Host
}

// Open makes a switch and connects this process to it. The directory becomes the network's own: it
// must be missing or empty, and [Network.Close] removes it. Its path must be short, because sockets
// are in it. Networks that were left behind by processes that were killed are removed.
func Open(ctx context.Context, dir string) (*Network, error) {
	if err := usable(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("test network: %w", err)
	}
	n := &Network{dir: dir, names: map[string]bool{}}
	if err := n.claim(ctx); err != nil {
		return nil, fmt.Errorf("test network in %s: %w", dir, err)
	}
	if err := n.connect(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("test network in %s: %w", dir, err), n.Close())
	}
	return n, nil
}

// usable says in one sentence what this machine lacks.
func usable() error {
	if os.Geteuid() != 0 {
		return errors.New("test hosts need root: run the tests as root, or leave these out with TEST_WITHOUT=docker")
	}
	var missing []string
	for _, program := range []string{"dockerd", "iptables", "ip", "nsenter", "unshare", "setpriv", "mount"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("test hosts need %s: install docker.io, iptables, iproute2 and util-linux, or leave these tests out with TEST_WITHOUT=docker",
			strings.Join(missing, ", "))
	}
	return nil
}

// connect makes the switch and this process's port.
func (n *Network) connect(ctx context.Context) error {
	hub, err := openSpace(ctx, "switch", filepath.Join(n.dir, "switch.log"), setUpSwitch)
	if err != nil {
		return err
	}
	n.hub, n.Addr = hub, n.addr(2)
	err = hub.ip(ctx,
		"link add br0 type bridge",
		"addr add "+n.addr(1).String()+"/24 dev br0",
		"link set br0 up",
	)
	if err != nil {
		return err
	}
	if err := ip(ctx, "link add "+n.port()+" type veth peer name process netns "+strconv.Itoa(hub.first)); err != nil {
		return err
	}
	if err := hub.ip(ctx, "link set process master br0 up"); err != nil {
		return err
	}
	// A host that took this process for its router would get no further.
	err = os.WriteFile("/proc/sys/net/ipv4/conf/"+n.port()+"/forwarding", []byte("0"), 0o600)
	if err != nil {
		return err
	}
	return ip(ctx, "addr add "+n.Addr.String()+"/24 dev "+n.port(), "link set "+n.port()+" up")
}

// port is the name of this process's port.
func (n *Network) port() string { return "sktest" + strconv.Itoa(n.number) }

// subnet is the addresses of a switch. 198.18.0.0/15 is kept for tests of network devices (RFC 2544),
// so it is nobody's.
func subnet(number int) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf("198.18.%d.0/24", number))
}

// addr is one of them: 1 is the switch, 2 is this process, from 11 on they are hosts.
func (n *Network) addr(last int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("198.18.%d.%d", n.number, last))
}

// Close removes all: what runs in the hosts, the hosts, the switch, the directory.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for _, h := range n.hosts {
		h.close()
	}
	if n.hub != nil {
		// The port would go with the switch, but only some time after it.
		out, err := exec.Command("ip", "link", "del", n.port()).CombinedOutput() //nolint:noctx // cannot be called off
		if err != nil && !strings.Contains(string(out), "Cannot find device") {
			errs = append(errs, fmt.Errorf("remove port %s: %w: %s", n.port(), err, out))
		}
		n.hub.close()
	}
	n.hosts, n.hub = nil, nil
	return errors.Join(append(errs, n.release())...)
}
