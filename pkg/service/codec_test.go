package service

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// sample is an instance with a value in every field that travels.
func sample() Instance {
	return Instance{
		Node: "host-a", ID: "3f2a91c0de12.web.8080", Service: "web", Address: netip.MustParseAddr("10.0.0.5"), Port: 32768,
		State: Ready, Weight: 100, Mode: HTTP, Hosts: []string{"shop.example.com", "*.example.org"}, Path: "/api", Listen: 8443, Scope: ScopeNode,
		Container: "3f2a91c0de12", Name: "shop-web-1", Zone: "eu-1a", Started: time.Date(2026, 11, 22, 10, 0, 0, 5, time.UTC),
		Options: map[string]string{"balance": "leastconn", "check.interval": "5s"}, Tags: []string{"v2"}, Meta: map[string]string{"team": "shop"},
	}
}

var exact = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(time.Time.Equal)}

func TestValueFormat(t *testing.T) {
	i := sample()
	got, err := i.Encode()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"service":"web","address":"10.0.0.5","port":32768,"state":"ready","weight":100,"mode":"http",` +
		`"hosts":["shop.example.com","*.example.org"],"path":"/api","listen":8443,"scope":"node","container":"3f2a91c0de12",` +
		`"name":"shop-web-1","zone":"eu-1a","started":"2026-11-22T10:00:00.000000005Z","options":{"balance":"leastconn","check.interval":"5s"},` +
		`"tags":["v2"],"meta":{"team":"shop"}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if key := i.Key("/sidekick/"); key != "/sidekick/v1/instances/host-a/3f2a91c0de12.web.8080" {
		t.Errorf("key %s", key)
	}
}

