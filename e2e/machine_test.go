package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/hosttest"
	"github.com/sidekick-proxy/sidekick/internal/load"
)

// The images of the tests that deploy Sidekick as a user does.
const (
	image     = "sidekick:latest"
	nextImage = "sidekick:next" // the same with another version
	etcdImage = "quay.io/coreos/etcd:v3.7.3"
	appImage  = "sidekick-whoami:latest"
)

// machine is a Docker host of its own, on which every port is free, and that is used by the same
// commands as any other.
type machine struct {
	*world

	host *hosttest.Host
}

// ownEtc gives a host an /etc in which what it writes is seen by nobody else. Its engine's settings are
// mounted there already.
const ownEtc = `
	mkdir "$DIR"/{upper,work,docker}
	mount --bind /etc/docker "$DIR/docker"
	mount -t overlay overlay /etc -o "lowerdir=/etc,upperdir=$DIR/upper,workdir=$DIR/work"
	mount --bind "$DIR/docker" /etc/docker`

// newMachines makes hosts that have all images, with a network between them, for a test beside others:
// each has an engine of its own.
func newMachines(t *testing.T, names ...string) []*machine {
	t.Helper()
	leftOut(t, "docker", "haproxy")
	t.Parallel()
	archive, err := images()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "sk-") //nolint:usetesting // t.TempDir() is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	network, err := hosttest.Open(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	var made []*machine
	for _, name := range names {
		host, err := network.Host(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		m := &machine{world: &world{T: t, ctx: ctx}, host: host}
		m.sh(ownEtc, "DIR="+t.TempDir())
		m.sh("docker load --quiet --input " + archive)
		for _, name := range []string{image, nextImage, etcdImage, appImage} {
			m.sh("docker tag " + built(name) + " " + name)
		}
		made = append(made, m)
	}
	return made
}

// images makes all images once for all tests, and returns the archive that holds them.
func images() (string, error) { return imagesOnce() }

var imagesOnce = sync.OnceValues(func() (string, error) {
	archive := filepath.Join(programs.dir, "images.tar")
	script := `
		cd ..
		cache=$(scripts/images)
		mkdir -p "$DIR/docker/cli-plugins" "$DIR/etcd"
		ln -s "$cache/docker-compose" "$DIR/docker/cli-plugins/docker-compose"
		make -s image TAG=$RUN-next VERSION=next
		make -s image TAG=$RUN
		cp bin/sidekick "$DIR/etcd/"
		printf '%s\n' 'FROM scratch' 'COPY sidekick /sidekick' \
			'ENTRYPOINT ["/sidekick","etcd","--state-dir","/var/lib/etcd","--listen","0.0.0.0:2379","--allow-anyone"]' >"$DIR/etcd/Dockerfile"
		docker build -q -t "$ETCD" "$DIR/etcd"
		docker save --output "$DIR/images.tar" $IMAGES
		docker rmi $IMAGES sidekick-whoami:$RUN-next`
	cmd := exec.Command("bash", "-euc", script)
	cmd.Env = append(os.Environ(), "DIR="+programs.dir, "RUN="+runName("e2e"), "ETCD="+built(etcdImage),
		"IMAGES="+strings.Join([]string{built(image), built(nextImage), built(etcdImage), built(appImage)}, " "))
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make the images: %w\n%s", err, out)
	}
	return archive, nil
})

// built is the name of an image in the machine's own engine, where it must not be taken for what it is
// called on the hosts.
func built(name string) string {
	repository, tag, _ := strings.Cut(name[strings.LastIndex(name, "/")+1:], ":")
	if tag == "next" {
		return repository + ":" + runName("e2e") + "-next"
	}
	return repository + ":" + runName("e2e")
}

// try runs a script on the host, with the given variables, and returns what it printed.
func (m *machine) try(script string, variables ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := m.host.Command(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + programs.dir, "DOCKER_CONFIG=" + programs.dir + "/docker",
		"COMPOSE=" + repository() + "/docker-compose.yml", "DEPLOY=" + repository() + "/deploy",
	}, variables...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return strings.TrimSpace(out.String()), strings.TrimSpace(errs.String()), err
}

// sh runs a script that must succeed.
func (m *machine) sh(script string, variables ...string) string {
	m.Helper()
	out, errs, err := m.try(script, variables...)
	if err != nil {
		m.Fatalf("%s: %v\n%s\n%s", script, err, out, errs)
	}
	return out
}

