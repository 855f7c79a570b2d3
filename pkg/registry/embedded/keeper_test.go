package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/api/v3/version"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.uber.org/zap"
)

// keep returns a keeper whose server's process is this test binary.
func keep(t *testing.T, dir string) (k *Keeper, said *saying) {
	t.Helper()
	said = &saying{}
	log := logrus.New()
	log.SetOutput(said)
	k = &Keeper{
		Command: []string{"/usr/bin/env", serveIn + "=" + dir, os.Args[0]},
		Dir:     dir, Log: log, Stderr: said, Patience: 30 * time.Second,
	}
	t.Cleanup(func() {
		k.Stop()
		if t.Failed() {
			t.Logf("logged:\n%s", said)
		}
	})
	return k, said
}

// saying collects what is logged.
type saying struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *saying) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *saying) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// filled is a state directory that a server has written to, and that is free again.
func filled(t *testing.T) string {
	t.Helper()
	dir := shortDir(t)
	k, _ := keep(t, dir)
	if err := k.Start(deadline(t)); err != nil {
		t.Fatal(err)
	}
	c := dial(t, k.Endpoint())
	for i := range 200 {
		if _, err := c.Put(deadline(t), fmt.Sprint("/k", i), strings.Repeat("v", 300)); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	if err := k.Stop(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// edit changes the data as a server of another version would have written it.
func edit(t *testing.T, dir string, change func(backend.Backend)) {
	t.Helper()
	config := backend.DefaultBackendConfig(zap.NewNop())
	config.Path = database(filepath.Join(dir, "etcd"))
	be := backend.New(config)
	change(be)
	be.ForceCommit()
	if err := be.Close(); err != nil {
		t.Fatal(err)
	}
}

// files are the data files of a kind.
func files(t *testing.T, dir, kind string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "etcd/data/member", kind))
	if err != nil || len(found) == 0 {
		t.Fatalf("no %s in %s: %v", kind, dir, err)
	}
	return found
}

// damage puts rubbish into a file, from one byte to another, or cuts it off.
func damage(t *testing.T, path string, from, to int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if to == 0 {
		err = f.Truncate(int64(from))
	} else {
		_, err = f.WriteAt(bytes.Repeat([]byte{0xa5}, to-from), int64(from))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestDataThatCannotBeUsedIsRefusedWithAMend(t *testing.T) {
	const fresh = "remove that directory"
	newer := []string{"etcd 3.8", "this is " + version.Version, "as new as"}
	tests := []struct {
		name     string
		edit     func(backend.Backend)
		file     string
		from, to int // becomes rubbish; to 0 cuts the file off
		want     []string
	}{
		{name: "newer storage", edit: func(be backend.Backend) {
			tx := be.BatchTx()
			tx.Lock()
			defer tx.Unlock()
			schema.UnsafeSetStorageVersion(tx, &version.V3_8)
		}, want: newer},
		{name: "newer cluster", edit: func(be backend.Backend) {
			schema.NewMembershipBackend(zap.NewNop(), be).MustSaveClusterVersionToBackend(&version.V3_8)
		}, want: newer},
		{name: "database is rubbish", file: "snap/db", from: 0, to: 16 << 10},
		{name: "database has rubbish", file: "snap/db", from: 8 << 10, to: 1 << 20},
		{name: "database is cut off", file: "snap/db", from: 12 << 10},
		{name: "log is rubbish", file: "wal/*.wal", from: 0, to: 4 << 10},
		{name: "log has rubbish", file: "wal/*.wal", from: 10 << 10, to: 11 << 10},
		{name: "log is empty", file: "wal/*.wal"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filled(t)
			if tt.edit != nil {
				edit(t, dir, tt.edit)
			} else {
				damage(t, files(t, dir, tt.file)[0], tt.from, tt.to)
			}
			k, said := keep(t, dir)
			err := k.Start(deadline(t))
			if !errors.As(err, new(Refused)) {
				t.Fatalf("got %v, want a refusal", err)
			}
			for _, want := range append(tt.want, fresh, filepath.Join(dir, "etcd")) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want %q in it", err, want)
				}
			}
			if strings.Contains(err.Error(), "\n") || strings.Contains(said.String(), "goroutine ") {
				t.Errorf("got more than a sentence: %v\n%s", err, said)
			}
		})
	}
}

