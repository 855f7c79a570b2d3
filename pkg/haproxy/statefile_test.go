package haproxy

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// statePath is where a test's state file is.
func (b *bench) statePath() string { return filepath.Join(filepath.Dir(b.cfg.Path), "server.state") }

// stateful gives a text the lines by which HAProxy takes over the states of servers.
func (b *bench) stateful(text string) string {
	text = strings.Replace(text, "global\n", "global\n    server-state-file "+b.statePath()+"\n", 1)
	return strings.Replace(text, "    mode http\n", "    mode http\n    load-server-state-from-file global\n", 1)
}

// changed is a text that a reload is needed for, another one for each i.
func changed(i int) string { return fmt.Sprintf("    timeout http-request %ds\n", 10+i) }

// rows are the running servers' columns, by their names.
func (b *bench) rows(tb testing.TB) map[string]map[string]string {
	tb.Helper()
	var i info
	haproxytest.Until(tb, "haproxy to answer", func() bool {
		var err error
		i, err = runtimeAPI{b.cfg.RuntimeSocket}.info(tb.Context())
		return err == nil
	})
	list, err := runtimeAPI{b.cfg.RuntimeSocket}.list(tb.Context(), i.worker)
	if err != nil {
		tb.Fatal(err)
	}
	all := map[string]map[string]string{}
	for row := range list.rows() {
		columns := map[string]string{}
		for _, name := range list.names {
			columns[name] = list.get(row, name)
		}
		all[columns["srv_name"]] = columns
	}
	return all
}

func (b *bench) ask(tb testing.TB, statement string) {
	tb.Helper()
	if answer, err := ask(tb.Context(), b.cfg.RuntimeSocket, statement); err != nil || strings.TrimSpace(answer) != "" {
		tb.Fatalf("%s: %q, %v", statement, answer, err)
	}
}

// expectColumns fails the test unless a server's columns are "name=value".
func expectColumns(tb testing.TB, row map[string]string, want ...string) {
	tb.Helper()
	for _, w := range want {
		name, value, _ := strings.Cut(w, "=")
		if row[name] != value {
			tb.Errorf("server %s: %s is %s, want %s", row["srv_name"], name, row[name], value)
		}
	}
}

// deadServer accepts connections, counts them, and closes them without a word.
func deadServer(tb testing.TB) (addr string, connections *atomic.Int64) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	connections = &atomic.Int64{}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			c.Close()
		}
	}()
	return l.Addr().String(), connections
}

func portText(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// TestDownServerStaysDownOverReloads: a reload sends nothing to a server that is known to be dead, and
// loses nothing (P2). When it heals its check raises it.
func TestDownServerStaysDownOverReloads(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managed(t, t.Bin)
		good := haproxytest.Server(t, "good")
		dead, connections := deadServer(t)
		health := haproxytest.Address(t, "127.0.0.1")
		text := func(i int) string {
			return b.stateful(b.text(changed(i), "s1 "+good+" check inter 100ms", "s2 "+dead+" check port "+portText(health)+" inter 100ms rise 2 fall 1"))
		}
		b.apply(t, b.stateful(b.text(changed(0), "s1 "+good+" check inter 100ms")))
		if res := b.apply(t, text(0)); res.How != HowRuntime { // so that its number is another one after the reload
			t.Errorf("got %+v, want the dead server added at run time", res)
		}
		haproxytest.Until(t, "the dead server to be down", func() bool { return b.rows(t)["s2"]["srv_op_state"] == "0" })
		load := haproxytest.Start(t, b.addr, 4, false)
		before := connections.Load()
		for i := range 5 {
			answered := load.Sent()["good"]
			if res := b.apply(t, text(i+1)); res.How != HowReload {
				t.Fatalf("got %+v, want a reload", res)
			}
			haproxytest.Until(t, "the load to go on", func() bool { return load.Sent()["good"] > answered+50 })
		}
		load.MustLoseNothing(t)
		if got := connections.Load() - before; got != 0 {
			t.Errorf("the dead server was tried %d times, want never", got)
		}
		expectColumns(t, b.rows(t)["s2"], "srv_op_state=0", "srv_admin_state=0")
		l, err := net.Listen("tcp", health)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		haproxytest.Until(t, "the healed server to be up", func() bool { return b.rows(t)["s2"]["srv_op_state"] == "2" })
	})
}

