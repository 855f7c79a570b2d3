package hosttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"
)

const (
	// place lists the networks of this machine: a symbolic link for each, from its number to its
	// directory.
	place = "/run/sidekick-hosttest"
	// lockFile is locked in the network's directory for as long as its owner lives.
	lockFile = "lock"
)

// claim takes the directory and a number that is nobody's, and removes what others left behind.
func (n *Network) claim(ctx context.Context) error {
	if err := makeEmpty(n.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(place, 0o700); err != nil {
		return err
	}
	// One at a time, or two would remove the same network, the second after its number has a new owner.
	all, err := lock(filepath.Join(place, lockFile), os.O_CREATE, syscall.LOCK_EX)
	if err != nil {
		return err
	}
	defer all.Close()
	if err := sweep(); err != nil {
		return err
	}
	n.lock, err = lock(filepath.Join(n.dir, lockFile), os.O_CREATE, syscall.LOCK_EX)
	if err != nil {
		return err
	}
	n.number, err = number(ctx, n.dir)
	if err != nil {
		return errors.Join(err, n.release())
	}
	return nil
}

func makeEmpty(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("the directory holds %s already: name an empty one", entries[0].Name())
	}
	return err
}

// lock opens and locks a file; the lock goes with this process, whatever way that goes.
func lock(path string, create, how int) (*os.File, error) {
	f, err := os.OpenFile(path, create|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), how); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}

// number enters the directory under the first number that is free and whose addresses no route of
// this machine knows.
func number(ctx context.Context, dir string) (int, error) {
	routes, err := routes(ctx)
	if err != nil {
		return 0, err
	}
	for i := 1; i < 255; i++ {
		if slices.ContainsFunc(routes, subnet(i).Overlaps) {
			continue
		}
		err := os.Symlink(dir, filepath.Join(place, strconv.Itoa(i)))
		if !errors.Is(err, fs.ErrExist) {
			return i, err
		}
	}
	return 0, errors.New("no free addresses left in 198.18.0.0/16: close other test networks")
}

// routes lists what this machine has routes for.
func routes(ctx context.Context) ([]netip.Prefix, error) {
	out, err := exec.CommandContext(ctx, "ip", "-json", "-4", "route", "show", "table", "all").Output()
	if err != nil {
		return nil, fmt.Errorf("ip route: %w", err)
	}
	var list []struct{ Dst string }
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("ip route: %w", err)
	}
	var prefixes []netip.Prefix
	for _, route := range list {
		// What is shorter is a default route, perhaps one of two halves.
		if p, err := netip.ParsePrefix(route.Dst); err == nil && p.Bits() >= 8 {
			prefixes = append(prefixes, p)
		} else if a, err := netip.ParseAddr(route.Dst); err == nil {
			prefixes = append(prefixes, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return prefixes, nil
}

// sweep removes the networks whose owners are gone. Their processes and links have gone with them.
func sweep() error {
	links, _ := filepath.Glob(filepath.Join(place, "[0-9]*")) // the pattern is well formed
	var errs []error
	for _, link := range links {
		dir, err := os.Readlink(link)
		if err != nil {
			continue // its owner has removed it just now
		}
		number, _ := strconv.Atoi(filepath.Base(link))
		left := &Network{dir: dir, number: number}
		left.lock, err = lock(filepath.Join(dir, lockFile), 0, syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EWOULDBLOCK): // its owner lives
		case errors.Is(err, fs.ErrNotExist): // somebody else has removed the directory, or has one of that name
			errs = append(errs, remove(os.Remove, link, time.Now()))
		case err != nil:
			errs = append(errs, err)
		default:
			errs = append(errs, left.release())
		}
	}
	return errors.Join(errs...)
}

// release removes the network's control groups, directory and number. The lock goes last: until
// then, whoever finds the number can finish the work.
func (n *Network) release() error {
	if n.lock == nil {
		return nil // done already
	}
	// What a killed owner leaves may be in use for some moments more.
	deadline := time.Now().Add(20 * time.Second)
	entries, err := os.ReadDir(n.dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // its owner has finished just now
	}
	errs := []error{err, removeCgroups(n.cgroup(), deadline)}
	for _, entry := range entries {
		if entry.Name() != lockFile {
			errs = append(errs, remove(os.RemoveAll, filepath.Join(n.dir, entry.Name()), deadline))
		}
	}
	if n.number != 0 {
		errs = append(errs, remove(os.Remove, filepath.Join(place, strconv.Itoa(n.number)), deadline))
	}
	errs = append(errs, os.RemoveAll(n.dir), n.lock.Close())
	n.lock = nil
	return errors.Join(errs...)
}

// cgroup is the control group that holds those of all containers.
func (n *Network) cgroup() string { return "sidekick-hosttest-" + strconv.Itoa(n.number) }

// removeCgroups removes a control group, in every hierarchy, with those in it.
func removeCgroups(name string, deadline time.Time) error {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/" + name) // the pattern is well formed
	roots = append(roots, "/sys/fs/cgroup/"+name)
	var errs []error
	for _, root := range roots {
		var dirs []string
		_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) {
			errs = append(errs, remove(os.Remove, dir, deadline))
		}
	}
	return errors.Join(errs...)
}

// remove removes a file or directory as soon as nobody uses it.
func remove(how func(string) error, path string, deadline time.Time) error {
	for {
		err := how(path)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		busy := errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.ENOTEMPTY)
		if !busy || time.Now().After(deadline) {
			return err
		}
		<-time.After(10 * time.Millisecond)
	}
}
