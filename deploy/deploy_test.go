// Package deploy_test judges the files by which Sidekick is deployed and released, as far as that
// needs neither an engine nor a booted systemd; package e2e does the rest.
package deploy_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
)

// need returns the program, or leaves the test out if TEST_WITHOUT says so.
func need(t *testing.T, program, what string) string {
	t.Helper()
	if strings.Contains(" "+os.Getenv("TEST_WITHOUT")+" ", " "+what+" ") {
		t.Skip("left out on demand: " + what)
	}
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%s is needed: install it (%v), or set TEST_WITHOUT=%s to leave this out", program, err, what)
	}
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

const (
	agentUnit   = "systemd/sidekick.service"
	haproxyUnit = "systemd/sidekick-haproxy.service"
)

// TestUnits: systemd has nothing against the units.
func TestUnits(t *testing.T) {
	analyze := need(t, "systemd-analyze", "systemd")
	dir := t.TempDir()
	program := filepath.Join(dir, "sidekick")
	write(t, program, "#!/bin/sh\n", 0o755)
	args := []string{"verify", "--man=no"}
	for _, unit := range []string{agentUnit, haproxyUnit} {
		// Where there is no program yet, systemd finds fault with that.
		path := filepath.Join(dir, filepath.Base(unit))
		write(t, path, strings.ReplaceAll(read(t, unit), "/usr/local/bin/sidekick", program), 0o644)
		args = append(args, path)
	}
	// It may have something to say of the machine's own units, too.
	out, err := exec.CommandContext(t.Context(), analyze, args...).CombinedOutput()
	if err != nil || strings.Contains(string(out), "sidekick") {
		t.Errorf("systemd-analyze %v: %v\n%s", args, err, out)
	}
}

// settingsOf lists the settings in a section of a unit.
func settingsOf(t *testing.T, unit, section string) []string {
	t.Helper()
	_, body, found := strings.Cut(read(t, unit), "["+section+"]\n")
	if !found {
		t.Fatalf("%s has no section %s", unit, section)
	}
	body, _, _ = strings.Cut(body, "\n[")
	return regexp.MustCompile(`(?m)^\w+=.*$`).FindAllString(body, -1)
}

// TestUnitsAreHardenedAlike: both units give up the same rights, but for the port that HAProxy binds.
func TestUnitsAreHardenedAlike(t *testing.T) {
	rights := func(unit string) []string {
		own := regexp.MustCompile(`^(Protect|Private|Restrict[A-Z]|SystemCall|NoNew|Lock|RemoveIPC|ReadWrite)`)
		return slices.DeleteFunc(settingsOf(t, unit, "Service"), func(s string) bool {
			return !own.MatchString(s) || strings.HasPrefix(s, "RestartPrevent")
		})
	}
	agent, haproxy := rights(agentUnit), rights(haproxyUnit)
	if diff := cmp.Diff(agent, haproxy); diff != "" || len(agent) < 15 {
		t.Errorf("hardening (- agent, + haproxy):\n%s", diff)
	}
	for unit, want := range map[string]string{agentUnit: "CapabilityBoundingSet=", haproxyUnit: "CapabilityBoundingSet=CAP_NET_BIND_SERVICE"} {
		if !slices.Contains(settingsOf(t, unit, "Service"), want) {
			t.Errorf("%s: no line %s", unit, want)
		}
	}
}

// TestUnitsLiveApart: the end of the agent, of HAProxy or of the engine is nobody else's end. At
// shutdown the engine is the first to stop, so that the agent can tell of it.
func TestUnitsLiveApart(t *testing.T) {
	bond := regexp.MustCompile(`^(Requires|Requisite|BindsTo|PartOf|Upholds|Conflicts|StopPropagatedFrom)=`)
	for _, unit := range []string{agentUnit, haproxyUnit} {
		for _, s := range settingsOf(t, unit, "Unit") {
			if bond.MatchString(s) {
				t.Errorf("%s: %s ties it to another unit's end", unit, s)
			}
		}
	}
	if !slices.Contains(settingsOf(t, agentUnit, "Unit"), "Before=docker.service") {
		t.Errorf("%s does not come before the engine, and so does not outlive it at shutdown", agentUnit)
	}
}

// TestSharedDirectory: what systemd makes of the snippets is what the image has, too: a directory of
// root's, in which all that is made is the group's.
func TestSharedDirectory(t *testing.T) {
	sysusers, tmpfiles := need(t, "systemd-sysusers", "systemd"), need(t, "systemd-tmpfiles", "systemd")
	if os.Geteuid() != 0 {
		t.Skip("left out: only root may give a directory to a group")
	}
	root := t.TempDir()
	for from, to := range map[string]string{"sysusers.conf": "usr/lib/sysusers.d", "tmpfiles.conf": "usr/lib/tmpfiles.d", "": "etc"} {
		if err := os.MkdirAll(filepath.Join(root, to), 0o755); err != nil {
			t.Fatal(err)
		}
		if from != "" {
			write(t, filepath.Join(root, to, "sidekick.conf"), read(t, "systemd/"+from), 0o644)
		}
	}
	for _, command := range [][]string{{sysusers}, {tmpfiles, "--create"}} {
		args := append(command[1:], "--root="+root, "sidekick.conf")
		if out, err := exec.CommandContext(t.Context(), command[0], args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", command[0], args, err, out)
		}
	}
	var made syscall.Stat_t
	if err := syscall.Stat(filepath.Join(root, "run/sidekick"), &made); err != nil {
		t.Fatal(err)
	}
	group := fmt.Sprintf("sidekick:x:%d:", made.Gid)
	if made.Uid != 0 || made.Mode&0o7777 != 0o2770 || !strings.Contains(read(t, filepath.Join(root, "etc/group")), group) {
		t.Errorf("/run/sidekick: user %d, group %d, mode %o, want root, the group sidekick and 2770", made.Uid, made.Gid, made.Mode&0o7777)
	}
}

