package service

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// defaults is the definition that no label says anything about.
func defaults(change func(*Definition)) Definition {
	d := Definition{Mode: HTTP, Path: "/", Weight: DefaultWeight, Options: map[string]string{}, Meta: map[string]string{}}
	change(&d)
	return d
}

func option(name, text string) Definition {
	return defaults(func(d *Definition) { d.Options[name] = text })
}

func TestEveryLabelTakesGoodValues(t *testing.T) {
	tests := []struct {
		label, text string
		want        Definition
	}{
		{"service", "web-1", defaults(func(d *Definition) { d.Service = "web-1" })},
		{"port", "8080", defaults(func(d *Definition) { d.Port = 8080 })},
		{"port", "65535", defaults(func(d *Definition) { d.Port = 65535 })},
		{"host", "Shop.Example.com", defaults(func(d *Definition) { d.Hosts = []string{"shop.example.com"} })},
		{"host", "a.test, *.b.test,a.test", defaults(func(d *Definition) { d.Hosts = []string{"a.test", "*.b.test"} })},
		{"host", "localhost", defaults(func(d *Definition) { d.Hosts = []string{"localhost"} })},
		{"path", "/", defaults(func(d *Definition) {})},
		{"path", "/api/v1", defaults(func(d *Definition) { d.Path = "/api/v1" })},
		{"path", "/api/", defaults(func(d *Definition) { d.Path = "/api" })},
		{"path", "/a%20b/~c_d.e", defaults(func(d *Definition) { d.Path = "/a%20b/~c_d.e" })},
		{"listen", "8443", defaults(func(d *Definition) { d.Listen = 8443 })},
		{"mode", "tcp", defaults(func(d *Definition) { d.Mode = TCP })},
		{"weight", "0", defaults(func(d *Definition) { d.Weight = 0 })},
		{"weight", "256", defaults(func(d *Definition) { d.Weight = 256 })},
		{"tags", "v2, blue", defaults(func(d *Definition) { d.Tags = []string{"v2", "blue"} })},
		{"meta.team", `shop "A" #1`, defaults(func(d *Definition) { d.Meta["team"] = `shop "A" #1` })},
		{"address", "container", defaults(func(d *Definition) { d.Address = "container"; d.Options["address"] = "container" })},
		{"network", "back_end.1", defaults(func(d *Definition) { d.Network = "back_end.1"; d.Options["network"] = "back_end.1" })},
		{"check", "http:/healthz?full=1", defaults(func(d *Definition) {
			d.Check = "http:/healthz?full=1"
			d.Options["check"] = "http:/healthz?full=1"
		})},
		{"check", "none", defaults(func(d *Definition) { d.Check = "none"; d.Options["check"] = "none" })},
		{"check.interval", "500ms", option("check.interval", "500ms")},
		{"check.timeout", "1m30s", option("check.timeout", "1m30s")},
		{"check.rise", "2", option("check.rise", "2")},
		{"check.fall", "3", option("check.fall", "3")},
		{"path.strip", "true", option("path.strip", "true")},
		{"default", "true", option("default", "true")},
		{"balance", "leastconn", option("balance", "leastconn")},
		{"balance", "random(2)", option("balance", "random(2)")},
		{"balance", "hdr(X-User)", option("balance", "hdr(X-User)")},
		{"balance", "url_param user", option("balance", "url_param user")},
		{"balance", "uri whole", option("balance", "uri whole")},
		{"backup", "true", option("backup", "true")},
		{"maxconn", "100", option("maxconn", "100")},
		{"sticky", "SESSION_id", option("sticky", "SESSION_id")},
		{"drain", "0s", option("drain", "0s")},
		{"locality", "prefer", option("locality", "prefer")},
		{"split", "web:90, web-next:10", option("split", "web:90, web-next:10")},
		{"tls", "passthrough", option("tls", "passthrough")},
		{"redirect", "https", option("redirect", "https")},
		{"proxy-protocol", "v2", option("proxy-protocol", "v2")},
		{"h2", "true", option("h2", "true")},
		{"timeout.server", "30s", option("timeout.server", "30s")},
		{"timeout.connect", "1s", option("timeout.connect", "1s")},
		{"timeout.tunnel", "480h", option("timeout.tunnel", "480h")},
		{"timeout.queue", "10s", option("timeout.queue", "10s")},
		{"retry", "post", option("retry", "post")},
		{"ratelimit", "50", option("ratelimit", "50")},
		{"auth", "users.txt", option("auth", "users.txt")},
		{"header.request.X-Env", `a "b" ${HOME} #%[x]`, option("header.request.X-Env", `a "b" ${HOME} #%[x]`)},
		{"header.response.Server", "", option("header.response.Server", "")},
	}
	covered := map[string]bool{}
	for _, test := range tests {
		l, _, _ := findLabel(test.label)
		covered[l.name] = true
		t.Run(test.label+"="+test.text, func(t *testing.T) {
			got, enabled := ParseLabels(map[string]string{"sidekick." + test.label: test.text, "other": "x"})
			if diff := cmp.Diff([]Definition{test.want}, got); diff != "" || enabled != nil {
				t.Errorf("enabled %v, definitions (-want +got):\n%s", enabled, diff)
			}
			several, _ := ParseLabels(map[string]string{"sidekick.services.api." + test.label: test.text})
			want := test.want
			want.Key = "api"
			if want.Service == "" {
				want.Service = "api"
			}
			if diff := cmp.Diff([]Definition{want}, several); diff != "" {
				t.Errorf("as one of several services (-want +got):\n%s", diff)
			}
		})
	}
	for i := range labels {
		if !covered[labels[i].name] {
			t.Errorf("label %s has no case", labels[i].name)
		}
	}
}

