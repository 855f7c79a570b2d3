package privilege

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// variable makes the test's own program play the one that becomes somebody else; its value says
// whether the right to low ports is to be kept.
const variable = "PRIVILEGE_TEST"

func TestMain(m *testing.M) {
	keep := os.Getenv(variable)
	if keep == "" {
		os.Exit(m.Run())
	}
	if !IsRoot() {
		status, err := os.ReadFile("/proc/self/status") // readable only after a clean execve(2)
		fmt.Printf("%s%v\n", status, err)
		os.Exit(0)
	}
	account, err := Lookup("nobody", 4711)
	if err == nil {
		err = account.Become(keep == "keep")
	}
	fmt.Println(err)
	os.Exit(1)
}

// play runs that program and returns the lines of /proc/self/status that it saw, by their names.
func play(t *testing.T, keep string, prefix ...string) (map[string]string, string) {
	t.Helper()
	if !IsRoot() {
		t.Skip("left out: only root can become somebody else")
	}
	program := filepath.Join(t.TempDir(), "program")
	copyProgram(t, program)
	args := append(prefix, program)
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), variable+"="+keep)
	out, _ := cmd.CombinedOutput()
	status := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(line, ":")
		status[name] = strings.Join(strings.Fields(value), " ")
	}
	return status, string(out)
}

// copyProgram puts the test's program where everybody may execute it.
func copyProgram(t *testing.T, path string) {
	t.Helper()
	for dir := filepath.Dir(path); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestBecome(t *testing.T) {
	const netBindService = "0000000000000400"
	none := strings.Repeat("0", 16)
	for _, c := range []struct {
		name, keep, want string
		prefix           []string
	}{
		{name: "all rights gone", keep: "drop", want: none},
		{name: "low ports kept", keep: "keep", want: netBindService},
		{
			name: "low ports not there to be kept", keep: "keep", want: none,
			prefix: []string{"setpriv", "--bounding-set=-all,+setuid,+setgid", "--"},
		},
		{
			name: "the container's rights are enough", keep: "keep", want: netBindService,
			prefix: []string{"setpriv", "--bounding-set=-all,+setuid,+setgid,+net_bind_service", "--no-new-privs", "--"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, out := play(t, c.keep, c.prefix...)
			if got, want := status["Uid"], "65534 65534 65534 65534"; got != want {
				t.Fatalf("uid %q, want %q\n%s", got, want, out)
			}
			if got, want := status["Gid"], "65534 65534 65534 65534"; got != want {
				t.Errorf("gid %q, want %q", got, want)
			}
			if got, want := status["Groups"], "4711 65534"; got != want {
				t.Errorf("groups %q, want the user's own and the extra one: %q", got, want)
			}
			for _, set := range []string{"CapPrm", "CapEff", "CapInh", "CapAmb"} {
				if status[set] != c.want {
					t.Errorf("%s %s, want %s", set, status[set], c.want)
				}
			}
		})
	}
}

func TestBecomeWithoutTheRightTo(t *testing.T) {
	_, out := play(t, "drop", "setpriv", "--bounding-set=-all", "--")
	if !strings.Contains(out, "become user nobody: set groups: operation not permitted; allow the capabilities SETUID and SETGID") {
		t.Errorf("said %q", out)
	}
}

func TestLookupRoot(t *testing.T) {
	if _, err := Lookup("root"); err == nil || err.Error() != "user root is root" {
		t.Errorf("error %v, want that root is none to become", err)
	}
}

func TestLookupUnknown(t *testing.T) {
	if _, err := Lookup("no-such-user"); err == nil || !strings.Contains(err.Error(), "no-such-user") {
		t.Errorf("error %v, want one that names the user", err)
	}
}

func TestGroupOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if IsRoot() {
		if err := os.Chown(path, 0, 4711); err != nil {
			t.Fatal(err)
		}
		if gid, err := GroupOf(path); err != nil || gid != 4711 {
			t.Errorf("group %d (%v), want 4711", gid, err)
		}
	}
	if _, err := GroupOf(path + ".not"); err == nil || !strings.Contains(err.Error(), "file.not") {
		t.Errorf("error %v, want one that names the file", err)
	}
}
