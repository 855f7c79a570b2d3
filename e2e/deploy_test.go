package e2e

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestComposeTrial is the README's first minute, with the compose file as it is: it comes up, serves,
// is scaled and replaced under load; the agent is killed, restarted and upgraded, the engine is
// restarted underneath; HAProxy is restarted; at last nothing is left. P2.
func TestComposeTrial(t *testing.T) {
	const site = "whoami.localhost"
	m := newMachines(t, "trial")[0]
	t.Cleanup(m.whatHappened)
	compose := func(arguments string, variables ...string) {
		t.Helper()
		m.sh("docker compose -f $COMPOSE "+arguments, variables...)
	}
	step := func(what string, do func()) { t.Helper(); m.lossless(site, what, do) }
	scale := func(n int) {
		t.Helper()
		compose(fmt.Sprintf("up -d --no-recreate --scale whoami=%d", n))
		m.servedBy(site, n)
	}
	agent := "$(docker compose -f $COMPOSE ps -q sidekick)"

	m.restartEngine() // from now on, containers live on without it
	compose("up -d")
	m.servedBy(site, 2)
	step("scaled from 2 to 5", func() { scale(5) })
	step("all replaced", func() {
		old := m.servedBy(site, 5)
		m.sh(`old=$(docker compose -f $COMPOSE ps -q whoami)
			docker compose -f $COMPOSE up -d --no-recreate --scale whoami=10
			docker rm -f $(docker stop $old)`)
		for _, name := range m.servedBy(site, 5) {
			if slices.Contains(old, name) {
				t.Errorf("%s was not replaced", name)
			}
		}
	})
	step("scaled to 1", func() { scale(1) })
	step("agent killed", func() {
		pid := m.sh("docker inspect -f '{{.State.Pid}}' " + agent)
		var number int
		fmt.Sscan(pid, &number)
		m.check(m.host.Kill(m.ctx, number, syscall.SIGKILL))
		m.until("the agent is there again", func() error {
			if now, _, err := m.try("docker inspect -f '{{.State.Pid}}' " + agent); err != nil || now == pid || now == "0" {
				return fmt.Errorf("pid %s, was %s: %w", now, pid, err)
			}
			return nil
		})
		scale(3)
	})
	step("agent restarted", func() { compose("restart sidekick"); scale(2) })
	step("agent upgraded", func() {
		compose("up -d --no-deps sidekick", "IMAGE="+nextImage)
		if got := m.sh("docker exec " + agent + " sidekick version"); !strings.Contains(got, "sidekick next ") {
			t.Errorf("version %q after the upgrade, want next", got)
		}
		m.agentInStep(agent)
	})
	step("engine restarted", func() { m.restartEngine(); scale(3) })

	compose("restart haproxy")
	m.servedBy(site, 3)
	m.agentInStep(agent)

	compose("down --volumes")
	for _, kind := range []string{"ps -aq", "volume ls -q", "network ls -qf type=custom"} {
		if left := m.sh("docker " + kind); left != "" {
			t.Errorf("docker %s, after compose down: %s", kind, left)
		}
	}
}

