package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekick-proxy/sidekick/pkg/admin"
)

// What is not known is a dash, not a zero that somebody could have asked for.
func TestWriteServices(t *testing.T) {
	var out strings.Builder
	writeServices(&out, []admin.Service{
		{Name: "all", Path: "/", Default: true, Hosts: []string{"a.test"}, Instances: []admin.Instance{
			{ID: "c1.all.80", Node: "n", Address: "192.0.2.1", Port: 80, State: "ready", Routed: true, AgeSeconds: 12},
			{ID: "ext", Node: "n", Address: "192.0.2.1", Port: 81, State: "ready", Weight: 100, Routed: true},
			{ID: "c2.all.80", Node: "n", State: "rejected", Why: "sidekick.port=x: no port"},
			{ID: "in", Node: "m", Address: "192.0.2.2", Port: 80, State: "suspect", Weight: 100, Routed: true, Doubt: "its node left"},
			{ID: "out", Node: "m", Address: "192.0.2.2", Port: 81, State: "suspect", Weight: 100, Why: "its node left, it is out", Doubt: "its node left, it is out"},
			{ID: "told", Node: "m", Address: "192.0.2.2", Port: 82, State: "suspect", Weight: 100, Why: "it was told to stop", Doubt: "its node left"},
		}},
		{Name: "help", Path: "/help", Default: true, Instances: []admin.Instance{}},
		{Name: "none", Path: "/", Why: "nothing leads to it", Instances: []admin.Instance{}},
	})
	want := `
SERVICE  ROUTE     NODE  INSTANCE   ADDRESS       STATE     WEIGHT  AGE  WHY
all      a.test,*  n     c1.all.80  192.0.2.1:80  ready     0       12s  
all      a.test,*  n     ext        192.0.2.1:81  ready     100     -    
all      a.test,*  n     c2.all.80  -             rejected  -       -    sidekick.port=x: no port
all      a.test,*  m     in         192.0.2.2:80  suspect   100     -    its node left
all      a.test,*  m     out        192.0.2.2:81  suspect   100     -    its node left, it is out
all      a.test,*  m     told       192.0.2.2:82  suspect   100     -    it was told to stop; its node left
help     */help    -     -          -             empty     -       -    
none     -         -     -          -             empty     -       -    nothing leads to it
`
	if diff := cmp.Diff(want[1:], out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCount(t *testing.T) {
	if got := count(1, "service") + ", " + count(0, "reload") + ", " + count(uint64(2), "old worker"); got != "1 service, 0 reloads, 2 old workers" {
		t.Error(got)
	}
}
