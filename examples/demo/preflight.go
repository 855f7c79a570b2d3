package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sidekick-proxy/sidekick/internal/enginetest"
)

// setting is a port on loopback that can be chosen.
type setting struct {
	variable string
	number   string
}

func port(variable string, preset int) setting {
	s := setting{variable: variable, number: os.Getenv(variable)}
	if s.number == "" {
		s.number = strconv.Itoa(preset)
	}
	return s
}

func (s setting) address() string { return net.JoinHostPort("127.0.0.1", s.number) }

// free says in a sentence why the port cannot be had.
func (s setting) free(ctx context.Context) error {
	if n, err := strconv.ParseUint(s.number, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%s=%s is no port: give a number from 1 to 65535", s.variable, s.number)
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", s.address())
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("port %s needs root: run as root, or choose another: make demo %s=18080", s.number, s.variable)
	}
	if err != nil {
		return fmt.Errorf("port %s of 127.0.0.1 is in use: stop what uses it, or choose another: make demo %s=18090", s.number, s.variable)
	}
	return ln.Close()
}

// preflight finds out all that is missing before anything is made.
func (d *demo) preflight(ctx context.Context) error {
	version, err := haproxyVersion(ctx)
	errs := []error{err, d.http.free(ctx), d.admin.free(ctx), d.stats.free(ctx)}
	for _, program := range []string{"sidekick", "whoami"} {
		if _, err := os.Stat(filepath.Join(d.bin, program)); err != nil {
			errs = append(errs, fmt.Errorf("%s is not built: run make build", filepath.Join(d.bin, program)))
		}
	}
	engine, err := enginetest.Open(ctx, run)
	if errors.Is(err, os.ErrPermission) || err != nil && strings.Contains(err.Error(), "permission denied") {
		err = errors.New("the Docker engine's socket may not be opened by this user: run as root, or as a member of the socket's group")
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		if engine != nil {
			err = errors.Join(err, engine.Close())
		}
		return err
	}
	d.engine = engine
	// What a demo left behind that was killed half-way.
	if err := engine.Sweep(ctx); err != nil {
		return errors.Join(err, engine.Close())
	}
	if d.dir, err = os.MkdirTemp("", name+"-"); err != nil {
		return errors.Join(err, engine.Close())
	}
	done("the Docker engine answers, %s is installed, the ports are free", version)
	return nil
}

func haproxyVersion(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "haproxy", "-v").Output()
	if err != nil {
		return "", fmt.Errorf("HAProxy does not run: %w; install it with: apt-get install haproxy", err)
	}
	words := strings.Fields(string(out)) // HAProxy version 2.6.12-1+deb12u4 …
	if len(words) < 3 {
		return "HAProxy", nil
	}
	number, _, _ := strings.Cut(words[2], "-")
	return "HAProxy " + number, nil
}
