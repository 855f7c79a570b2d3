package embedded

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
)

// serveIn is the variable that makes the test binary the process of a server in that directory.
const serveIn = "EMBEDDED_TEST_SERVE_IN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(serveIn); dir != "" {
		if err := Serve(context.Background(), Config{Dir: dir, Log: logrus.New()}, os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sk") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func stop(t *testing.T, s *Server) {
	t.Helper()
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
}

func dial(t *testing.T, endpoint string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestDataSurvivesARestartAndStopDoesNotWaitForWatchers(t *testing.T) {
	ctx := deadline(t)
	log, hook := test.NewNullLogger()
	cfg := Config{Dir: shortDir(t), Log: log}
	s := start(t, cfg)
	c := dial(t, s.Endpoint())
	if _, err := c.Put(ctx, "/k", "v"); err != nil {
		t.Fatal(err)
	}
	watch := c.Watch(ctx, "/", clientv3.WithPrefix())
	before := time.Now()
	stop(t, s)
	if took := time.Since(before); took > 4*time.Second {
		t.Errorf("stopping with a watcher took %v, want a moment", took)
	}
	s = start(t, cfg)
	defer stop(t, s)
	got, err := c.Get(ctx, "/k")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "v" {
		t.Errorf("after the restart got %v, want the value written before", got.Kvs)
	}
	if _, err := c.Put(ctx, "/k2", "v"); err != nil {
		t.Fatal(err)
	}
	if r := <-watch; len(r.Events) == 0 || string(r.Events[len(r.Events)-1].Kv.Key) != "/k2" {
		t.Errorf("the watch got %v after the restart, want the new key", r)
	}
	for _, e := range hook.AllEntries() {
		t.Errorf("logged %q %v, want silence", e.Message, e.Data)
	}
}

func TestSecondServerIsRefused(t *testing.T) {
	cfg := Config{Dir: shortDir(t), Log: quiet()}
	s := start(t, cfg)
	defer stop(t, s)
	second, err := Start(t.Context(), cfg)
	if err == nil {
		stop(t, second)
		t.Fatal("a second server started in the same directory")
	}
	if want := "already: stop that one"; !strings.Contains(err.Error(), want) {
		t.Errorf("got error %q, want one with %q", err, want)
	}
}

// TestDataOfAnotherEtcdIsRefused: another make of etcd knows nothing of our lock, but locks its database.
func TestDataOfAnotherEtcdIsRefused(t *testing.T) {
	cfg := Config{Dir: shortDir(t)}
	stop(t, start(t, cfg))
	db, err := os.Open(database(data(cfg.Dir)))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := syscall.Flock(int(db.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	s, err := Start(t.Context(), cfg)
	if err == nil {
		stop(t, s)
	}
	if want := "another etcd works on " + db.Name(); err == nil || !strings.Contains(err.Error(), want) || !errors.As(err, new(Refused)) {
		t.Fatalf("got %v, want a refusal with %q", err, want)
	}
	db.Close()
	stop(t, start(t, cfg))
}

// TestStartWaitsForOneThatEnds: as when an agent is started at once after another was killed.
func TestStartWaitsForOneThatEnds(t *testing.T) {
	cfg := Config{Dir: shortDir(t)}
	first := start(t, cfg)
	time.AfterFunc(100*time.Millisecond, func() { first.Stop() })
	cfg.Patience = 30 * time.Second
	stop(t, start(t, cfg))
}

func TestStartRefusesWithAReason(t *testing.T) {
	file := filepath.Join(shortDir(t), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		cfg  Config
		want string
	}{
		{"socket path too long", Config{Dir: filepath.Join(shortDir(t), strings.Repeat("x", 100))}, "shorter --state-dir"},
		{"directory cannot be made", Config{Dir: filepath.Join(file, "x")}, "writable directory"},
		{"no port", Config{Dir: shortDir(t), ListenClient: []string{"127.0.0.1"}}, "HOST:PORT"},
		{"address of another host", Config{Dir: shortDir(t), ListenClient: []string{"192.0.2.1:1"}}, "192.0.2.1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.Log = quiet()
			s, err := Start(t.Context(), tt.cfg)
			if err == nil {
				stop(t, s)
				t.Fatalf("Start(%+v) succeeded", tt.cfg)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %q, want one with %q", err, tt.want)
			}
		})
	}
}

func TestListensOnTCPWhenAsked(t *testing.T) {
	const addr = "127.41.0.1:23790"
	s := start(t, Config{Dir: shortDir(t), Log: quiet(), ListenClient: []string{addr}})
	defer stop(t, s)
	if _, err := dial(t, "http://"+addr).Put(deadline(t), "/k", "v"); err != nil {
		t.Error(err)
	}
}

func TestOnlyTheOwnerReachesTheSockets(t *testing.T) {
	dir := shortDir(t)
	s := start(t, Config{Dir: dir, Log: quiet()})
	defer stop(t, s)
	for path, want := range map[string]os.FileMode{"etcd.sock": 0o600, "etcd": 0o700} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %v, want %v", path, got, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "etcd", "peer.sock")); err != nil {
		t.Errorf("the peer socket is not where it should be: %v", err)
	}
}

func TestWaitTellsOfTheEnd(t *testing.T) {
	s := start(t, Config{Dir: shortDir(t), Log: quiet()})
	defer stop(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	s.etcd.Server.Stop()
	if err := s.Wait(deadline(t)); err == nil || !strings.Contains(err.Error(), "embedded etcd") {
		t.Errorf("got %v, want the reason", err)
	}
}

func quiet() logrus.FieldLogger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

func TestOtherFaultsOfTheLockAreNotCalledUse(t *testing.T) {
	if err := lockError("/d", syscall.EWOULDBLOCK); !strings.Contains(err.Error(), "runs in /d already") {
		t.Errorf("got %v, want that another runs there", err)
	}
	if err := lockError("/d", syscall.ENOLCK); !errors.Is(err, syscall.ENOLCK) || strings.Contains(err.Error(), "already") {
		t.Errorf("got %v, want the cause", err)
	}
}
