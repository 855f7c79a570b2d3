package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// askAgent sends a GET to the admin listener of this host's agent and returns status and body.
func (s *settings) askAgent(ctx context.Context, path string) (int, []byte, error) {
	if s.admin == off {
		return 0, nil, usageError{errors.New("--admin is off: there is no agent to ask; use --direct to read the registry, or give the agent's address")}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+dialable(s.admin)+path, nil)
	if err != nil {
		return 0, nil, fmt.Errorf("agent at %s: %w", s.admin, err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, fmt.Errorf("no agent answers at %s (%w); is `sidekick run` up on this host, with this --admin?", s.admin, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, nil, fmt.Errorf("agent at %s: %w", s.admin, err)
	}
	return response.StatusCode, body, nil
}

// askAgentJSON is askAgent for a path that answers 200 with JSON.
func (s *settings) askAgentJSON(ctx context.Context, path string, into any) error {
	status, body, err := s.askAgent(ctx, path)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("agent at %s: %s: %d %s", s.admin, path, status, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("agent at %s: %s: %w", s.admin, path, err)
	}
	return nil
}

// dialable makes an address to connect to of one to listen on.
func dialable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	switch host {
	case "", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	return net.JoinHostPort(host, port)
}