func TestAbsentFieldsHaveDefaults(t *testing.T) {
	got, err := DecodeInstance("n", "i", []byte(`{"service":"s","address":"::ffff:10.0.0.1","port":80,"newer":{"x":1}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := Instance{Node: "n", ID: "i", Service: "s", Address: netip.MustParseAddr("10.0.0.1"), Port: 80, State: Ready, Weight: DefaultWeight, Mode: HTTP, Path: "/"}
	if diff := cmp.Diff(want, got, exact); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDecodeInstanceRefuses(t *testing.T) {
	tests := []struct{ value, want string }{
		{``, "not the JSON"},
		{`[]`, "not the JSON"},
		{`{"port":"80"}`, "not the JSON"},
		{`{"service":"s","address":"host","port":80}`, `address "host" is no IP literal`},
		{`{"service":"s","address":"0.0.0.0","port":80}`, "cannot be connected to"},
		{`{"service":"s","address":"ff02::1","port":80}`, "cannot be connected to"},
		{`{"service":"s","address":"fe80::1%eth0","port":80}`, "cannot be connected to"},
		{`{"service":"s","address":"10.0.0.1","port":0}`, "port 0 is outside"},
		{`{"service":"s","address":"10.0.0.1","port":70000}`, "port 70000 is outside"},
		{`{"service":"s","address":"10.0.0.1","port":80,"listen":-1}`, "listen -1"},
		{`{"service":"s\n","address":"10.0.0.1","port":80}`, `service "s\n" is no name`},
		{`{"service":"s","address":"10.0.0.1","port":80,"weight":300}`, "weight 300"},
		{`{"service":"s","address":"10.0.0.1","port":80,"state":"up"}`, `state "up"`},
		{`{"service":"s","address":"10.0.0.1","port":80,"mode":"udp"}`, `mode "udp"`},
		{`{"service":"s","address":"10.0.0.1","port":80,"hosts":["Ä.test"]}`, "is no host name"},
		{`{"service":"s","address":"10.0.0.1","port":80,"hosts":["a.test\nx"]}`, "is no host name"},
		{`{"service":"s","address":"10.0.0.1","port":80,"path":"x"}`, "no path prefix"},
		{`{"service":"s","address":"10.0.0.1","port":80,"options":{"balance":"static-rr"}}`, `option balance="static-rr"`},
		{`{"service":"s","address":"10.0.0.1","port":80,"options":{"x":"a\nb"}}`, "control characters"},
		{`{"service":"s","address":"10.0.0.1","port":80,"tags":[""]}`, "tag"},
		{`{"service":"s","address":"10.0.0.1","port":80,"meta":{"":"x"}}`, "meta"},
		{`{"service":"s","address":"10.0.0.1","port":80,"zone":"A"}`, "zone"},
		{`{"service":"s","address":"10.0.0.1","port":80,"name":"a\u0007"}`, "name has control"},
		{`{"service":"s","address":"10.0.0.1","port":80,"container":"a b"}`, "container"},
		{`{"service":"s","address":"10.0.0.1","port":80,"scope":"x"}`, "scope"},
		{`{"service":"s","address":"10.0.0.1","port":80,"started":"9999-12-31T23:59:59-10:00"}`, "years"},
		{`{"x":"` + strings.Repeat("x", MaxValue) + `"}`, "more than 8192"},
	}
	for _, test := range tests {
		_, err := DecodeInstance("n", "i", []byte(test.value))
		if got := errorText(err); err == nil || !strings.Contains(got, test.want) {
			t.Errorf("%.80s: error %q, want %q", test.value, got, test.want)
		}
	}
}

func TestParseKey(t *testing.T) {
	tests := []struct {
		key  string
		want Key
		bad  bool
	}{
		{"/p/v1/nodes/host-a", Key{Kind: KeyNode, Node: "host-a"}, false},
		{"/p/v1/instances/host-a/x.y_z-1", Key{Kind: KeyInstance, Node: "host-a", ID: "x.y_z-1"}, false},
		{"/p/v1/overrides/web", Key{Kind: KeyOverride, Service: "web"}, false},
		{"/p/v1/overrides/web/host-a", Key{Kind: KeyOverride, Service: "web", Node: "host-a"}, false},
		{"/p/v1/overrides/web/host-a/x.Y", Key{Kind: KeyOverride, Service: "web", Node: "host-a", ID: "x.Y"}, false},
		{"/p/v1/asks/1", Key{Kind: KeyAsk, Ask: "1"}, false},
		{"/p/v1/answers/a/1", Key{Kind: KeyAnswer, Node: "a", Ask: "1"}, false},
		{"/p/v1/overrides/", Key{}, true},
		{"/p/v1/overrides/Web", Key{}, true},
		{"/p/v1/overrides/web/", Key{}, true},
		{"/p/v1/overrides/web//x", Key{}, true},
		{"/p/v1/overrides/web/a/x/y", Key{}, true},
		{"/p/v1/asks/1/2", Key{}, true},
		{"/p/v1/asks/", Key{}, true},
		{"/p/v1/answers/a", Key{}, true},
		{"/p/v1/answers/A/1", Key{}, true},
		{"/p/v1/nodes/host-a/x", Key{}, true},
		{"/p/v1/nodes/", Key{}, true},
		{"/p/v1/instances/host-a", Key{}, true},
		{"/p/v1/instances/host-a/a/b", Key{}, true},
		{"/p/v1/instances/Host/a", Key{}, true},
		{"/p/v2/nodes/a", Key{}, true},
		{"/p/v1/other/a", Key{}, true},
		{"/p/v1", Key{}, true},
		{"", Key{}, true},
	}
	for _, test := range tests {
		got, err := ParseKey("/p", test.key)
		if got != test.want || (err != nil) != test.bad {
			t.Errorf("ParseKey(%q) = %+v, %v, want %+v", test.key, got, err, test.want)
		}
	}
}

// anyName, anyInstance and the like draw what may be registered.
var anyName = rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?`)

func anyInstance(t *rapid.T) Instance {
	labels := map[string]string{
		"sidekick.host":             rapid.SampledFrom([]string{"a.test", "b.test,*.c.test", "xn--p1ai"}).Draw(t, "host"),
		"sidekick.path":             rapid.StringMatching(`(/[a-z0-9._~-]{1,5}x){1,3}`).Draw(t, "path"),
		"sidekick.weight":           rapid.StringMatching(`1?[1-9]?[0-9]`).Draw(t, "weight"),
		"sidekick.header.request.X": rapid.StringMatching(`[ -~é]{0,20}`).Draw(t, "header"),
		"sidekick.meta.k":           rapid.StringMatching(`[ -~é<&]{0,20}`).Draw(t, "meta"),
		"sidekick.tags":             rapid.StringMatching(`[a-z<>&]{1,5}(, [a-z]{1,3})?`).Draw(t, "tags"),
		"sidekick.mode":             rapid.SampledFrom([]string{"http", "tcp"}).Draw(t, "mode"),
		"sidekick.balance":          rapid.SampledFrom([]string{"roundrobin", "hdr(X)", "random(2)"}).Draw(t, "balance"),
	}
	defs, _ := ParseLabels(labels)
	d := defs[0]
	if d.Err != nil {
		t.Fatalf("%q: %v", labels, d.Err)
	}
	return Instance{
		Node: anyName.Draw(t, "node"), ID: rapid.StringMatching(`[A-Za-z0-9._-]{1,40}`).Draw(t, "id"), Service: anyName.Draw(t, "service"),
		Address: netip.AddrFrom4([4]byte{10, rapid.Byte().Draw(t, "b"), 0, 1}), Port: rapid.Uint16Range(1, 65535).Draw(t, "port"),
		State: rapid.SampledFrom([]State{Ready, Draining, Unhealthy}).Draw(t, "state"), Weight: d.Weight, Mode: d.Mode, Hosts: d.Hosts, Path: d.Path,
		Listen: rapid.Uint16().Draw(t, "listen"), Scope: rapid.SampledFrom([]string{"", ScopeNode}).Draw(t, "scope"),
		Started: time.Unix(0, rapid.Int64().Draw(t, "started")).UTC(), Options: d.Options, Tags: d.Tags, Meta: d.Meta,
	}
}

func TestKeyAndValueRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyInstance(t)
		value, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		k, err := ParseKey("/p", want.Key("/p"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeInstance(k.Node, k.ID, value)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, exact); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

func FuzzParseKey(f *testing.F) {
	for _, seed := range []string{"/p/v1/nodes/a", "/p/v1/instances/a/b.c", "/p/v1/overrides/x/a/1", "/p/v1/overrides/x//", "/p/v1/asks/1", "/p/v1/answers/a/1", "/p/v1/", "\x00", "/p/v1/instances/a/../b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, key string) {
		k, err := ParseKey("/p", key)
		if err != nil {
			if k != (Key{}) {
				t.Errorf("%q: %+v beside an error", key, k)
			}
			return
		}
		var back string
		switch k.Kind {
		case KeyNode:
			back = NodeKey("/p", k.Node)
		case KeyInstance:
			back = InstancesKey("/p", k.Node) + k.ID
		case KeyOverride:
			back = k.Target().Key("/p")
		case KeyAsk:
			back = (&Ask{ID: k.Ask}).RegistryKey("/p")
		case KeyAnswer:
			back = (&Answer{Node: k.Node, Ask: k.Ask}).RegistryKey("/p")
		}
		if back != key {
			t.Errorf("%q reads as %+v, which writes %q", key, k, back)
		}
	})
}

func FuzzDecodeInstance(f *testing.F) {
	full := sample()
	value, err := full.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(value)
	f.Add([]byte(`{"service":"s","address":"::1","port":1,"hosts":[],"options":{},"tags":null,"weight":0}`))
	f.Add([]byte(`{"service":"s","address":"::ffff:1.2.3.4","port":1,"started":"2026-01-01T00:00:00+02:00"}`))
	f.Add([]byte(`{"service":"s","address":"1.2.3.4","port":1,"options":{"header.request.X":"a\u2028b\n"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		first, err := DecodeInstance("n", "i", b)
		if err != nil {
			return
		}
		again, err := first.Encode()
		if err != nil {
			if strings.Contains(err.Error(), "more than") { // defaults written out may take more room
				return
			}
			t.Fatalf("%q decodes but does not encode: %v", b, err)
		}
		if bytes.ContainsAny(again, "\n\r\x00") {
			t.Errorf("the value %q has control characters", again)
		}
		second, err := DecodeInstance("n", "i", again)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, second, exact); diff != "" {
			t.Errorf("(-first +second):\n%s", diff)
		}
	})
}
