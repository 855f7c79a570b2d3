package confd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	appFile = "[template]\nsrc = \"app.tmpl\"\ndest = \"OUT/app\"\nkeys = [\"/app\"]\n"
	appText = "{{range gets \"/app/*\"}}{{.Value}} {{end}}"
	dbFile  = "[template]\nsrc = \"db.tmpl\"\ndest = \"OUT/db\"\nkeys = [\"/db\"]\ncheck_cmd = \"echo x >>OUT/db.rendered\"\n"
	dbText  = "{{getv \"/db\"}}"
)

// A directory as a whole: what it says is there, and follows keys, templates and resource files. A resource
// of which nothing changed is left alone.
func TestServe(t *testing.T) {
	b := newBed(t, newRegistry("/app/a", "1", "/app/b", "2", "/db", "d", "/apple/c", "3"),
		"conf.d/app.toml", appFile+"reload_cmd = \"echo {{.dest}} {{ .src }} {{.ID}} >>OUT/reloads\"\n", "templates/app.tmpl", appText,
		"conf.d/sub/db.toml", dbFile, "templates/db.tmpl", dbText)
	b.run()
	b.holds("app", "1 2 ")
	b.holds("db", "d")
	b.says("")
	// Braces that are not ours reach the shell, as the format of docker ps does.
	b.holds("reloads", fmt.Sprintf("%s %[1]s {{.ID}}\n", b.out("app")))

	b.keys.set("/app/b", "-", "/app/c", "4", "/other", "x")
	b.holds("app", "1 4 ")
	b.write("templates/app.tmpl", "now: "+appText)
	b.holds("app", "now: 1 4 ")
	b.until("three reloads", func() bool { return strings.Count(b.read("reloads"), "\n") == 3 })

	b.write("conf.d/more.toml", "[template]\nsrc = \"more.tmpl\"\ndest = \"OUT/more\"\nprefix = \"/app\"\nkeys = [\"/\"]\n")
	b.says("more.toml: " + b.dir + "/confd/templates/more.tmpl: there is no such template")
	b.write("templates/more.tmpl", "{{getv \"/c\"}}")
	b.holds("more", "4")
	b.says("")
	b.write("conf.d/more.toml", "[template]\nsrc = \"more.tmpl\"\ndest = \"OUT/moved\"\nprefix = \"/db\"\nkeys = [\"/c\"]\n")
	b.keys.set("/db/c", "other")
	b.holds("moved", "other")

	if err := os.Remove(b.dir + "/confd/conf.d/more.toml"); err != nil {
		t.Fatal(err)
	}
	b.until("nobody follows its keys", func() bool { return b.keys.followers() == 2 })
	b.keys.set("/db/c", "late", "/app/a", "5")
	b.holds("app", "now: 5 4 ")
	if got := b.read("moved"); got != "other" {
		t.Errorf("the file of a resource that is gone holds %q, want what it did", got)
	}
	if got := b.read("db.rendered"); got != "x\n" {
		t.Errorf("db was made again %q, though only its prefix's other keys changed", got)
	}
}

