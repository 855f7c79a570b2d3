package render

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What is near comes first, and words that a server has do not depend on which others there are: those
// cannot change at run time (P11).
func TestPrefer(t *testing.T) {
	type row struct {
		tier     tier
		weight   int
		disabled bool
	}
	for _, test := range []struct {
		name string
		rows []row
		want string // weight of each, with b for a backup
	}{
		{"all", []row{{ownHost, 30, false}, {ownZone, 100, false}, {ownZone, 50, false}, {elsewhere, 100, false}, {spare, 100, false}}, "30 256b 128b 1b 0b"},
		{"no zone", []row{{ownHost, 30, false}, {elsewhere, 70, false}, {spare, 100, false}}, "30 70b 0b"},
		{"the zone is out", []row{{ownZone, 100, true}, {elsewhere, 70, false}}, "100b 70b"},
		{"the zone is drained", []row{{ownZone, 0, false}, {elsewhere, 70, false}}, "0b 70b"},
		{"spare alone", []row{{elsewhere, 70, true}, {spare, 9, false}}, "70b 9b"},
		{"own alone", []row{{ownHost, 9, false}}, "9"},
		{"drained elsewhere", []row{{ownZone, 1, false}, {elsewhere, 0, false}}, "256b 0b"},
		{"a small weight stays one", []row{{ownZone, 256, false}, {ownZone, 1, false}}, "256b 1b"},
		{"nothing", nil, ""},
	} {
		var servers []Server
		var tiers []tier
		for _, r := range test.rows {
			servers, tiers = append(servers, Server{Weight: r.weight, Disabled: r.disabled}), append(tiers, r.tier)
		}
		prefer(servers, tiers, true)
		var got []string
		for at, s := range servers {
			if s.Watched != (tiers[at] == ownHost) {
				t.Errorf("%s: server %d watched %v", test.name, at, s.Watched)
			}
			got = append(got, fmt.Sprintf("%d%s", s.Weight, strings.Repeat("b", boolInt(s.Backup))))
		}
		if diff := cmp.Diff(test.want, strings.Join(got, " ")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// HAProxy is not to check what it must not check.
func TestWatchedOnlyWhereChecksMayBe(t *testing.T) {
	for _, test := range []struct {
		check  ProxyCheck
		option string
		want   bool
	}{
		{ProxyCheckAuto, "", true},
		{ProxyCheckOn, "", true},
		{ProxyCheckOff, "", false},
		{ProxyCheckAuto, `,"check":"none"`, false},
	} {
		s := testSettings()
		s.ProxyCheck = test.check
		c := mustCatalog(t, map[string]string{"instances/host-a/1": `{"service":"web","address":"10.0.0.1","port":80,"hosts":["a.test"],"options":{"locality":"prefer"` + test.option + `}}`})
		if got := Build(Input{Catalog: c}, s).Services[0].Servers[0].Watched; got != test.want {
			t.Errorf("%+v: watched %v", test, got)
		}
	}
}
