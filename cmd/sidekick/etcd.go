package main

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/sidekick-proxy/sidekick/internal/statedir"
	"github.com/sidekick-proxy/sidekick/pkg/registry/embedded"
)

func etcdCommand() *cobra.Command {
	s := newSettings()
	var listen string
	cmd := &cobra.Command{
		Use: "etcd", Short: "A plain single etcd, for trials and tests", Args: noArguments,
		Long: "Runs the etcd that `sidekick run --registry embedded` has inside, by itself, until it is stopped.\n" +
			"It keeps its data under the state directory. There is no authentication: listen on loopback only,\n" +
			"or on a network that you trust.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.load(environ()); err != nil {
				return err
			}
			if err := listenAddress("listen", listen); err != nil {
				return usageError{err}
			}
			return s.runEtcd(cmd.Context(), listen)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:2379", "`ADDR:PORT` for clients")
	s.offer(cmd, []string{"state-dir"}, logSettings)
	return cmd
}

func (s *settings) runEtcd(ctx context.Context, listen string) error {
	log := s.newLogger(os.Stderr)
	dir, err := statedir.Wait(ctx, s.stateDir, handover)
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
