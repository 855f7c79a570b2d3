package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekick-proxy/sidekick/internal/proctest"
)

// differs finds the first thing that is not as it should be, nil if all is: the agent says that it is in
// step, one master has one current worker, that runs what the registry and the template say, and so does
// the file on disk, which HAProxy accepts.
func (s *soak) differs(ctx context.Context) error {
	if err := s.saysInStep(); err != nil { //nolint:contextcheck // its questions have time limits of their own
		return err
	}
	want, err := s.wanted(ctx)
	if err != nil {
		return err
	}
	if err := s.oneHAProxy(ctx); err != nil {
		return err
	}
	running, err := s.running(ctx)
	if err != nil {
		return err
	}
	if diff := cmp.Diff(want.servers(), running); diff != "" {
		return fmt.Errorf("the servers that run are not those of the registry (-wanted +running):\n%s", diff)
	}
	if err := want.onDisk(filepath.Dir(s.config())); err != nil {
		return err
	}
	if err := s.mapRuns(ctx, want["routes.map"]); err != nil {
		return err
	}
	if err := accepted(ctx, s.bin, s.config()); err != nil {
		return err
	}
	return s.routed() //nolint:contextcheck // the same
}

// saysInStep asks the agent.
func (s *soak) saysInStep() error {
	if ended, how := s.agent.Ended(); ended {
		s.points.wrong(fmt.Errorf("the agent ended by itself: %w", how))
		return how
	}
	got := s.get(s.adminAddr(), "/api/v1/status", "")
	if err := got.ok(); err != nil {
		return fmt.Errorf("status of the agent: %w", err)
	}
	var status struct {
		InStep bool `json:"in_step"`
	}
	if err := json.Unmarshal([]byte(got.body), &status); err != nil {
		return err
	}
	if !status.InStep {
		return fmt.Errorf("the agent is not in step: %s", got.body)
	}
	differences, err := s.metric("sidekick_proxy_differences")
	if err == nil && differences != 0 {
		err = fmt.Errorf("the agent says that it is in step with %v differences", differences)
	}
	return err
}

// texts are files by their names, "" being the configuration's.
type texts map[string]string

// wanted is what `sidekick render` makes of the registry.
func (s *soak) wanted(ctx context.Context) (texts, error) {
	cmd := exec.CommandContext(ctx, programs.sidekick, "render", "--direct", "--registry", s.registry, "--node", "here",
		"--template", s.path("template"), "--http-listen", s.httpAddr(), "--stats-listen", s.at(8405),
		"--haproxy-runtime-socket", s.runtimeSocket(), "--haproxy-config", s.config())
	cmd.Env = proctest.Environ()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("sidekick render: %w: %s", err, stderr.String())
	}
	files := texts{}
	for i, part := range strings.Split(string(out), "\n# ---- ") {
		name, text := "", part
		if i > 0 {
			name, text, _ = strings.Cut(part, " ----\n")
		}
		files[name] = text
	}
	return files, nil
}

// onDisk compares with the files in the live directory.
func (t texts) onDisk(dir string) error {
	for _, name := range slices.Sorted(maps.Keys(t)) {
		path := filepath.Join(dir, name)
		if name == "" {
			path = filepath.Join(dir, "haproxy.cfg")
		}
		got, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if diff := cmp.Diff(t[name], string(got)); diff != "" {
			return fmt.Errorf("%s is not what the registry and the template say (-wanted +on disk):\n%s", path, diff)
		}
	}
	return nil
}

// endpoint is what is compared of a server.
type endpoint struct {
	Address string
	Weight  int
	Maint   bool
	Drained bool // nothing that is wanted
	Off     bool // its check is switched off, which is not wanted either
	Down    bool // without a check that says so
}

// servers reads the server lines of the built-in template's forms.
func (t texts) servers() map[string]endpoint {
	all, backend := map[string]endpoint{}, ""
	for line := range strings.Lines(t[""]) {
		f := strings.Fields(line)
		switch {
		case len(f) > 1 && (f[0] == "backend" || f[0] == "frontend"):
			backend = f[1]
		case len(f) > 4 && f[0] == "server":
			weight, _ := strconv.Atoi(f[4]) // the template prints it there
			all[backend+"/"+f[1]] = endpoint{Address: f[2], Weight: weight, Maint: slices.Contains(f, "disabled")}
		}
	}
	return all
}

