package declared

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// TestDeclarations: what a services file says, or what is wrong with it and where. A bad entry does
// not touch the others (P7).
func TestDeclarations(t *testing.T) {
	tests := map[string]struct{ text, want string }{
		"empty":             {"", ""},
		"only comments":     {"# nothing yet\n", ""},
		"an empty list":     {"[]\n", ""},
		"an empty document": {"---\n", ""},
		"the least":         {"- service: db\n  address: 10.0.0.7:5432\n", "db 10.0.0.7:5432 tcp"},
		"all kinds of values": {
			"- service: shop\n  address: '[2001:db8::7]:80'\n  host: [a.example.com, b.example.com]\n  weight: 5\n  default: true\n  check: http:/up\n" +
				"  check.interval: 2s\n  timeout: {server: 5s}\n  tags: \"x, y\"\n  meta:\n    team: shop\n    cost: 0x10\n",
			"shop [2001:db8::7]:80 http weight 5 hosts [a.example.com b.example.com] check http of a.example.com every 2s " +
				"tags [x y] meta map[cost:0x10 team:shop] options map[check:http:/up check.interval:2s default:true timeout.server:5s]",
		},
		"two documents":   {"- service: a\n  address: 10.0.0.1:1\n---\n- service: b\n  address: 10.0.0.2:2\n", "a 10.0.0.1:1 tcp | b 10.0.0.2:2 tcp"},
		"off":             {"- service: a\n  address: 10.0.0.1:1\n  enable: false\n- service: b\n  address: 10.0.0.2:2\n  enable: true\n", "b 10.0.0.2:2 tcp"},
		"this host's own": {"- service: a\n  address: 127.0.0.1:1\n", "a 127.0.0.1:1 tcp scope node"},

		"an unknown key": {
			"- service: a\n  address: 10.0.0.1:1\n  wieght: 5\n- service: b\n  address: 10.0.0.2:2\n",
			`a wrong: 3:3: "wieght" is unknown: did you mean weight? | b 10.0.0.2:2 tcp`,
		},
		"several faults": {
			"- service: A b\n  address: db.local:5432\n  weight: 300\n  meta: {team: [a, [b]]}\n",
			`wrong: 4:10: "meta.team": want text, a number, true or false, or a list of these` +
				` & 1:3: service: "A b": want lower-case letters, digits and inner hyphens, at most 63` +
				` & 2:3: "db.local:5432" is no endpoint: want an IP address and a port, as in 10.0.0.7:5432 or [2001:db8::7]:5432 (names are not looked up)` +
				` & 3:3: weight: "300": want a number from 0 to 256`,
		},
		"nothing that is needed": {
			"- weight: 5\n",
			"wrong: 1:3: the address is missing: write address: IP:PORT & 1:3: the name of the service is missing: write service: NAME",
		},
		"what is for containers": {
			"- service: a\n  address: 10.0.0.1:1\n  port: 80\n  network: x\n  services.b.port: 1\n  check: docker\n",
			"a wrong: 3:3: port: the address has the port, as in address: 10.0.0.7:5432" +
				` & 4:3: "network" is for containers alone; remove it & 5:3: "services.b.port" is for containers alone; remove it` +
				" & 6:3: check: docker is for containers alone: want tcp, none or http:/path",
		},
		"no endpoint":            {"- service: a\n  address: 0.0.0.0:80\n", `a wrong: 2:3: "0.0.0.0:80" is no endpoint…`},
		"no port":                {"- service: a\n  address: 10.0.0.1:0\n", `a wrong: 2:3: "10.0.0.1:0" is no endpoint…`},
		"multicast":              {"- service: a\n  address: 224.0.0.1:80\n", `a wrong: address "224.0.0.1" cannot be connected to…`},
		"an item that is no map": {"- a\n- service: b\n  address: 10.0.0.2:2\n", "wrong: 1:3: an item is a map: write service: NAME and address: IP:PORT | b 10.0.0.2:2 tcp"},
		"an alias":               {"- service: &s a\n  address: 10.0.0.1:1\n", `wrong: 1:3: "service": anchors, aliases, tags and merges are not taken: spell it out`},
		"a merge":                {"- <<: {service: a}\n", `wrong: 1:3: "<<": anchors, aliases, tags and merges are not taken: spell it out`},
		"no value":               {"- service: a\n  address: 10.0.0.1:1\n  host:\n", `a wrong: 3:3: "host": there is no value`},
		"a comma in a list":      {"- service: a\n  address: 10.0.0.1:1\n  tags: ['x,y']\n", `a wrong: 3:3: "tags": the item "x,y" of a list has a comma in it`},

		"no list":     {"service: a\n", "file: 1:1: a services file is a list: write each service as an item that begins with \"- service: NAME\""},
		"a key twice": {"- service: a\n  service: b\n", `file: 2:3: this is no YAML: mapping key "service" already defined at [1:3]`},
		"broken":      {"- service: [\n", "file: 1:12: this is no YAML: sequence end token ']' not found"},
		"a tab":       {"\t- a: 1", "file: 1:1: this is no YAML: tab character cannot use as a sequence delimiter"},
		"too many [":  {strings.Repeat("[", 100_000), "file: 1:1: this line has more brackets or dashes than any service needs; spread it over several lines"},
		"too many -":  {strings.Repeat("- ", 100_000), "file: 1:1: this line has more brackets or dashes than any service needs; spread it over several lines"},
		"not text":    {"\x00\xff", "file: 1:1: a services file is a list…"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := printed(tt.text)
			if begin, ok := strings.CutSuffix(tt.want, "…"); ok && strings.HasPrefix(got, begin) {
				return
			}
			if diff := cmp.Diff(got, tt.want); diff != "" {
				t.Errorf("%q: (-got +want)\n%s", tt.text, diff)
			}
		})
	}
}

