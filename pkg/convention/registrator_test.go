package convention

import (
	"fmt"
	"strings"
	"testing"
)

// Containers that were set up for registrator are registered under the names, tags and attributes
// that they had there (P7: a mark that breaks a rule is told by name).
func TestRegistrator(t *testing.T) {
	var many []uint16
	for p := range uint16(70) {
		many = append(many, 1000+p)
	}
	tests := map[string]testCase{
		"no mark": {tcp: []uint16{80}, env: []string{"PATH=/bin", "SERVICE_REGION=us2"}, want: nil},
		"name, tags, attribute": {
			published: []uint16{6379}, tcp: []uint16{6379}, env: []string{"SERVICE_NAME=db", "SERVICE_TAGS=master, backups,", "SERVICE_REGION=us2"},
			want: []string{"db:6379 tags=master+backups meta.region=us2"},
		},
		"name of the image": {
			tcp: []uint16{80}, image: "registry.test:5000/team/foobar:1.2@sha256:00", env: []string{"SERVICE_TAGS=x"},
			want: []string{"foobar:80 tags=x"},
		},
		"image without a name": {tcp: []uint16{80}, env: []string{"SERVICE_TAGS=x"}, want: []string{"c1:80 tags=x"}},
		"several ports, one name": {
			tcp: []uint16{80, 443}, published: []uint16{80, 443}, env: []string{"SERVICE_NAME=web"},
			want: []string{"web-80:80", "web-443:443"},
		},
		"several ports, name of the image made valid": {
			tcp: []uint16{80, 443}, image: "my_nginx", labels: []string{"SERVICE_TAGS=x"},
			want: []string{"my-nginx-80-14acd8:80 tags=x", "my-nginx-443-089ccc:443 tags=x"},
		},
		"marks for one port come before those for all": {
			tcp: []uint16{80, 443},
			env: []string{"SERVICE_443_NAME=https", "SERVICE_443_ID=https.12345", "SERVICE_443_SNI=enabled", "SERVICE_80_NAME=http", "SERVICE_80_TAGS=plain", "SERVICE_TAGS=www"},
			want: []string{
				"http:80 tags=plain", "https:443 tags=www meta.id=https.12345 meta.sni=enabled",
			},
		},
		"a label comes before the environment": {
			tcp: []uint16{80}, env: []string{"SERVICE_NAME=image"}, labels: []string{"SERVICE_NAME=operator"}, want: []string{"operator:80"},
		},
		"published ports only": {tcp: []uint16{80, 81}, published: []uint16{81}, env: []string{"SERVICE_NAME=web"}, want: []string{"web:81"}},
		"ignored":              {tcp: []uint16{80}, env: []string{"SERVICE_NAME=web", "SERVICE_IGNORE=1"}, want: nil},
		"one port ignored": {
			tcp: []uint16{80, 443}, env: []string{"SERVICE_NAME=web", "SERVICE_443_IGNORE=true"}, want: []string{"web-80:80"},
		},
		"checks": {
			tcp:  []uint16{80},
			env:  []string{"SERVICE_80_NAME=web", "SERVICE_80_CHECK_HTTP=/up?x=1", "SERVICE_CHECK_TCP=true", "SERVICE_CHECK_INTERVAL=15s", "SERVICE_CHECK_TIMEOUT=1s"},
			want: []string{"web:80 check=http:/up?x=1 check.interval=15s check.timeout=1s"},
		},
		"TCP check": {tcp: []uint16{80}, env: []string{"SERVICE_NAME=web", "SERVICE_CHECK_TCP=true"}, want: []string{"web:80 check=tcp"}},
		"another check": {
			tcp: []uint16{80}, env: []string{"SERVICE_NAME=web", "SERVICE_CHECK_SCRIPT=curl x"},
			want: []string{
				"web:80 meta.check_script=curl x",
				"note: environment variable SERVICE_CHECK_SCRIPT is kept as sidekick.meta.check_script but not acted on: say it by sidekick.check",
			},
		},
		"UDP beside TCP": {
			tcp: []uint16{53}, udp: []uint16{53}, env: []string{"SERVICE_NAME=dns"},
			want: []string{"dns-53:53", "note: UDP ports (53) are left out: HAProxy carries TCP"},
		},
		"no port": {env: []string{"SERVICE_NAME=dns"}, udp: []uint16{53}, want: []string{"dns:0"}},
		"a port that it does not have": {
			tcp: []uint16{80}, env: []string{"SERVICE_NAME=web", "SERVICE_8080_NAME=other"},
			want: []string{"web:80", "note: environment variable SERVICE_8080_NAME is for a port that is not among those registered (80): publish it"},
		},
		"a name that is none here": {
			tcp: []uint16{80}, env: []string{"SERVICE_NAME=customer_db"},
			want: []string{
				"customer-db-946e84:80",
				`note: environment variable SERVICE_NAME="customer_db" is no name of a service (lower-case letters, digits, inner hyphens, at most 63): it is registered as customer-db-946e84; sidekick.service gives it another`,
			},
		},
		"a name over two lines (F7)": {
			tcp: []uint16{80}, env: []string{"SERVICE_NAME=a\nbackend x"},
			want: []string{`refused: environment variable SERVICE_NAME="a\nbackend x": no service can have that name: use lower-case letters, digits and inner hyphens, at most 63`},
		},
		"an attribute over two lines (F7)": {
			tcp: []uint16{80}, labels: []string{"SERVICE_NAME=a", "SERVICE_X\n=a\nb"},
			want: []string{`refused: label "SERVICE_X\n"="a\nb" means the label "sidekick.meta.x\n"="a\nb": want a key of 1 to 256 bytes without control characters after the last dot`},
		},
		"a path that is none": {
			tcp: []uint16{80}, env: []string{"SERVICE_NAME=a", "SERVICE_CHECK_HTTP=up"},
			want: []string{`refused: environment variable SERVICE_CHECK_HTTP="up" means the label sidekick.check="http:up": want docker, tcp, none or http:/path`},
		},
		"a comma in a tag": {
			tcp: []uint16{80}, env: []string{"SERVICE_NAME=a", `SERVICE_TAGS=/(;\,:-_)/`},
			want: []string{`refused: environment variable SERVICE_TAGS="/(;\\,:-_)/": a tag cannot hold a comma: write another character for "\,"`},
		},
	}
	for name, tt := range tests {
		tt.on = "sidekick,registrator"
		tests[name] = tt
	}
	runCases(t, tests)

	c := (&testCase{tcp: many, env: []string{"SERVICE_NAME=a"}}).container()
	r := Read([]string{Registrator}, c)
	if got := fmt.Sprint(len(r.Services), r.Notes); got != "64 [6 ports are left out: at most 64 are registered; name those that matter by sidekick.services.NAME.port]" {
		t.Errorf("70 ports: got %s", got)
	}
}

// A long variable of the application's own keeps nothing from being registered, and is not shown.
func TestLongVariable(t *testing.T) {
	runCases(t, map[string]testCase{"long": {
		on: "sidekick,registrator", tcp: []uint16{80},
		env:  []string{"SERVICE_NAME=shop", "SERVICE_ACCOUNT_JSON=SECRET" + strings.Repeat("x", 400)},
		want: []string{"shop:80", "note: environment variable SERVICE_ACCOUNT_JSON is left out: it has more than the 256 bytes of a sidekick.meta"},
	}})
}