// TestTwoHostsOneEtcd is deploy/README.md: two hosts are pointed at one etcd, one by the compose file,
// one by the documented commands, and each serves what runs on the other. Agent
// and HAProxy are upgraded under load. P2.
func TestTwoHostsOneEtcd(t *testing.T) {
	const site = "shop.example.test"
	machines := newMachines(t, "one", "two")
	one, two := machines[0], machines[1]
	t.Cleanup(one.whatHappened)
	t.Cleanup(two.whatHappened)
	one.sh("docker run -d --name etcd -p 2379:2379 " + etcdImage)
	for _, m := range machines {
		m.configure("SIDEKICK_REGISTRY=etcd://" + one.at(2379))
	}
	guide := func(heading string) string { t.Helper(); return commandsOf(t, "../deploy/README.md", heading) }
	one.sh("cd $DEPLOY\n" + guide("With Compose"))
	two.sh(guide("With plain `docker run`"))
	const start = "docker run -d --stop-timeout 5 -p 8000 -l sidekick.service=shop -l sidekick.host=" + site + " " + appImage
	one.sh(start)
	two.sh(start)
	for _, m := range machines {
		m.servedBy(site, 2)
		m.answers(guide("Does it work?"))
		m.until("both containers are healthy", func() error {
			for _, name := range []string{"sidekick", "sidekick-haproxy"} {
				if got := m.sh("docker inspect -f '{{.State.Health.Status}}' " + name); got != "healthy" {
					return fmt.Errorf("%s is %s", name, got)
				}
			}
			return nil
		})
	}

	for _, m := range machines {
		m.unprivileged("sidekick", "sidekick-haproxy")
	}
	two.lossless(site, "a container stopped by the agent's own command", func() {
		old := one.sh("docker ps -q --filter label=sidekick.service=shop")
		one.sh(start)
		two.servedBy(site, 3)
		one.sh("docker exec sidekick sidekick stop " + old)
		two.servedBy(site, 2)
	})
	one.lossless(site, "agent and HAProxy upgraded", func() {
		one.sh("export IMAGE=" + nextImage + "; cd $DEPLOY\n" + guide("Upgrading"))
		for _, name := range []string{"sidekick", "sidekick-haproxy"} {
			if got := one.sh("docker exec " + name + " sidekick version"); !strings.Contains(got, "sidekick next ") {
				t.Errorf("%s: version %q after the upgrade, want next", name, got)
			}
		}
		if left := one.sh("docker ps -q --filter name=sidekick-haproxy-next"); left != "" {
			t.Errorf("the HAProxy in between is still there: %s", left)
		}
		one.agentInStep("sidekick")
		one.sh(start) // a new server reaches the new HAProxy
		one.servedBy(site, 3)
		one.sh(strings.ReplaceAll(start, "shop", "cart")) // and so does a reload
		one.servedBy("cart.example.test", 1)
	})
}

// TestRefusedToStart: what cannot work ends at once, with a sentence that says what to do.
func TestRefusedToStart(t *testing.T) {
	m := newMachines(t, "refuse")[0]
	const (
		agent = "docker run --rm --read-only --cap-drop ALL --cap-add SETUID --cap-add SETGID -v /run:/host/run:ro" +
			" -e SIDEKICK_DOCKER=unix:///host/run/docker.sock -e SIDEKICK_REGISTRY=etcd://192.0.2.1:2379 -e SIDEKICK_HAPROXY=external"
		run = " -v run:/run/sidekick " + image + " run"
	)
	for _, c := range []struct {
		name, script string
		want         []string
	}{
		{"a network of its own", agent + " -v state:/var/lib/sidekick" + run, []string{"this container's network is not its host's (default)", "--network host", "--node and --advertise"}},
		{"only a name", agent + " --network bridge -e SIDEKICK_NODE=here" + run, []string{"this container's network is not its host's (bridge)"}},
		{"a misspelt setting", agent + " --network host -e SIDEKICK_REGISTRI=x" + run, []string{"SIDEKICK_REGISTRI: there is no such setting", "SIDEKICK_REGISTRY"}},
		{"no engine's socket", strings.ReplaceAll(agent, "/host/run/", "/elsewhere/") + " --network host" + run, []string{"--docker", "/elsewhere/docker.sock", "no such file", "docker run -v /run:/host/run:ro"}},
		{"root for a user", agent + " --network host -e SIDEKICK_USER=root" + run, []string{"--user", "user root is root"}},
		{"no state directory that lasts", agent + " --network host" + run, []string{"state directory", "/var/lib/sidekick", "read-only file system", "--state-dir"}},
		{"a state directory of somebody else", agent + " --network host --tmpfs /var/lib/sidekick:mode=700" + run, []string{"state directory", "permission denied", "--state-dir"}},
		{"no right to the socket", agent + " --network host --user 7070:7070 -v state:/var/lib/sidekick" + run, []string{"user 7070 has no right to this socket", "--group-add"}},
		{"no right to become another user", strings.ReplaceAll(agent, "--cap-add", "--cap-drop") + " --network host" + run, []string{"become user sidekick", "SETUID and SETGID"}},
		{"an unknown user", agent + " --network host -e SIDEKICK_USER=nobdy" + run, []string{"--user", "nobdy"}},
		{"an unknown option of HAProxy's command", "docker run --rm " + image + " haproxy --takeover", []string{"unknown flag: --takeover"}},
		{"HAProxy without its directory", "docker run --rm --read-only --cap-drop ALL --cap-add SETUID --cap-add SETGID -e SIDEKICK_USER=haproxy " + image + " haproxy", []string{"/run/sidekick", "read-only file system"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			here := &machine{world: &world{T: t, ctx: t.Context()}, host: m.host}
			here.refused(c.script, c.want...)
		})
	}
	t.Run("a state directory in use", func(t *testing.T) {
		here := &machine{world: &world{T: t, ctx: t.Context()}, host: m.host}
		here.sh(strings.Replace(agent, "--rm", "-d --name first", 1) + " --network host -v state:/var/lib/sidekick" + run)
		here.answers("docker exec first sidekick status --alive")
		here.refused(agent+" --network host -e SIDEKICK_ADMIN=off -v state:/var/lib/sidekick"+run, "state directory /var/lib/sidekick is in use by another sidekick")
	})
	t.Run("name and address given", func(t *testing.T) {
		here := &machine{world: &world{T: t, ctx: t.Context()}, host: m.host}
		here.sh(strings.Replace(agent, "--rm", "-d --name bridged", 1) + " -e SIDEKICK_NODE=here -e SIDEKICK_ADVERTISE=192.0.2.7 -v other:/var/lib/sidekick" + run)
		here.answers("docker exec bridged sidekick status --alive")
	})
}