// printed is what a file comes to, in one line.
func printed(text string) string {
	list, err := declarations(text)
	if err != nil {
		return "file: " + err.Error()
	}
	var all []string
	for _, d := range list {
		i, err := service.Instance{}, d.err
		if err == nil {
			i, err = Host{Node: "h1"}.Instance(service.FromFile, &d.def, d.endpoint, time.Time{})
		}
		if err != nil {
			all = append(all, strings.TrimSpace(d.service+" wrong: "+strings.ReplaceAll(err.Error(), "\n", " & ")))
			continue
		}
		all = append(all, describe(&i))
	}
	return strings.Join(all, " | ")
}

// describe writes down what is not as it is by default.
func describe(i *service.Instance) string {
	text := fmt.Sprintf("%s %s %s", i.Service, i.Endpoint(), i.Check.Kind)
	add := func(differs bool, format string, args ...any) {
		if differs {
			text += " " + fmt.Sprintf(format, args...)
		}
	}
	add(i.Weight != service.DefaultWeight, "weight %d", i.Weight)
	add(i.Scope != "", "scope %s", i.Scope)
	add(i.Hosts != nil, "hosts %v", i.Hosts)
	add(i.Check.Kind == service.CheckHTTP, "check %s of %s every %s", i.Check.Kind, i.Check.Host, i.Check.Interval)
	add(i.Tags != nil, "tags %v", i.Tags)
	add(i.Meta != nil, "meta %v", i.Meta)
	add(i.Options != nil, "options %v", i.Options)
	return text
}

// FuzzDeclarations: no file ends the agent, and what is accepted can be written (P7, F7).
func FuzzDeclarations(f *testing.F) {
	for _, text := range []string{
		"- service: a\n  address: 10.0.0.1:1\n", "- a: [b, {c: d}]\n", "- ? x\n  : y\n", "- |\n  x\n", "- &a [*a]\n", "- !!map {a: 1}\n", "[[{{", "%YAML 1.2\n---\n- a: 1\n",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4096 {
			return
		}
		list, err := declarations(text)
		if err != nil {
			return
		}
		for _, d := range list {
			if d.err != nil {
				continue
			}
			if i, err := (Host{Node: "h1"}).Instance(service.FromFile, &d.def, d.endpoint, time.Time{}); err == nil {
				if _, err := i.Encode(); err != nil {
					t.Errorf("%q gives an instance that cannot be written: %v", text, err)
				}
			}
		}
	})
}

// TestExamples: the example files say what they are meant to.
func TestExamples(t *testing.T) {
	want := map[string]string{
		"databases.yaml": "orders-db 10.0.0.7:5432 tcp tags [postgres primary] options map[check.interval:2s]" +
			" | orders-db 10.0.0.8:5432 tcp meta map[team:orders] options map[backup:true]",
		"legacy.yml": "legacy 127.0.0.1:8080 http scope node hosts [legacy.example.com old.example.com]" +
			" check http of legacy.example.com every 5s options map[check:http:/health timeout.server:5m]",
	}
	for name, want := range want {
		text, err := os.ReadFile("../../examples/services/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if got := printed(string(text)); got != want {
			t.Errorf("%s: (-got +want)\n%s", name, cmp.Diff(got, want))
		}
	}
}

// A file whose brackets are nested line by line is refused before the parser takes all memory for it.
func TestDeepOverLines(t *testing.T) {
	for _, text := range []string{strings.Repeat("[\n", 500_000), "- service: a\n  meta: " + strings.Repeat("{a:\n", 250_000)} {
		if _, err := declarations(text); err == nil || !strings.Contains(err.Error(), "brackets") {
			t.Errorf("got %v", err)
		}
	}
}