// badValues are refused for every label whose value is not free text.
var badValues = []string{"", " ", "a\nb", "\x00", "x\x00y", `"`, "'", "#", "${HOME}", "a b c", "\u2028", "-1", "é", "a;b", strings.Repeat("x", 10_000)}

func TestEveryLabelRefusesBadValues(t *testing.T) {
	own := map[string][]string{
		"service": {"Web", "a_b", "-a", "a-", strings.Repeat("a", 64)},
		"port":    {"0", "65536", "080", "+80", "80/tcp", "eighty", "8e1"},
		"host":    {"a..b", ".a", "a.", "a,,b", "a.*.b", "*", "*.*.a", "a_b", "[::1]", "host:80", "http://a", "a,b\nc", strings.Repeat("a.", 127) + "toolong", strings.Repeat("a,", 64) + "a"},
		"path":    {"/a%2Fb", "/%2e%2e/x", "/a%5c", "/a%0a", "/%ff", "/x%3By", "api", "//", "/a//b", "/a/../b", "/.", "/a b", "/a?b", "/a#b", "/a%2", "/a%zz", "/a'b", "/é"},
		"listen":  {"0", "70000"},
		"mode":    {"HTTP", "udp"},
		"weight":  {"-1", "257", "1.5"},
		"tags":    {"a,,b", "a\tb", strings.Repeat("a,", 32) + "a", strings.Repeat("x", 257)},
		"meta.":   {"a\nb", "\u2029", strings.Repeat("x", 257), "\xff"},
		"address": {"Container", "auto"}, "network": {"-a", "a/b"},
		"check":          {"https:/x", "http:x", "http:", "http:/a b", "http:/a'b", "http:/%", "tcp:80"},
		"check.interval": {"0s", "5", "-1s", "+5s", "1us", "481h", "5 s", ".5s"},
		"check.rise":     {"0", "101"}, "check.timeout": {"1ns"}, "check.fall": {"0"},
		"path.strip": {"yes", "1", "TRUE"}, "default": {"on"}, "backup": {"True"}, "h2": {"0"},
		"balance": {"static-rr", "roundrobin\nserver x", "hdr()", "hdr(a b)", "url_param ", "random(0)", "uri depth", "rdp-cookie", "random(2", "hdr(X)y"},
		"maxconn": {"0"}, "sticky": {"a=b", "a b"}, "drain": {"forever", "-1s"}, "locality": {"zone"},
		"split": {"web", "web:", "web:300", "Web:1", "web:1,web:2", "web:1,,", ":1"},
		"tls":   {"true"}, "redirect": {"http"}, "proxy-protocol": {"v3"},
		"timeout.server": {"0ms"}, "timeout.connect": {"1"}, "timeout.tunnel": {"1h1h1h1h1h1h1h1h1h1h1h"}, "timeout.queue": {"x"},
		"retry": {"get"}, "ratelimit": {"0", "1/s"}, "auth": {"../users", ".htpasswd", "a/b"},
		"header.request.": {"a\nb", "a\rb", "\x7f", "\xff", strings.Repeat("x", 1025)}, "header.response.": {"a\x00b"},
	}
	free := []string{"tags", "meta.", "header.request.", "header.response."}
	for i := range labels {
		name := labels[i].name
		if len(own[name]) == 0 {
			t.Errorf("label %s has no case", name)
		}
		cases := own[name]
		if !slices.Contains(free, name) {
			cases = slices.Concat(cases, badValues)
		}
		for _, text := range cases {
			if strings.HasSuffix(name, ".") {
				checkRefused(t, name+"x", text)
			} else {
				checkRefused(t, name, text)
			}
		}
	}
}