// TestReloadEndsEverythingElse: of a server's state only what its check found out outlives a reload:
// nothing that somebody did by hand, and nothing of a server that the text changes (P6).
func TestReloadEndsEverythingElse(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managed(t, t.Bin)
		good, other := haproxytest.Server(t, "good"), haproxytest.Server(t, "other")
		closed := " check port " + portText(haproxytest.Address(t, "127.0.0.1"))
		b.apply(t, b.stateful(b.withOptions("", "",
			"maint "+good+" check inter 100ms", "weight "+good+" check inter 100ms weight 20", "words "+good+closed+" inter 100ms fall 1",
			"plain "+good+" disabled", "moved "+good+" check inter 100ms", "port "+good+" check port "+portText(good)+" inter 100ms",
			"unchecked "+good+" check inter 100ms", "down "+good+closed+" inter 100ms fall 1 weight 5")))
		haproxytest.Until(t, "two servers to be down", func() bool {
			rows := b.rows(t)
			return rows["words"]["srv_op_state"] == "0" && rows["down"]["srv_op_state"] == "0"
		})
		b.ask(t, "set server be_web/maint state maint;set server be_web/weight weight 9;set server be_web/down weight 7")
		b.ask(t, "set server be_web/port check-port 9;disable health be_web/unchecked")
		b.apply(t, b.stateful(b.withOptions("    timeout queue 9s\n", "",
			"maint "+good+" check inter 100ms", "weight "+good+" check inter 100ms weight 20", "words "+good+closed+" inter 10m fall 3",
			"plain "+good, "moved "+other+" check inter 100ms", "port "+good+" check port "+portText(good)+" inter 100ms",
			"unchecked "+good+" check inter 100ms", "down "+good+closed+" inter 100ms fall 1 weight 5")))
		rows := b.rows(t)
		expectColumns(t, rows["maint"], "srv_admin_state=0", "srv_op_state=2")
		expectColumns(t, rows["weight"], "srv_uweight=20", "srv_op_state=2")
		expectColumns(t, rows["words"], "srv_op_state=2")
		expectColumns(t, rows["plain"], "srv_admin_state=0", "srv_op_state=2")
		expectColumns(t, rows["moved"], "srv_op_state=2", "srv_port="+portText(other))
		expectColumns(t, rows["port"], "srv_check_port="+portText(good))
		expectColumns(t, rows["down"], "srv_op_state=0", "srv_uweight=5")
		haproxytest.Until(t, "the check to run again", func() bool {
			n, _ := strconv.Atoi(b.rows(t)["unchecked"]["srv_check_state"])
			return n&checkRuns == checkRuns
		})
		if got, err := os.ReadFile(b.statePath()); string(got) != noStates {
			t.Errorf("the state file after the reload: %q, %v, want nothing in it", got, err)
		}
	})
}

// TestZeroWarningCarriesNothing: with zero-warning HAProxy refuses to start with a server that is down.
func TestZeroWarningCarriesNothing(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managed(t, t.Bin)
		closed := haproxytest.Address(t, "127.0.0.1")
		for i := range 2 {
			text := b.stateful(b.text(changed(i), "s1 "+closed+" check inter 100ms fall 1"))
			b.apply(t, strings.Replace(text, "global\n", "global\n    zero-warning\n", 1))
			haproxytest.Until(t, "the server to be down", func() bool { return b.rows(t)["s1"]["srv_op_state"] == "0" })
		}
	})
}

// stateColumns are those of HAProxy's format 1.
const stateColumns = "be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight " +
	"srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id " +
	"srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port"

