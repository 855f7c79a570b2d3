package convention

import (
	"slices"
	"strings"
	"testing"
)

// Own labels win, field by field; conventions add services, and agree on those that they share.
func TestSeveralConventions(t *testing.T) {
	all := "sidekick,registrator,nginx-proxy,dockercloud"
	runCases(t, map[string]testCase{
		"off":                              {on: "sidekick", tcp: []uint16{80}, env: []string{"SERVICE_NAME=a", "VIRTUAL_HOST=a.test", "TCP_PORTS=80"}, want: nil},
		"own labels":                       {on: all, tcp: []uint16{80}, labels: []string{"sidekick.host=a.test"}, want: []string{":0 host=a.test"}},
		"own labels off":                   {on: "registrator", tcp: []uint16{80}, labels: []string{"sidekick.host=a.test", "SERVICE_NAME=a"}, want: []string{"a:80"}},
		"hidden":                           {on: all, tcp: []uint16{80}, env: []string{"SERVICE_NAME=a", "VIRTUAL_HOST=a.test"}, labels: []string{"sidekick.enable=false"}, want: nil},
		"hidden, also with own labels off": {on: "registrator", tcp: []uint16{80}, env: []string{"SERVICE_NAME=a"}, labels: []string{"sidekick.enable=false"}, want: nil},
		"each adds services": {
			on: all, tcp: []uint16{80}, env: []string{"SERVICE_NAME=a", "VIRTUAL_HOST=a.test"},
			want: []string{"a:80", "a-test-52dcf5:0 host=a.test"},
		},
		"one service of two conventions": {
			on: all, tcp: []uint16{80}, compose: true, env: []string{"SERVICE_NAME=shop-web", "VIRTUAL_HOST=a.test"},
			want: []string{"shop-web:80"},
		},
		"in their order": {
			on: "nginx-proxy,registrator", tcp: []uint16{80}, compose: true, env: []string{"SERVICE_NAME=shop-web", "VIRTUAL_HOST=a.test"},
			want: []string{":0 host=a.test"},
		},
		"what only one of two can read": {
			on: all, tcp: []uint16{80}, compose: true, env: []string{"VIRTUAL_HOST=http://a.test/x, b.test"},
			want: []string{"shop-web-x-a09bf5:80 host=a.test path=/x", ":80 host=b.test"},
		},
		"the one without fault": {
			on: all, tcp: []uint16{80}, compose: true, env: []string{"VIRTUAL_HOST=*"},
			want: []string{":80 default=true"},
		},
		"own fields": {
			on: all, tcp: []uint16{80}, compose: true, env: []string{"VIRTUAL_HOST=a.test", "VIRTUAL_PATH=/x"}, labels: []string{"sidekick.path=/y", "sidekick.balance=leastconn"},
			want: []string{":0 host=a.test path=/y balance=leastconn"},
		},
		"an own field in place of a fault": {
			on: all, tcp: []uint16{80}, compose: true, env: []string{"VIRTUAL_HOST=~x"}, labels: []string{"sidekick.host=b.test"},
			want: []string{":0 host=b.test"},
		},
		"a fault in an own field": {
			on: all, tcp: []uint16{80}, compose: true, env: []string{"VIRTUAL_HOST=a.test"}, labels: []string{"sidekick.weight=x", "sidekick.enable=yes"},
			want: []string{`refused: label sidekick.enable="yes": want true or false; label sidekick.weight="x": want a number from 0 to 256`},
		},
		"own name":             {on: all, tcp: []uint16{80}, env: []string{"SERVICE_NAME=a"}, labels: []string{"sidekick.service=b"}, want: []string{"b:80"}},
		"own fields of all":    {on: all, tcp: []uint16{80, 81}, env: []string{"SERVICE_NAME=a"}, labels: []string{"sidekick.weight=7"}, want: []string{"a-80:80 weight=7", "a-81:81 weight=7"}},
		"own fields of a port": {on: all, tcp: []uint16{80, 81}, env: []string{"SERVICE_NAME=a"}, labels: []string{"sidekick.weight=7", "sidekick.port=81"}, want: []string{"a-80:80", "a-81:81 weight=7"}},
		"own fields of a name": {on: all, tcp: []uint16{80, 81}, env: []string{"SERVICE_NAME=a"}, labels: []string{"sidekick.services.a-81.weight=7"}, want: []string{"a-80:80", "a-81:81 weight=7"}},
		"one of several hidden": {
			on: all, tcp: []uint16{80, 81}, env: []string{"SERVICE_NAME=a"}, labels: []string{"sidekick.services.a-81.enable=false", "sidekick.services.a-80.weight=1"},
			want: []string{"a-80:80 weight=1"},
		},
		"an own service beside it": {
			on: all, tcp: []uint16{80, 81}, env: []string{"SERVICE_80_NAME=a", "SERVICE_81_IGNORE=1"}, labels: []string{"sidekick.services.b.port=81"},
			want: []string{"b:81", "a:80"},
		},
	})
}

