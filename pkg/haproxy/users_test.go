package haproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sidekick-proxy/sidekick/internal/certtest"
	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// An agent and a HAProxy in two containers of one host: each a user and in a pid namespace of its own.
// A group in common owns the directory that they share.
const (
	agentUser = 47110 + iota
	haproxyUser
	sharedGroup
)

// inContainer makes a process what it is in such a container. So that the programs may lie where only
// root looks, it may read everything; what it leaves for the other one to read is looked at apart.
func inContainer(user uint32, rights ...uintptr) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Setpgid: true, Cloneflags: syscall.CLONE_NEWPID,
		Credential:  &syscall.Credential{Uid: user, Gid: user, Groups: []uint32{sharedGroup}},
		AmbientCaps: append(rights, unix.CAP_DAC_READ_SEARCH),
	}
}

// becomeHAProxy is what `sidekick haproxy` does.
func becomeHAProxy(cfg Config) error {
	if err := Prepare(context.Background(), cfg); err != nil && asRefused(err) == nil {
		return err
	}
	args := ExecArgs(cfg)
	return syscall.Exec(args[0], args, os.Environ())
}

// applyEach is an agent that applies the texts in its directory one after another, each with a map if
// there is one for it, and notes the answers.
func applyEach(cfg Config) error {
	cfg.SameNetwork = true
	d, err := NewDriver(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, make(chan render.Files)) }()
	defer func() {
		cancel() // the file follows
		<-done
	}()
	for i := 0; ; i++ {
		want, err := wanted(cfg, i)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		_, err = d.Apply(ctx, want)
		for ; err != nil && asRefused(err) == nil; _, err = d.Apply(ctx, want) {
			pause(ctx, pollEvery)
		}
		if err := os.WriteFile(textName(cfg, i)+".answer", []byte(fmt.Sprint(err)), 0o600); err != nil {
			return err
		}
	}
}

func textName(cfg Config, i int) string {
	return filepath.Join(filepath.Dir(cfg.Path), fmt.Sprintf("text%d", i))
}

func wanted(cfg Config, i int) (render.Files, error) {
	text, err := os.ReadFile(textName(cfg, i))
	if err != nil {
		return nil, err
	}
	want := files(string(text))
	if entries, err := os.ReadFile(textName(cfg, i) + ".map"); err == nil {
		want = append(want, render.File{Name: "hosts.map", Blocks: []render.Block{render.NewBlock("", string(entries))}})
	}
	if pem, err := os.ReadFile(textName(cfg, i) + ".pem"); err == nil {
		want = append(want, render.File{Name: "site.pem", Blocks: []render.Block{render.NewBlock("", string(pem))}})
	}
	return want, nil
}

// lowAddress is a free one that needs a right to be bound.
func lowAddress(tb testing.TB, host string) string {
	tb.Helper()
	for port := 1023; port > 0; port-- {
		l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", host, port))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	tb.Fatalf("no port below 1024 is free on %s", host)
	return ""
}

// TestTwoUsersAndTwoPidNamespaces: agent and HAProxy get along with no more than a group in common, and
// none of them needs to see the other's processes. HAProxy opens low ports at a reload as well.
func TestTwoUsersAndTwoPidNamespaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("left out: only root can start programs as other users")
	}
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		dir := filepath.Dir(b.cfg.Path)
		if err := errors.Join(os.Chown(dir, 0, sharedGroup), os.Chmod(dir, os.ModeSetgid|0o770)); err != nil {
			t.Fatal(err)
		}
		one, two, low := haproxytest.Server(t, "one"), haproxytest.Server(t, "two"), lowAddress(t, "127.0.0.23")
		secure, inner := lowAddress(t, "127.0.0.24"), filepath.Join(dir, "https.sock")
		mapped := strings.Replace(b.text("", "s1 "+one), "default_backend be_web", "bind "+low+"\n    bind "+secure+" ssl crt site.pem\n    bind unix@"+inner+" mode 600 accept-proxy\n    use_backend %[req.hdr(host),lower,map(hosts.map,be_web)]", 1)
		texts := []string{
			b.text("", "s1 "+one),
			b.text("", "s1 "+one, "s2 "+two+" weight 5"),
			strings.Replace(b.text("", "s1 "+two), "mode 660", "mode 600", 1),
			strings.Replace(b.text("", "s1 "+two), "global\n", "global\n    chroot /\n", 1),
			b.stateful(strings.Replace(mapped, "global\n", "global\n    default-path config\n", 1)),
		}
		b.wants(t, texts)
		if err := os.WriteFile(textName(b.cfg, len(texts)-1)+".pem", []byte(certtest.Make(t, 7, time.Hour, "a.test").PEM()), 0o600); err != nil {
			t.Fatal(err)
		}
		end := b.container(t)
		b.agentContainer(t)
		for i, want := range []string{"<nil>", "<nil>", "mode 660", "chroot", "<nil>"} {
			got, err := os.ReadFile(textName(b.cfg, i) + ".answer")
			if err != nil || !strings.Contains(string(got), want) {
				t.Errorf("text %d: answer %s, %v, want %s", i, got, err, want)
			}
		}
		haproxytest.Until(t, "the low port to answer", answers(low, "one"))
		if got, _ := certtest.Shown(secure, "a.test"); got != 7 {
			t.Errorf("got certificate %d, want 7", got)
		}
		b.sharesFiles(t)
		end()
		b.setsAside(t)
		haproxytest.Until(t, "the low port to answer again", answers(low, "one"))
	})
}

