package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/proctest"
)

// processes are HAProxy's master and its current worker, 0 if that is not known.
func (s *soak) processes(ctx context.Context) (master, worker int) {
	answer, err := askSocket(ctx, s.masterSocket(), "show proc")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(answer) {
		var pid, reloads int
		var kind string
		fmt.Sscan(line, &pid, &kind, &reloads)
		switch {
		case kind == "master":
			master = pid
		case kind == "worker" && reloads == 0 && worker == 0:
			worker = pid
		}
	}
	return master, worker
}

func (s *soak) drawWorkerKilled(*rand.Rand) step {
	return step{what: "haproxy's worker is killed", do: func(ctx context.Context) error {
		_, worker := s.processes(ctx)
		s.ends.Add(1)
		return kill(worker)
	}}
}

func kill(pid int) error {
	if pid == 0 {
		return errors.New("there is none")
	}
	return syscall.Kill(pid, syscall.SIGKILL)
}

// drawMasterKilled leaves the worker without its master, for a while or, managed, for its agent to end.
func (s *soak) drawMasterKilled(r *rand.Rand) step {
	orphan := time.Duration(r.IntN(2)*r.IntN(3000)) * time.Millisecond
	if s.external {
		return step{what: fmt.Sprintf("haproxy's master is killed, its worker %s later", orphan), do: func(context.Context) error {
			s.ends.Add(1)
			s.keeper.signal(syscall.SIGKILL, orphan, "")
			return nil
		}}
	}
	return step{what: "haproxy's master is killed", do: func(ctx context.Context) error {
		master, _ := s.processes(ctx)
		s.ends.Add(1)
		return kill(master)
	}}
}

// drawRestart restarts HAProxy, perhaps with another version's program.
func (s *soak) drawRestart(r *rand.Rand) step {
	bin := s.nextBin(r)
	signal := []syscall.Signal{syscall.SIGTERM, syscall.SIGUSR1}[r.IntN(2)]
	return step{what: fmt.Sprintf("haproxy is restarted by %v with %s", signal, bin), do: func(context.Context) error {
		s.ends.Add(1)
		s.keeper.signal(signal, 0, bin)
		return nil
	}}
}

// nextBin is the program of the next HAProxy.
func (s *soak) nextBin(r *rand.Rand) string {
	if s.known.foreign {
		return s.bins[r.IntN(len(s.bins))]
	}
	return s.bin
}

// drawTakeOver has another HAProxy take over from the one that runs.
func (s *soak) drawTakeOver(r *rand.Rand) step {
	s.known.tookOver = true
	bin, beside := s.nextBin(r), time.Duration(100+r.IntN(900))*time.Millisecond
	return step{what: fmt.Sprintf("a second haproxy, %s, takes over, and the first stops %s later", bin, beside), do: func(ctx context.Context) error {
		return s.keeper.takeOver(ctx, beside, bin)
	}}
}

func (s *soak) drawAgentKilled(r *rand.Rand) step {
	away := time.Duration(r.IntN(2)*r.IntN(2000)) * time.Millisecond
	return step{what: fmt.Sprintf("the agent is killed and away for %s", away), do: func(ctx context.Context) error {
		return s.killAgent(ctx, away)
	}}
}

// drawKilledInReload makes a reload necessary and kills the agent while that goes on, perhaps.
func (s *soak) drawKilledInReload(r *rand.Rand) step {
	change := s.drawOptions(r)
	after := time.Duration(r.IntN(300)) * time.Millisecond
	return step{what: fmt.Sprintf("%s, and the agent is killed %s later", change.what, after), do: func(ctx context.Context) error {
		err := change.do(ctx)
		wait(ctx, after)
		return errors.Join(err, s.killAgent(ctx, 0))
	}}
}

// drawSocket makes a socket unreachable for a while.
func (s *soak) drawSocket(r *rand.Rand) step {
	path := []string{s.masterSocket(), s.runtimeSocket()}[r.IntN(2)]
	how := []string{"away", "dead", "closed"}[r.IntN(3)]
	d := time.Duration(r.IntN(1500)) * time.Millisecond
	return step{what: fmt.Sprintf("%s is %s for %s", path, how, d), do: func(ctx context.Context) error {
		s.socketLock[path].Lock()
		defer s.socketLock[path].Unlock()
		if how == "closed" {
			return closedFor(ctx, path, d)
		}
		return awayFor(ctx, path, how == "dead", d)
	}}
}

