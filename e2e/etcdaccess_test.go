package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sidekick-proxy/sidekick/internal/enginetest"
)

// TestEtcdGuide follows deploy/etcd.md to the letter: each box of it runs, against an etcd that is
// set up as it says, and the agent then has the rights that it needs and no others.
func TestEtcdGuide(t *testing.T) {
	used := map[string]bool{}
	parts := []struct {
		name   string
		follow func(*guide)
	}{
		{"without encryption", (*guide).plain},
		{"TLS", (*guide).encrypted},
		{"by certificates", (*guide).byCertificates},
		{"by passwords", (*guide).byPasswords},
	}
	done := 0
	for _, part := range parts {
		t.Run(part.name, func(t *testing.T) { part.follow(newGuide(t, used)); done++ })
	}
	if done < len(parts) {
		return // not all were asked for, or one failed
	}
	boxes, _ := readGuide(t)
	for title := range boxes {
		if !used[title] {
			t.Errorf("deploy/etcd.md: nothing runs the box %q", title)
		}
	}
}

// plain: the agent works, and renews its lease without writing while nothing changes. P10.
func (g *guide) plain() {
	g.members("environment of each member of etcd: forget old values, have room")
	g.launch("/etc/sidekick/sidekick.env of each host")
	kiosk := app{service: "kiosk"}
	g.answeredBy(kiosk, g.container(kiosk))
	g.inStep()

	g.shell = "export ETCDCTL_API=3 ETCDCTL_ENDPOINTS=" + g.at(2379) + "\n"
	quiet, before := 0, ""
	g.until("three renewals go by without a write", func() error {
		g.renews(1)
		quiet++
		if revision := g.field("/sidekick", "Revision"); revision != before {
			quiet, before = 0, revision
		}
		if quiet < 3 {
			return fmt.Errorf("%d so far", quiet)
		}
		return nil
	})
	g.run("administrator: make space in an etcd that is full")
	g.renews(1)
	g.inStep()
}

// renews waits for that many renewals of the agent's lease.
func (w *world) renews(times int) {
	w.Helper()
	last := 0.0
	w.until("the lease is renewed", func() error {
		now, err := w.metric(`sidekick_stage_last_success_timestamp_seconds{stage="register"}`)
		if err == nil && now != last {
			last = now
			times-- // the first is only where it starts from
		}
		if times >= 0 {
			return errors.Join(err, fmt.Errorf("%d to come", times+1))
		}
		return nil
	})
}

// field is a line of what etcdctl shows of a key.
func (g *guide) field(key, name string) string {
	g.Helper()
	out, err := g.sh(g.shell, "etcdctl get -w fields "+key)
	g.check(err)
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, `"`+name+`" : `) {
			return strings.TrimSpace(line)
		}
	}
	g.Fatalf("no %s in %s", name, out)
	return ""
}

// encrypted: the agent works by TLS, its files are for itself alone, and it goes to no etcd that
// it does not know.
func (g *guide) encrypted() {
	const settings = "/etc/sidekick/sidekick.env of each host, with TLS"
	g.members("environment of each member of etcd, by passwords")
	g.run("each host: its files are for the agent alone")
	g.check(filepath.WalkDir(g.path("sidekick"), g.private))
	g.launch(settings)
	g.inStep()

	other := newAuthority(g.T)
	g.check(os.WriteFile(g.path("sidekick/ca.pem"), other.certificate(), 0o644))
	g.launch(settings)
	g.says("register … certificate: … its certificate is not trusted")
}

// private finds a fault with a file that others than the image's user can read, or that
// these cannot.
func (g *guide) private(path string, entry fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	info, err := entry.Info()
	if err != nil {
		return err
	}
	const image = 7070
	if uid := info.Sys().(*syscall.Stat_t).Uid; entry.Type().IsRegular() && (uid != image || info.Mode().Perm() != 0o400) {
		return fmt.Errorf("%s: user %d, mode %o", path, uid, info.Mode().Perm())
	}
	return nil
}

// way is one of the two by which etcd knows who asks.
type way struct {
	*guide
	name   string                   // as the titles of boxes end
	secret map[string]string        // files that a host shows to etcd, and how the administrator's end
	as     func(user string) string // what makes a shell that user's
}