// run runs the keeper until the test ends.
func run(t *testing.T, k *Keeper) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v, want that it was cancelled", err)
		}
	})
}

// listener is the process that listens on a socket.
func listener(t *testing.T, path string) int {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var who *syscall.Ucred
	raw.Control(func(fd uintptr) { who, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED) })
	if err != nil {
		t.Fatal(err)
	}
	return int(who.Pid)
}

// until waits for a condition.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx := deadline(t)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// put writes a value, and tells whether it was acknowledged in a moment.
func put(t *testing.T, c *clientv3.Client, key, value string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := c.Put(ctx, key, value)
	return err
}

// TestNothingAcknowledgedIsLostByKills: whenever the process is killed, it starts again, and has all that it
// said it had.
func TestNothingAcknowledgedIsLostByKills(t *testing.T) {
	k, _ := keep(t, shortDir(t))
	acknowledged := map[string]string{}
	for round := range 12 {
		if err := k.Start(deadline(t)); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		c := dial(t, k.Endpoint())
		for key, want := range acknowledged {
			got, err := c.Get(deadline(t), key)
			if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) < want {
				t.Fatalf("round %d: %s is %v, %v, want %s or newer", round, key, got, err, want)
			}
		}
		cmd := k.process.cmd
		time.AfterFunc(time.Duration(5+17*round)*time.Millisecond, func() { cmd.Process.Kill() })
		for n := 0; ; n++ {
			key, value := fmt.Sprint("/k", n%7), fmt.Sprintf("%02d-%06d", round, n)
			if put(t, c, key, value) != nil {
				break
			}
			acknowledged[key] = value
		}
		<-k.process.ended
		c.Close()
	}
	if len(acknowledged) == 0 {
		t.Error("not one write was acknowledged")
	}
}

func TestKeeperStartsAServerThatEndedAgain(t *testing.T) {
	dir := shortDir(t)
	k, said := keep(t, dir)
	if err := k.Start(deadline(t)); err != nil {
		t.Fatal(err)
	}
	run(t, k)
	c := dial(t, k.Endpoint())
	if err := put(t, c, "/k", "v"); err != nil {
		t.Fatal(err)
	}
	first := listener(t, socket(dir))
	syscall.Kill(first, syscall.SIGKILL)
	until(t, "it takes writes again", func() bool { return put(t, c, "/k", "w") == nil })
	if second := listener(t, socket(dir)); second == first {
		t.Errorf("process %d still listens", second)
	}
	for _, want := range []string{"what is routed stays", "signal: killed", "serves again"} {
		until(t, "it says "+want, func() bool { return strings.Contains(said.String(), want) })
	}
}

// TestWhatFailsAgainAndAgainIsToldOnce: and what fails for another reason is told again.
func TestWhatFailsAgainAndAgainIsToldOnce(t *testing.T) {
	k, said := keep(t, shortDir(t))
	tries := filepath.Join(k.Dir, "tries")
	k.Command = []string{"/bin/sh", "-c", `echo >> "$0"; echo failed "no room after $(($(wc -l < "$0") / 3)) times three"`, tries}
	if err := k.Start(deadline(t)); err != nil {
		t.Fatal(err)
	}
	run(t, k)
	until(t, "it says that the third try failed", func() bool { return strings.Contains(said.String(), "after 1 times three") })
	if n := strings.Count(said.String(), "the embedded etcd ended"); n != 2 {
		t.Errorf("the end was told %d times, want once for each reason", n)
	}
}