// closedFor takes everybody's right to connect.
func closedFor(ctx context.Context, path string, d time.Duration) error {
	if err := os.Chmod(path, 0); err != nil {
		return err
	}
	wait(ctx, d)
	return os.Chmod(path, 0o660)
}

// awayFor gives a socket another name, and puts one in its place at which nobody listens if dead. One
// that was bound anew meanwhile stays: it is told by its listener, for the number of a file that is gone
// is soon another one's.
func awayFor(ctx context.Context, path string, dead bool, d time.Duration) error {
	hidden := path + ".away"
	if err := os.Rename(path, hidden); err != nil {
		return err
	}
	defer os.Remove(hidden)
	if dead {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		if err != nil {
			return err // somebody was quicker
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	wait(ctx, d)
	if conn, err := net.Dial("unix", path); err == nil {
		return conn.Close()
	}
	return os.Rename(hidden, path)
}

// drawHeldConnection holds a connection to the worker, which stays with it over reloads.
func (s *soak) drawHeldConnection(r *rand.Rand) step {
	d := time.Duration(r.IntN(4000)) * time.Millisecond
	return step{what: fmt.Sprintf("somebody holds a connection to the worker for %s", d), do: func(ctx context.Context) error {
		conn, err := net.Dial("unix", s.runtimeSocket())
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("prompt\n"))
		wait(ctx, d)
		return err
	}}
}

// drawEdit changes a server at the runtime socket as somebody with a tool would.
func (s *soak) drawEdit(r *rand.Rand) step {
	s.edited = true
	s.known.count++
	n, count := r.IntN(1000), s.known.count
	ways := []string{
		"set server %s state maint", "set server %s state drain", "set server %s state ready", "set server %s weight 7",
		"clear map routes.map", "add map routes.map s0.example.test/x/ be_no_service", "set map routes.map s1.example.test/ be_no_service",
		"set server %s health down", "disable health %s", "set server %s state maint; del server %s",
		"add server %s-x 127.0.0.1:1", "add server %s-x 127.0.0.1:1; set server %s-x state ready", "set server %s addr 127.0.0.1 port 1",
	}
	how := ways[r.IntN(len(ways))]
	return step{what: "somebody edits: " + how, do: func(ctx context.Context) error {
		running, err := s.running(ctx)
		if err != nil || len(running) == 0 {
			return errors.Join(err, errors.New("nothing to edit"))
		}
		target := slices.Sorted(maps.Keys(running))[n%len(running)]
		line := strings.ReplaceAll(strings.ReplaceAll(how, "%s-x", fmt.Sprintf("%s-x%d", target, count)), "%s", target)
		answer, err := askSocket(ctx, s.runtimeSocket(), line)
		s.log.add("      %s: %q", line, strings.TrimSpace(answer))
		return err
	}}
}

// drawEtcd stops the registry for a while, or kills it.
func (s *soak) drawEtcd(r *rand.Rand) step {
	d := time.Duration(r.IntN(1500)) * time.Millisecond
	if r.IntN(2) == 0 {
		return step{what: fmt.Sprintf("etcd stands still for %s", d), do: func(ctx context.Context) error {
			s.etcdLock.Lock()
			defer s.etcdLock.Unlock()
			s.etcd.Signal(syscall.SIGSTOP)
			wait(ctx, d)
			s.etcd.Signal(syscall.SIGCONT)
			return nil
		}}
	}
	return step{what: fmt.Sprintf("etcd is killed and away for %s", d), do: func(ctx context.Context) error {
		s.etcdLock.Lock()
		defer s.etcdLock.Unlock()
		s.etcd.Kill()
		wait(ctx, d)
		p, err := proctest.Start("etcd", s.path("etcd.log"), programs.sidekick,
			"etcd", "--state-dir", s.path("etcd"), "--listen", s.at(2379), "--allow-anyone", "--log-format", "text")
		if err == nil {
			s.etcd = p
		}
		return err
	}}
}
