package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/registry/embedded"
	"github.com/sidekick-proxy/sidekick/pkg/registry/etcd"
)

// startEmbedded starts the registry inside the agent, or returns nil if the settings name another.
func (s *settings) startEmbedded(ctx context.Context, log logrus.FieldLogger) (*embedded.Server, error) {
	if s.registry != embeddedURL {
		return nil, nil //nolint:nilnil // none is what was asked for
	}
	return embedded.Start(ctx, embedded.Config{Dir: s.stateDir, Log: log})
}

// dialRegistry returns a client of the registry that the settings name. It does not wait for the
// registry to answer.
func (s *settings) dialRegistry() (*clientv3.Client, error) {
	config, err := s.registryConfig()
	if err != nil {
		return nil, usageError{err}
	}
	return etcd.Dial(config)
}

func (s *settings) registryConfig() (etcd.Config, error) {
	if s.registry == "" {
		return etcd.Config{}, errors.New(`--registry is missing: give your etcd, as in etcd://h1:2379,h2:2379, or "embedded" for a single host`)
	}
	if s.registry == embeddedURL {
		return etcd.Config{Endpoints: []string{"unix://" + s.stateDir + "/etcd.sock"}}, nil
	}
	endpoints, err := etcd.ParseURL(s.registry)
	if err != nil {
		return etcd.Config{}, fmt.Errorf("--registry: %w", err)
	}
	config := etcd.Config{Endpoints: endpoints, Username: s.registryUser}
	if strings.HasPrefix(endpoints[0], "https:") {
		if config.TLS, err = s.registryTLS(); err != nil {
			return etcd.Config{}, err
		}
	} else if s.registryCA+s.registryCert+s.registryKey != "" {
		return etcd.Config{}, errors.New("--registry-ca, -cert and -key are for TLS: write etcds:// in --registry")
	}
	if s.registryPasswordFile != "" {
		password, err := os.ReadFile(s.registryPasswordFile)
		if err != nil {
			return etcd.Config{}, fmt.Errorf("--registry-password-file: %w", err)
		}
		config.Password = strings.TrimRight(string(password), "\r\n")
	}
	if (config.Username == "") != (config.Password == "") {
		return etcd.Config{}, errors.New("--registry-user and --registry-password-file belong together: give both or none")
	}
	return config, nil
}

func (s *settings) registryTLS() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.registryCA != "" {
		pem, err := os.ReadFile(s.registryCA)
		if err != nil {
			return nil, fmt.Errorf("--registry-ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--registry-ca: %s holds no certificate in PEM form", s.registryCA)
		}
	}
	if s.registryCert != "" || s.registryKey != "" {
		pair, err := tls.LoadX509KeyPair(s.registryCert, s.registryKey)
		if err != nil {
			return nil, fmt.Errorf("--registry-cert and --registry-key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
