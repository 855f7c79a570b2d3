package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sidekick-proxy/sidekick/pkg/registry/embedded"
	"github.com/sidekick-proxy/sidekick/pkg/registry/etcd"
)

// confdBed is a directory in confd's format beside a real etcd.
type confdBed struct {
	*testing.T
	dir string // state, confd, out
}

// newConfdBed copies the files of testdata/confd/NAME. In their texts, OUT is where they write.
func newConfdBed(t *testing.T, name string) *confdBed {
	t.Helper()
	dir, err := os.MkdirTemp("", "sk") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b := &confdBed{T: t, dir: dir}
	source := os.DirFS(filepath.Join("testdata/confd", name))
	if err := os.CopyFS(dir+"/confd", source); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir+"/out", 0o755); err != nil {
		t.Fatal(err)
	}
	resources, err := filepath.Glob(dir + "/confd/conf.d/*.toml")
	if err != nil || len(resources) == 0 {
		t.Fatalf("no resources in %s: %v", name, err)
	}
	for _, path := range resources {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytes.ReplaceAll(text, []byte("OUT"), []byte(dir+"/out")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// startEtcd starts the etcd that commands find by --registry. An agent cannot bring its own along: it would
// start this test once more for that.
func (b *confdBed) startEtcd() {
	b.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	server, err := embedded.Start(context.WithoutCancel(b.Context()), embedded.Config{Dir: b.dir, Log: log})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = server.Stop() })
}

