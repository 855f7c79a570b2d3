// Package e2e holds the end-to-end tests: the sidekick program as a user runs it, with a real
// Docker engine, a real HAProxy and a real etcd, under a steady load whose every failure counts.
// What is about HAProxy alone runs with every version of it, and with instances that the test itself
// registers instead of an engine.
//
// Each test has a [world] of its own: a loopback address on which everything listens, a directory,
// a name under which its containers run. Nothing in it is told apart by time: tests wait for
// conditions, and the load tells what happened in between.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/enginetest"
)

// programs are built once for all tests.
var programs struct {
	sidekick, whoami string
	image            string
	dir              string
}

func TestMain(m *testing.M) {
	code, err := prepareAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func prepareAndRun(m *testing.M) (code int, err error) {
	if without("haproxy") {
		return m.Run(), nil // every test says that it is left out
	}
	dir, err := os.MkdirTemp("", "sk-e2e-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	defer removeMounted()
	programs.dir = dir
	programs.sidekick, programs.whoami = filepath.Join(dir, "sidekick"), filepath.Join(dir, "whoami")
	for path, pkg := range map[string]string{programs.sidekick: "../cmd/sidekick", programs.whoami: "../examples/whoami"} {
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", path, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return 1, fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
	}
	if without("docker") {
		return m.Run(), nil
	}
	return withEngine(m)
}

// withEngine runs the tests with an image of whoami in the engine, and sweeps it afterwards.
func withEngine(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	engine, err := enginetest.Open(ctx, runName("all"))
	if err != nil {
		return 1, fmt.Errorf("%w; start it, or leave its tests out: make test WITHOUT=docker", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err = errors.Join(err, engine.Sweep(ctx), engine.Close())
	}()
	programs.image = "sidekick-e2e/" + runName("whoami")
	if err := engine.BuildImage(ctx, programs.image, programs.whoami, "8000"); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// removeMounted removes what engines have made on the machine itself, for containers to mount. What is
// not empty stays.
func removeMounted() {
	os.Remove("/etc/sidekick/haproxy")
	os.Remove("/etc/sidekick")
}

// runName makes a name of its own for this run of the tests.
func runName(what string) string { return fmt.Sprintf("%s-%d", what, os.Getpid()) }

// leftOut skips a test that needs what is to be left out.
func leftOut(t *testing.T, needs ...string) {
	t.Helper()
	for _, what := range needs {
		if without(what) {
			t.Skip("left out on demand: " + what)
		}
	}
}

// without says whether tests that need this are to be left out.
func without(what string) bool {
	return strings.Contains(" "+os.Getenv("TEST_WITHOUT")+" ", " "+what+" ")
}
