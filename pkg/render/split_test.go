package render

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

func TestCut(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"web", "web:90,canary:10", "web 90, canary 10"},
		{"web", "canary:10, web:90", "canary 10, web 90"},
		{"web", "canary:10", "web 90, canary 10"},
		{"web", "a:150,b:50", "web 0, a 75, b 25"},
		{"web", "web:1,a:1,b:1", "web 34, a 33, b 33"},
		{"web", "web:256,canary:1", "web 99, canary 1"},
		{"web", "web:0,canary:7", "web 0, canary 100"},
		{"web", "web:0,canary:0", "web 0, canary 0"},
		{"web", "web:200,a:1,b:0", "web 99, a 1, b 0"},
		{"web", "green:100", "web 0, green 100"},
	} {
		shares := sharesOf(test.name, test.text)
		var got []string
		for at, part := range cut(shares) {
			got = append(got, fmt.Sprintf("%s %d", shares[at].service, part))
		}
		if got := strings.Join(got, ", "); got != test.want {
			t.Errorf("%s: %s, want %s", test.text, got, test.want)
		}
	}
}

// Whatever the weights are, all slices are given away, and none to a weight of 0.
func TestCutGivesAllAway(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var shares []share
		for _, weight := range rapid.SliceOfN(rapid.IntRange(0, 256), 1, 17).Draw(t, "weights") {
			shares = append(shares, share{"s", weight})
		}
		sum, weights := 0, 0
		for at, part := range cut(shares) {
			if sum, weights = sum+part, weights+shares[at].weight; part < 0 || (part > 0) != (shares[at].weight > 0) {
				t.Fatalf("%d slices for %+v", part, shares[at])
			}
		}
		if sum != hundred && weights > 0 {
			t.Fatalf("%d slices", sum)
		}
	})
}

// A service is told why a share stays with it, also when that changes with nothing but an instance of
// the other one.
func TestSplitFollowsItsTarget(t *testing.T) {
	b := service.NewBuilder("/p")
	r := builtin(t, testSettings())
	step := func(name, key, value, want string) {
		t.Helper()
		if b.Delete("/p/v1/instances/n/" + key); value != "" {
			b.Put("/p/v1/instances/n/"+key, []byte(value))
		}
		_, m, err := r.Render(Input{Catalog: b.Catalog(1)})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range m.Services {
			if s.Name == "web" && (s.Why == "") != (want == "") || s.Name == "web" && !strings.Contains(s.Why, want) {
				t.Errorf("%s: why %q, want %q", name, s.Why, want)
			}
		}
	}
	canary := func(more string) string {
		return `{"service":"canary","address":"10.0.0.2","port":80` + more + `}`
	}
	step("alone", "web", `{"service":"web","address":"10.0.0.1","port":80,"hosts":["web.test"],"options":{"split":"canary:10"}}`, "there is no service canary")
	step("starts", "canary", canary(`,"state":"unhealthy"`), "no instance that takes requests now")
	step("runs", "canary", canary(""), "")
	step("is drained", "canary", canary(`,"weight":0`), "no instance that takes requests now")
	step("is another thing", "canary", canary(`,"mode":"tcp"`), "its mode is tcp, and this one's http")
	step("is gone", "canary", "", "there is no service canary")
}

// A share stays, and says why, while nobody is let in where it leads: also when that changes with nothing but a file
// of users. The other service is not told that nothing leads to it.
func TestSplitStaysWhereNobodyIsLetIn(t *testing.T) {
	s := testSettings()
	s.Set = map[string]string{"auth-dir": "/users"}
	r := builtin(t, s)
	c := mustCatalog(t, map[string]string{
		"instances/n/web":    `{"service":"web","address":"10.0.0.1","port":80,"hosts":["web.test"],"options":{"split":"canary:10"}}`,
		"instances/n/canary": `{"service":"canary","address":"10.0.0.2","port":80,"options":{"auth":"staff"}}`,
	})
	good := map[string]UserFile{"staff": {Users: []User{{"alice", sha512Hash}}}}
	for at, users := range []map[string]UserFile{nil, good, {"staff": {Why: "it is broken: mend it"}}, good} {
		_, m, err := r.Render(Input{Catalog: c, Users: users})
		if err != nil {
			t.Fatal(err)
		}
		canary, web, closed := m.Services[0], m.Services[1], at%2 == 0
		const why = "the share of canary in sidekick.split stays here: nobody is let in to service canary now: mend what its own line says"
		if (len(web.Split) == 0) != closed || (web.Why == why) != closed || !closed && web.Why != "" {
			t.Errorf("step %d: %d slices go elsewhere; why is %q", at, len(web.Split), web.Why)
		}
		if canary.Why != canary.Closed || (canary.Why != "") != closed {
			t.Errorf("step %d: of the canary is said %q", at, canary.Why)
		}
	}
}

// Clients of a port may be silent for as long as those of any service that its requests go to.
func TestSplitKeepsClientsOfSilentServices(t *testing.T) {
	r := builtin(t, testSettings())
	_, m, err := r.Render(Input{Catalog: mustCatalog(t, map[string]string{
		"instances/n/web":    `{"service":"web","address":"10.0.0.1","port":80,"listen":8000,"options":{"split":"canary:10,db:5","timeout.server":"90s"}}`,
		"instances/n/canary": `{"service":"canary","address":"10.0.0.2","port":80,"options":{"timeout.server":"5m"}}`,
		"instances/n/db":     `{"service":"db","address":"10.0.0.3","port":80,"mode":"tcp","options":{"timeout.server":"5h"}}`,
	})})
	if err != nil {
		t.Fatal(err)
	}
	if web := m.Services[2]; web.ListenTimeoutClient != 300_000 || web.TimeoutClient != 90_000 {
		t.Errorf("got %d ms at its port and %d ms elsewhere, want 5 minutes and 90 s", web.ListenTimeoutClient, web.TimeoutClient)
	}
}

// One weight more of a server changes no other service's model.
func TestSplitIsDecidedOnlyWithItsParts(t *testing.T) {
	b := service.NewBuilder("/p")
	for _, name := range []string{"web", "canary", "other"} {
		b.Put("/p/v1/instances/n/"+name, fmt.Appendf(nil, `{"service":%q,"address":"10.0.0.1","port":80,"hosts":["%s.test"],"options":{"split":"canary:10"}}`, name, name))
	}
	r := builtin(t, testSettings())
	_, before, err := r.Render(Input{Catalog: b.Catalog(1)})
	if err != nil {
		t.Fatal(err)
	}
	b.Put("/p/v1/instances/n/canary2", []byte(`{"service":"canary","address":"10.0.0.9","port":80,"hosts":["canary.test"],"weight":7}`))
	_, after, err := r.Render(Input{Catalog: b.Catalog(2)})
	if err != nil {
		t.Fatal(err)
	}
	for at, s := range after.Services {
		if (s == before.Services[at]) != (s.Name != "canary") {
			t.Errorf("%s: the same model %v", s.Name, s == before.Services[at])
		}
	}
}
