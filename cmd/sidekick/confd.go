package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/sidekick-proxy/sidekick/pkg/admin"
	"github.com/sidekick-proxy/sidekick/pkg/confd"
	"github.com/sidekick-proxy/sidekick/pkg/registry/etcd"
)

// confdPatience is how long a command waits for the keys of all resources.
const confdPatience = 10 * time.Second

// newConfd returns what serves --confd-dir.
func (s *settings) newConfd(client *clientv3.Client, log logrus.FieldLogger) *confd.Server {
	server := &confd.Server{
		Dir: s.confdDir, Options: confd.Options{Prefix: s.confdPrefix}, Keys: &etcd.Keys{Client: client}, Environ: environ(), Final: refuses,
		Settle: s.settle, SettleMax: s.settleMax, ReloadInterval: s.reloadInterval, Log: log,
	}
	if s.haproxy != off {
		server.Reserved = map[string]string{s.haproxyConfig: "HAProxy's own (--haproxy-config): give it another, or the agent --haproxy off"}
	}
	return server
}

// serveConfd runs beside the two pipes, from the registry to files and commands.
func (a *agent) serveConfd(life context.Context, group *errgroup.Group) {
	server := a.newConfd(a.client, a.stageLog(admin.StageConfd))
	server.Report, server.Memory = a.state.Report(admin.StageConfd), a.dir.Path("confd-reloads.json")
	group.Go(func() error { return server.Run(life) })
}

// validateConfd finds what is wrong with the files of --confd-dir.
func (s *settings) validateConfd(ctx context.Context) error {
	if s.confdDir == "" {
		return nil
	}
	return s.newConfd(nil, s.newLogger(io.Discard)).Faults(ctx)
}

// confdOptions are what confd's own command line says by the same names.
type confdOptions struct{ onetime, noop bool }

func (o *confdOptions) offer(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.noop, "noop", false, "show what the resources of --confd-dir would write, which is what --confd-dir alone does here")
	cmd.Flags().BoolVar(&o.onetime, "onetime", false, "write the files of --confd-dir and run their commands, once; exit code 1 when one fails")
}

// renderConfd makes the files of --confd-dir once, or shows them.
func (s *settings) renderConfd(cmd *cobra.Command, o confdOptions) error {
	if s.confdDir == "" {
		return usageError{errors.New("--onetime and --noop are for --confd-dir: give that as well")}
	}
	show := o.noop || !o.onetime
	if show { // else files are written and commands are run, with the caller's rights
		if err := s.becomeAgent(false); err != nil {
			return err
		}
	}
	client, err := s.openRegistry(cmd.Context())
	if err != nil {
		return err
	}
	defer client.Close()
	server := s.newConfd(client, s.newLogger(cmd.ErrOrStderr()))
	return server.Once(cmd.Context(), confdPatience, show, showResult(cmd))
}

// showResult prints what would become of a file, if that is all that is done.
func showResult(cmd *cobra.Command) func(confd.Result) {
	return func(r confd.Result) {
		if r.Shown {
			printResult(cmd.OutOrStdout(), r)
		}
	}
}

// printResult prints what would become of a file: its text if it is new, else what changes.
func printResult(out io.Writer, r confd.Result) {
	word := "unchanged"
	if r.Change != "" {
		word = "would be written: " + r.Change
	}
	fmt.Fprintf(out, "# ---- %s (%s): %s ----\n", r.Dest, r.Resource, word)
	switch {
	case !r.Text:
	case r.Old == nil:
		_, _ = out.Write(r.New)
	default:
		_, _ = out.Write(diff.Diff(r.Dest, r.Old, r.Dest+" as it would be", r.New))
	}
}