// setsAside fails the test unless what HAProxy does not start with is set aside by HAProxy's user and
// replaced by the agent's.
func (b *bench) setsAside(tb testing.TB) {
	tb.Helper()
	bad := MinimalConfig(b.cfg) + "    user root\n    chroot /\n"
	if err := os.WriteFile(b.cfg.Path, []byte(bad), 0o600); err != nil {
		tb.Fatal(err)
	}
	b.container(tb)
	b.agentContainer(tb)
	if got, err := os.ReadFile(b.cfg.Path + ".refused"); string(got) != bad {
		tb.Errorf("set aside: got %q, %v", got, err)
	}
}

// wants leaves texts for applyEach, with an empty map for the last.
func (b *bench) wants(tb testing.TB, texts []string) {
	tb.Helper()
	for i, text := range texts {
		name := textName(b.cfg, i)
		err := os.WriteFile(name, []byte(text), 0o600)
		if i == len(texts)-1 {
			err = errors.Join(err, os.WriteFile(name+".map", nil, 0o600))
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// container runs HAProxy in its container until it is ended. It is the first process there, so nothing
// of it is left then.
func (b *bench) container(tb testing.TB) (end func()) {
	tb.Helper()
	cmd := helper(tb, "haproxy", b.cfg, inContainer(haproxyUser, unix.CAP_NET_BIND_SERVICE))
	end = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	tb.Cleanup(end)
	haproxytest.Until(tb, "haproxy to run as its user", func() bool {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		workers := strings.Fields(string(children))
		if len(workers) == 0 {
			return false
		}
		status, _ := os.ReadFile("/proc/" + workers[0] + "/status")
		return bytes.Contains(status, fmt.Appendf(nil, "\nUid:\t%d\t%[1]d\t%[1]d\t", haproxyUser))
	})
	return end
}

// agentContainer runs an agent that applies each text, to its end.
func (b *bench) agentContainer(tb testing.TB) {
	tb.Helper()
	agent := helper(tb, "apply each", b.cfg, inContainer(agentUser))
	ended := make(chan error, 1)
	go func() { ended <- agent.Wait() }()
	tb.Cleanup(func() { agent.Process.Kill() })
	var err error
	haproxytest.Until(tb, "the agent to end", func() bool {
		select {
		case err = <-ended:
			return true
		default:
			return false
		}
	})
	if err != nil {
		tb.Fatalf("agent: %v", err)
	}
}

// sharesFiles fails the test unless both users can read what the other left, and connect to it.
func (b *bench) sharesFiles(tb testing.TB) {
	tb.Helper()
	modes := map[string]fs.FileMode{
		filepath.Base(b.cfg.Path): 0o644, appliedName: 0o644, "hosts.map": 0o644, "site.pem": secretMode, "https.sock": fs.ModeSocket | 0o600, ".haproxy.cfg.live": fs.ModeDir | fs.ModeSetgid | 0o775,
		filepath.Base(b.statePath()):      0o644,
		filepath.Base(b.cfg.MasterSocket): fs.ModeSocket | 0o660, filepath.Base(b.cfg.RuntimeSocket): fs.ModeSocket | 0o660,
	}
	for name, want := range modes {
		info, err := os.Stat(filepath.Join(filepath.Dir(b.cfg.Path), name))
		if err != nil {
			tb.Errorf("%s: %v", name, err)
			continue
		}
		if group := info.Sys().(*syscall.Stat_t).Gid; info.Mode() != want || group != sharedGroup {
			tb.Errorf("%s: mode %s of group %d, want %s of %d", name, info.Mode(), group, want, sharedGroup)
		}
	}
}

// TestNeedsRoot: a HAProxy that is not root may be told to be whom it is, or nobody new.
func TestNeedsRoot(t *testing.T) {
	for text, needs := range map[string]bool{
		"chroot /": true, "user root": false, "user nobody": false, "uid 65534": false, "uid 1": true, "uid 0": false, "user no-such": true,
		"group root": false, "group nogroup": false, "gid 65534": false, "gid 1": true, "gid 0": false, "group no-such": true, "maxconn 7": false,
	} {
		want := files("global\n    " + text + "\nfrontend x\n    chroot /\n")
		err := permitted(want, 65534)
		if (err != nil) != needs || needs && !strings.Contains(err.Error(), text) {
			t.Errorf("%s: got %v, want it to need root: %v", text, err, needs)
		}
		if err := permitted(want, 0); err != nil {
			t.Errorf("%s by root: %v", text, err)
		}
	}
}

// TestDrivable: a text that would lock the driver out of its socket is refused with the line to write.
func TestDrivable(t *testing.T) {
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := append(groups, os.Getegid())[0], 47119
	tests := map[string]struct {
		words         string
		alone, shared string // what the refusal says, "" for none
	}{
		"minimal":             {"mode 660 level admin expose-fd listeners", "", ""},
		"nothing handed over": {"mode 660 level admin", "", ""},
		"HAProxy's default":   {"mode 660", "lets nobody change", "lets nobody change"},
		"operator":            {"mode 660 level operator", "lets nobody change", "lets nobody change"},
		"the last one counts": {"level user mode 600 level admin mode 660", "", ""},
		"no mode":             {"level admin", "", "closes the runtime socket"},
		"owner only":          {"level admin mode 600", "", "closes the runtime socket"},
		"our group":           {fmt.Sprintf("level admin mode 660 gid %d", ours), "", ""},
		"another group":       {fmt.Sprintf("level admin mode 660 gid %d", theirs), "", "closes the runtime socket"},
		"an unknown group":    {"level admin mode 660 group no-such", "", "closes the runtime socket"},
		"everybody":           {fmt.Sprintf("level admin mode 666 gid %d", theirs), "", ""},
		"we are the owner":    {fmt.Sprintf("level admin mode 600 uid %d", os.Geteuid()), "", ""},
		"only readable to us": {fmt.Sprintf("level admin mode 460 uid %d", os.Geteuid()), "", "closes the runtime socket"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			want := files("global\n    stats socket /other.sock mode 600\n    stats socket /r.sock " + tt.words + "\n")
			for shared, words := range map[bool]string{false: tt.alone, true: tt.shared} {
				err := drivable(want, "/r.sock", shared)
				if (err != nil) != (words != "") || err != nil && (!strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), "stats socket /r.sock mode 660 level admin") || !strings.Contains(err.Error(), "{{quote .RuntimeSocket}}")) {
					t.Errorf("shared %v: got %v, want a refusal with %q", shared, err, words)
				}
			}
		})
	}
	for _, user := range []string{"uid 1", "user no-such"} {
		want := files("global\n    stats socket /r.sock mode 660 level admin " + user + "\n")
		if err := permitted(want, 65534); err == nil || !strings.Contains(err.Error(), user) {
			t.Errorf("a socket for %s: got %v, want it to need root", user, err)
		}
	}
}

// TestDefaultLevel: what HAProxy lets be done at a socket without a level, for which drivable refuses one.
func TestDefaultLevel(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		text := strings.Replace(b.text("", "s1 127.0.0.1:9"), " level admin", "", 1)
		if err := os.WriteFile(b.cfg.Path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		b.start(t)
		answer := ""
		haproxytest.Until(t, "an answer", func() bool {
			var err error
			answer, err = ask(t.Context(), b.cfg.RuntimeSocket, "set server be_web/s1 weight 3")
			return err == nil
		})
		if !strings.Contains(answer, "Permission denied") {
			t.Errorf("got %q, want it denied", answer)
		}
	})
}