// put writes keys, given as lines of a key and its value.
func (b *confdBed) put(lines string) {
	b.Helper()
	client, err := etcd.Dial(etcd.Config{Endpoints: []string{"unix://" + b.dir + "/etcd.sock"}})
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(b.Context(), 30*time.Second)
	defer cancel()
	for line := range strings.Lines(lines) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if value == "DELETE" {
			_, err = client.Delete(ctx, key, clientv3.WithPrefix())
		} else {
			_, err = client.Put(ctx, key, value)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// sidekick runs a command on the directory.
func (b *confdBed) sidekick(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	cmd := newCommand() //nolint:contextcheck // it is given the context below
	var out, errs bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SetArgs(append(args, "--registry", "unix://"+b.dir+"/etcd.sock", "--state-dir", b.dir, "--confd-dir", b.dir+"/confd"))
	err = cmd.ExecuteContext(ctx)
	return out.String(), errs.String(), err
}

// outputs compares what was written with what is wanted, in testdata/confd/NAME/want.
func (b *confdBed) outputs() {
	b.Helper()
	want, err := filepath.Glob(b.dir + "/confd/want/*")
	if err != nil || len(want) == 0 {
		b.Fatalf("nothing is wanted: %v", err)
	}
	for _, path := range want {
		text, err := os.ReadFile(path)
		if err != nil {
			b.Fatal(err)
		}
		if diff := cmp.Diff(b.read(filepath.Base(path)), string(text)); diff != "" {
			b.Errorf("%s (-got +want)\n%s", filepath.Base(path), diff)
		}
	}
}

func (b *confdBed) read(name string) string {
	text, err := os.ReadFile(filepath.Join(b.dir, "out", name))
	if err != nil {
		return "-"
	}
	return string(text)
}

// until waits until a file holds a text.
func (b *confdBed) until(name, want string) {
	b.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(30 * time.Second)
	for b.read(name) != want {
		select {
		case <-tick.C:
		case <-limit:
			b.Fatalf("%s (-got +want)\n%s", name, cmp.Diff(b.read(name), want))
		}
	}
}

const shopKeys = `/key foobar
/shop/hosts/www shop.example.com
/shop/db/host 127.0.0.1
/shop/db/password p@sSw0rd & more
/shop/db/port 3306
/shop/upstream/app1 10.0.1.10:8080
/shop/upstream/app2 10.0.1.11:8080
/shop/upstream-old/app9 10.9.9.9:80
/nested/east/app1 10.0.1.10:8080
/nested/east/app2 10.0.1.11:8080
/nested/west/app1 10.0.2.10:8080
/staging/shop/db/host 10.0.0.1
/staging/shop/upstream/app1 10.5.1.10:8080
/services/zookeeper/host1 {"Id":"host1", "IP":"192.168.10.11"}
/services/zookeeper/host2 {"Id":"host2", "IP":"192.168.10.12"}
`

// A directory as people have them for confd, over an etcd with keys that are not ours: each kind of
// resource gives the text that confd would.
func TestConfdDirectory(t *testing.T) {
	t.Setenv("HOSTNAME", "localhost")
	b := newConfdBed(t, "shop")
	b.startEtcd()
	b.put(shopKeys)

	shown, _, err := b.sidekick(t.Context(), "render", "--noop", "--onetime")
	if err != nil || !strings.Contains(shown, "basic.conf (conf.d/basic.toml): would be written: new ----\nhostname: localhost\n") {
		t.Errorf("shown: %v\n%s", err, shown)
	}
	if entries, _ := os.ReadDir(b.dir + "/out"); len(entries) > 0 {
		t.Errorf("--noop wrote %v", entries)
	}
	if _, stderr, err := b.sidekick(t.Context(), "render", "--onetime"); err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	b.outputs()
	if info, err := os.Stat(b.dir + "/out/basic.conf"); err != nil || info.Mode() != 0o600 {
		t.Errorf("basic.conf: %v, %v", info.Mode(), err)
	}

	b.put("/shop/db/port 3307\n")
	shown, _, err = b.sidekick(t.Context(), "render")
	for _, part := range []string{"basic.conf (conf.d/basic.toml): would be written: content ----\n", "\n-port=3306\n+port=3307\n", "iteration.conf (conf.d/iteration.toml): unchanged ----\n"} {
		if err != nil || !strings.Contains(shown, part) {
			t.Errorf("shown: %v, want %q in\n%s", err, part, shown)
		}
	}
	// The flag's prefix stands before all keys; the resource whose keys are not there says so, others are served.
	_, _, err = b.sidekick(t.Context(), "render", "--onetime", "--confd-prefix", "staging")
	if err == nil || !strings.Contains(err.Error(), "conf.d/basic.toml: template: basic.conf.tmpl:4:") || !strings.Contains(err.Error(), "key does not exist: /shop/db/password") {
		t.Errorf("got the error %v", err)
	}
	if got := b.read("iteration.conf"); !strings.Contains(got, "server 10.5.1.10:8080;") || strings.Contains(got, "10.0.1.10") {
		t.Errorf("with another prefix:\n%s", got)
	}
}

// The example in docs/confd.md works: HAProxy accepts what it makes, and it is made of what the page says.
func TestConfdGuide(t *testing.T) {
	page, err := os.ReadFile("../../docs/confd.md")
	if err != nil {
		t.Fatal(err)
	}
	b := newConfdBed(t, "haproxy")
	for _, name := range []string{"conf.d/haproxy.toml", "templates/haproxy.cfg.tmpl"} {
		_, text, found := strings.Cut(string(page), "# /etc/confd/"+name+"\n")
		text, _, ended := strings.Cut(text, "```")
		if !found || !ended {
			t.Fatalf("docs/confd.md has no %s", name)
		}
		text = strings.NewReplacer("/etc/haproxy", b.dir+"/out", "systemctl reload haproxy", "cp {{.dest}} "+b.dir+"/out/reloaded").Replace(text)
		if err := os.WriteFile(b.dir+"/confd/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b.startEtcd()
	b.put("/production/services/shop/a 10.0.0.1:80\n/production/services/shop/b 10.0.0.2:80\n/production/services/blog/a 10.0.0.3:80\n")
	if _, stderr, err := b.sidekick(t.Context(), "render", "--onetime"); err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	const want = `frontend http
    mode http
    bind :80
    use_backend blog if { hdr(host) -i blog.example.com }
    use_backend shop if { hdr(host) -i shop.example.com }

backend blog
    mode http
    server a 10.0.0.3:80 check

backend shop
    mode http
    server a 10.0.0.1:80 check
    server b 10.0.0.2:80 check

`
	if diff := cmp.Diff(b.read("haproxy.cfg"), want); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
	if b.read("reloaded") != want {
		t.Error("reload_cmd did not see it")
	}
}

// The agent serves a directory: what a key says is in the file at once, also after it was deleted; commands
// are run, and status shows the stage.
func TestAgentServesConfd(t *testing.T) {
	b := newConfdBed(t, "haproxy")
	b.startEtcd()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, _, err := b.sidekick(ctx, "run", "--docker", "off", "--haproxy", "off", "--admin", "off", "--node", "host1", "--advertise", "192.0.2.1", "--exit-ttl", "0s", "--log-level", "error")
		done <- err
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	b.until("reloads", "reload\n") // without any key the file is made as well
	b.put("/haproxy/backends/web/a 10.0.0.1:80\n/haproxy/backends/web/b 10.0.0.2:80\n/haproxy/backends/api/a 10.0.0.3:81\n")
	b.until("haproxy.cfg", "backend api\n  server a 10.0.0.3:81\nbackend web\n  server a 10.0.0.1:80\n  server b 10.0.0.2:80\n")
	b.put("/haproxy/backends/web/a DELETE\n/haproxy/backends/api DELETE\n")
	b.until("haproxy.cfg", "backend web\n  server b 10.0.0.2:80\n")
	b.put("/haproxy/backends/web/c bad\n")
	b.until("refused", "refused\n")
	b.put("/haproxy/backends/web/c 10.0.0.4:80\n")
	b.until("haproxy.cfg", "backend web\n  server b 10.0.0.2:80\n  server c 10.0.0.4:80\n")
}

// What confd's flags are for must be said with a directory, and HAProxy's own file is nobody else's.
func TestConfdRefusals(t *testing.T) {
	b := newConfdBed(t, "haproxy")
	b.startEtcd()
	cmd := newCommand()
	cmd.SetArgs([]string{"render", "--onetime"})
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), "for --confd-dir: give that as well") {
		t.Errorf("--onetime alone: got %v", err)
	}
	_, _, err := b.sidekick(t.Context(), "render", "--onetime", "--haproxy-config", b.dir+"/out/haproxy.cfg")
	if err == nil || !strings.Contains(err.Error(), "conf.d/haproxy.toml: dest "+b.dir+"/out/haproxy.cfg is HAProxy's own (--haproxy-config)") {
		t.Errorf("HAProxy's file: got %v", err)
	}
	if b.read("haproxy.cfg") != "-" {
		t.Error("it was written")
	}
}

// confd's own command line needs no more of etcd than confd does: the right to read the keys.
func TestConfdReadsOnly(t *testing.T) {
	b := newConfdBed(t, "haproxy")
	b.startEtcd()
	b.put("/haproxy/backends/web/a 10.0.0.1:80\n")
	client, err := etcd.Dial(etcd.Config{Endpoints: []string{"unix://" + b.dir + "/etcd.sock"}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(client.UserAdd(ctx, "root", "r"))
	must(client.UserGrantRole(ctx, "root", "root"))
	must(client.RoleAdd(ctx, "reader"))
	must(client.RoleGrantPermission(ctx, "reader", "/haproxy/backends", clientv3.GetPrefixRangeEnd("/haproxy/backends"), clientv3.PermissionType(clientv3.PermRead)))
	must(client.UserAdd(ctx, "confd", "word"))
	must(client.UserGrantRole(ctx, "confd", "reader"))
	must(client.AuthEnable(ctx))
	line := func(password string) error {
		cmd := newCommand() //nolint:contextcheck // it is given the context below
		cmd.SetErr(io.Discard)
		cmd.SetArgs([]string{
			"confd", "-onetime", "-confdir", b.dir + "/confd", "-config-file", "/no/such", "-node", "unix://" + b.dir + "/etcd.sock",
			"-basic-auth", "-username", "confd", "-password", password,
		})
		return cmd.ExecuteContext(ctx)
	}
	if err := line("wrong"); err == nil || !strings.Contains(err.Error(), "conf.d/haproxy.toml: its keys cannot be read: ") {
		t.Errorf("with a wrong password: got %v", err)
	}
	if err := line("word"); err != nil {
		t.Fatal(err)
	}
	if got, want := b.read("haproxy.cfg"), "backend web\n  server a 10.0.0.1:80\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// confd's nodes, as people write them, are one registry's address.
func TestLineURL(t *testing.T) {
	for want, l := range map[string]struct {
		nodes  []string
		secure bool
	}{
		"etcd://h1:2379,h2:2379": {nodes: []string{"http://h1:2379/", "h2:2379"}},
		"etcds://h1,[::1]:2379":  {nodes: []string{"https://h1", "[::1]:2379"}, secure: true},
		"unix:///run/etcd.sock":  {nodes: []string{"unix:///run/etcd.sock"}},
	} {
		if got := lineURL(l.nodes, l.secure); got != want {
			t.Errorf("%v: got %s, want %s", l.nodes, got, want)
		}
	}
}