// configure writes the settings of the host's containers.
func (m *machine) configure(settings string) {
	m.Helper()
	m.sh(`mkdir -p /etc/sidekick; echo "$SETTINGS" >/etc/sidekick/sidekick.env`, "SETTINGS="+settings)
}

// repository is the root of the checkout.
func repository() string {
	dir, err := filepath.Abs("..")
	if err != nil {
		panic(err) // there is no working directory
	}
	return dir
}

// whatHappened shows the logs of all containers if the test failed.
func (m *machine) whatHappened() {
	if !m.Failed() {
		return
	}
	out, errs, _ := m.try(`docker ps -a; for c in $(docker ps -aq); do echo "== $(docker inspect -f '{{.Name}} {{.State.Status}} {{.State.ExitCode}}' $c)"; docker logs --tail 25 $c 2>&1; done`)
	m.Logf("on %s:\n%s\n%s", m.host.Name, out, errs)
}

// at is an address of the host.
func (m *machine) at(port int) string { return m.host.Addr.String() + ":" + strconv.Itoa(port) }

// servedBy waits until the host's HAProxy answers for the site from that many instances, and returns
// their names.
func (m *machine) servedBy(site string, instances int) []string {
	m.Helper()
	var names []string
	m.until(fmt.Sprintf("%s is answered by %d instances", site, instances), func() error {
		names = nil
		for range 4 * instances {
			one := m.get(m.at(80), "/", site)
			if err := one.ok(); err != nil {
				return err
			}
			if !slices.Contains(names, one.server) {
				names = append(names, one.server)
			}
		}
		if len(names) != instances {
			return fmt.Errorf("answered by %v", names)
		}
		return nil
	})
	slices.Sort(names)
	return names
}

// load begins a steady load on the site through the host's HAProxy.
func (m *machine) load(site string) *load.Run {
	m.Helper()
	run := load.Start(m.ctx, load.Options{Target: m.at(80), Host: site, Workers: workersPerKind, Pause: 5 * time.Millisecond})
	m.Cleanup(func() { run.Stop() })
	return run
}

// lossless does something under load, and asserts that no request failed before, meanwhile and after.
func (m *machine) lossless(site, what string, do func()) {
	m.Helper()
	traffic := m.load(site)
	m.flows(traffic, 50)
	do()
	m.flows(traffic, 50)
	m.Logf("%s:", what)
	m.noneFailed(traffic)
}

// restartEngine restarts the host's engine, which leaves containers running from then on.
func (m *machine) restartEngine() {
	m.Helper()
	m.check(m.host.StopEngine(m.ctx, syscall.SIGTERM))
	m.check(m.host.StartEngine(m.ctx, "--live-restore"))
}

// unprivileged asserts that no process of the containers is root's.
func (m *machine) unprivileged(containers ...string) {
	m.Helper()
	for _, name := range containers {
		list := strings.Split(m.sh("docker top "+name+" -eo pid,uid,args"), "\n")[1:]
		for _, process := range list {
			if uid := strings.Fields(process)[1]; uid == "0" {
				m.Errorf("%s: root runs %s", name, process)
			}
		}
		if len(list) == 0 {
			m.Errorf("%s: nothing runs", name)
		}
	}
}

// answers runs a script again and again until it succeeds.
func (m *machine) answers(script string) {
	m.Helper()
	m.until(script, func() error {
		out, errs, err := m.try(script)
		if err != nil {
			return fmt.Errorf("%w: %s %s", err, out, errs)
		}
		return nil
	})
}

// agentInStep asks the agent in its container until it has no fault to tell.
func (m *machine) agentInStep(container string) {
	m.Helper()
	m.answers("docker exec " + container + " sidekick status")
}

// refused runs a script that must fail, and asserts what it says last.
func (m *machine) refused(script string, want ...string) {
	m.Helper()
	out, errs, err := m.try(script)
	if failed := (*exec.ExitError)(nil); !errors.As(err, &failed) {
		m.Errorf("%s: %v, want that it is refused\n%s\n%s", script, err, out, errs)
		return
	}
	for _, part := range want {
		if !strings.Contains(errs, part) {
			m.Errorf("%s: said %q, want %q in it", script, errs, part)
		}
	}
}

// commandsOf returns what a page has in boxes of shell commands under the heading.
func commandsOf(t *testing.T, path, heading string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut("\n"+string(text), "\n## "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var commands strings.Builder
	for _, box := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(section, -1) {
		commands.WriteString(box[1])
	}
	if !found || commands.Len() == 0 {
		t.Fatalf("%s: no commands under %q", path, heading)
	}
	return commands.String()
}
