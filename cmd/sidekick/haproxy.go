package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/sidekick-proxy/sidekick/internal/container"
	"github.com/sidekick-proxy/sidekick/pkg/admin"
	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

var haproxySettings = []string{"haproxy-bin", "haproxy-config", "haproxy-master-socket", "haproxy-runtime-socket", "user"}

func haproxyCommand() *cobra.Command {
	s := newSettings()
	var alive, takeOver bool
	cmd := &cobra.Command{
		Use: "haproxy", Short: "HAProxy for `sidekick run --haproxy external`", Args: noArguments,
		Long: "Writes a minimal valid configuration if there is none, then becomes HAProxy in master-worker mode,\n" +
			"with the sockets by which an agent drives it. Agent and HAProxy live apart: neither's end is the other's.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.load(environ()); err != nil {
				return err
			}
			if err := s.becomeUser("", true); err != nil {
				return err
			}
			if alive {
				return s.haproxyAlive(cmd)
			}
			return s.execHAProxy(cmd.Context(), takeOver)
		},
	}
	cmd.Flags().BoolVar(&alive, "alive", false, "only ask whether HAProxy answers, for health checks")
	cmd.Flags().BoolVar(&takeOver, "take-over", false, "if another HAProxy answers at these sockets, go on with its listening sockets; you stop that one then, and no connection is lost")
	s.offer(cmd, haproxySettings, logSettings)
	return cmd
}

// haproxyAlive says whether the HAProxy that this command starts is there.
func (s *settings) haproxyAlive(cmd *cobra.Command) error {
	if err := haproxy.Alive(cmd.Context(), s.haproxyFiles()); err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout(), "alive")
	return nil
}

// execHAProxy becomes HAProxy.
func (s *settings) execHAProxy(ctx context.Context, takeOver bool) error {
	config := s.haproxyFiles()
	program, err := exec.LookPath(config.Bin)
	if err != nil {
		return fmt.Errorf("--haproxy-bin: %w; install HAProxy 2.6 or newer", err)
	}
	log := s.newLogger(os.Stderr)
	warnOfNetwork(log)
	more, err := beside(ctx, config, takeOver)
	if err != nil {
		return err
	}
	if len(more) > 0 {
		log.WithField("socket", config.RuntimeSocket).Info("taking the listening sockets over from the HAProxy that runs; stop that one now")
	}
	err = haproxy.Prepare(ctx, config)
	if refused := (*haproxy.Refused)(nil); errors.As(err, &refused) {
		log.WithError(err).Warn("the configuration on disk is refused; HAProxy starts with a minimal one")
	} else if err != nil {
		return err
	}
	args := append(haproxy.ExecArgs(config), more...)
	log.WithField("command", args).Info("becoming HAProxy")
	return fmt.Errorf("%s: %w", program, syscall.Exec(program, args, os.Environ()))
}

// warnOfNetwork says so if HAProxy is to run in a container with a network of its own, as far as that can
// be told without the engine, whose socket HAProxy has no business with: where the network is the
// host's, so is the name.
func warnOfNetwork(log logrus.FieldLogger) {
	name, err := os.Hostname()
	if id := container.ID(); err == nil && id != "" && isShortID(name, id) {
		log.WithField("name", name).Warn("this container's name is its id, so its network is hardly its host's, and HAProxy would listen where the agent does not look; run it with --network host")
	}
}

// beside returns the arguments with which HAProxy starts beside one that answers at its sockets: none if
// nobody does. It refuses what would leave two that share ports, each with a part of the connections.
func beside(ctx context.Context, config haproxy.Config, takeOver bool) ([]string, error) {
	sockets := haproxy.Answering(ctx, config)
	handsOver := slices.Contains(sockets, config.RuntimeSocket)
	at := strings.Join(sockets, " and ")
	switch {
	case len(sockets) == 0:
		return nil, nil
	case !handsOver:
		return nil, fmt.Errorf("another HAProxy answers at %s, but not at %s, where it would hand its listening sockets over: stop it, then start this one", at, config.RuntimeSocket)
	case !takeOver:
		return nil, fmt.Errorf("another HAProxy answers at %s: stop it first, take its place with --take-over, or give this one its own sockets and configuration", at)
	}
	return []string{"-x", config.RuntimeSocket}, exposed(config)
}

