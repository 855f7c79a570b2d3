package compose

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// environment is what files may use.
func environment(name string) (string, bool) {
	value, ok := map[string]string{"SET": "x", "EMPTY": "", "PORT": "81"}[name]
	return value, ok
}

func parse(t *testing.T, text string) *Project {
	t.Helper()
	p, err := Parse([]byte(text), "/srv/My Shop_1/compose.yml", environment)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return p
}

// Every notation of a service comes to the same few facts.
func TestService(t *testing.T) {
	p := parse(t, `
services:
  web:
    image: web:${SET}
    container_name: w1
    labels: {a: 1, b: true, c: , d: 1.5}
    environment: {A: x, PORT: , MISSING: }
    network_mode: host
    stop_signal: SIGQUIT
    stop_grace_period: 30s
    scale: 2
    healthcheck: {test: curl x}
    env_file: x.env
    label_file: y
  api:
    labels: ["a=1=2", b]
    environment: ["A=x", PORT, MISSING]
    networks: [back, front, out]
    deploy: {replicas: 0, labels: {a: b}}
    healthcheck: {disable: true, test: x}
networks:
  front: {name: lan, driver: macvlan}
  out: {external: true}
`)
	labels := func(service string, more map[string]string) map[string]string {
		more[projectLabel], more[serviceLabel] = "myshop_1", service
		return more
	}
	want := &Project{Name: "myshop_1", Services: []Service{
		{
			Name: "api", Image: "myshop_1-api", Labels: labels("api", map[string]string{"a": "1=2", "b": ""}), Environment: []string{"A=x", "PORT=81"},
			Networks: []Network{{"lan", "macvlan"}, {"myshop_1_back", "bridge"}, {"out", "bridge"}}, HealthCheck: HealthCheckOff, StopGrace: 10 * time.Second,
			Notes: []string{"deploy.labels are not on the containers: write what is for Sidekick under labels"},
		},
		{
			Name: "web", Image: "web:x", ContainerName: "w1", Labels: labels("web", map[string]string{"a": "1", "b": "true", "c": "", "d": "1.5"}),
			Environment: []string{"A=x", "PORT=81"}, NetworkMode: "host", StopSignal: "SIGQUIT", StopGrace: 30 * time.Second, Replicas: 2, HealthCheck: HealthCheckGiven,
			Networks: []Network{{"myshop_1_default", "bridge"}},
			Notes:    []string{"env_file is not read: marks in it are missing here", "label_file is not read: labels in it are missing here"},
		},
	}}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// printPort writes a port as its short notation.
func printPort(p Port) string {
	if !p.Published {
		return fmt.Sprintf("%d/%s", p.Number, p.Protocol)
	}
	address := ""
	if p.HostIP.IsValid() {
		address = p.HostIP.String()
	}
	return fmt.Sprintf("%s:%d:%d/%s", address, p.HostPort, p.Number, p.Protocol)
}

// Both notations of ports, with ranges, protocols and addresses.
func TestPorts(t *testing.T) {
	tests := []struct{ field, item, want, wantErr string }{
		{field: "ports", item: `80`, want: ":0:80/tcp"},
		{field: "ports", item: `"8080:80"`, want: ":8080:80/tcp"},
		{field: "ports", item: `"53:53/UDP"`, want: ":53:53/udp"},
		{field: "ports", item: `"127.0.0.1:8080:80"`, want: "127.0.0.1:8080:80/tcp"},
		{field: "ports", item: `"127.0.0.1::80"`, want: "127.0.0.1:0:80/tcp"},
		{field: "ports", item: `"[::1]:8080:80"`, want: "::1:8080:80/tcp"},
		{field: "ports", item: `"8000-8001:80-81"`, want: ":8000:80/tcp :8001:81/tcp"},
		{field: "ports", item: `"3000-3001"`, want: ":0:3000/tcp :0:3001/tcp"},
		{field: "ports", item: `"8000-8009:80"`, want: ":0:80/tcp"},
		{field: "ports", item: `{target: 80}`, want: ":0:80/tcp"},
		{field: "ports", item: `{target: 80, published: "8080", host_ip: 10.0.0.1, protocol: udp, mode: host}`, want: "10.0.0.1:8080:80/udp"},
		{field: "ports", item: `{target: 80, published: 8080}`, want: ":8080:80/tcp"},
		{field: "ports", item: `"65535:65535"`, want: ":65535:65535/tcp"},
		{field: "expose", item: `80`, want: "80/tcp"},
		{field: "expose", item: `"80-81/udp"`, want: "80/udp 81/udp"},
		{field: "ports", item: `"0:80/tcp"`, want: ":0:80/tcp"},
		{field: "ports", item: `"x:80"`, wantErr: `ports: "x:80": "x" is neither a port (1 to 65535) nor LOW-HIGH`},
		{field: "ports", item: `"80/http"`, wantErr: `ports: "80/http": the protocol "http" is none of tcp, udp, sctp`},
		{field: "ports", item: `"host:80:80"`, wantErr: `ports: "host:80:80": "host" is no IP address`},
		{field: "ports", item: `"8000-8003:80-81"`, wantErr: `ports: "8000-8003:80-81": 4 ports of the host are not 2 of the container`},
		{field: "ports", item: `"81-80"`, wantErr: `ports: "81-80": "81-80" is neither a port (1 to 65535) nor LOW-HIGH`},
		{field: "ports", item: `{published: 80}`, wantErr: `ports: target: "" is neither a port (1 to 65535) nor LOW-HIGH`},
		{field: "expose", item: `70000`, wantErr: `expose: "70000" is neither a port (1 to 65535) nor LOW-HIGH`},
	}
	for _, tt := range tests {
		s := parse(t, fmt.Sprintf("services: {web: {image: x, %s: [%s]}}", tt.field, tt.item)).Services[0]
		var got []string
		for _, p := range s.Ports {
			got = append(got, printPort(p))
		}
		if tt.wantErr != "" {
			if s.Err == nil || s.Err.Error() != tt.wantErr {
				t.Errorf("%s: got error %v, want %s", tt.item, s.Err, tt.wantErr)
			}
			continue
		}
		if got := strings.Join(got, " "); got != tt.want || s.Err != nil {
			t.Errorf("%s: got %q (%v), want %q", tt.item, got, s.Err, tt.want)
		}
	}
}

// Variables are put in as compose does.
func TestVariables(t *testing.T) {
	tests := []struct{ text, want, wantErr string }{
		{text: "a", want: "a"},
		{text: "$SET-$SET", want: "x-x"},
		{text: "${SET}y", want: "xy"},
		{text: "$$SET", want: "$SET"},
		{text: "[$NONE]", want: "[]"},
		{text: "${NONE:-d}", want: "d"},
		{text: "${EMPTY:-d}${EMPTY-d}", want: "d"},
		{text: "${NONE-}", want: ""},
		{text: "${NONE:-${SET:-y}z}", want: "xz"},
		{text: "${NONE:-a:b}", want: "a:b"},
		{text: "${SET:+y}${EMPTY:+y}${EMPTY+z}", want: "yz"},
		{text: "${SET:?m}", want: "x"},
		{text: "${NONE?give it}", wantErr: "variable NONE must be set: give it"},
		{text: "${EMPTY:?give it}", wantErr: "variable EMPTY must be set: give it"},
		{text: "${SET", wantErr: `"${SET" has no closing brace`},
		{text: "${1}", wantErr: `"${1}" is no variable: want $NAME or ${NAME}, and $$ for a dollar sign`},
		{text: "a$", wantErr: `"$" is no variable: want $NAME or ${NAME}, and $$ for a dollar sign`},
		{text: "${SET^}", wantErr: `"^" is unknown behind a variable's name: want :- - :+ + :? or ?`},
		{text: "${SET:}", wantErr: `":" is unknown behind a variable's name: want :- - :+ + :? or ?`},
		{text: strings.Repeat("${NONE:-", 12) + strings.Repeat("}", 12), wantErr: "variables within variables go too deep"},
	}
	for _, tt := range tests {
		got, err := (&variables{lookup: environment}).text(tt.text, 0)
		if err != nil && err.Error() != tt.wantErr || (err == nil) != (tt.wantErr == "") || got != tt.want {
			t.Errorf("%s: got %q (%v), want %q (%s)", tt.text, got, err, tt.want, tt.wantErr)
		}
	}
	s := parse(t, "services: {web: {image: $NONE, labels: {a: $NONE}}}").Services[0]
	if want := []string{"variable NONE is not set and counts as empty: export it, or write ${NONE:-default}"}; !slices.Equal(s.Notes, want) {
		t.Errorf("got notes %q, want %q", s.Notes, want)
	}
}

// One faulty service does not keep others from being read (P7); a text without services is told.
func TestFaults(t *testing.T) {
	tests := map[string]struct{ text, want string }{
		"one of two":         {text: "services: {a: {labels: 5}, b: {image: x}}", want: "a: labels: want a map, or a list of NAME=VALUE"},
		"no map":             {text: "services: {a: [1]}", want: "a: want a map of its settings"},
		"label without name": {text: "services: {a: {labels: [=x]}}", want: "a: labels: an entry of the list is not NAME=VALUE"},
		"map in a label":     {text: "services: {a: {labels: {x: {y: z}}}}", want: `a: labels: "x" has a map for its value: write text`},
		"no list of ports":   {text: "services: {a: {ports: 80}}", want: "a: ports: want a list"},
		"replicas":           {text: "services: {a: {deploy: {replicas: many}}}", want: `a: deploy.replicas: "many" is no number from 0 to 100000`},
		"time to stop":       {text: "services: {a: {stop_grace_period: soon}}", want: `a: stop_grace_period: "soon" is no duration such as 10s or 1m30s`},
		"variable":           {text: "services: {a: {labels: {x: $}}}", want: `a: labels: x: "$" is no variable: want $NAME or ${NAME}, and $$ for a dollar sign`},
		"all at once":        {text: "services: {a: {ports: [x], labels: 5}}", want: "a: labels: want a map, or a list of NAME=VALUE; ports: \"x\": \"x\" is neither a port (1 to 65535) nor LOW-HIGH"},
	}
	for name, tt := range tests {
		var got []string
		for _, s := range parse(t, tt.text).Services {
			if s.Err != nil {
				got = append(got, s.Name+": "+strings.ReplaceAll(s.Err.Error(), "\n", "; "))
			}
		}
		if got := strings.Join(got, " "); got != tt.want {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
	for text, want := range map[string]string{
		"a: b": "no services", "services: []": "no services", "services: {}": "no services", "": "no services", "{": "not YAML", "name: ${X\nservices: {a: {}}": "name: ",
	} {
		if _, err := Parse([]byte(text), "x/compose.yml", environment); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: got error %v, want %s", text, err, want)
		}
	}
}
