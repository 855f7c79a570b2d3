package service

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// anyOverride draws what people may say.
func anyOverride(t *rapid.T) Override {
	o := Override{
		Target: Target{Service: anyName.Draw(t, "service")},
		State:  rapid.SampledFrom([]OverrideState{"", Drain, Maint}).Draw(t, "state"),
		Until:  time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "until"), 0).UTC(),
		By:     rapid.StringMatching(`[ -~é<&]{0,20}`).Draw(t, "by"),
	}
	if rapid.Bool().Draw(t, "one node") {
		o.Node = anyName.Draw(t, "node")
		o.ID = rapid.StringMatching(`[A-Za-z0-9._-]{0,40}`).Draw(t, "id")
	}
	if o.State == "" || rapid.Bool().Draw(t, "weighted") {
		weight := rapid.IntRange(0, 256).Draw(t, "weight")
		o.Weight = &weight
	}
	return o
}

func encoded(t interface {
	Helper()
	Fatal(args ...any)
}, v interface{ Encode() ([]byte, error) },
) []byte {
	t.Helper()
	b, err := v.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestOverrideRoundTrip: what is written is read, key and value.
func TestOverrideRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyOverride(t)
		k, err := ParseKey("/p", want.Key("/p"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeOverride(k.Target(), encoded(t, &want))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, exact); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

// TestBadOverridesAsksAnswers: a reader trusts nothing. P7, F7.
func TestBadOverridesAsksAnswers(t *testing.T) {
	tests := []struct{ key, value, want string }{
		{"overrides/web", `{}`, "neither a state nor a weight"},
		{"overrides/web", `{"state":"ready"}`, `state "ready" is neither drain nor maint`},
		{"overrides/web", `{"state":"drain\n"}`, "neither drain nor maint"},
		{"overrides/web", `{"weight":257}`, "weight 257"},
		{"overrides/web", `{"weight":-1}`, "weight -1"},
		{"overrides/web", `{"state":"maint","until":"9999-12-31T23:59:59-10:00"}`, "years"},
		{"overrides/web", `{"state":"maint","by":"a\u0007"}`, "control characters"},
		{"overrides/web", `{"state":"maint","by":"` + strings.Repeat("x", 257) + `"}`, "more than 256"},
		{"overrides/web", `{"x":"` + strings.Repeat("x", MaxValue) + `"}`, "more than 8192"},
		{"overrides/web", `[]`, "not the JSON of an override"},
		{"overrides/we_b", `{"state":"maint"}`, "no service name"},
		{"overrides/web/A", `{"state":"maint"}`, "no node name"},
		{"overrides/web/a/x y", `{"state":"maint"}`, "no instance id"},
		{"asks/1", `{"want":"all"}`, `want "all" is none of`},
		{"asks/1", `{"want":"applied","revision":-1}`, "revision -1"},
		{"asks/1", `{"want":"ended","revision":1}`, "is not under"},
		{"asks/1", `{"want":"ended","key":"/p/v1/nodes/a"}`, "not of a kind"},
		{"asks/1", `{"want":"undrained","key":"/p/v1/overrides/web"}`, "not of a kind"},
		{"asks/1", `{"want":"applied","by":"\n"}`, "control characters"},
		{"asks/ü", `{"want":"applied"}`, "no id of an ask"},
		{"answers/a/1", `{"sessions":-1}`, "below 0"},
		{"answers/a/1", `{"revision":-1}`, "below 0"},
		{"answers/a/1", `{"sessions":"x"}`, "not the JSON of an answer"},
	}
	for _, tt := range tests {
		b := NewBuilder("/p")
		put(t, b, "1", "api", 1)
		b.Put("/p/v1/"+tt.key, []byte(tt.value))
		c := b.Catalog(1)
		if len(c.Rejected) != 1 || !strings.Contains(c.Rejected[0].Reason, tt.want) || !printable(c.Rejected[0].Reason, 1000) {
			t.Errorf("%s %.80s: rejected %+v, want one with %q", tt.key, tt.value, c.Rejected, tt.want)
		}
		if len(c.Overrides)+len(c.Asks)+len(c.Answers) > 0 || c.Service("api") == nil {
			t.Errorf("%s %.80s: it counts, or others do not", tt.key, tt.value)
		}
	}
}

// TestRuling: the most specific override counts, state and weight each by itself.
func TestRuling(t *testing.T) {
	b := NewBuilder("/p")
	for _, at := range []string{"a/1", "a/2", "b/1"} {
		node, id, _ := strings.Cut(at, "/")
		i := Instance{Node: node, ID: id, Service: "web", Address: netip.MustParseAddr("10.0.0.1"), Port: 80, State: Ready, Mode: HTTP, Path: "/"}
		b.Put(i.Key("/p"), encoded(t, &i))
	}
	steps := []struct{ key, value, want string }{
		{"overrides/web", `{"state":"drain","weight":10}`, "a/1 drain 10, a/2 drain 10, b/1 drain 10"},
		{"overrides/web/a", `{"weight":20}`, "a/1 drain 20, a/2 drain 20, b/1 drain 10"},
		{"overrides/web/a/2", `{"state":"maint"}`, "a/1 drain 20, a/2 maint 20, b/1 drain 10"},
		{"overrides/api", `{"state":"maint"}`, "a/1 drain 20, a/2 maint 20, b/1 drain 10"},
		{"overrides/web", ``, "a/1  20, a/2 maint 20, b/1  -"},
		{"overrides/web/a", ``, "a/1  -, a/2 maint -, b/1  -"},
	}
	for n, step := range steps {
		if step.value == "" {
			b.Delete("/p/v1/" + step.key)
		} else {
			b.Put("/p/v1/"+step.key, []byte(step.value))
		}
		if got := rulings(b.Catalog(int64(n)).Service("web")); got != step.want {
			t.Errorf("after %s %s: got %q, want %q", step.key, step.value, got, step.want)
		}
	}
}

// rulings writes what counts for each instance.
func rulings(s *Service) string {
	var all []string
	for _, i := range s.Instances {
		r, state, weight := s.Ruling(i), OverrideState(""), "-"
		if r.State != nil {
			state = r.State.State
		}
		if r.Weight != nil {
			weight = strconv.Itoa(*r.Weight.Weight)
		}
		all = append(all, fmt.Sprintf("%s/%s %s %s", i.Node, i.ID, state, weight))
	}
	return strings.Join(all, ", ")
}

// TestOverridesTouchOnlyTheirServices: all others are the same values. P12.
func TestOverridesTouchOnlyTheirServices(t *testing.T) {
	b := NewBuilder("/p")
	put(t, b, "1", "api", 1)
	put(t, b, "2", "web", 1)
	first := b.Catalog(1)
	b.Put("/p/v1/overrides/web", []byte(`{"state":"maint","until":"2026-01-01T00:00:10Z"}`))
	b.Put("/p/v1/overrides/gone", []byte(`{"state":"maint"}`))
	b.Put("/p/v1/asks/1", []byte(`{"want":"applied"}`))
	second := b.Catalog(2)
	if first.Service("api") != second.Service("api") || first.Service("web") == second.Service("web") {
		t.Error("other services changed than the override is for")
	}
	if len(second.Overrides) != 2 || len(second.Asks) != 1 {
		t.Errorf("got %d overrides and %d asks, want 2 and 1", len(second.Overrides), len(second.Asks))
	}

	var l Lapses
	at := func(second int) time.Time { return time.Date(2026, 1, 1, 0, 0, second, 0, time.UTC) }
	if c, next := l.At(at(9), second); c != second || !next.Equal(at(10)) {
		t.Errorf("before its end got another catalog, or the next end at %v", next)
	}
	ended, next := l.At(at(10), second)
	if !next.IsZero() || len(ended.Overrides) != 1 || len(ended.Service("web").Overrides) != 0 || ended.Service("api") != first.Service("api") {
		t.Errorf("after its end: next %v, overrides %v", next, ended.Overrides)
	}
	if again, _ := l.At(at(11), b.Catalog(3)); again.Service("web") != ended.Service("web") {
		t.Error("a service whose override has ended is another value in the next catalog")
	}
	b.Delete("/p/v1/overrides/web")
	if gone, _ := l.At(at(12), b.Catalog(4)); len(gone.Service("web").Overrides) != 0 {
		t.Error("the override is still there")
	}
}

// TestAskNames: an ask is about one instance, or about all that an override covers.
func TestAskNames(t *testing.T) {
	b := NewBuilder("/p")
	put(t, b, "1", "web", 1)
	put(t, b, "2", "web", 1)
	put(t, b, "3", "api", 1)
	c := b.Catalog(1)
	for key, want := range map[string]string{
		"/p/v1/instances/a/1": "1", "/p/v1/overrides/web": "12", "/p/v1/overrides/web/a": "12", "/p/v1/overrides/web/a/1": "1", "/p/v1/overrides/api": "3",
		"/p/v1/instances/a/4": "", "/p/v1/instances/b/1": "", "/p/v1/overrides/none": "", "/p/v1/overrides/web/b": "", "": "", "/p/v1/nodes/a": "",
	} {
		got := ""
		var gotSb197 strings.Builder
		for _, i := range (&Ask{Key: key}).Named(c) {
			gotSb197.WriteString(i.ID)
		}
		got += gotSb197.String()
		if got != want {
			t.Errorf("%q names %q, want %q", key, got, want)
		}
	}
}

// FuzzDecodeOverride: nothing panics, and what is read can be written and read again.
func FuzzDecodeOverride(f *testing.F) {
	f.Add([]byte(`{"state":"drain","weight":0,"until":"2026-01-01T00:00:00+02:00","by":"root@a"}`))
	f.Add([]byte(`{"want":"ended","key":"/p/v1/overrides/web","revision":5}`))
	f.Add([]byte(`{"revision":1,"applied":true,"sessions":3}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, err := DecodeOverride(Target{Service: "web"}, b); err == nil {
			value := encoded(t, &o)
			again, err := DecodeOverride(o.Target, value)
			if diff := cmp.Diff(o, again, exact); err != nil || diff != "" || bytes.ContainsAny(value, "\n\r\x00") {
				t.Errorf("%q reads again with %v, (-first +second):\n%s", value, err, diff)
			}
		}
		if a, err := DecodeAsk("/p", "1", b); err == nil {
			if again, err := DecodeAsk("/p", "1", encoded(t, &a)); err != nil || again != a {
				t.Errorf("%+v reads again as %+v, %v", a, again, err)
			}
		}
		if a, err := DecodeAnswer("a", "1", b); err == nil {
			if again, err := DecodeAnswer("a", "1", encoded(t, &a)); err != nil || again != a {
				t.Errorf("%+v reads again as %+v, %v", a, again, err)
			}
		}
	})
}