// What is on is read from a comma list; what is not known is told with what is (F7).
func TestParse(t *testing.T) {
	tests := []struct{ list, want, wantErr string }{
		{list: "sidekick", want: "sidekick"},
		{list: "registrator, sidekick,registrator", want: "registrator sidekick"},
		{list: "sidekick,consul", wantErr: `"consul" is no convention: known are sidekick, registrator, nginx-proxy, dockercloud`},
		{list: "", wantErr: `"" is no convention: known are sidekick, registrator, nginx-proxy, dockercloud`},
	}
	for _, tt := range tests {
		names, err := Parse(tt.list)
		if (err == nil) != (tt.wantErr == "") || err != nil && err.Error() != tt.wantErr {
			t.Errorf("%q: got error %v, want %q", tt.list, err, tt.wantErr)
		}
		if got := strings.Join(names, " "); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.list, got, tt.want)
		}
	}
}

// A convention that is off is pointed out once for each container that carries its marks, and not
// for marks that another one takes.
func TestOff(t *testing.T) {
	tests := []struct {
		on, want string
		marks    []string
	}{
		{on: "sidekick", marks: []string{"SERVICE_TAGS=a"}, want: "registrator"},
		{on: "sidekick", marks: []string{"SERVICE_80_X=a"}, want: "registrator"},
		{on: "sidekick", marks: []string{"SERVICE_URL=a"}},
		{on: "sidekick", marks: []string{"VIRTUAL_HOST=a.test"}, want: "nginx-proxy"},
		{on: "sidekick", marks: []string{"VIRTUAL_HOST=https://a.test"}, want: "dockercloud"},
		{on: "dockercloud", marks: []string{"VIRTUAL_HOST=a.test"}},
		{on: "nginx-proxy", marks: []string{"VIRTUAL_HOST=a.test"}},
		{on: "nginx-proxy", marks: []string{"VIRTUAL_HOST=http://a.test"}, want: "dockercloud"},
		{on: "registrator", marks: []string{"sidekick.port=80", "VIRTUAL_HOST_MULTIPORTS=x", "TCP_PORTS=1"}, want: "sidekick nginx-proxy dockercloud"},
		{on: "sidekick,registrator,nginx-proxy,dockercloud", marks: []string{"sidekick.port=80", "SERVICE_ID=x", "TCP_PORTS=1"}},
	}
	for _, tt := range tests {
		c := (&testCase{labels: tt.marks}).container()
		if got := strings.Join(Off(strings.Split(tt.on, ","), c), " "); got != tt.want {
			t.Errorf("%s on, %q: got %q, want %q", tt.on, tt.marks, got, tt.want)
		}
	}
	if got := Off(Names(), &Container{}); slices.Contains(got, Sidekick) {
		t.Errorf("all on: got %v", got)
	}
}