// TestStateFileFacts holds what the driver relies on: HAProxy takes rows by their servers' names
// whatever their numbers, and what they say wins over the text.
func TestStateFileFacts(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		good, other := haproxytest.Server(t, "good"), haproxytest.Server(t, "other")
		words := " check port " + portText(good) + " inter 10m"
		text := b.stateful(b.text("", "number "+good+words, "weight "+good+words+" weight 20", "maint "+good+words,
			"port "+good+words, "plain "+good, "new "+good+words))
		text = strings.Replace(text, b.statePath(), "server.state", 1) // a relative one is beside the configuration
		row := func(id, name, state, port string) string {
			return "9 be_web " + id + " " + name + " 127.0.0.1 " + state + " 100 8 2 0 6 0 0 0 - " + port + " - 0 0 - - 0\n"
		}
		states := "1\n# " + stateColumns + "\n" + row("6", "number", "0 0 1 1", portText(good)) + row("2", "weight", "2 0 7 20", portText(good)) +
			row("3", "maint", "0 1 1 1", portText(good)) + row("4", "port", "2 0 1 1", portText(other)) +
			row("5", "plain", "0 0 1 1", portText(good)) + row("8", "gone", "0 0 1 1", portText(good))
		b.writes(t, text, states)
		b.start(t)
		rows := b.rows(t)
		expectColumns(t, rows["number"], "srv_op_state=0", "srv_check_port="+portText(good))
		expectColumns(t, rows["new"], "srv_op_state=2")
		expectColumns(t, rows["weight"], "srv_uweight=7")
		expectColumns(t, rows["maint"], "srv_admin_state=1")
		expectColumns(t, rows["port"], "srv_port="+portText(other)) // and not what the text says
		expectColumns(t, rows["plain"], "srv_op_state=0")           // without a check nothing raises it
		b.ask(t, "set server be_web/plain state ready")
		expectColumns(t, b.rows(t)["plain"], "srv_op_state=0")
		b.ask(t, "set server be_web/plain health up")
		expectColumns(t, b.rows(t)["plain"], "srv_op_state=2")
	})
}

func (b *bench) writes(tb testing.TB, text, states string) {
	tb.Helper()
	for path, content := range map[string]string{b.cfg.Path: text, b.statePath(): states} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
}

// TestBadStateFileIsNoRefusal: HAProxy reads the state file when it checks, too. It accepts the
// configuration whatever is in there, and is silent about a file that says nothing.
func TestBadStateFileIsNoRefusal(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		text := b.stateful(b.text("", "s1 127.0.0.1:9 check"))
		for _, states := range []string{"", "1", "hello\nworld", "9\n# x\n", "1\n# be_id\n3 be_web 1\n", strings.Repeat("x", 9000)} {
			b.writes(t, text, states)
			b.accepted(t)
		}
		os.Remove(b.statePath())
		b.accepted(t)
		b.writes(t, text, noStates)
		out, err := exec.Command(b.cfg.Bin, "-c", "-f", b.cfg.Path).CombinedOutput()
		if err != nil || strings.Contains(string(out), "state") {
			t.Errorf("%s, %v, want not a word on the state file", out, err)
		}
	})
}

// TestStateFileOfAKilledAgent: what an agent left that was killed during a reload is gone when the next
// one has started, so that no later start of HAProxy goes by it (P6, F8).
func TestStateFileOfAKilledAgent(t *testing.T) {
	b := external(t, "haproxy")
	half := filepath.Join(filepath.Dir(b.cfg.Path), ".server.state.123")
	b.writes(t, b.stateful(b.text("")), "1\n# of long ago\n")
	long := time.Now().Add(-2 * tempAge)
	if err := os.WriteFile(half, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(half, long, long); err != nil {
		t.Fatal(err)
	}
	b.run(t)
	haproxytest.Until(t, "the state file to say nothing", func() bool {
		got, err := os.ReadFile(b.statePath())
		_, left := os.Stat(half)
		return err == nil && string(got) == noStates && os.IsNotExist(left)
	})
}

// TestHostileStateFile: where HAProxy can write too, what it leaves in the place of the state file is
// replaced before the check waits for it or reads what it points to (P7).
func TestHostileStateFile(t *testing.T) {
	b := external(t, "haproxy")
	secret := filepath.Join(t.TempDir(), "secret")
	for what, put := range map[string]func(path string) error{
		"pipe":      func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"link":      func(path string) error { return os.Symlink(secret, path) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		os.Remove(b.statePath())
		if err := put(b.statePath()); err != nil {
			t.Fatal(err)
		}
		d, err := NewDriver(b.cfg)
		if err != nil {
			t.Fatal(err)
		}
		d.provideStates(files(b.stateful(b.text(""))))
		d.provideStates(files(b.stateful(b.text("")))) // a directory is gone first
		info, err := os.Lstat(b.statePath())
		if err != nil || !info.Mode().IsRegular() {
			t.Errorf("%s: got %v, %v, want a plain file", what, info, err)
		}
	}
	if _, err := os.Stat(secret); err == nil {
		t.Error("the target of the link was written")
	}
}

// TestFileFollowsBesideAPipe: nor does the check wait for it when the file follows what commands did (P6, P7).
func TestFileFollowsBesideAPipe(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := external(t, t.Bin)
		b.start(t)
		b.run(t)
		one := haproxytest.Server(t, "one")
		b.apply(t, b.stateful(b.text("", "s1 "+one)))
		plant(t, os.Remove(b.statePath()), syscall.Mkfifo(b.statePath(), 0o600))
		want := b.stateful(b.text("", "s1 "+one+" weight 7"))
		if res := b.apply(t, want); res.How != HowRuntime {
			t.Fatalf("got %+v, want commands", res)
		}
		haproxytest.Until(t, "the file to follow", func() bool {
			got, err := os.ReadFile(b.cfg.Path)
			return err == nil && string(got) == want
		})
	})
}