// TestServerEndsWithItsKeeper: however the keeper's process ends, its end closes the server's input.
func TestServerEndsWithItsKeeper(t *testing.T) {
	dir := shortDir(t)
	k, _ := keep(t, dir)
	if err := k.Start(deadline(t)); err != nil {
		t.Fatal(err)
	}
	k.process.stdin.Close()
	<-k.process.ended
	if got := k.process.reason.Error(); got != "it was stopped" {
		t.Errorf("it ended because %q, want in good order", got)
	}
	s := start(t, Config{Dir: dir}) // the directory is free
	stop(t, s)
}

// TestTheDiskIsNotEatenUp: what stays after many writes is what two files of the log and the database need.
func TestTheDiskIsNotEatenUp(t *testing.T) {
	dir := shortDir(t)
	k, _ := keep(t, dir)
	if err := k.Start(deadline(t)); err != nil {
		t.Fatal(err)
	}
	c := dial(t, k.Endpoint())
	var writers sync.WaitGroup
	for w := range 20 {
		writers.Go(func() {
			for range 500 {
				if _, err := c.Put(t.Context(), fmt.Sprint("/k", w), strings.Repeat("v", 4<<10)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	answer, err := c.Get(deadline(t), "/k")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Compact(deadline(t), answer.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := k.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := k.Start(deadline(t)); err != nil {
		t.Fatal(err)
	}
	const most = 32 << 20
	until(t, "old files are removed", func() bool {
		var sum int64
		for _, path := range slices.Concat(files(t, dir, "wal/*"), files(t, dir, "snap/*")) {
			if info, err := os.Stat(path); err == nil {
				sum += info.Sys().(*syscall.Stat_t).Blocks * 512
			}
		}
		return sum <= most
	})
}

func TestKeeperGoesOnWithoutAServerThatTakesItsTime(t *testing.T) {
	k, said := keep(t, shortDir(t))
	k.Command, k.Patience = []string{"/bin/cat"}, 10*time.Millisecond
	if err := k.Start(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if want := "takes its time"; !strings.Contains(said.String(), want) {
		t.Errorf("logged %q, want %q", said, want)
	}
}

// inNamespace runs the test again in a process with mounts of its own, and tells that it has.
func inNamespace(t *testing.T) (outside bool) {
	t.Helper()
	const inside = "EMBEDDED_TEST_INSIDE"
	if os.Getenv(inside) != "" {
		return false
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v (it needs root)\n%s", err, out)
	}
	return true
}

// TestFullDisk: a server on a disk that is full ends, its keeper says what is wrong, and when there is room
// again it goes on with all that it had acknowledged.
func TestFullDisk(t *testing.T) {
	if inNamespace(t) {
		return
	}
	dir := shortDir(t)
	for _, mount := range []func() error{
		func() error { return syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "") },
		func() error { return syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64m") },
	} {
		if err := mount(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	k, said := keep(t, dir)
	if err := k.Start(deadline(t)); err != nil {
		t.Fatal(err)
	}
	run(t, k)
	c := dial(t, k.Endpoint())
	fill := filepath.Join(dir, "filler")
	if err := os.WriteFile(fill, make([]byte, 64<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	last, value := "", strings.Repeat("x", 8<<10)
	until(t, "there is no room", func() bool {
		now := fmt.Sprintf("%s%d", value, time.Now().UnixNano())
		if put(t, c, "/k", now) == nil {
			last = now
		}
		return strings.Contains(said.String(), "no space left on device; make room there")
	})
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	until(t, "it serves again", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		got, err := c.Get(ctx, "/k")
		if err == nil && string(got.Kvs[0].Value) < last {
			t.Fatalf("lost what it had acknowledged")
		}
		return err == nil && put(t, c, "/k", "there is room") == nil
	})
	if strings.Contains(said.String(), "goroutine ") {
		t.Errorf("it told of its goroutines:\n%s", said)
	}
}