// P7: each resource stands alone. What is wrong is said under its name, while the others are served.
func TestEachStandsAlone(t *testing.T) {
	resource := func(src, dest string) string {
		return fmt.Sprintf("[template]\nsrc = %q\ndest = \"OUT/%s\"\nkeys = [\"/app\"]\n", src, dest)
	}
	b := newBed(t, newRegistry("/app/a", "1"),
		"templates/app.tmpl", appText, "templates/broken.tmpl", "x\n{{if}}", "templates/missing.tmpl", "\n\n  {{getv \"/app/no\"}}",
		"conf.d/a.toml", appFile,
		"conf.d/b.toml", "[template\n",
		"conf.d/c.toml", resource("broken.tmpl", "c"),
		"conf.d/d.toml", resource("missing.tmpl", "d"),
		"conf.d/e.toml", resource("app.tmpl", "no/e"),
		"conf.d/f.toml", resource("app.tmpl", "app"),
		"conf.d/g.toml", resource("app.tmpl", "haproxy.cfg"),
		"conf.d/h.toml", resource("app.tmpl", "h")+"check_cmd = \"echo not good; exit 3\"\n",
		"conf.d/z.toml", resource("app.tmpl", "z"))
	b.server.Reserved = map[string]string{b.out("haproxy.cfg"): "HAProxy's own"}
	b.run()
	b.holds("app", "1 ")
	b.holds("z", "1 ")
	for _, want := range []string{
		"conf.d/b.toml: line 2, column 10",
		"conf.d/c.toml: template: broken.tmpl:2: missing value for if",
		"conf.d/d.toml: template: missing.tmpl:3:4: executing \"missing.tmpl\" at <getv \"/app/no\">: error calling getv: key does not exist: /app/no",
		"conf.d/e.toml: stage " + b.out("no/e") + ": no such file or directory; its directory must be there and writable",
		"conf.d/f.toml: dest " + b.out("app") + " is that of conf.d/a.toml already",
		"conf.d/g.toml: dest " + b.out("haproxy.cfg") + " is HAProxy's own",
		"conf.d/h.toml: check_cmd \"echo not good; exit 3\": exit status 3: not good",
	} {
		b.says(want)
	}
	b.keys.set("/app/a", "2")
	b.holds("app", "2 ")
	b.holds("z", "2 ")

	// Each is mended by itself.
	b.write("conf.d/b.toml", resource("app.tmpl", "b"))
	b.write("templates/broken.tmpl", "whole")
	b.keys.set("/app/no", "there")
	if err := os.Mkdir(b.out("no"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.write("conf.d/f.toml", resource("app.tmpl", "f"))
	b.write("conf.d/g.toml", resource("app.tmpl", "g"))
	b.write("conf.d/h.toml", resource("app.tmpl", "h"))
	for name, want := range map[string]string{"b": "2 there ", "c": "whole", "d": "\n\n  there", "no/e": "2 there ", "f": "2 there ", "g": "2 there ", "h": "2 there "} {
		b.holds(name, want)
	}
	b.says("")
	if got := b.read("haproxy.cfg"); got != "-" {
		t.Errorf("HAProxy's own file was written: %q", got)
	}
}

// A resource file that breaks leaves its last good content in force.
func TestLastGoodDefinition(t *testing.T) {
	b := newBed(t, newRegistry("/app/a", "1"), "conf.d/app.toml", appFile, "templates/app.tmpl", appText)
	b.run()
	b.holds("app", "1 ")
	b.write("conf.d/app.toml", "[template]\nsrc = \n")
	b.says("conf.d/app.toml: line 2")
	b.keys.set("/app/a", "2")
	b.holds("app", "2 ")
	b.write("confd.toml", "prefix = 5")
	b.says("confd.toml: ")
	b.keys.set("/app/a", "3")
	b.holds("app", "3 ")
}

// F8: what check_cmd refuses is never put into force, and leaves nothing behind; {{.src}} is the staged file
// in the directory of the target.
func TestCheckKeepsTheOld(t *testing.T) {
	b := newBed(t, newRegistry("/app/a", "good"), "templates/app.tmpl", appText,
		"conf.d/app.toml", appFile+"check_cmd = \"grep -q good {{.src}} || { echo {{.src}}: bad >&2; ls -A OUT >OUT/seen; exit 1; }\"\nreload_cmd = \"echo r >>OUT/reloads\"\n")
	b.run()
	b.holds("app", "good ")
	b.holds("reloads", "r\n")
	b.keys.set("/app/a", "bad")
	b.says("exit status 1: " + b.out("app") + ": bad") // by the name that it would have had
	if got := b.read("app"); got != "good " {
		t.Errorf("the file holds %q", got)
	}
	if !strings.Contains(b.read("seen"), ".app") {
		t.Errorf("no staged file beside the target: %q", b.read("seen"))
	}
	b.keys.set("/app/a", "good again")
	b.holds("app", "good again ")
	b.holds("reloads", "r\nr\n")
	entries, err := os.ReadDir(b.dir + "/out")
	if err != nil || len(entries) != 3 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// F5: a reload that fails is tried again until it succeeds, and then not again; also by the next process.
func TestReloadIsRetried(t *testing.T) {
	b := newBed(t, newRegistry("/app/a", "1"), "templates/app.tmpl", appText,
		"conf.d/app.toml", appFile+"reload_cmd = \"echo try >>OUT/tries; test -e OUT/up && echo done >>OUT/done\"\n")
	b.run()
	b.holds("app", "1 ")
	b.says("reload_cmd ")
	b.until("three tries", func() bool { return strings.Count(b.read("tries"), "\n") > 3 })
	b.end()
	tries := b.read("tries")
	b.run()
	b.until("a try of the next process", func() bool { return b.read("tries") != tries })
	if err := os.WriteFile(b.out("up"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.holds("done", "done\n")
	b.says("")
	b.end()
	b.run() // owes nothing any more
	b.says("")
	b.keys.set("/app/a", "2")
	b.holds("app", "2 ")
	b.holds("done", "done\ndone\n")
}

// A command that hangs is ended with all that it started, and meanwhile holds up no other resource.
func TestHangingCommand(t *testing.T) {
	b := newBed(t, newRegistry("/app/a", "1", "/db", "d"), "templates/app.tmpl", appText, "templates/db.tmpl", dbText,
		"conf.d/app.toml", appFile+"check_cmd = \"test -e OUT/free || { sleep 1000 & echo $! >OUT/pid; wait; }\"\n", "conf.d/db.toml", dbFile)
	b.server.CheckLimit = 700 * time.Millisecond
	b.run()
	b.holds("db", "d")
	b.until("the command runs", func() bool { return strings.HasSuffix(b.read("pid"), "\n") })
	pid, err := strconv.Atoi(strings.TrimSpace(b.read("pid")))
	if err != nil {
		t.Fatal(err)
	}
	b.keys.set("/db", "e")
	b.holds("db", "e")
	b.says("check_cmd \"test -e")
	b.says("ended after 700ms, its time limit")
	b.until("its child is gone", func() bool { return gone(pid) })
	if got := b.read("app"); got != "-" {
		t.Errorf("the file was written: %q", got)
	}
	if err := os.WriteFile(b.out("free"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.holds("app", "1 ")
	b.says("")
}

// A resource may give its commands another time, as later versions of confd have it.
func TestCommandTimes(t *testing.T) {
	b := newBed(t, newRegistry("/app/a", "1", "/db", "d"), "templates/app.tmpl", appText, "templates/db.tmpl", dbText,
		"conf.d/app.toml", appFile+"check_cmd = \"sleep 1000\"\ncheck_cmd_timeout = \"20ms\"\nreload_cmd = \"touch OUT/never\"\n",
		"conf.d/db.toml", "[template]\nsrc = \"db.tmpl\"\ndest = \"OUT/db\"\nkeys = [\"/db\"]\nreload_cmd = \"echo try >>OUT/tries; sleep 1000\"\nreload_cmd_timeout = \"20ms\"\n")
	b.run()
	b.says("check_cmd \"sleep 1000\": ended after 20ms, its time limit")
	b.says("ended after 20ms, its time limit\nconf.d/db.toml: reload_cmd")
	b.holds("db", "d")
	b.until("the reload is tried again", func() bool { return strings.Count(b.read("tries"), "try") > 1 })
	if b.read("app") != "-" || b.read("never") != "-" {
		t.Error("a file was put into force that was not judged")
	}
	b.write("conf.d/app.toml", appFile+"check_cmd = \"sleep 0.1\"\ncheck_cmd_timeout = \"0s\"\n") // the usual one
	b.holds("app", "1 ")
}

// P8: changes that follow closely on a reload are one more reload, after a time, with the newest keys; nothing is lost.
func TestReloadsRest(t *testing.T) {
	b := newBed(t, newRegistry("/app/a", "1"), "templates/app.tmpl", appText,
		"conf.d/app.toml", appFile+"reload_cmd = \"cat OUT/app >>OUT/reloads\"\nmin_reload_interval = \"2s\"\n")
	b.run()
	b.holds("reloads", "1 ")
	for _, value := range []string{"2", "3", "4"} {
		b.keys.set("/app/a", value)
		if value == "3" {
			b.write("templates/app.tmpl", appText+"!")
		}
	}
	b.holds("reloads", "1 4 !")
}

// gone tells whether a process has ended, though nobody may have taken note of it.
func gone(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// A daemon that a command starts outlives it, and holds nothing up though it has the command's output.
func TestDaemonStays(t *testing.T) {
	b := newBed(t, newRegistry("/app/a", "1"), "templates/app.tmpl", appText,
		"conf.d/app.toml", appFile+"reload_cmd = \"sleep 1000 & echo $! >OUT/pid\"\n")
	b.run()
	b.holds("app", "1 ")
	b.says("")
	b.end()
	pid, err := strconv.Atoi(strings.TrimSpace(b.read("pid")))
	if err != nil {
		t.Fatal(err)
	}
	if gone(pid) {
		t.Error("the daemon was ended")
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

// Unknown is not empty: before the first complete read nothing is touched; a registry that goes away changes
// nothing, while what does not come from it, a template, is taken up still.
func TestUnknownIsNotEmpty(t *testing.T) {
	b := newBed(t, newRegistry("/app/a", "1"), "templates/app.tmpl", appText, "conf.d/app.toml", appFile)
	b.keys.fail(errors.New("no route"))
	if err := os.WriteFile(b.out("app"), []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.run()
	b.says("conf.d/app.toml: its keys cannot be followed: no route")
	if got := b.read("app"); got != "old" {
		t.Fatalf("written without a read: %q", got)
	}
	b.keys.fail(nil)
	b.holds("app", "1 ")
	b.says("")
	b.keys.fail(errors.New("gone"))
	b.says("its keys cannot be followed: gone")
	b.write("templates/app.tmpl", "new: "+appText)
	b.holds("app", "new: 1 ")
	b.says("its keys cannot be followed: gone")
	b.keys.set("/app/a", "-")
	b.keys.fail(nil)
	b.holds("app", "new: ") // known to be empty
	b.says("")
}

// Waiting for the first answer of the registry is no failure, and no success.
func TestWaitingIsNotReported(t *testing.T) {
	b := newBed(t, newRegistry("/db", "d"), "templates/app.tmpl", appText, "conf.d/app.toml", appFile, "templates/db.tmpl", dbText, "conf.d/db.toml", dbFile)
	b.server.Keys = slowSource{b.keys, "/app"}
	b.run()
	b.holds("db", "d")
	b.end()
	if len(b.reports) > 0 {
		t.Errorf("reported: %v", b.reports)
	}
}

// slowSource says nothing of one root.
type slowSource struct {
	*registry
	root string
}

func (s slowSource) Run(ctx context.Context, roots []string, out chan<- map[string]string, report func(error)) error {
	if roots[0] == s.root {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.registry.Run(ctx, roots, out, report)
}

// A template that includes others is made anew when one of them changes; one that nobody includes is nothing.
func TestIncludedTemplateChanges(t *testing.T) {
	b := newBed(t, newRegistry("/app/a", "1", "/db", "d"), "templates/app.tmpl", `{{include "sub/part.tmpl"}}`, "templates/sub/part.tmpl", "one",
		"templates/db.tmpl", dbText, "conf.d/app.toml", appFile, "conf.d/db.toml", dbFile)
	b.run()
	b.holds("app", "one")
	b.holds("db", "d")
	b.write("templates/sub/part.tmpl", "two")
	b.holds("app", "two")
	b.write("templates/.hidden.tmpl", "{{")
	b.write("templates/unused.tmpl", "{{")
	b.write("templates/sub/part.tmpl", "three")
	b.holds("app", "three")
	b.says("")
	if got := b.read("db.rendered"); got != "x\n" {
		t.Errorf("db was made again %q", got)
	}
}

// A source outside the directory of templates is followed as well.
func TestSourceOutside(t *testing.T) {
	b := newBed(t, newRegistry(), "mine/x.tmpl", "one", "conf.d/x.toml", "[template]\nsrc = \"../mine/x.tmpl\"\ndest = \"OUT/x\"\n")
	b.run()
	b.holds("x", "one")
	b.write("mine/x.tmpl", "two")
	b.holds("x", "two")
}

// A template that is hidden is followed like any other.
func TestHiddenSource(t *testing.T) {
	b := newBed(t, newRegistry(), "templates/.x.tmpl", "one", "conf.d/x.toml", "[template]\nsrc = \".x.tmpl\"\ndest = \"OUT/x\"\n")
	b.run()
	b.holds("x", "one")
	b.write("templates/.x.tmpl", "two")
	b.holds("x", "two")
}

// confd.toml's prefix stands in the place of the resources'; the setting's wins over that.
func TestPrefixes(t *testing.T) {
	keys := newRegistry("/own/app/a", "own", "/global/app/a", "global", "/flag/app/a", "flag")
	file := appFile + "prefix = \"/own\"\n"
	b := newBed(t, keys, "templates/app.tmpl", appText, "conf.d/app.toml", file)
	b.run()
	b.holds("app", "own ")
	b.write("confd.toml", "prefix = \"global\"\n")
	b.holds("app", "global ")
	b.end()
	b.server.Options.Prefix = "/flag"
	b.run()
	b.holds("app", "flag ")
}

// noop touches nothing, sync-only runs no command: as confd.toml says.
func TestNoopAndSyncOnly(t *testing.T) {
	b := newBed(t, newRegistry("/app/a", "1"), "confd.toml", "noop = true\n", "templates/app.tmpl", appText,
		"conf.d/app.toml", appFile+"check_cmd = \"touch OUT/ran; false\"\nreload_cmd = \"touch OUT/ran\"\n")
	b.run()
	b.says("")
	if b.read("app") != "-" || b.read("ran") != "-" {
		t.Error("noop wrote or ran something")
	}
	b.write("confd.toml", "sync-only = true\n")
	b.holds("app", "1 ")
	b.says("")
	if b.read("ran") != "-" {
		t.Error("sync-only ran a command")
	}
}

// What somebody changed by hand is set right, and so is what a template asks of this host: at each refresh,
// but for a file that holds the time, which would be another each time.
func TestRefresh(t *testing.T) {
	b := newBed(t, newRegistry("/app/a", "1", "/db", "d"), "templates/app.tmpl", appText, "conf.d/app.toml", appFile,
		"templates/db.tmpl", "{{datetime}}", "conf.d/db.toml", dbFile)
	b.server.Refresh = 10 * time.Millisecond
	b.run()
	b.holds("app", "1 ")
	b.until("db is there", func() bool { return b.read("db") != "-" })
	b.says("")
	for range 3 {
		if err := os.WriteFile(b.out("app"), []byte("by hand"), 0o644); err != nil {
			t.Fatal(err)
		}
		b.holds("app", "1 ")
	}
	if got := b.read("db.rendered"); got != "x\n" {
		t.Errorf("the file with the time in it was made again: %q", got)
	}
}

// A directory that cannot be read changes nothing.
func TestDirectoryGoes(t *testing.T) {
	b := newBed(t, newRegistry("/app/a", "1"), "templates/app.tmpl", appText, "conf.d/app.toml", appFile)
	b.run()
	b.holds("app", "1 ")
	if err := os.Rename(b.dir+"/confd", b.dir+"/elsewhere"); err != nil {
		t.Fatal(err)
	}
	b.says("directory cannot be read; what is served stays so")
	b.keys.set("/app/a", "2")
	b.holds("app", "2 ")
	if err := os.Rename(b.dir+"/elsewhere", b.dir+"/confd"); err != nil {
		t.Fatal(err)
	}
	b.says("")
}
