package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/container"
	"github.com/sidekick-proxy/sidekick/internal/privilege"
	"github.com/sidekick-proxy/sidekick/pkg/docker"
)

// askEngine is how long the start waits for the engine's word on the agent's own container.
const askEngine = 3 * time.Second

// settleIn makes the process the one that is to run the agent, and refuses a container in which the
// agent would do harm or nothing at all.
func (s *settings) settleIn(ctx context.Context) error {
	socket := ""
	if s.docker != off {
		var err error
		if socket, err = docker.SocketOf(s.docker); err != nil {
			return usageError{err}
		}
	}
	if err := s.becomeUser(socket, s.haproxy == haproxyManaged); err != nil {
		return err
	}
	if err := checkSocket(ctx, socket); err != nil {
		return err
	}
	return s.checkNetwork(ctx)
}

// becomeAgent makes a command that root runs beside an agent with --user, as in its container, that user:
// what the agent may read, its registry's files and socket, root without all of its rights may not. With
// engine, the command has the group of the engine's socket as well.
func (s *settings) becomeAgent(engine bool) error {
	socket := ""
	if engine && s.docker != off {
		var err error
		if socket, err = docker.SocketOf(s.docker); err != nil {
			return usageError{err}
		}
	}
	return s.becomeUser(socket, false)
}

// becomeUser gives root up for --user. The group of the engine's socket, if there is one, is taken
// along, and the right to bind low ports if that is asked for.
func (s *settings) becomeUser(socket string, lowPorts bool) error {
	if s.user == "" || !privilege.IsRoot() {
		return nil
	}
	var groups []int
	if socket != "" {
		// Its group must be known now: afterwards there is no way to join another one.
		gid, err := privilege.GroupOf(socket)
		if err != nil {
			return fmt.Errorf("--docker: %w; mount the directory of the engine's socket (docker run -v /run:/host/run:ro) and name the socket in it, or give --docker off", err)
		}
		groups = []int{gid}
	}
	account, err := privilege.Lookup(s.user, groups...)
	if err != nil {
		return usageError{fmt.Errorf("--user: %w; give the name of an unprivileged user of this system, or none to stay root", err)}
	}
	return account.Become(lowPorts)
}

// checkSocket refuses a socket that is there and may not be used: time does not mend that.
func checkSocket(ctx context.Context, path string) error {
	if path == "" {
		return nil
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		return conn.Close()
	}
	if !errors.Is(err, syscall.EACCES) {
		return nil // the engine may come up later
	}
	mend := "run the agent as root or as a member of that group"
	if gid, err := privilege.GroupOf(path); err == nil {
		mend = fmt.Sprintf("run the agent as a member of the group %d that owns it (docker run --group-add %d), or as root with --user", gid, gid)
	}
	return fmt.Errorf("--docker %s: user %d has no right to this socket; %s", path, os.Geteuid(), mend)
}

// checkNetwork refuses a container with a network of its own: under the name and the address that it
// finds there, other hosts would look for this one's containers in vain.
func (s *settings) checkNetwork(ctx context.Context) error {
	id := container.ID()
	if id == "" || s.nodeGiven && s.advertise != "" {
		return nil
	}
	mode, err := s.networkOf(ctx, id)
	switch {
	case err == nil && mode == "host":
		return nil
	case err != nil && !isShortID(s.node, id):
		s.newLogger(os.Stderr).WithError(err).Warn("the engine does not say whether this container shares its host's network; going on as if it did")
		return nil
	case err != nil:
		mode = "one of its own: the container's name is its id"
	}
	return usageError{fmt.Errorf("this container's network is not its host's (%s), so its name and address mean nothing to other hosts; "+
		"run it with --network host, or give both --node and --advertise", mode)}
}

// isShortID tells whether the name is the one that the engine gives a container without another: the
// beginning of its id.
func isShortID(name, id string) bool { return len(name) >= 12 && strings.HasPrefix(id, name) }

// networkOf asks the engine for the mode of this container's network.
func (s *settings) networkOf(ctx context.Context, id string) (string, error) {
	if s.docker == off {
		return "", errors.New("--docker is off")
	}
	ctx, cancel := context.WithTimeout(ctx, askEngine)
	defer cancel()
	return docker.NetworkMode(ctx, s.docker, id)
}
