// Package hosts holds the tests with several hosts: three, each with a Docker engine, an agent, HAProxy
// and one of three members of an etcd, and one fault after the other, under a steady load through all
// three proxies. [TestFaults] is a table of faults; what came out is written as a table, too.
//
// After each fault every proxy runs exactly the servers that really run. Meanwhile no proxy takes out a
// server that it can reach, or has one that ended before the fault. And no request may fail, with these
// exceptions, each of which is counted apart and shown:
//
//   - No instance: all instances of the service are on a host that is gone for this proxy, until the
//     proxies are right again.
//   - In flight: the request began before a host was cut off or switched off. The host may have had
//     it already, and neither its answer nor a refusal comes back.
//   - Sent: the request began after that, on a kept connection, and HAProxy had put it on a connection
//     to that host that was open from before. It cannot know how far it came. TCP goes on trying, and so
//     HAProxy waits for an answer for as long as it does for any other, longer than these clients.
//
// Faults that cut no host off have no exceptions.
package hosts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// programs are built once for all tests.
var programs struct {
	sidekick, whoami, haproxy string
	dir                       string
}

func TestMain(m *testing.M) {
	if len(os.Args) == 7 && os.Args[1] == asMember {
		if err := runMember(os.Args[2], os.Args[3], os.Args[4], os.Args[5], os.Args[6]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code, err := prepareAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e/hosts:", err)
		code = 1
	}
	os.Exit(code)
}

func prepareAndRun(m *testing.M) (code int, err error) {
	if without("haproxy") || without("docker") {
		return m.Run(), nil // every test says that it is left out
	}
	dir, err := os.MkdirTemp("", "sk-h-") // short, since sockets have short names
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	programs.dir, programs.haproxy = dir, "haproxy"
	if newer := filepath.SplitList(os.Getenv("TEST_HAPROXY")); len(newer) > 0 {
		programs.haproxy = newer[0]
	}
	programs.sidekick, programs.whoami = filepath.Join(dir, "sidekick"), filepath.Join(dir, "whoami")
	for path, pkg := range map[string]string{programs.sidekick: "../../cmd/sidekick", programs.whoami: "../../examples/whoami"} {
		cmd := exec.CommandContext(context.Background(), "go", "build", "-trimpath", "-buildvcs=false", "-o", path, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return 1, fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
	}
	return m.Run(), nil
}

// without says whether tests that need this are to be left out.
func without(what string) bool {
	return strings.Contains(" "+os.Getenv("TEST_WITHOUT")+" ", " "+what+" ")
}
