package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/admin"
	"github.com/sidekick-proxy/sidekick/pkg/registry/embedded"
)

func etcdCommand() *cobra.Command {
	s := newSettings()
	var listen string
	var anyone, alive bool
	cmd := &cobra.Command{
		Use: "etcd", Short: "A plain single etcd, for trials and tests", Args: noArguments,
		Long: "Runs the etcd that `sidekick run --registry embedded` has, by itself, until it is stopped.\n" +
			"It keeps its data under the state directory. There is no authentication and no encryption, so it\n" +
			"listens on loopback, and elsewhere only with --allow-anyone.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.load(environ()); err != nil {
				return err
			}
			if alive {
				return s.etcdAlive(cmd)
			}
			if err := etcdAddress(listen, anyone); err != nil {
				return usageError{err}
			}
			return s.runEtcd(cmd.Context(), listen)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:2379", "`ADDR:PORT` for clients")
	cmd.Flags().BoolVar(&anyone, "allow-anyone", false, "listen on an address that is not loopback: whoever reaches it may change all that is registered")
	cmd.Flags().BoolVar(&alive, "alive", false, "only ask whether the etcd of this --state-dir answers, for health checks")
	s.offer(cmd, []string{"state-dir"}, logSettings)
	return cmd
}

// etcdAlive says whether the etcd that this command starts is there.
func (s *settings) etcdAlive(cmd *cobra.Command) error {
	const limit = 4 * time.Second // less than a health check may take
	ctx, cancel := context.WithTimeout(cmd.Context(), limit)
	defer cancel()
	s.registry = embeddedURL
	client, err := s.dialRegistry(nil)
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := client.Get(ctx, "/", clientv3.WithSerializable(), clientv3.WithCountOnly()); err != nil {
		return fmt.Errorf("no etcd answers at %s: %w; is `sidekick etcd` up with this --state-dir?", s.embeddedSocket(), err)
	}
	fmt.Fprintln(cmd.OutOrStdout(), "alive")
	return nil
}

// etcdAddress checks where an etcd without authentication is to listen.
func etcdAddress(listen string, anyone bool) error {
	if err := listenAddress("listen", listen); err != nil {
		return err
	}
	host, _, _ := net.SplitHostPort(listen) // listenAddress has refused a bad one
	address, err := netip.ParseAddr(host)
	if anyone || err == nil && address.IsLoopback() {
		return nil
	}
	return fmt.Errorf("--listen %s: this etcd asks nobody for a password, so whoever reaches that address may route requests where they like; "+
		"listen on 127.0.0.1, or add --allow-anyone on a network that you trust", listen)
}

// embeddedCommand is the process that a [embedded.Keeper] starts.
func embeddedCommand() *cobra.Command {
	s := newSettings()
	cmd := &cobra.Command{
		Use: embeddedProcess, Short: "The etcd of an agent with --registry embedded", Args: noArguments, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := s.newLogger(os.Stderr).WithField("stage", string(admin.StageRegister))
			// Its keeper ends it by closing its input. A signal for the whole service is not for it: the
			// agent has something to write at its end.
			signal.Ignore(syscall.SIGINT, syscall.SIGTERM)
			syscall.Umask(0o077)
			config := embedded.Config{Dir: s.stateDir, Patience: handover, Log: log}
			if err := embedded.Serve(context.WithoutCancel(cmd.Context()), config, os.Stdin, os.Stdout); err != nil {
				return exitError{errSaid, exitFailed}
			}
			return nil
		},
	}
	// Only flags count: the agent has read the environment and the file, and says what is to be.
	for _, name := range append([]string{"state-dir"}, logSettings...) {
		cmd.Flags().AddFlag(s.all.Lookup(name))
	}
	return cmd
}

// errSaid is for an error that has been told already.
var errSaid = errors.New("")

func (s *settings) runEtcd(ctx context.Context, listen string) error {
	log := s.newLogger(os.Stderr)
	dir, err := s.holdStateDir(ctx)
	if err != nil {
		return err
	}
	defer dir.Close()
	server, err := embedded.Start(ctx, embedded.Config{
		Dir: s.stateDir, ListenClient: []string{listen}, Log: log,
	})
	if err != nil {
		return err
	}
	log.WithField("registry", "etcd://"+listen).Info("etcd serves")
	err = server.Wait(ctx)
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, server.Stop())
}