// checkRefused wants an error that names the label and is fit to print.
func checkRefused(t *testing.T, full, text string) {
	t.Helper()
	defs, _ := ParseLabels(map[string]string{"sidekick." + full: text, "sidekick.services.other.port": "80"})
	if len(defs) != 2 {
		t.Fatalf("%s=%q: %d definitions, want 2", full, text, len(defs))
	}
	if defs[1].Err != nil || defs[1].Port != 80 {
		t.Errorf("%s=%q harmed another service: %v", full, text, defs[1].Err) // P7, F7
	}
	err := defs[0].Err
	if err == nil {
		t.Errorf("%s=%q: no error", full, text)
		return
	}
	if !strings.Contains(err.Error(), "label sidekick."+full+"=") || !printable(err.Error(), 600) {
		t.Errorf("%s=%.60q: error %q does not name the label or is not printable", full, text, err)
	}
}

func TestParseLabelsGroupsServices(t *testing.T) {
	yes, no := true, false
	tests := []struct {
		name    string
		labels  map[string]string
		keys    []string // of the definitions
		faults  []string // part of the error of each, "" for none
		enabled *bool
	}{
		{"no label of ours", map[string]string{"com.docker.compose.service": "web", "sidekick": "x", "Sidekick.port": "1"}, nil, nil, nil},
		{"enable alone", map[string]string{"sidekick.enable": "true"}, []string{""}, []string{""}, &yes},
		{"disabled", map[string]string{"sidekick.enable": "false", "sidekick.port": "80"}, []string{""}, []string{""}, &no},
		{"bad enable", map[string]string{"sidekick.enable": "yes", "sidekick.services.a.port": "1", "sidekick.services.b.port": "2"}, []string{"a", "b"}, []string{"want true or false", "want true or false"}, nil},
		{"plain and several", map[string]string{"sidekick.port": "80", "sidekick.services.admin.port": "81"}, []string{"", "admin"}, []string{"", ""}, nil},
		{"enable is no plain service", map[string]string{"sidekick.enable": "true", "sidekick.services.a.port": "81"}, []string{"a"}, []string{""}, &yes},
		{"one of two disabled", map[string]string{"sidekick.services.a.enable": "false", "sidekick.services.a.port": "1", "sidekick.services.b.port": "2"}, []string{"b"}, []string{""}, nil},
		{"all disabled one by one", map[string]string{"sidekick.services.a.enable": "false"}, nil, nil, &no},
		{"bad enable of one", map[string]string{"sidekick.services.a.enable": "0"}, []string{"a"}, []string{`label sidekick.services.a.enable="0": want true or false`}, nil},
		{"unknown label", map[string]string{"sidekick.prot": "80"}, []string{""}, []string{"label sidekick.prot is unknown: did you mean sidekick.port?"}, nil},
		{"unknown label, like no other", map[string]string{"sidekick.foo": "80"}, []string{""}, []string{"label sidekick.foo is unknown, and like no other: remove it"}, nil},
		{"unknown label of one", map[string]string{"sidekick.services.a.hosts": "x"}, []string{"a"}, []string{"label sidekick.services.a.hosts is unknown: did you mean sidekick.host?"}, nil},
		{"unknown prefix", map[string]string{"sidekick.header.reqest.X": "x"}, []string{""}, []string{"did you mean sidekick.header.request.NAME?"}, nil},
		{"empty name", map[string]string{"sidekick.": "x"}, []string{""}, []string{`label "sidekick." is unknown`}, nil},
		{"hostile name", map[string]string{"sidekick.a\nb": "x"}, []string{""}, []string{`label "sidekick.a\nb" is unknown`}, nil},
		{"bad service name", map[string]string{"sidekick.services.A.port": "80"}, []string{"a"}, []string{`"A" is no service name`}, nil},
		{"nothing set", map[string]string{"sidekick.services.a": "80"}, []string{"a"}, []string{"label sidekick.services.a sets nothing: write sidekick.services.a.KEY"}, nil},
		{"no name", map[string]string{"sidekick.services.": "80"}, []string{DeriveName("")}, []string{`"" is no service name`}, nil},
		{"no header name", map[string]string{"sidekick.header.request.": "x"}, []string{""}, []string{"want a header's name"}, nil},
		{"one header twice", map[string]string{"sidekick.header.request.X-A": "1", "sidekick.header.request.x-a": "2"}, []string{""}, []string{"label sidekick.header.request.x-a=\"2\"", "sidekick.header.request.X-A is for the same one, remove one of the two"}, nil},
		{"no host", map[string]string{"sidekick.header.request.Host": ""}, []string{""}, []string{"want a host name"}, nil},
		{"header of the connection", map[string]string{"sidekick.header.request.Transfer-Encoding": "chunked"}, []string{""}, []string{"belongs to the connection"}, nil},
		{"meta without key", map[string]string{"sidekick.meta.": "x"}, []string{""}, []string{"want a key"}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			defs, enabled := ParseLabels(test.labels)
			var keys, faults []string
			for _, d := range defs {
				keys, faults = append(keys, d.Key), append(faults, errorText(d.Err))
			}
			if diff := cmp.Diff(test.keys, keys); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.enabled, enabled); diff != "" {
				t.Errorf("enabled (-want +got):\n%s", diff)
			}
			for i, want := range test.faults {
				if i < len(faults) && (!strings.Contains(faults[i], want) || want == "" && faults[i] != "") {
					t.Errorf("definition %q: error %q, want %q", keys[i], faults[i], want)
				}
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestAllFaultsOfADefinitionAreNamed(t *testing.T) {
	defs, _ := ParseLabels(map[string]string{"sidekick.port": "x", "sidekick.host": "a b", "sidekick.nope": "1", "sidekick.weight": "7"})
	for _, want := range []string{"sidekick.port", "sidekick.host", "sidekick.nope"} {
		if got := errorText(defs[0].Err); !strings.Contains(got, want) {
			t.Errorf("error %q does not name %s", got, want)
		}
	}
}

func TestValidateOption(t *testing.T) {
	tests := []struct {
		name, text, want string
	}{
		{"balance", "roundrobin", ""},
		{"balance", "x", `option balance="x": want roundrobin`},
		{"header.request.X", "a\nb", "without control characters"},
		{"header.request.a b", "x", "want a header's name"},
		{"header.request.HOST", "", "want a host name"},
		{"port", "80", "a field of the value"},
		{"meta.x", "80", "a field of the value"},
		{"of-a-newer-version", "anything printable", ""},
		{"of-a-newer-version", "a\nb", "without control characters"},
		{"no name", "x", "no option's name"},
		{"", "x", "no option's name"},
		{strings.Repeat("x", 129), "x", "no option's name"},
	}
	for _, test := range tests {
		got := errorText(ValidateOption(test.name, test.text))
		if !strings.Contains(got, test.want) || test.want == "" && got != "" {
			t.Errorf("ValidateOption(%q, %q) = %q, want %q", test.name, test.text, got, test.want)
		}
	}
}

// What parses must be fit to be registered, or an agent would publish what readers refuse.
func FuzzParseLabels(f *testing.F) {
	for _, seed := range [][4]string{
		{"sidekick.port", "80", "sidekick.host", "a.test"},
		{"sidekick.services.a.path", "/x\n", "sidekick.services.", "$"},
		{"sidekick.header.request.X", "${PATH} '\"#", "sidekick.enable", "true"},
		{"sidekick.balance", "hdr(a)", "sidekick.tags", "a,b"},
		{"sidekick.meta.k", "v", "sidekick.check", "http:/a?b=c"},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string) {
		in := map[string]string{k1: v1, k2: v2}
		defs, enabled := ParseLabels(maps.Clone(in))
		again, _ := ParseLabels(in)
		for i, d := range defs {
			if errorText(d.Err) != errorText(again[i].Err) {
				t.Errorf("errors differ between two readings: %v, %v", d.Err, again[i].Err)
			}
			if !printable(strings.ReplaceAll(errorText(d.Err), "\n", ""), 1<<20) {
				t.Errorf("error %q is not printable", d.Err)
			}
			if d.Err == nil {
				checkRegistrable(t, d)
			}
		}
		ours := strings.HasPrefix(k1, "sidekick.") || strings.HasPrefix(k2, "sidekick.")
		if ours != (len(defs) > 0 || enabled != nil && !*enabled) {
			t.Errorf("%v: %d definitions", in, len(defs))
		}
	})
}

func checkRegistrable(t *testing.T, d Definition) {
	t.Helper()
	i := sample()
	i.Mode, i.Hosts, i.Path, i.Listen, i.Weight = d.Mode, d.Hosts, d.Path, d.Listen, d.Weight
	i.Options, i.Tags, i.Meta = d.Options, d.Tags, d.Meta
	if d.Service != "" {
		i.Service = d.Service
	}
	if err := i.Validate(); err != nil {
		t.Errorf("%+v parses but cannot be registered: %v", d, err)
	}
}
