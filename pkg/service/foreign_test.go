package service

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The tests in this file are about what other programs write, and about prefixes that are chosen
// badly.

func TestFileFindsAnyPrefix(t *testing.T) {
	for _, prefix := range []string{"", "/sidekick", "/teams/v1/sidekick", "/v1/nodes", "/v1/instances/a", "/v1/overrides", "x/v1/v1"} {
		b := NewBuilder(prefix)
		b.Put(InstancesKey(prefix, "h")+"x.web.80", []byte(`{"service":"web","address":"10.0.0.1","port":80}`))
		b.Put(NodeKey(prefix, "h"), []byte(`{"agent":"x"}`))
		want := b.Catalog(5)
		f, err := want.File()
		if err != nil {
			t.Fatal(err)
		}
		text, err := marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseFile(text)
		if diff := cmp.Diff(want, got, exact); err != nil || diff != "" {
			t.Errorf("prefix %q: %v (-want +got):\n%s", prefix, err, diff)
		}
		if got, err = ParseFileUnder(prefix, text); err != nil || cmp.Diff(want, got, exact) != "" {
			t.Errorf("under prefix %q: %v (-want +got):\n%s", prefix, err, cmp.Diff(want, got, exact))
		}
	}
}

func TestFileUnderAnotherPrefixRejects(t *testing.T) {
	c, err := ParseFileUnder("/p", []byte(`{"items":{"/q/v1/nodes/a":{"agent":"x"}}}`))
	if err != nil || len(c.Nodes) != 0 || len(c.Rejected) != 1 {
		t.Errorf("got %d nodes, %d rejected, error %v, want 0, 1, none", len(c.Nodes), len(c.Rejected), err)
	}
}

func TestReasonsAreShort(t *testing.T) { // P7
	long := strings.Repeat("\x01", 1_000_000)
	values := map[string]string{
		"/s/v1/nodes/" + long:       "is no node name",
		"/s/v1/instances/a/" + long: "is no instance id",
		"/s/v1/" + long:             "unknown kind",
		long:                        "is not under",
		"/s/v1/nodes/" + strings.Repeat("é", 10000): "is no node name",
		"/s/v1/instances/a/1":                       "no IP literal",
		"/s/v1/instances/a/2":                       "is no host name",
	}
	texts := map[string]string{
		"/s/v1/instances/a/1": fmt.Sprintf(`{"address":"%s"}`, strings.Repeat(`\u001b`, 1000)),
		"/s/v1/instances/a/2": `{"service":"s","address":"10.0.0.1","port":80,"hosts":["` + strings.Join(strings.Split(strings.Repeat("A_", 64), ""), `","`) + `"]}`,
	}
	for key, want := range values {
		b := NewBuilder("/s")
		b.Put(key, []byte(texts[key]))
		r := b.Catalog(1).Rejected
		if len(r) != 1 {
			t.Fatalf("%.40q: %d rejections, want 1", key, len(r))
		}
		if len(r[0].Reason) > 300 || len(r[0].Name) > 200 || strings.IndexFunc(r[0].Reason+r[0].Name, isControl) >= 0 {
			t.Errorf("%.40q: reason of %d bytes, name of %d, want at most 300 and 200 of plain text: %q", key, len(r[0].Reason), len(r[0].Name), r[0].Reason)
		}
		if key != "/s/v1/instances/a/2" && !strings.Contains(r[0].Reason, want) {
			t.Errorf("%.40q: reason %q, want it to say %q", key, r[0].Reason, want)
		}
	}
}

func TestForeignValuesGetOneForm(t *testing.T) {
	b := NewBuilder("/s")
	b.Put("/s/v1/instances/h/x", []byte(`{"service":"web","address":"10.0.0.1","port":80,"path":"/api","hosts":["a.b"]}`))
	b.Put("/s/v1/instances/h/y", []byte(`{"service":"web","address":"10.0.0.2","port":80,"path":"/api/","hosts":["A.b","a.B"]}`))
	s := b.Catalog(1).Service("web")
	if s == nil || len(s.Instances) != 2 {
		t.Fatalf("got %+v, want both instances", s)
	}
	if got := s.Spec.Conflict(s.Instances[1]); got != "" {
		t.Errorf("conflict %q, want none", got)
	}
	if diff := cmp.Diff(s.Instances[1].Hosts, []string{"a.b"}); diff != "" {
		t.Errorf("hosts (-got +want):\n%s", diff)
	}
	if _, err := DecodeInstance("h", "x", []byte(`{"service":"web","address":"10.0.0.1","port":80,"path":"/api//"}`)); err == nil {
		t.Error("a path with an empty segment was taken")
	}
}
