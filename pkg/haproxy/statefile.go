package haproxy

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/sidekick-proxy/sidekick/internal/atomicfile"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// A new worker takes every server with a check for up until its checks have failed again. HAProxy can
// be told by a file what the former worker knew. But all else that the file says wins over the text:
// the port of a server, what somebody set by hand, a state that no check can end. So what a check
// found out is carried over a reload, of servers whose words stay the same, and nothing else. Between
// reloads the file says nothing, so that HAProxy never starts with what was true long ago.

// noStates is a state file that says nothing. A missing or an empty one makes HAProxy complain.
const noStates = "1\n"

// stateFile is the file from which HAProxy takes the states of servers when it loads these files, ""
// if it takes none, or one that is not for the driver to write: that lies beside the configuration
// and has a name of its own. What only HAProxy can read may mean anything.
func (s store) stateFile(files render.Files) string {
	for _, l := range globals(files) {
		path := word(l, 1)
		if word(l, 0) != "server-state-file" || !l.plain || l.conditional || filepath.Dir(path) != s.dir() {
			continue
		}
		if s.valid(append(slices.Clone(files), render.File{Name: filepath.Base(path)})) == nil {
			return path
		}
	}
	return ""
}

// checked is a server with a check, and what tells how its proxy checks.
type checked struct {
	*server
	how []string
}

// checkedServers are those of a text whose states HAProxy takes from the global state file, by backend
// and name.
func checkedServers(text string) map[string]checked {
	found := map[string]checked{}
	all := parse(text)
	defaults := defaultsOf(all)
	for _, s := range all {
		if !s.isProxy() {
			continue
		}
		p := readProxy(s, defaults(s))
		if p.off || p.why != "" || !p.takesStates {
			continue
		}
		for i := range p.servers {
			if s := &p.servers[i]; s.why == "" && !s.disabled && s.has("check") {
				found[p.name+"/"+s.name] = checked{server: s, how: p.checks}
			}
		}
	}
	return found
}

// lasting are the servers with a check of which a reload changes nothing that their state depends on.
func lasting(running, wanted string) map[string]*server {
	before, last := checkedServers(running), map[string]*server{}
	for target, now := range checkedServers(wanted) {
		was, ran := before[target]
		if ran && was.sameOptions(now.server) && was.weight == now.weight && slices.Equal(was.how, now.how) {
			last[target] = now.server
		}
	}
	return last
}

// states is the state file with which a worker goes on with these servers: what their checks found out
// is from the list, all else from the text.
func (l serverList) states(last map[string]*server) string {
	var out strings.Builder
	out.WriteString(noStates + "# " + strings.Join(l.names, " ") + "\n")
	for row := range l.rows() {
		s := last[l.get(row, "be_name")+"/"+l.get(row, "srv_name")]
		if s == nil || !l.asWritten(row, s) {
			continue
		}
		row = slices.Clone(row)
		for name, value := range map[string]string{
			"srv_uweight": strconv.Itoa(s.weight), "srv_iweight": strconv.Itoa(s.weight),
			"srv_check_state": strconv.Itoa(checkRuns),
			"srv_agent_state": "0", "srv_agent_addr": "-", "srv_agent_port": "0",
		} {
			row[l.column[name]] = value
		}
		out.WriteString(strings.Join(row, " ") + "\n")
	}
	return out.String()
}

// asWritten tells whether a server is in service and is checked as its text says. If it is not, its
// state is not what the check of the text would find. A weight tells nothing of that.
func (l serverList) asWritten(row []string, s *server) bool {
	written, err := netip.ParseAddrPort(s.address)
	check, _ := strconv.Atoi(l.get(row, "srv_check_state")) // 0 is no running check
	tls := map[bool]string{true: "1", false: "0"}[s.has("ssl")]
	return err == nil && written == l.live(row).address &&
		l.get(row, "srv_admin_state") == "0" && check&(checkRuns|checkPaused) == checkRuns &&
		l.get(row, "srv_use_ssl") == tls &&
		l.get(row, "srv_check_port") == s.arg("port", "0") && l.get(row, "srv_check_addr") == s.arg("addr", "-")
}

// arg is the argument of a word, or what stands for the lack of that word.
func (s *server) arg(word, without string) string {
	if i := slices.IndexFunc(s.options, func(o option) bool { return o.word == word }); i >= 0 {
		return s.options[i].arg
	}
	return without
}

// carryStates leaves what the present worker knows of its servers to the one that a reload of these
// files starts. The function it returns makes the file say nothing again.
func (d *Driver) carryStates(ctx context.Context, want render.Files) (done func()) {
	path := d.store.stateFile(want)
	if path == "" {
		return func() {}
	}
	states, err := d.states(ctx, want)
	if err = errors.Join(err, writeStates(path, states)); err != nil {
		d.cfg.Log.WithError(err).Warn("haproxy's new worker must find out anew which servers are down")
	}
	return func() {
		if states != noStates {
			d.clearStates(path)
		}
	}
}

// states is the content of the state file for a reload. With zero-warning HAProxy refuses to start with
// a server that is down.
func (d *Driver) states(ctx context.Context, want render.Files) (string, error) {
	if d.running == nil || !hasChecks(want[0]) || slices.ContainsFunc(globals(want), func(l line) bool { return word(l, 0) == "zero-warning" }) {
		return noStates, nil
	}
	last := lasting(d.running[0].Text(), want[0].Text())
	if len(last) == 0 {
		return noStates, nil
	}
	list, err := d.api.list(ctx, d.worker)
	if err == nil {
		err = list.needs("srv_iweight", "srv_check_port", "srv_check_addr", "srv_use_ssl",
			"srv_agent_state", "srv_agent_addr", "srv_agent_port")
	}
	if err != nil {
		return noStates, err
	}
	return list.states(last), nil
}

// clearStates makes the state file say nothing. Without one HAProxy complains, but starts.
func (d *Driver) clearStates(path string) {
	err := writeStates(path, noStates)
	if err != nil && os.Remove(path) != nil {
		d.cfg.Log.WithError(err).Warn("haproxy's next start may take servers for down that are not, until it has checked them")
	}
}

// provideStates makes sure that HAProxy finds a state file when it checks these files or starts with
// them, and no pipe that its check would wait at.
func (d *Driver) provideStates(want render.Files) {
	path := d.store.stateFile(want)
	if path == "" {
		return
	}
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
		d.clearStates(path)
	}
}

// endStates ends what an agent that was killed during a reload left.
func (d *Driver) endStates() {
	files, err := d.store.read(nil)
	if err != nil {
		return // there is no configuration yet
	}
	path := d.store.stateFile(files)
	if path == "" {
		return
	}
	d.clearStates(path)
	if err := unfinished(path); err != nil {
		d.cfg.Log.WithError(err).Warn("cannot remove what a crash left of haproxy's state file")
	}
}

func writeStates(path, states string) error {
	return atomicfile.Write(path, 0o644, func(w io.Writer) error {
		_, err := io.WriteString(w, states)
		return err
	})
}
