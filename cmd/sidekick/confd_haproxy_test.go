package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// An HAProxy that confd configured moves by a word in front of the command: requests follow the keys, and what
// HAProxy refuses (check_cmd) never reaches it, nor keeps other keys' changes out once it is gone (F8).
func TestConfdMovesHAProxy(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := newConfdBed(t.T, "haproxy")
		b.startEtcd()
		front := haproxytest.Address(t, "127.78.0.1")
		config := b.dir + "/out/haproxy.cfg"
		b.write("templates/haproxy.cfg.tmpl", "defaults\n  mode http\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n"+
			"frontend web\n  bind "+front+"\n  default_backend web\n"+
			"backend web\n{{range gets \"/backends/web/*\"}}  server {{base .Key}} {{.Value}}\n{{end}}")
		b.write("conf.d/haproxy.toml", fmt.Sprintf("[template]\nsrc = \"haproxy.cfg.tmpl\"\ndest = %q\nprefix = \"/haproxy\"\nkeys = [\"/backends\"]\n"+
			"check_cmd = \"%s -c -f {{.src}} || { echo refused >%[3]s/out/refused; false; }\"\nreload_cmd = \"test ! -e %[3]s/pid || kill -USR2 $(cat %[3]s/pid)\"\n", config, t.Bin, b.dir))
		b.put("/haproxy/backends/web/a " + haproxytest.Server(t, "a") + "\n")
		line := []string{"confd", "-backend", "etcdv3", "-node", "unix://" + b.dir + "/etcd.sock", "-confdir", b.dir + "/confd", "-log-level", "error"}
		b.confd(t.Context(), append(line, "-onetime")...)

		b.startProxy(t.Bin, config)
		haproxytest.Until(t, "a answers", func() bool { return b.answers(front, "a") })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); b.confd(ctx, append(line, "-watch")...) }()
		defer func() { cancel(); <-done }()

		b.put("/haproxy/backends/web/b " + haproxytest.Server(t, "b") + "\n")
		haproxytest.Until(t, "b answers", func() bool { return b.answers(front, "b") })
		b.put("/haproxy/backends/web/a DELETE\n/haproxy/backends/web/bad 127.0.0.1:99999\n/haproxy/backends/web/c " + haproxytest.Server(t, "c") + "\n")
		b.until("refused", "refused\n")
		if got := b.read("haproxy.cfg"); strings.Contains(got, "bad") {
			t.Errorf("what HAProxy refuses is in force:\n%s", got)
		}
		haproxytest.Until(t, "b answers still", func() bool { return b.answers(front, "b") })
		b.put("/haproxy/backends/web/bad DELETE\n")
		haproxytest.Until(t, "c answers", func() bool { return b.answers(front, "c") })
	})
}

// confd runs confd's own command line.
func (b *confdBed) confd(ctx context.Context, args ...string) {
	b.Helper()
	cmd := newCommand() //nolint:contextcheck // it is given the context below
	cmd.SetErr(io.Discard)
	cmd.SetArgs(args)
	if err := cmd.ExecuteContext(ctx); err != nil {
		b.Error(err)
	}
}

// startProxy starts an HAProxy with a master, as a service does, and writes the master's number down.
func (b *confdBed) startProxy(bin, config string) {
	b.Helper()
	proxy := exec.Command(bin, "-W", "-f", config)
	proxy.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := proxy.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = syscall.Kill(-proxy.Process.Pid, syscall.SIGKILL)
		_ = proxy.Wait()
	})
	if err := os.WriteFile(b.dir+"/pid", fmt.Appendln(nil, proxy.Process.Pid), 0o644); err != nil {
		b.Fatal(err)
	}
}

func (b *confdBed) answers(address, name string) bool {
	got, err := haproxytest.Get(address)
	return err == nil && got == name
}

func (b *confdBed) write(name, text string) {
	b.Helper()
	if err := os.WriteFile(b.dir+"/confd/"+name, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
}
