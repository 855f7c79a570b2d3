package convention

import "testing"

// Containers that were set up for nginx-proxy are routed by the same hosts and paths (P7: a mark that
// breaks a rule is told by name).
func TestNginxProxy(t *testing.T) {
	tests := map[string]testCase{
		"no mark":       {tcp: []uint16{80}, env: []string{"VIRTUAL_PORT=80"}, want: nil},
		"a host":        {tcp: []uint16{8080}, compose: true, env: []string{"VIRTUAL_HOST=shop.test"}, want: []string{":0 host=shop.test"}},
		"hosts":         {tcp: []uint16{80}, compose: true, env: []string{"VIRTUAL_HOST=Shop.test, *.shop.test,"}, want: []string{":0 host=shop.test,*.shop.test"}},
		"by a label":    {tcp: []uint16{80}, compose: true, labels: []string{"VIRTUAL_HOST=shop.test"}, want: []string{":0 host=shop.test"}},
		"a port":        {tcp: []uint16{80, 81}, compose: true, env: []string{"VIRTUAL_HOST=a.test", "VIRTUAL_PORT=81"}, want: []string{":81 host=a.test"}},
		"80 of several": {tcp: []uint16{80, 443}, compose: true, env: []string{"VIRTUAL_HOST=a.test"}, want: []string{":80 host=a.test"}},
		"a path":        {compose: true, env: []string{"VIRTUAL_HOST=a.test", "VIRTUAL_PATH=/api/"}, want: []string{":0 host=a.test path=/api"}},
		"a path, off":   {compose: true, env: []string{"VIRTUAL_HOST=a.test", "VIRTUAL_PATH=/api", "VIRTUAL_DEST=/"}, want: []string{":0 host=a.test path=/api path.strip=true"}},
		"HTTPS":         {compose: true, env: []string{"VIRTUAL_HOST=a.test", "VIRTUAL_PROTO=https"}, want: []string{":0 host=a.test tls=server"}},
		"gRPC":          {compose: true, env: []string{"VIRTUAL_HOST=a.test", "VIRTUAL_PROTO=grpc"}, want: []string{":0 host=a.test h2=true"}},
		"HTTP":          {compose: true, env: []string{"VIRTUAL_HOST=a.test", "VIRTUAL_PROTO=http"}, want: []string{":0 host=a.test"}},
		"a host's name for containers that compose did not make": {env: []string{"VIRTUAL_HOST=a.test"}, want: []string{"a-test-52dcf5:0 host=a.test"}},
		"and its path": {env: []string{"VIRTUAL_HOST=a.test", "VIRTUAL_PATH=/x"}, want: []string{"a-test-x-9312d5:0 host=a.test path=/x"}},
		"several ports, none of them 80": {
			tcp: []uint16{81, 82}, compose: true, env: []string{"VIRTUAL_HOST=a.test"},
			want: []string{`refused: environment variable VIRTUAL_HOST="a.test": the container has several TCP ports (81, 82) and not port 80: say which one by VIRTUAL_PORT or the label sidekick.port`},
		},
		"a regular expression": {
			compose: true, env: []string{`VIRTUAL_HOST=~^foo\.bar`},
			want: []string{`refused: environment variable VIRTUAL_HOST="~^foo\\.bar": hosts by regular expression are not routed: write the names, or *.example.com for all below one, also as label sidekick.host`},
		},
		"a wildcard at the end": {
			compose: true, env: []string{"VIRTUAL_HOST=foo.*"},
			want: []string{`refused: environment variable VIRTUAL_HOST="foo.*": a wildcard at the end is not routed: write each name, also as label sidekick.host`},
		},
		"a path by regular expression": {
			compose: true, env: []string{"VIRTUAL_HOST=a.test", "VIRTUAL_PATH=~^/(a|b)/"},
			want: []string{`refused: environment variable VIRTUAL_PATH="~^/(a|b)/": paths by regular expression are not routed: write a prefix, also as label sidekick.path`},
		},
		"another path for the container": {
			compose: true, env: []string{"VIRTUAL_HOST=a.test", "VIRTUAL_DEST=/v2"},
			want: []string{`refused: environment variable VIRTUAL_DEST="/v2": a path is passed on as it is, or taken off by VIRTUAL_DEST=/, but not replaced: have the application serve that path`},
		},
		"another protocol": {
			compose: true, env: []string{"VIRTUAL_HOST=a.test", "VIRTUAL_PROTO=uwsgi"},
			want: []string{`refused: environment variable VIRTUAL_PROTO="uwsgi": containers are spoken to by http, https or grpc: have the application serve one of these, or reach it by the label sidekick.mode=tcp`},
		},
		"several ports by YAML": {
			compose: true, env: []string{"VIRTUAL_HOST_MULTIPORTS=a.test: {}"},
			want: []string{`refused: environment variable VIRTUAL_HOST_MULTIPORTS="a.test: {}": its YAML is not read: write the labels sidekick.services.NAME.port, .host and .path for each port, and remove it`},
		},
		"a host over two lines (F7)": {
			compose: true, env: []string{"VIRTUAL_HOST=a.test\nbackend x"},
			want: []string{`refused: environment variable VIRTUAL_HOST="a.test\nbackend x" means the label sidekick.host="a.test\nbackend x": "a.test\nbackend x" is no host name: want letters, digits, hyphens and dots such as shop.example.com or *.example.com (no port; other alphabets as xn--…; all hosts: sidekick.default=true)`},
		},
		"what has no counterpart": {
			compose: true, env: []string{"VIRTUAL_HOST=a.test", "NETWORK_ACCESS=internal", "HTTPS_METHOD=nohttps", "LETSENCRYPT_HOST=a.test"},
			want: []string{
				":0 host=a.test",
				"note: environment variable NETWORK_ACCESS is not acted on: everybody who reaches the proxies reaches this service; keep others out by the networks that the proxies listen on (--http-listen)",
				"note: environment variable HTTPS_METHOD is not acted on: sidekick.redirect=https leads browsers to HTTPS",
				"note: environment variable LETSENCRYPT_HOST is not acted on: the proxies' certificates are not chosen by containers",
			},
		},
	}
	for name, tt := range tests {
		tt.on = "sidekick,nginx-proxy"
		tests[name] = tt
	}
	runCases(t, tests)
}
