package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/pkg/registry/embedded"
	"github.com/sidekick-proxy/sidekick/pkg/registry/etcd"
)

var update = flag.Bool("update", false, "write what the scripts compare with anew")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sidekick": func() { os.Exit(run()) }})
}

// TestScripts runs the commands as a user would, and compares what they print and their exit codes.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			env.Vars = append(env.Vars, "HOSTNAME=host1")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exitcode": exitCode,
			"etcd":     func(ts *testscript.TestScript, _ bool, _ []string) { startEtcd(t.Context(), ts) },
			"put":      func(ts *testscript.TestScript, _ bool, args []string) { putKeys(t.Context(), ts, args) },
		},
	})
}

// exitCode runs a command and checks its exit code: exitcode CODE COMMAND ARGS….
func exitCode(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: exitcode CODE COMMAND ARGS…")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%s: %v", args[1], err)
		}
		got = strconv.Itoa(exit.ExitCode())
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// startEtcd starts an etcd beside the script, and sets ETCD to its address: etcd.
func startEtcd(ctx context.Context, ts *testscript.TestScript) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	ts.Check(err)
	address := listener.Addr().String()
	ts.Check(listener.Close())
	dir, err := os.MkdirTemp("", "sk") // the script's own is too long for a socket
	ts.Check(err)
	ts.Defer(func() { os.RemoveAll(dir) })
	log := logrus.New()
	log.SetOutput(io.Discard)
	server, err := embedded.Start(ctx, embedded.Config{Dir: dir, ListenClient: []string{address}, Log: log})
	ts.Check(err)
	ts.Defer(func() { _ = server.Stop() })
	ts.Setenv("ETCD", address)
}

// putKeys writes a file's lines of a key and its value into that etcd: put FILE.
func putKeys(ctx context.Context, ts *testscript.TestScript, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: put FILE")
	}
	client, err := etcd.Dial(etcd.Config{Endpoints: []string{"http://" + ts.Getenv("ETCD")}})
	ts.Check(err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		_, err := client.Put(ctx, key, value)
		ts.Check(err)
	}
}
