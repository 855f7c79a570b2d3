package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/registry/embedded"
	"github.com/sidekick-proxy/sidekick/pkg/registry/etcd"
)

// embeddedProcess is the command that serves as the agent's etcd.
const embeddedProcess = "embedded-etcd"

// startEmbedded starts the registry that the agent brings along, or returns nil if the settings name
// another.
func (s *settings) startEmbedded(ctx context.Context, log logrus.FieldLogger) (*embedded.Keeper, error) {
	if s.registry != embeddedURL {
		return nil, nil //nolint:nilnil // none is what was asked for
	}
	keeper := &embedded.Keeper{
		Command: []string{
			"/proc/self/exe", embeddedProcess, "--state-dir", s.stateDir,
			"--log-level", s.logLevel, "--log-format", s.logFormatFor(os.Stderr),
		},
		Name: os.Args[0], Dir: s.stateDir, Log: log, Stderr: os.Stderr, Patience: 5 * time.Second,
	}
	if err := keeper.Start(ctx); err != nil {
		return nil, errors.Join(err, keeper.Stop())
	}
	return keeper, nil
}

func (s *settings) embeddedSocket() string { return s.stateDir + "/etcd.sock" }

// openRegistry is dialRegistry for commands beside the agent, which can do nothing with a registry that only
// the agent could start.
func (s *settings) openRegistry(ctx context.Context) (*clientv3.Client, error) {
	if s.registry == embeddedURL {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", s.embeddedSocket())
		switch {
		case errors.Is(err, syscall.EACCES):
			return nil, fmt.Errorf("--registry embedded: %w: run this as root or as the agent's user", err)
		case err != nil:
			return nil, fmt.Errorf("--registry embedded: %w: the agent brings this registry along, so `sidekick run` has to be up with this --state-dir", err)
		}
		conn.Close()
	}
	return s.dialRegistry(nil)
}

// dialRegistry returns a client of the registry that the settings name. It does not wait for the
// registry to answer. The log may be nil.
func (s *settings) dialRegistry(log logrus.FieldLogger) (*clientv3.Client, error) {
	config, err := s.registryConfig()
	if err != nil {
		return nil, usageError{err}
	}
	config.Log = log
	client, err := etcd.Dial(config)
	if err != nil {
		return nil, usageError{err}
	}
	return client, nil
}

func (s *settings) registryConfig() (etcd.Config, error) {
	if s.registry == "" {
		return etcd.Config{}, errors.New(`--registry is missing: give your etcd, as in etcd://h1:2379,h2:2379, or "embedded" for a single host`)
	}
	if s.registry == embeddedURL {
		return etcd.Config{Endpoints: []string{"unix://" + s.embeddedSocket()}}, nil
	}
	endpoints, err := etcd.ParseURL(s.registry)
	if err != nil {
		return etcd.Config{}, fmt.Errorf("--registry: %w", err)
	}
	config := etcd.Config{Endpoints: endpoints, Username: s.registryUser, Files: etcd.Files{
		CA: s.registryCA, Cert: s.registryCert, Key: s.registryKey, Password: s.registryPasswordFile,
	}}
	if plain := strings.HasPrefix(endpoints[0], "http:") || strings.HasPrefix(endpoints[0], "unix:"); plain && s.registryCA+s.registryCert+s.registryKey != "" {
		return etcd.Config{}, errors.New("--registry-ca, -cert and -key are for TLS: write etcds:// in --registry")
	}
	if (config.Username == "") != (config.Files.Password == "") {
		return etcd.Config{}, errors.New("--registry-user and --registry-password-file belong together: give both or none")
	}
	if (config.Files.Cert == "") != (config.Files.Key == "") {
		return etcd.Config{}, errors.New("--registry-cert and --registry-key belong together: give both or none")
	}
	if err := config.Files.Check(); err != nil {
		return etcd.Config{}, unreadable(err)
	}
	return config, nil
}

// unreadable adds whose a file would have to be.
func unreadable(err error) error {
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return fmt.Errorf("%w; user %d may not read it: give the file to the user that the agent runs as (chown, chmod 400), and run this as that user", err, os.Geteuid())
}