const filter = "socket-proxy/haproxy.cfg"

// TestFilter: HAProxy takes the filter's configuration without a warning, and does not end a stream of
// events because it is silent.
func TestFilter(t *testing.T) {
	haproxy := need(t, "haproxy", "haproxy")
	out, err := exec.CommandContext(t.Context(), haproxy, "-c", "-f", filter).CombinedOutput()
	if err != nil || strings.Contains(string(out), "[WARNING]") {
		t.Errorf("haproxy -c -f %s: %v\n%s", filter, err, out)
	}
	for _, side := range []string{"client", "server"} {
		if want := "timeout " + side + " 24d\n"; !strings.Contains(read(t, filter), want) {
			t.Errorf("%s has no line %q: /events would be cut off when it is silent for long", filter, want)
		}
	}
}

// parse reads YAML.
func parse[T any](t *testing.T, path string) T {
	t.Helper()
	var value T
	if err := yaml.Unmarshal([]byte(read(t, path)), &value); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return value
}

// composition is what these tests look at in a compose file.
type composition struct {
	Services map[string]struct {
		Image       string
		User        string
		CapDrop     []string `yaml:"cap_drop"`
		CapAdd      []string `yaml:"cap_add"`
		Network     string   `yaml:"network_mode"`
		ReadOnly    bool     `yaml:"read_only"`
		Volumes     []any
		Environment any
	}
}

// TestSocketProxyReplacesTheSocket: on top of either compose file, the agent has the filter's socket in
// the place of the engine's, and no other; the filter can do nothing but talk to both.
func TestSocketProxyReplacesTheSocket(t *testing.T) {
	over := parse[composition](t, "socket-proxy/docker-compose.yml").Services
	for _, base := range []string{"docker-compose.yml", "../docker-compose.yml"} {
		agent := parse[composition](t, base).Services["sidekick"]
		if !slices.Contains(agent.Volumes, any("/run:/host/run:ro")) {
			t.Errorf("%s: the agent's volumes are %v, want /run at /host/run, which the filter's takes the place of", base, agent.Volumes)
		}
		if got, want := over["socket-proxy"].Image, agent.Image; got != want {
			t.Errorf("the filter's image is %s, the agent's in %s %s", got, base, want)
		}
	}
	if diff := cmp.Diff([]any{"engine:/host/run:ro"}, over["sidekick"].Volumes); diff != "" {
		t.Errorf("the agent's volumes (- want, + got):\n%s", diff)
	}
	f := over["socket-proxy"]
	if !slices.Equal(f.CapDrop, []string{"ALL"}) || f.CapAdd != nil || f.Network != "none" || !f.ReadOnly {
		t.Errorf("the filter has more rights than it needs: %+v", f)
	}
	if diff := cmp.Diff(any(map[string]any{"ALLOW_STOP": "${SOCKET_PROXY_ALLOW_STOP:-no}"}), f.Environment); diff != "" {
		t.Errorf("the filter's environment (- want, + got): containers are stopped through it only where that is asked for\n%s", diff)
	}
}

// TestRelease: the archives hold every file of this directory, and the program is told its version as
// the Makefile tells it.
func TestRelease(t *testing.T) {
	release := parse[struct {
		Version  int
		Builds   []struct{ Ldflags string }
		Archives []struct{ Files []string }
	}](t, "../.goreleaser.yaml")
	if release.Version != 2 || len(release.Builds) != 1 || len(release.Archives) != 1 {
		t.Fatalf("got %+v, want version 2, one build and one archive", release)
	}
	flags := regexp.MustCompile(`-X (\S+)=`)
	if diff := cmp.Diff(flags.FindAllString(read(t, "../Makefile"), -1), flags.FindAllString(release.Builds[0].Ldflags, -1)); diff != "" {
		t.Errorf("linker's flags (- Makefile, + release):\n%s", diff)
	}
	var packed []string
	for _, pattern := range release.Archives[0].Files {
		found, err := filepath.Glob("../" + pattern)
		if err != nil || len(found) == 0 {
			t.Errorf("no file matches %s: %v", pattern, err)
		}
		packed = append(packed, found...)
	}
	err := filepath.WalkDir("../deploy", func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && !strings.HasSuffix(path, "_test.go") && !slices.Contains(packed, path) {
			t.Errorf("%s is in no archive", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
