package haproxy

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// haproxyUser is the user that HAProxy's master is, or will be as far as can be told: its socket shows
// it, else the directory where that will be.
func (c Config) haproxyUser() int {
	if c.Managed {
		return os.Geteuid()
	}
	for _, path := range []string{c.MasterSocket, filepath.Dir(c.MasterSocket)} {
		if info, err := os.Stat(path); err == nil {
			if stat, ok := info.Sys().(*syscall.Stat_t); ok {
				return int(stat.Uid)
			}
		}
	}
	return os.Geteuid()
}

// globals are the statements of a configuration's global sections.
func globals(files render.Files) []line {
	var all []line
	for _, s := range parse(mentioning(files[0], "global")) {
		if s.kind == "global" {
			all = append(all, s.lines...)
		}
	}
	return all
}

// mentioning is the text of a file without the blocks that do not have the word and can be read by
// themselves.
func mentioning(f render.File, word string) string {
	if slices.ContainsFunc(f.Blocks, func(b render.Block) bool { return opens(b.Text) == opensOther || !endsLine(b.Text) }) {
		return f.Text()
	}
	return joined(slices.DeleteFunc(slices.Clone(f.Blocks), func(b render.Block) bool {
		return !strings.Contains(b.Text, word) && !mayRule(b.Text)
	}))
}

// drivable refuses a text with which HAProxy would be out of the driver's reach: a reload could be
// neither confirmed nor followed by another change. shared says that HAProxy is another user, with a
// group in common; then the socket must be open to that, which shows only at HAProxy's next start.
func drivable(want render.Files, socket string, shared bool) error {
	fault := "does not open the runtime socket: add the line"
	for _, l := range globals(want) {
		if word(l, 0) != "stats" || word(l, 1) != "socket" {
			continue
		}
		if !l.plain || l.conditional { // it may be the one, only HAProxy knows
			return nil
		}
		if strings.TrimPrefix(word(l, 2), "unix@") == socket {
			switch {
			case argument(l, "level") != "admin": // "operator" if none is given
				fault = "lets nobody change servers at the runtime socket: write the line"
			case shared && !openToUs(l):
				fault = "closes the runtime socket to the group that agent and haproxy have in common: write the line"
			default:
				return nil
			}
		}
	}
	return &Refused{Stage: StageText, Words: fmt.Sprintf(
		"the global section %s \"stats socket %s mode %s level admin expose-fd listeners\" (in a template with {{quote .RuntimeSocket}} for the path)", fault, socket, socketMode)}
}

// openToUs tells whether a socket's line lets this process connect, which is not HAProxy's user but has
// a group in common with it. Without a word for it the socket's group is that of its directory.
func openToUs(l line) bool {
	mode, err := strconv.ParseUint(argument(l, "mode"), 8, 32)
	owner, group := socketOwner(l)
	groups, _ := os.Getgroups() // none are no help
	switch {
	case err != nil:
		return false
	case owner != "" && owner == strconv.Itoa(os.Geteuid()):
		return mode&0o600 == 0o600
	case group == "" || group == strconv.Itoa(os.Getegid()) || slices.Contains(groups, number(group)):
		return mode&0o060 == 0o060
	default:
		return mode&0o006 == 0o006
	}
}

// socketOwner is the user and the group, as numbers, to which a socket's line gives the socket, "" where
// it does not say. A name that this system does not know is left as it is.
func socketOwner(l line) (owner, group string) {
	owner, group = argument(l, "uid"), argument(l, "gid")
	if name := argument(l, "user"); name != "" {
		owner = name
		if u, err := user.Lookup(name); err == nil {
			owner = u.Uid
		}
	}
	if name := argument(l, "group"); name != "" {
		group = name
		if g, err := user.LookupGroup(name); err == nil {
			group = g.Gid
		}
	}
	return owner, group
}

// number is a group's number, -1 for what is none.
func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return -1
	}
	return n
}

// argument is what stands behind the last occurrence of a word in a socket's line, which is the one that
// counts, "" if it is not there.
func argument(l line, name string) string {
	for i := len(l.words) - 2; i > 2; i-- {
		if l.words[i] == name {
			return l.words[i+1]
		}
	}
	return ""
}

// permitted refuses a text with which a HAProxy that is not root would have to become somebody else or
// change its root directory. Its check accepts that; its worker ends, and takes all of HAProxy along.
func permitted(want render.Files, uid int) error {
	if uid == 0 {
		return nil
	}
	for _, l := range globals(want) {
		if needsRoot(l, strconv.Itoa(uid)) {
			return &Refused{Stage: StageText, Words: fmt.Sprintf(
				"the line %q needs root, and haproxy runs as user %d: take it out of the global section", strings.Join(l.words, " "), uid)}
		}
	}
	return nil
}

// needsRoot tells whether a statement asks for what this user cannot do. Numbers of 0 change nothing.
func needsRoot(l line, uid string) bool {
	arg := word(l, 1)
	switch word(l, 0) {
	case "chroot":
		return true
	case "stats": // a socket for somebody else
		owner, _ := socketOwner(l)
		return owner != "" && owner != uid
	case "uid":
		return arg != "0" && arg != uid
	case "user":
		u, err := user.Lookup(arg)
		return err != nil || u.Uid != "0" && u.Uid != uid
	case "gid":
		return arg != "0" && arg != groupOf(uid)
	case "group":
		g, err := user.LookupGroup(arg)
		return err != nil || g.Gid != "0" && g.Gid != groupOf(uid)
	}
	return false
}

// groupOf is the group of a user, "" for one that the system does not know.
func groupOf(uid string) string {
	u, err := user.LookupId(uid)
	if err != nil {
		return ""
	}
	return u.Gid
}
