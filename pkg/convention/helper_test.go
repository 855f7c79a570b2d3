package convention

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// testCase is a container by its marks, and what it comes to.
type testCase struct {
	on        string   // conventions
	env       []string // NAME=VALUE
	labels    []string // NAME=VALUE
	tcp, udp  []uint16 // exposed
	published []uint16
	compose   bool
	image     string
	want      []string // see printed
}

func (tt *testCase) container() *Container {
	c := &Container{
		Service: "c1", Image: tt.image, Env: tt.env, Labels: map[string]string{}, Compose: tt.compose,
		Ports: Ports{TCP: tt.tcp, UDP: tt.udp}, Published: Ports{TCP: tt.published},
	}
	if tt.compose {
		c.Service = "shop-web"
	}
	for _, label := range tt.labels {
		name, text, _ := strings.Cut(label, "=")
		c.Labels[name] = text
	}
	return c
}

func runCases(t *testing.T, tests map[string]testCase) {
	t.Helper()
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			on, err := Parse(tt.on)
			if err != nil {
				t.Fatal(err)
			}
			got := printed(Read(on, tt.container()))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("env %q, labels %q (-want +got)\n%s", tt.env, tt.labels, diff)
			}
		})
	}
}

// printed writes a reading: a line for each service with what is not default, or its fault, and one
// for each note.
func printed(r Reading) []string {
	var lines []string
	for _, s := range r.Services {
		if s.Err != nil {
			lines = append(lines, "refused: "+strings.ReplaceAll(s.Err.Error(), "\n", "; "))
			continue
		}
		lines = append(lines, strings.Join(fields(&s.Definition), " "))
	}
	for _, n := range r.Notes {
		lines = append(lines, "note: "+n)
	}
	return lines
}

func fields(d *service.Definition) []string {
	all := []string{fmt.Sprintf("%s:%d", d.Service, d.Port)}
	add := func(there bool, name string, value any) {
		if there {
			all = append(all, fmt.Sprintf("%s=%v", name, value))
		}
	}
	add(d.Mode != service.HTTP, "mode", d.Mode)
	add(len(d.Hosts) > 0, "host", strings.Join(d.Hosts, ","))
	add(d.Path != "/", "path", d.Path)
	add(d.Listen != 0, "listen", d.Listen)
	add(d.Weight != service.DefaultWeight, "weight", d.Weight)
	for _, name := range slices.Sorted(maps.Keys(d.Options)) {
		add(true, name, d.Options[name])
	}
	add(len(d.Tags) > 0, "tags", strings.Join(d.Tags, "+"))
	for _, name := range slices.Sorted(maps.Keys(d.Meta)) {
		add(true, "meta."+name, d.Meta[name])
	}
	return all
}