// TestStateFileThatIsOurs: only a file beside the configuration with a name of its own is written.
func TestStateFileThatIsOurs(t *testing.T) {
	s := store{path: "/run/x/haproxy.cfg"}
	for global, want := range map[string]string{
		"server-state-file /run/x/server.state":                   "/run/x/server.state",
		"server-state-file '/run/x/a b'":                          "/run/x/a b",
		"server-state-base /y\nserver-state-file /run/x/s":        "/run/x/s",
		"server-state-file server.state":                          "", // only HAProxy knows where
		"server-state-file /etc/passwd":                           "",
		"server-state-file /run/x/../y/s":                         "",
		"server-state-file /run/x/haproxy.cfg":                    "",
		"server-state-file /run/x/" + appliedName:                 "",
		"server-state-file /run/x/hosts.map":                      "",
		"server-state-file /run/x/.hidden":                        "",
		"server-state-file":                                       "",
		`server-state-file "/run/x/$NAME"`:                        "",
		".if defined(X)\nserver-state-file /run/x/server.state\n": "",
		"maxconn 7": "",
	} {
		set := append(files("global\n"+global+"\n"), render.File{Name: "hosts.map"})
		if got := s.stateFile(set); got != want {
			t.Errorf("%s: got %q, want %q", global, got, want)
		}
	}
}

// TestNoLinesNoStateFile: a template without the lines gets no file.
func TestNoLinesNoStateFile(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managed(t, t.Bin)
		for i := range 2 {
			b.apply(t, b.text(changed(i), "s1 127.0.0.1:9 check"))
		}
		if _, err := os.Lstat(b.statePath()); err == nil {
			t.Error("there is a state file that nobody asked for")
		}
	})
}

// TestHowAServerIsChecked: a state that another check found out is not carried, nor one of a server
// whose words differ once defaults are added.
func TestHowAServerIsChecked(t *testing.T) {
	text := func(defaults, backend, words string) string {
		return "defaults d\n load-server-state-from-file global\n" + defaults + "backend b from d\n" + backend + " server s 127.0.0.1:80 " + words + "\n"
	}
	before := text(" option httpchk GET /\n", "", "check inter 2s")
	for after, want := range map[string]bool{
		before: true,
		text(" option httpchk GET /\n", " timeout queue 7s\n", "inter 2s check # as before"):            true,
		text(" option httpchk GET /\n default-server inter 2s\n", "", "check"):                          true,
		text(" option httpchk GET /x\n", "", "check inter 2s"):                                          false,
		text(" option httpchk GET /\n", " http-check expect status 204\n", "check inter 2s"):            false,
		text(" option httpchk GET /\n", " mode tcp\n", "check inter 2s"):                                false,
		text(" option httpchk GET /\n default-server weight 7\n", "", "check inter 2s"):                 false,
		text(" option httpchk GET /\n", "", "check inter 2s disabled"):                                  false,
		text(" option httpchk GET /\n", "", "inter 2s"):                                                 false,
		text(" option httpchk GET /\n", "", "check inter 2s track x"):                                   false,
		text(" option httpchk GET /\n", " load-server-state-from-file none\n", "check inter 2s"):        false,
		text(" option httpchk GET /\n", " disabled\n", "check inter 2s"):                                false,
		strings.Replace(before, "127.0.0.1:80", "127.0.0.1:81", 1):                                      false,
		strings.Replace(before, "load-server-state-from-file global", "load-server-state-from-file", 1): false,
	} {
		if got := lasting(before, after)["b/s"] != nil; got != want {
			t.Errorf("%s\ngot %v, want its state carried: %v", after, got, want)
		}
	}
}