// exposed refuses to take over from a HAProxy that does not hand its listening sockets over.
func exposed(config haproxy.Config) error {
	text, err := os.ReadFile(config.Path)
	if err != nil {
		return fmt.Errorf("--take-over: read what the HAProxy that runs was started with: %w", err)
	}
	if !haproxy.ExposesListeners(string(text), config.RuntimeSocket) {
		return fmt.Errorf("--take-over: the HAProxy that runs does not hand over its listening sockets: add \"expose-fd listeners\" to the line \"stats socket %s\" in the template of %s, and try again when the agent has reloaded it",
			config.RuntimeSocket, config.Path)
	}
	return nil
}

// haproxyFiles says where HAProxy and its files are.
func (s *settings) haproxyFiles() haproxy.Config {
	return haproxy.Config{Bin: s.haproxyBin, Path: s.haproxyConfig, MasterSocket: s.haproxyMasterSocket, RuntimeSocket: s.haproxyRuntimeSocket}
}

// newDriver returns the driver of this host's HAProxy, or nil with --haproxy off.
func (a *agent) newDriver() (*haproxy.Driver, error) {
	if a.haproxy == off {
		return nil, nil //nolint:nilnil // none is what was asked for
	}
	config := a.haproxyFiles()
	if a.haproxy == haproxyManaged {
		if _, err := exec.LookPath(config.Bin); err != nil {
			return nil, fmt.Errorf("--haproxy-bin: %w; install HAProxy 2.6 or newer, or set --haproxy external or off", err)
		}
	}
	config.WorkDir = a.dir.Path("haproxy")
	config.Managed = a.haproxy == haproxyManaged
	config.SameNetwork = true // agent and HAProxy both run in the host's network
	config.ReloadInterval = a.reloadInterval
	config.Log = a.stageLog(admin.StageHAProxy)
	config.Access = os.Stdout
	config.Report = a.reportHAProxy
	config.InForce = func(files render.Files) { a.answer.InForce(a.passage.inForce(files)) }
	return haproxy.NewDriver(config)
}

// reportHAProxy notes that what the driver was given is in force, or why not. What it refused may be
// a port that another program took meanwhile, so the text is made again.
func (a *agent) reportHAProxy(err error) {
	a.state.Report(admin.StageHAProxy)(err)
	a.noteRefusal(err)
	if err == nil {
		a.state.SetInForce()
		return
	}
	select {
	case a.again <- struct{}{}:
	default: // it is asked for already
	}
}

// spreadReloads keeps this host's HAProxy from being reloaded at the same moment as all others when the
// registry is back.
func (a *agent) spreadReloads() {
	if a.driver != nil {
		a.driver.Spread()
	}
}

// serveHAProxy runs the end of the second pipe.
func (a *agent) serveHAProxy(life context.Context, group *errgroup.Group, wanted <-chan render.Files) {
	if a.driver != nil {
		group.Go(func() error { return a.driver.Run(life, wanted) })
		return
	}
	group.Go(func() error {
		for {
			select {
			case files := <-wanted:
				a.state.SetInForce() // as far as it goes: nobody applies it
				a.answer.InForce(a.passage.inForce(files))
			case <-life.Done():
				return life.Err()
			}
		}
	})
}

// proxyFacts is what the admin API tells about HAProxy.
func (a *agent) proxyFacts() admin.Proxy {
	if a.driver == nil {
		return admin.Proxy{Mode: off, InStep: true}
	}
	state := a.driver.State()
	return admin.Proxy{
		Mode: a.haproxy, InStep: state.Hash != "" && state.LastError == "" && state.Differences == 0, State: state.Status,
		Version: state.Version, Differences: state.Differences, OldWorkers: state.OldWorkers, OldWorkersBytes: state.OldWorkersMemory,
		ServersDown: state.Down,
		Reloads:     state.Reloads, RuntimeCommands: state.RuntimeCommands,
	}
}
