package confd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// confd's own command lines, of 0.16 and as later versions write them, mean what they mean there: flags
// before the environment before confd.toml.
func TestParseLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "confd.toml")
	const text = "backend = \"etcdv3\"\nnodes = [\"https://e1:2379\", \"https://e2:2379\"]\nconfdir = \"/srv/confd\"\ninterval = 30\nprefix = \"/file\"\n" +
		"client_cakeys = \"ca\"\nclient_cert = \"cert\"\nclient_key = \"key\"\nlog-level = \"debug\"\nbasic_auth = true\nusername = \"u\"\npassword = \"p\"\nsync-only = true\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	usual := Line{Dir: "/etc/confd", Config: "/no/such", Interval: 10 * time.Minute, LogLevel: "info", Nodes: []string{"127.0.0.1:2379"}}
	filed := Line{
		Dir: "/srv/confd", Config: file, Interval: 30 * time.Second, LogLevel: "debug", Nodes: []string{"https://e1:2379", "https://e2:2379"}, Secure: true,
		CA: "ca", Cert: "cert", Key: "key", User: "u", Password: "p",
	}
	with := func(l Line, change func(*Line)) Line { change(&l); return l }
	tests := map[string]struct {
		args, environ string
		want          Line
	}{
		"nothing": {"", "", usual},
		"0.16": {
			"-onetime -confdir ./confd -backend etcdv3 -node http://h1:2379 -node=http://h2:2379 --log-level debug", "",
			with(usual, func(l *Line) {
				l.Onetime, l.Dir, l.LogLevel, l.Nodes = true, "./confd", "debug", []string{"http://h1:2379", "http://h2:2379"}
			}),
		},
		"a word for the backend": {
			"--watch etcd --prefix /p -n h1 --noop --sync-only", "",
			with(usual, func(l *Line) {
				l.JoinPrefix, l.ReloadLimit = true, time.Minute
				l.Interval, l.Nodes, l.Options = 0, []string{"h1"}, Options{Prefix: "/p", Noop: true, SyncOnly: true}
			}),
		},
		"the file": {"-config-file " + file, "", filed},
		"the line over the file": {
			"-config-file " + file + " -node h3 -interval 5 -prefix /line -basic-auth=false -secret-keyring ring -keep-stage-file", "",
			with(filed, func(l *Line) {
				l.Nodes, l.Interval, l.User, l.Password, l.Options = []string{"h3"}, 5*time.Second, "", "", Options{Prefix: "/line", Keyring: "ring"}
			}),
		},
		"the environment between them": {
			"-config-file " + file + " -client-key lk", "CONFD_CLIENT_CAKEYS=eca CONFD_CLIENT_CERT=ecert CONFD_CLIENT_KEY=ekey CONFD_PREFIX=/env CONFD_CONFDIR=/e CONFD_INTERVAL= CONFD_OTHER=x",
			with(filed, func(l *Line) {
				l.CA, l.Cert, l.Key, l.Dir, l.Options = "eca", "ecert", "lk", "/e", Options{Prefix: "/env"}
			}),
		},
		"a domain": {
			"-srv-domain example.com -scheme https", "",
			with(usual, func(l *Line) { l.Record, l.Secure = "_etcdv3._tcp.example.com.", true }),
		},
		"a record": {"-srv-record _etcd-client._tcp.example.com", "", with(usual, func(l *Line) { l.Record = "_etcd-client._tcp.example.com" })},
		"nodes that say how they are reached": {
			"-node http://h1:2379 -client-ca-keys ca", "",
			with(usual, func(l *Line) { l.Nodes, l.CA = []string{"http://h1:2379"}, "ca" }),
		},
		"nodes that do not, with a certificate": {
			"-node h1:2379 -client-ca-keys ca", "",
			with(usual, func(l *Line) { l.Nodes, l.CA, l.Secure = []string{"h1:2379"}, "ca", true }),
		},
		"the environment": {"-backend env -onetime -log-level=", "", with(usual, func(l *Line) { l.Backend, l.Onetime = Backend{Name: "env"}, true })},
		"files": {
			"-backend file -file a/ -file b,c.yaml -filter *.yaml", "",
			with(usual, func(l *Line) { l.Backend = Backend{Name: "file", Files: []string{"a/", "b,c.yaml"}, Filter: "*.yaml"} }),
		},
		"what later versions have": {
			"--failure-mode fail-fast etcd --check-cmd-timeout 5s --backend-timeout=3s --batch-interval 4s --no-template-cache --diff --color --diff-context 5 --client-insecure=false --dial-timeout 1s --auth-token x",
			"CONFD_LOG_FORMAT=json",
			with(usual, func(l *Line) {
				l.JoinPrefix, l.FailFast, l.LogFormat = true, true, "json"
				l.CheckLimit, l.ReloadLimit, l.Patience, l.Settle = 5*time.Second, time.Minute, 3*time.Second, 4*time.Second
			}),
		},
		"a look at the files": {"--check-config", "", with(usual, func(l *Line) { l.Check = true })},
		"help":                {"-onetime --help", "", Line{Help: true}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			args := strings.Fields(tt.args)
			if !strings.Contains(tt.args, "-config-file") {
				args = append([]string{"-config-file", "/no/such"}, args...)
			}
			got, err := ParseLine(args, strings.Fields(tt.environ))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(*got, tt.want); diff != "" {
				t.Errorf("(-got +want)\n%s", diff)
			}
		})
	}
}

// What cannot be meant is said by the flag's name, all of it at once.
func TestParseLineFaults(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.toml")
	if err := os.WriteFile(bad, []byte("nodes = \"h\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ args, environ, want string }{
		{"-backend consul", "", "-backend consul: keys come from etcd by its v3 API, from the environment, or from files: give etcdv3, env or file"},
		{"-backend file", "", "-backend file: no file is named: give YAML or JSON files"},
		{"file --file a --filter [", "", "-filter \"[\": "},
		{"-failure-mode never -log-format xml", "", "-failure-mode never: must be best-effort or fail-fast\n-log-format xml: must be text or json"},
		{"etcd --metrics-addr :9100", "", "-metrics-addr: metrics are the agent's"},
		{"etcd --client-insecure", "", "client-insecure: etcd's certificate is verified"},
		{"etcd --systemd-notify --watch", "", "systemd-notify: nobody is notified: let the unit have Type=exec"},
		{"vault --node http://v:8200", "", "-backend vault: "},
		{"-interval 0 -log-level loud -scheme ftp -basic-auth", "", "-scheme ftp: must be http or https\n-interval 0: must be a number of seconds\n-log-level loud: must be debug, info, warn or error\n-basic-auth: give -username and -password as well"},
		{"-node ftp://h:1", "", "-node ftp://h:1: must be HOST:PORT, http://HOST:PORT or https://HOST:PORT"},
		{"-no-such x", "", "flag provided but not defined: -no-such"},
		{"-interval soon", "", "invalid value \"soon\" for flag -interval"},
		{"", "CONFD_INTERVAL=soon", "environment variable CONFD_INTERVAL: "},
		{"-config-file " + bad, "", "-config-file: confd.toml: "},
		{"-config-file " + filepath.Dir(bad), "", "is a directory"},
	} {
		if _, err := ParseLine(strings.Fields(tt.args), strings.Fields(tt.environ)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %s: got %v, want an error with %q", tt.environ, tt.args, err, tt.want)
		}
	}
}