// TestOneContainer is the image by itself, for a look: HAProxy is the agent's child and etcd is within.
func TestOneContainer(t *testing.T) {
	m := newMachines(t, "single")[0]
	t.Cleanup(m.whatHappened)
	m.sh("docker run -d --name sidekick --network host -v /run:/host/run:ro -e SIDEKICK_REGISTRY=embedded -e SIDEKICK_DOCKER=unix:///host/run/docker.sock " + image + " run")
	m.sh("docker run -d -l sidekick.host=a.example.test " + appImage)
	m.servedBy("a.example.test", 1)
	m.agentInStep("sidekick")
	m.unprivileged("sidekick")
	m.sh("docker stop sidekick")
	if code := m.sh("docker inspect -f '{{.State.ExitCode}}' sidekick"); code != "0" {
		t.Errorf("exit code %s, want 0", code)
	}
}

// TestCommandsInTheAgentsContainer: what an operator types with docker exec, as root without all of its rights, has
// the agent's own: to the socket of its embedded etcd, to files that are the agent's alone, to the engine.
func TestCommandsInTheAgentsContainer(t *testing.T) {
	m := newMachines(t, "inside")[0]
	t.Cleanup(m.whatHappened)
	m.sh("docker run -d --name etcd -p 2379:2379 " + etcdImage)
	const secret = "/var/lib/sidekick/password"
	m.sh("docker run --rm -v sidekick-state:/var/lib/sidekick --entrypoint sh " + image +
		" -c 'echo secret >" + secret + "; chown 7070 " + secret + "; chmod 400 " + secret + "'")
	for name, settings := range map[string]string{
		"embedded": "SIDEKICK_REGISTRY=embedded",
		"etcd":     "SIDEKICK_REGISTRY=etcd://" + m.at(2379) + "\nSIDEKICK_REGISTRY_USER=a\nSIDEKICK_REGISTRY_PASSWORD_FILE=" + secret,
	} {
		t.Run(name, func(t *testing.T) {
			here := &machine{world: &world{T: t, ctx: t.Context()}, host: m.host}
			here.configure(settings)
			here.sh("cd $DEPLOY\n" + commandsOf(t, "../deploy/README.md", "With Compose"))
			id := here.sh("docker run -d --stop-timeout 5 -p 8000 -l sidekick.service=shop -l sidekick.host=shop.example.test " + appImage)
			here.servedBy("shop.example.test", 1)
			for _, c := range []string{"weight shop 7", "drain shop", "undrain shop", "maint shop", "undrain shop", "services --direct", "render --direct", "stop " + id} {
				if out := here.sh("docker exec sidekick sidekick " + c); out == "" {
					t.Errorf("%s: said nothing", c)
				}
			}
			if running := here.sh("docker inspect -f '{{.State.Running}}' " + id); running != "false" {
				t.Errorf("the container was told to stop, and runs: %s", running)
			}
		})
	}
}
