package convention

import (
	"strings"
	"testing"
)

// Containers that were set up for dockercloud/haproxy are routed by the same addresses and ports (P7:
// a mark that breaks a rule is told by name).
func TestDockerCloud(t *testing.T) {
	tests := map[string]testCase{
		"no mark":       {tcp: []uint16{80}, env: []string{"BALANCE=source"}, want: nil},
		"a host":        {tcp: []uint16{80}, compose: true, env: []string{"VIRTUAL_HOST=a.test"}, want: []string{":80 host=a.test"}},
		"hosts":         {tcp: []uint16{80}, compose: true, env: []string{"VIRTUAL_HOST=a.test, http://*.b.test:80/"}, want: []string{":80 host=a.test,*.b.test"}},
		"all hosts":     {tcp: []uint16{80}, compose: true, env: []string{"VIRTUAL_HOST=*"}, want: []string{":80 default=true"}},
		"a path of all": {tcp: []uint16{80}, compose: true, env: []string{"VIRTUAL_HOST=*/path/*"}, want: []string{":80 path=/path default=true"}},
		"scheme, path and port": {
			tcp: []uint16{80}, compose: true, env: []string{"VIRTUAL_HOST=http://a.test:8080/x/, https://b.test"},
			want: []string{
				"shop-web-x-8080-f32048:80 path=/x listen=8080", "shop-web-tls:80 host=b.test tls=terminate",
				`note: environment variable VIRTUAL_HOST: port 8080 of the proxies leads to this service, whatever the host`,
			},
		},
		"a name for containers that compose did not make": {
			tcp: []uint16{80}, env: []string{"VIRTUAL_HOST=a.test, a.test/x"}, want: []string{"a-test-52dcf5:80 host=a.test", "a-test-x-9312d5:80 host=a.test path=/x"},
		},
		"TCP":         {tcp: []uint16{9000}, compose: true, env: []string{"TCP_PORTS=9000"}, want: []string{":9000 mode=tcp listen=9000"}},
		"several TCP": {tcp: []uint16{9000}, env: []string{"TCP_PORTS=9000, 22/ssl"}, want: []string{"tcp-9000:9000 mode=tcp listen=9000", "tcp-22:22 mode=tcp listen=22 tls=terminate"}},
		"the port that is not of TCP_PORTS": {
			tcp: []uint16{22, 80, 3306}, compose: true, env: []string{"VIRTUAL_HOST=a.test", "TCP_PORTS=22", "EXCLUDE_PORTS=3306"},
			want: []string{":80 host=a.test", "shop-web-22:22 mode=tcp listen=22"},
		},
		"options": {
			tcp: []uint16{80}, compose: true,
			env:  []string{"VIRTUAL_HOST=a.test", "BALANCE=leastconn", "COOKIE=SRV insert indirect nocache", "FORCE_SSL=yes", "MAXCONN=50", "FAILOVER=1", "EXTRA_ROUTE_SETTINGS=send-proxy"},
			want: []string{":80 host=a.test backup=true balance=leastconn maxconn=50 proxy-protocol=v1 redirect=https sticky=SRV"},
		},
		"checks": {
			tcp: []uint16{80}, compose: true, env: []string{"VIRTUAL_HOST=a.test", `HTTP_CHECK=OPTIONS /up HTTP/1.1\r\nHost:\ www`, "HEALTH_CHECK=check inter 2000 rise 2 fall 3 port 99"},
			want: []string{
				":80 host=a.test check=http:/up check.fall=3 check.interval=2000ms check.rise=2",
				`note: environment variable HEALTH_CHECK: "port" is not acted on: sidekick.check and what belongs to it say how to check`,
				`note: environment variable HEALTH_CHECK: "99" is not acted on: sidekick.check and what belongs to it say how to check`,
				`note: environment variable HTTP_CHECK: its path is asked for by GET`,
			},
		},
		"what has no counterpart": {
			tcp: []uint16{80}, compose: true,
			env: []string{"VIRTUAL_HOST=a.test", "VIRTUAL_HOST_WEIGHT=5", "BALANCE=static-rr", "COOKIE=SRV prefix", "HTTP_CHECK=OPTIONS * HTTP/1.1", "SSL_CERT=secret", "EXTRA_SETTINGS=x"},
			want: []string{
				":80 host=a.test sticky=SRV",
				"note: environment variable BALANCE=static-rr is not acted on: roundrobin takes its place, since servers come and go",
				`note: environment variable COOKIE: "prefix" is not acted on: the proxies insert a cookie of their own`,
				"note: environment variable HTTP_CHECK is not acted on, as it names no path: sidekick.check=http:/path does",
				"note: environment variable VIRTUAL_HOST_WEIGHT is not acted on: the most exact host wins by itself",
				"note: environment variable SSL_CERT is not acted on: the proxies' certificates are not chosen by containers",
				"note: environment variable EXTRA_SETTINGS is not acted on: lines of HAProxy's configuration belong into the template (--template)",
			},
		},
		"several ports": {
			tcp: []uint16{80, 81}, compose: true, env: []string{"VIRTUAL_HOST=a.test"},
			want: []string{`refused: environment variable VIRTUAL_HOST="a.test": the container has several TCP ports (80, 81): name all but one in EXCLUDE_PORTS, or say which one by the label sidekick.port`},
		},
		"a wildcard inside": {
			tcp: []uint16{80}, compose: true, env: []string{"VIRTUAL_HOST=www.e*e.test"},
			want: []string{`refused: environment variable VIRTUAL_HOST="www.e*e.test": in "www.e*e.test" a wildcard is neither all of the host's first part nor the path's end: write *.example.com or a path's beginning, also as labels sidekick.host and sidekick.path`},
		},
		"another scheme": {
			tcp: []uint16{80}, compose: true, env: []string{"VIRTUAL_HOST=ftp://a.test"},
			want: []string{`refused: environment variable VIRTUAL_HOST="ftp://a.test": the scheme "ftp" is not served: use http or https`},
		},
		"a port that is none": {
			tcp: []uint16{80}, compose: true, env: []string{"TCP_PORTS=70000"},
			want: []string{`refused: environment variable TCP_PORTS="70000" means the label sidekick.port="70000": want a number from 1 to 65535; environment variable TCP_PORTS="70000" means the label sidekick.listen="70000": want a number from 1 to 65535`},
		},
		"what is excluded is no port": {
			tcp: []uint16{80}, compose: true, env: []string{"VIRTUAL_HOST=a.test", "EXCLUDE_PORTS=x"},
			want: []string{`refused: environment variable EXCLUDE_PORTS="x": want port numbers with commas between them`},
		},
		"a cookie over two lines (F7)": {
			tcp: []uint16{80}, compose: true, env: []string{"VIRTUAL_HOST=a.test", "COOKIE=\"x\"\nserver y"},
			want: []string{
				`refused: environment variable COOKIE="\"x\"\nserver y" means the label sidekick.sticky="\"x\"": want a cookie's name of letters, digits and ._-, at most 63, not beginning with -`,
				`note: environment variable COOKIE: "server" is not acted on: the proxies insert a cookie of their own`,
				`note: environment variable COOKIE: "y" is not acted on: the proxies insert a cookie of their own`,
			},
		},
		"a great many": {
			tcp: []uint16{80}, compose: true, env: []string{"VIRTUAL_HOST=" + strings.Repeat("a.test,", 100)},
			want: []string{`refused: environment variable VIRTUAL_HOST="` + strings.Repeat("a.test,", 6)[:40] + `": 100 addresses are more than 64: spread them over several services`},
		},
	}
	for name, tt := range tests {
		tt.on = "sidekick,dockercloud"
		tests[name] = tt
	}
	runCases(t, tests)
}