// running asks the worker for its servers.
func (s *soak) running(ctx context.Context) (map[string]endpoint, error) {
	answer, err := askSocket(ctx, s.runtimeSocket(), "show servers state")
	if err != nil {
		return nil, err
	}
	all := map[string]endpoint{}
	var columns []string
	for line := range strings.Lines(answer) {
		f := strings.Fields(strings.TrimPrefix(line, "#"))
		if strings.HasPrefix(line, "#") {
			columns = f
			continue
		}
		if len(columns) == 0 || len(f) < len(columns) {
			continue
		}
		of := func(name string) string { return f[slices.Index(columns, name)] }
		number := func(name string) int {
			n, err := strconv.Atoi(of(name))
			if err != nil {
				return -1
			}
			return n
		}
		one := endpoint{
			Address: net.JoinHostPort(of("srv_addr"), of("srv_port")), Weight: number("srv_uweight"),
			Maint: number("srv_admin_state")&0x03 != 0, Drained: number("srv_admin_state")&0x18 != 0,
		}
		const there, on = 0x02, 0x04 // bits of a check's state
		check := number("srv_check_state")
		one.Off = check&(there|on) == there
		one.Down = !one.Maint && number("srv_op_state") == 0 && check&there == 0
		all[of("be_name")+"/"+of("srv_name")] = one
	}
	if len(columns) == 0 {
		return nil, fmt.Errorf("no list of servers: %.200q", answer)
	}
	return all, nil
}

// oneHAProxy compares the processes that run with what the master says, and the current worker with the
// one that answers.
func (s *soak) oneHAProxy(ctx context.Context) error {
	list, err := askSocket(ctx, s.masterSocket(), "show proc")
	if err != nil {
		return err
	}
	info, err := askSocket(ctx, s.runtimeSocket(), "show info")
	if err != nil {
		return err
	}
	known, master, current := map[int]bool{}, 0, 0
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		if len(f) < 3 || strings.HasPrefix(line, "#") {
			continue
		}
		pid, _ := strconv.Atoi(f[0]) // 0 is nobody's
		known[pid] = true
		switch {
		case f[1] == "master":
			master = pid
		case f[1] == "worker" && current == 0 && f[2] == "0":
			current = pid
		}
	}
	if master == 0 || current == 0 || !strings.Contains(info, fmt.Sprintf("\nPid: %d\n", current)) {
		return fmt.Errorf("the worker that answers is not the master's current one: %s\n%s", list, info)
	}
	if !strings.Contains(info, "\nStopping: 0\n") {
		return fmt.Errorf("the current worker is stopping: %s", info)
	}
	for _, pid := range s.pids() {
		if !known[pid] {
			return fmt.Errorf("process %d runs haproxy and is not the master's:\n%s", pid, list)
		}
	}
	return nil
}

// mapRuns compares the map in HAProxy's memory with the file that is wanted.
func (s *soak) mapRuns(ctx context.Context, want string) error {
	maps, err := askSocket(ctx, s.runtimeSocket(), "show map")
	if err != nil {
		return err
	}
	for line := range strings.Lines(maps) {
		id, rest, _ := strings.Cut(line, " ")
		if !strings.Contains(rest, "routes.map") || !strings.Contains(rest, "pattern loaded from file") {
			continue
		}
		answer, err := askSocket(ctx, s.runtimeSocket(), "show map #"+id)
		if err != nil {
			return err
		}
		if diff := cmp.Diff(entries(want, 0), entries(answer, 1)); diff != "" {
			return fmt.Errorf("the map that runs is not the wanted one (-wanted +running):\n%s", diff)
		}
		return nil
	}
	return fmt.Errorf("haproxy has no routes.map:\n%s", maps)
}

// entries are the entries of a map, sorted, from that column on.
func entries(text string, column int) []string {
	var all []string
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > column && !strings.HasPrefix(line, "#") {
			all = append(all, strings.Join(f[column:], " "))
		}
	}
	slices.Sort(all)
	return all
}

// routed asks every service once through HAProxy: whoever has an endpoint in service answers.
func (s *soak) routed() error {
	list, err := s.services()
	if err != nil {
		return err
	}
	for _, one := range list {
		want := http.StatusServiceUnavailable
		for _, i := range one.Instances {
			if i.Routed && i.State == "ready" && s.known.serves(i.Port) {
				want = http.StatusOK
			}
		}
		if want != http.StatusOK { // its endpoints may have no weight
			continue
		}
		got := s.get(s.httpAddr(), "/", hostOf(one.Name))
		if got.err != nil || got.status != want {
			return fmt.Errorf("service %s: got %+v, want status %d", one.Name, got, want)
		}
	}
	return nil
}

// askSocket sends one line to a socket of HAProxy and returns all that is answered.
func askSocket(ctx context.Context, path, line string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		return "", err
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	if err == nil && len(answer) == 0 {
		err = errors.New("no answer from " + path)
	}
	return string(answer), err
}