func (g *guide) byCertificates() {
	w := way{guide: g, name: ", by certificates", secret: map[string]string{"agent.pem": ".pem", "agent.key": ".key"}}
	w.as = func(user string) string {
		return g.places.Replace("export ETCDCTL_CERT=/etc/etcd/" + user + ".pem ETCDCTL_KEY=/etc/etcd/" + user + ".key\n")
	}
	for name, cn := range map[string]string{"root": "root", "alice": "alice", "web1": "sidekick-web1", "web10": "sidekick-web10"} {
		g.ca.issue(g.T, g.path("members/"+name), cn)
	}
	w.setUp()
	kiosk, boxes := w.works()
	w.operators()
	w.overrides(kiosk)
	w.servesUnread(kiosk, boxes...)
	w.rotates(func() { g.ca.issue(g.T, g.path("members/web1"), "sidekick-web1") }, func() {})

	g.launch("/etc/sidekick/sidekick.env of each host, with TLS")
	g.says("register … client-certificate: … etcd wants a certificate that it trusts")
	w.dismiss()
	g.says("register … denied: … read /sidekick/v1/nodes/web1: … permission denied")
}

func (g *guide) byPasswords() {
	w := way{guide: g, name: ", by passwords", secret: map[string]string{"password": ".password"}}
	w.as = func(user string) string {
		return g.places.Replace("export ETCDCTL_USER=sidekick-" + user + " ETCDCTL_PASSWORD=$(cat /etc/etcd/" + user + ".password)\n")
	}
	w.setUp()
	g.set("administrator: this shell after that, by passwords")
	w.works()
	w.rotates(
		func() {
			g.run("administrator, for each host: another password, to be copied to the host before the next step")
		},
		func() { g.run("administrator, for each host: the other password counts") },
	)

	g.launch("/etc/sidekick/sidekick.env of each host, with TLS")
	g.says("register … credentials: … user name is empty")
	w.bring("web10")
	g.launch("/etc/sidekick/sidekick.env of the host"+w.name, "SIDEKICK_REGISTRY_USER=sidekick-web10")
	g.says("register … denied: … claim /sidekick/v1/nodes/web1: … permission denied")
	w.dismiss()
	g.says("register … credentials: … the registry refuses the user name or the password")
}

// setUp goes through the five steps, for the hosts web1 and web10. Rights are enforced when web1's
// agent runs.
func (w way) setUp() {
	w.members("environment of each member of etcd" + w.name)
	w.set("administrator: this shell" + w.name)
	for _, node := range []string{"web10", "web1"} {
		w.shell += "NODE=" + node + "\n"
		out, err := w.sh(w.shell, strings.Replace(w.box("administrator, for each host: its role"), "NODE=web1\n", "", 1))
		if err != nil {
			w.Fatalf("%v: %s", err, out)
		}
		w.run("administrator, for each host: its rights; to be repeated at will", "administrator, for each host: its user"+w.name)
	}
	w.run("administrator, once: the role of operators")
	w.bring("web1")
	w.launch("/etc/sidekick/sidekick.env of the host" + w.name)
	w.inStep()
	w.run("administrator, once: from now on rights count" + w.name)
}

// bring gives the agent's host what that user shows to etcd.
func (w way) bring(user string) {
	w.Helper()
	for file, suffix := range w.secret {
		text, err := os.ReadFile(w.path("members/" + user + suffix))
		w.check(err)
		w.check(os.WriteFile(w.path("sidekick/"+file), text, 0o600))
	}
}

// works: the agent registers its host's containers and sees another host's, but cannot touch them.
func (w way) works() (app, []*enginetest.Container) {
	w.Helper()
	const other = "/sidekick/v1/instances/web10/c.other.80"
	w.may("web10", true, "put "+other+` '{"service":"other","address":"10.9.9.9","port":80}'`)
	kiosk := app{service: "kiosk"}
	one := w.container(kiosk)
	w.answeredBy(kiosk, one)
	w.until("the other host's service is seen", func() error { return w.sees("other", "web10") })
	w.inStep()
	w.run("host: what each stage last did; exit code 1 if one fails")
	w.keepsTo(other)
	return kiosk, []*enginetest.Container{one, w.regrants(kiosk, one)}
}

// sees finds a fault if the agent does not know an instance of the service on that node.
func (w *world) sees(service, node string) error {
	list, err := w.services()
	for _, s := range list {
		for _, i := range s.Instances {
			if s.Name == service && i.Node == node {
				return nil
			}
		}
	}
	return fmt.Errorf("%+v (%w)", list, err)
}

// keepsTo: web1 may write what is its own, read what is Sidekick's, and no more; other is a key of
// another host.
func (w way) keepsTo(other string) {
	w.Helper()
	w.may("web1", true,
		"get --prefix /sidekick/v1/", "put /sidekick/v1/asks/a {}", "put /sidekick/v1/answers/web1/a {}",
		"put /sidekick/v1/instances/web1/by.hand.1 {}", "del /sidekick/v1/instances/web1/by.hand.1")
	w.may("web1", false,
		"del "+other, "put "+other+" {}", "put /sidekick/v1/instances/web2/c.other.80 {}", "put /sidekick/v1/nodes/web10 {}",
		"put /sidekick/v1/nodes/web {}", "put /sidekick/v1/answers/web10/a {}", "put /sidekick/v1/overrides/other {}",
		"put /elsewhere x", "get --prefix /sidekick", "get /elsewhere")
}

