package hosttest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/proctest"
)

// What a namespace needs before it is used. The shell gets the host's name and directory.
const (
	// With forwarding, the switch answers what it has no route for, instead of dropping it.
	setUpSwitch = `
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 0 >/proc/sys/net/ipv4/icmp_ratelimit
`
	// /sys is mounted anew to show this network's devices; the control groups are kept from under it.
	setUpHost = `
ip link set lo up
echo "$1" >/proc/sys/kernel/hostname
mount --bind "$2/run" /run
mount --bind "$2/docker" /var/lib/docker
mount --bind "$2/etc" /etc/docker
mount --move /sys/fs/cgroup "$2/cgroup"
mount -t sysfs sysfs /sys
mount --move "$2/cgroup" /sys/fs/cgroup
`
	// The first process tells its number as it is outside, and moves into mounts of its own, in which
	// /proc has the numbers within. As it ignores the end of its children, none of those that lost their
	// parents stays as a zombie, which an engine takes for the living.
	hold = `
read -r pid rest </proc/self/stat
echo "$pid"
exec unshare --mount-proc env --ignore-signal=CHLD sleep infinity
`
)

// space is a set of namespaces, and the processes that hold them.
type space struct {
	outside *proctest.Process // is in all of them but that of process numbers
	first   int               // first process of the latter; when it ends, the kernel ends all others
}

// openSpace makes the namespaces and sets them up with a shell script.
func openSpace(ctx context.Context, name, log, setUp string, args ...string) (*space, error) {
	args = append([]string{
		// While it waits for its child, unshare ignores SIGTERM, which it would get at this process's death.
		"--pdeathsig", "KILL", "--",
		"unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", "--", "sh", "-ec", setUp + hold, "sh",
	}, args...)
	p, err := proctest.Start(name, log, "setpriv", args...)
	if err != nil {
		return nil, err
	}
	s := &space{outside: p}
	err = until(ctx, name+" does not come up", func(context.Context) (bool, error) {
		if ended, err := p.Ended(); ended {
			return false, fmt.Errorf("%s does not come up: %w: %s", name, err, p.Tail(3))
		}
		pid, err := strconv.Atoi(p.Tail(1))
		s.first = pid
		// Its last program runs when all is set up.
		return err == nil && program(pid) == "sleep", nil
	})
	if err != nil {
		p.Kill()
		return nil, err
	}
	return s, nil
}

// program is the name of the program that a process runs.
func program(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// enter is a command line that runs a program here. It keeps the process numbers of outside, and a
// /proc that goes with them, so signals reach the program itself.
func (s *space) enter(args ...string) []string {
	return append([]string{"nsenter", "--target", strconv.Itoa(s.outside.PID()), "--mount", "--net", "--uts", "--"}, args...)
}

// enterWholly is a command line that runs a program here as a process like all others here.
func (s *space) enterWholly(args ...string) []string {
	return append([]string{"nsenter", "--target", strconv.Itoa(s.first), "--mount", "--net", "--uts", "--pid", "--"}, args...)
}

// ip runs commands of the program ip here.
func (s *space) ip(ctx context.Context, commands ...string) error {
	return batch(ctx, s.enter("ip", "-batch", "-"), commands)
}

// ip runs commands of the program ip in this process's own network.
func ip(ctx context.Context, commands ...string) error {
	return batch(ctx, []string{"ip", "-batch", "-"}, commands)
}

func batch(ctx context.Context, line, commands []string) error {
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(commands, "; "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// close ends all processes here, and so the namespaces.
func (s *space) close() {
	link := fmt.Sprintf("/proc/%d/ns/net", s.first)
	name, _ := os.Readlink(link) // missing if the processes have ended already
	// As long as it is open, the namespace's name is not given to another.
	if f, err := os.Open(link); err == nil {
		defer f.Close()
	}
	// The parent ends after its child, and that one after all others of its process numbers.
	if ended, _ := s.outside.Ended(); !ended {
		_ = syscall.Kill(s.first, syscall.SIGKILL) // if it has ended, its parent keeps its number
	}
	<-s.outside.Done()
	if name != "" {
		endVisitors(name)
	}
}

// endVisitors ends the processes that came into a network namespace by enter.
func endVisitors(name string) {
	links, _ := filepath.Glob("/proc/[0-9]*/ns/net") // the pattern is well formed
	for _, link := range links {
		pid, err := strconv.Atoi(strings.Split(link, "/")[2])
		if theirs, _ := os.Readlink(link); err == nil && theirs == name {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may end just now
		}
	}
}

// patience is how long things may take that are a matter of a second.
const patience = time.Minute

// until asks whether something is so until it is, but not for ever.
func until(ctx context.Context, otherwise string, so func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := so(ctx); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", otherwise, context.Cause(ctx))
		}
	}
}
