package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/confd"
	"github.com/sidekick-proxy/sidekick/pkg/registry/etcd"
)

const confdUsage = `Does what confd does with the same arguments, environment and files, over etcd's v3 API, the environment, or
files, and nothing else: it needs no right to write in etcd, no state directory and no port. docs/confd.md tells
what differs.

Usage:
  sidekick confd [-backend etcdv3|env|file] [-confdir DIR] [-config-file FILE] [-prefix PREFIX]
                 [-watch | -interval SECONDS | -onetime] [-noop] [-sync-only] [-secret-keyring FILE]
                 [-log-level LEVEL] [-log-format text|json] [-failure-mode best-effort|fail-fast]
                 [-check-cmd-timeout TIME] [-reload-cmd-timeout TIME] [-backend-timeout TIME] [-debounce TIME]
                 [-check-config]
    etcdv3:      [-node URL]… [-scheme http|https] [-srv-domain DOMAIN | -srv-record NAME]
                 [-client-ca-keys FILE] [-client-cert FILE -client-key FILE]
                 [-basic-auth -username NAME -password PASSWORD]
    file:        -file FILE|DIR… [-filter PATTERN]
`

// confdCommand is confd's own command line.
func confdCommand() *cobra.Command {
	return &cobra.Command{
		Use: "confd", Short: "What confd does with the same arguments, environment and files",
		DisableFlagParsing: true, // they are written as confd's
		RunE: func(cmd *cobra.Command, args []string) error {
			line, err := confd.ParseLine(args, environ())
			switch {
			case err != nil:
				return usageError{fmt.Errorf("%w; see sidekick confd -help", err)}
			case line.Help:
				fmt.Fprint(cmd.OutOrStdout(), confdUsage)
				return nil
			case line.Version:
				fmt.Fprintln(cmd.OutOrStdout(), version)
				return nil
			}
			return runConfd(cmd, line)
		},
	}
}

// runConfd serves a directory until the command is stopped, or once.
func runConfd(cmd *cobra.Command, line *confd.Line) error {
	s := newSettings()
	s.confdDir, s.haproxy, s.logLevel = line.Dir, off, line.LogLevel
	s.logFormat = cmp.Or(line.LogFormat, s.logFormat)
	log := s.newLogger(cmd.ErrOrStderr())
	server := s.lineServer(line, log)
	if line.Check {
		return server.Faults(cmd.Context())
	}
	if line.Backend.Name == "" {
		client, err := dialLine(cmd.Context(), line, log)
		if err != nil {
			return err
		}
		defer client.Close()
		server.Keys = &etcd.Keys{Client: client}
	}
	if line.Onetime {
		return onceConfd(cmd, server, line)
	}
	// Later versions read their files again at this signal, which here are followed.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	if err := server.Run(cmd.Context()); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// onceConfd makes a directory's files once. One that is not there has none, which in confd is no error.
func onceConfd(cmd *cobra.Command, server *confd.Server, line *confd.Line) error {
	if _, err := os.Stat(line.Dir); errors.Is(err, fs.ErrNotExist) {
		server.Log.WithField("directory", line.Dir).Warn("the directory does not exist, so there is nothing to write; name another by -confdir")
		return nil
	}
	return server.Once(cmd.Context(), cmp.Or(line.Patience, confdPatience), line.Options.Noop, showResult(cmd))
}

// lineServer returns what serves the directory as the line says.
func (s *settings) lineServer(line *confd.Line, log logrus.FieldLogger) *confd.Server {
	server := s.newConfd(nil, log)
	server.Config, server.Options, server.JoinPrefix = line.Config, line.Options, line.JoinPrefix
	server.Backend, server.Refresh, server.FailFast = line.Backend, line.Interval, line.FailFast
	server.CheckLimit, server.ReloadLimit = line.CheckLimit, line.ReloadLimit
	server.Settle = max(server.Settle, line.Settle)
	return server
}

// dialLine returns a client of the etcd that the line names.
func dialLine(ctx context.Context, line *confd.Line, log logrus.FieldLogger) (*clientv3.Client, error) {
	nodes := line.Nodes
	if line.Record != "" {
		var err error
		if nodes, err = targets(ctx, line.Record); err != nil {
			return nil, err
		}
	}
	endpoints, err := etcd.ParseURL(lineURL(nodes, line.Secure))
	if err != nil {
		return nil, usageError{fmt.Errorf("-node: %w", err)}
	}
	config := etcd.Config{
		Endpoints: endpoints, Username: line.User, Password: line.Password, Log: log,
		Files: etcd.Files{CA: line.CA, Cert: line.Cert, Key: line.Key},
	}
	if err := config.Files.Check(); err != nil {
		return nil, usageError{fmt.Errorf("-client-ca-keys, -client-cert, -client-key: %w", unreadable(err))}
	}
	return etcd.Dial(config)
}

// lineURL writes confd's nodes as a registry's URL.
func lineURL(nodes []string, secure bool) string {
	if len(nodes) == 1 && strings.HasPrefix(nodes[0], "unix://") {
		return nodes[0]
	}
	hosts := make([]string, 0, len(nodes))
	for _, node := range nodes {
		hosts = append(hosts, strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(node, "http://"), "https://"), "/"))
	}
	scheme := "etcd://"
	if secure {
		scheme = "etcds://"
	}
	return scheme + strings.Join(hosts, ",")
}

// targets are the hosts and ports that a record of DNS names.
func targets(ctx context.Context, record string) ([]string, error) {
	_, found, err := new(net.Resolver).LookupSRV(ctx, "", "", record)
	if err != nil {
		return nil, fmt.Errorf("-srv-record %s: %w; give the nodes by -node", record, err)
	}
	nodes := make([]string, 0, len(found))
	for _, srv := range found {
		nodes = append(nodes, net.JoinHostPort(strings.TrimSuffix(srv.Target, "."), strconv.Itoa(int(srv.Port))))
	}
	return nodes, nil
}