// may asserts whether a user may do these commands of etcdctl.
func (w way) may(user string, allowed bool, commands ...string) {
	w.Helper()
	for _, command := range commands {
		out, err := w.sh(w.shell+w.as(user), "etcdctl "+command)
		if denied := strings.Contains(out, "permission denied"); allowed != (err == nil) || allowed == denied {
			w.Errorf("etcdctl %s, as %s: got %v\n%s, want it allowed: %v", command, user, err, out, allowed)
		}
	}
}

// regrants: a right that is taken away shows when it is used, and when it is given again all goes on.
func (w way) regrants(kiosk app, one *enginetest.Container) (two *enginetest.Container) {
	w.Helper()
	w.revoke("/sidekick/v1/instances/$NODE/")
	two = w.container(kiosk)
	w.says("register … denied: … write below /sidekick/v1/instances/web1/: … permission denied")
	w.answeredBy(kiosk, one)
	w.run("administrator: what the host may do", "administrator, for each host: its rights; to be repeated at will")
	w.answeredBy(kiosk, one, two)
	w.inStep()
	return two
}

// revoke takes a right from web1.
func (w way) revoke(prefix string) {
	w.Helper()
	if out, err := w.sh(w.shell, `etcdctl role revoke-permission --prefix=true "sidekick-$NODE" "`+prefix+`"`); err != nil {
		w.Fatalf("%v: %s", err, out)
	}
}

// operators see all and may override, but not register.
func (w way) operators() {
	w.run("administrator, for each operator" + w.name)
	out, err := w.sh(w.shell, w.box("operator: the services of the whole cluster"))
	if err != nil || !containsAll(out, "kiosk", "other", "web10") {
		w.Errorf("got %v\n%s, want the services kiosk and other", err, out)
	}
	if out, err := w.sh(w.shell, w.box("operator: a service out of every proxy for ten minutes at most, and back")); err != nil {
		w.Errorf("an operator cannot drain: %v\n%s", err, out)
	}
	w.may("alice", true, "put /sidekick/v1/overrides/kiosk {}", "del /sidekick/v1/overrides/kiosk", "put /sidekick/v1/asks/b {}")
	w.may("alice", false, "put /sidekick/v1/nodes/web1 {}", "del --prefix /sidekick/v1/instances/")
}

// overrides: a host's own commands may override only if the host was given the right to.
func (w way) overrides(a app) {
	w.Helper()
	weigh := w.box("/etc/sidekick/sidekick.env of the host"+w.name) + "\nsidekick weight " + a.service + " 50 --wait"
	if out, err := w.sh("set -a", weigh); err == nil || !containsAll(out, "permission denied", "deploy/etcd.md") {
		w.Errorf("a host without the right overrides: %v\n%s", err, out)
	}
	w.run("administrator, for each host that may drain and stop by its own commands")
	if out, err := w.sh("set -a", weigh); err != nil {
		w.Errorf("a host with the right cannot override: %v\n%s", err, out)
	}
}

// servesUnread: without the right to read, an agent that starts serves what it knew, and goes on
// from there once it has the right. P4.
func (w way) servesUnread(kiosk app, boxes ...*enginetest.Container) {
	w.revoke("/sidekick/v1/")
	w.launch("/etc/sidekick/sidekick.env of the host" + w.name)
	w.says("watch … denied: … list /sidekick/v1/: … permission denied")
	w.answeredBy(kiosk, boxes...)
	w.run("administrator, for each host: its rights; to be repeated at will")
	w.inStep()
}

// rotates: web1's agent goes on with another secret, without a restart and without a write.
func (w way) rotates(change, after func()) {
	w.Helper()
	const node = "/sidekick/v1/nodes/web1"
	written := w.field(node, "ModRevision")
	change()
	w.bring("web1")
	after()
	w.renews(2)
	w.inStep()
	if now := w.field(node, "ModRevision"); now != written {
		w.Errorf("%s was written meanwhile: got %s, want %s", node, now, written)
	}
}

// dismiss ends the host's rights under a running agent, and with them its registrations, and starts
// it anew.
func (w way) dismiss() {
	w.Helper()
	w.bring("web1")
	w.launch("/etc/sidekick/sidekick.env of the host" + w.name)
	w.inStep()
	w.run("administrator: the host may do nothing any more")
	out, err := w.sh(w.shell, "etcdctl get --keys-only /sidekick/v1/nodes/web1; etcdctl get --prefix --keys-only /sidekick/v1/instances/web1/")
	if err != nil || out != "" {
		w.Errorf("got %v\n%s, want no key of web1", err, out)
	}
	w.launch("/etc/sidekick/sidekick.env of the host" + w.name)
}
