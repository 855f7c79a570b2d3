// Package privilege turns a process that was started as root into one that is not.
//
// A container that starts as root needs no knowledge of the host's numbers: the program itself finds
// the group of a socket that it is to use, takes that group along, and leaves root behind before it
// does anything else.
package privilege

import (
	"fmt"
	"os"
	"os/user"
	"runtime"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Account is whom a process becomes.
type Account struct {
	Name   string
	uid    int
	gid    int
	groups []int
}

// Lookup finds the user of that name, who must not be root, and the groups it is in; extra groups are
// added.
func Lookup(name string, extra ...int) (Account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return Account{}, err
	}
	ids, err := u.GroupIds()
	if err != nil {
		return Account{}, fmt.Errorf("groups of user %s: %w", name, err)
	}
	a := Account{Name: name, groups: slices.Clone(extra)}
	if a.uid, err = strconv.Atoi(u.Uid); err != nil {
		return Account{}, fmt.Errorf("user %s: uid %q is no number", name, u.Uid)
	}
	if a.gid, err = strconv.Atoi(u.Gid); err != nil {
		return Account{}, fmt.Errorf("user %s: gid %q is no number", name, u.Gid)
	}
	for _, id := range ids {
		gid, err := strconv.Atoi(id)
		if err != nil {
			return Account{}, fmt.Errorf("user %s: gid %q is no number", name, id)
		}
		a.groups = append(a.groups, gid)
	}
	if a.uid == 0 {
		return Account{}, fmt.Errorf("user %s is root", name)
	}
	slices.Sort(a.groups)
	a.groups = slices.Compact(a.groups)
	return a, nil
}

// GroupOf returns the group that owns the file.
func GroupOf(path string) (gid int, err error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, fmt.Errorf("group of %s: %w", path, err)
	}
	return int(stat.Gid), nil
}

// Become executes this program anew, with the same arguments and environment, as the account. It
// keeps the right to bind ports below 1024 if lowPorts asks for it and the process has it, and hands
// it on to the programs that it starts; every other capability is gone. Become returns only to say
// what failed.
func (a Account) Become(lowPorts bool) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("become user %s: %w", a.Name, err)
	}
	// Capabilities belong to threads, and execve(2) takes those of the thread that calls it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if lowPorts {
		if lowPorts, err = bindsLowPorts(); err != nil {
			return fmt.Errorf("become user %s: %w", a.Name, err)
		}
	}
	if err := a.assume(lowPorts); err != nil {
		return fmt.Errorf("become user %s: %w; allow the capabilities SETUID and SETGID, or start as that user", a.Name, err)
	}
	return fmt.Errorf("become user %s: execute %s: %w", a.Name, program, unix.Exec(program, os.Args, os.Environ())) //nolint:forbidigo // handed on
}

// assume gives the calling thread the account's groups and user, and no capability but that for low
// ports, if asked for.
func (a Account) assume(lowPorts bool) error {
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("keep capabilities: %w", err)
	}
	if err := syscall.Setgroups(a.groups); err != nil {
		return fmt.Errorf("set groups: %w", err)
	}
	if err := syscall.Setresgid(a.gid, a.gid, a.gid); err != nil {
		return fmt.Errorf("set group: %w", err)
	}
	if err := syscall.Setresuid(a.uid, a.uid, a.uid); err != nil {
		return fmt.Errorf("set user: %w", err)
	}
	return limit(lowPorts)
}

// lowPort is the right to bind ports below 1024, in the first word of a set of capabilities.
const lowPort = 1 << unix.CAP_NET_BIND_SERVICE

// bindsLowPorts tells whether the calling thread has that right.
func bindsLowPorts() (bool, error) {
	var sets [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return false, fmt.Errorf("read capabilities: %w", err)
	}
	return sets[0].Permitted&lowPort != 0, nil
}

// limit leaves the calling thread no capability, or the one for low ports as an ambient one, which
// survives execve(2) without root: see capabilities(7).
func limit(lowPorts bool) error {
	var sets [2]unix.CapUserData
	if lowPorts {
		sets[0] = unix.CapUserData{Effective: lowPort, Permitted: lowPort, Inheritable: lowPort}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capset(&header, &sets[0]); err != nil {
		return fmt.Errorf("limit capabilities: %w", err)
	}
	if !lowPorts {
		return nil
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_NET_BIND_SERVICE, 0, 0); err != nil {
		return fmt.Errorf("hand the right to bind low ports on: %w", err)
	}
	return nil
}

// IsRoot says whether the process may become somebody else.
func IsRoot() bool { return syscall.Geteuid() == 0 }