// drawnRow is a server as a test's HAProxy runs it.
type drawnRow struct {
	Name, Op, Admin, UWeight, IWeight, CheckState, Port, SSL, CheckPort, CheckAddr string
}

func drawRow(t *rapid.T, name string) drawnRow {
	mostly := func(column, usual string, rare ...string) string {
		return rapid.SampledFrom(append(slices.Repeat([]string{usual}, 3*len(rare)), rare...)).Draw(t, name+column)
	}
	return drawnRow{
		Name: name, Op: rapid.SampledFrom([]string{"0", "1", "2", "3"}).Draw(t, name+" op"), Admin: mostly(" admin", "0", "1", "4", "5", "8", "32"),
		UWeight: mostly(" weight", "1", "0", "7", "256"), IWeight: mostly(" initial weight", "1", "7"),
		CheckState: mostly(" check", "6", "7", "2", "0", "14", "2054"), Port: mostly(" port", "80", "81"), SSL: mostly(" ssl", "0", "1"),
		CheckPort: mostly(" check port", "0", "9"), CheckAddr: mostly(" check addr", "-", "127.0.0.2"),
	}
}

func (r drawnRow) fields() []string {
	return []string{
		"3", "b", "1", r.Name, "127.0.0.1", r.Op, r.Admin, r.UWeight, r.IWeight, "100", "8", "2", "0", r.CheckState, "0", "0",
		"0", "-", r.Port, "-", r.SSL, r.CheckPort, r.CheckAddr, r.CheckAddr, "0",
	}
}

// drawnText is a configuration by its servers' words.
func drawnText(words map[string]string) string {
	var text strings.Builder
	text.WriteString("defaults d\n load-server-state-from-file global\nbackend b from d\n")
	for name, w := range words {
		if w != "" {
			text.WriteString(" server " + name + " 127.0.0.1:80 " + w + "\n")
		}
	}
	return text.String()
}

// TestStatesLaw: whatever runs and whatever is wanted, a row is carried exactly for the servers whose
// words are equal and plain, that have a check, and that run as they are written; and it gives the
// worker nothing but what the check found out.
func TestStatesLaw(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SampledFrom([]string{"", "check weight 1", "check weight 1", "check weight 9", "check disabled", "weight 1", "check inter 1s", "check init-addr none"})
		before, after := map[string]string{}, map[string]string{}
		want := []string{"1\n# " + stateColumns + "\n"}
		var list strings.Builder
		list.WriteString("1\n# " + stateColumns + "\n")
		for _, name := range []string{"s1", "s2", "s3", "s4"} {
			before[name], after[name] = words.Draw(t, name+" before"), words.Draw(t, name+" after")
			r := drawRow(t, name)
			list.WriteString(strings.Join(r.fields(), " ") + "\n")
			readable := strings.HasPrefix(after[name], "check") && !strings.Contains(after[name], "disabled") && !strings.Contains(after[name], "init-addr")
			deviates := r.Admin != "0" || r.Port != "80" || r.SSL != "0" || r.CheckPort != "0" || r.CheckAddr != "-" || !slices.Contains([]string{"6", "7", "2054"}, r.CheckState)
			if before[name] != after[name] || !readable || deviates {
				continue
			}
			weight := map[bool]string{true: "9", false: "1"}[strings.HasSuffix(after[name], "9")]
			r.UWeight, r.IWeight, r.CheckState, r.CheckAddr = weight, weight, "6", "-"
			want = append(want, strings.Join(r.fields(), " ")+"\n")
		}
		servers, err := parseServers(list.String() + "\n")
		if err != nil {
			t.Fatal(err)
		}
		got := servers.states(lasting(drawnText(before), drawnText(after)))
		if want := strings.Join(want, ""); got != want {
			t.Errorf("before %v\nafter %v\nlist %s\ngot %s\nwant %s", before, after, list.String(), got, want)
		}
	})
}
