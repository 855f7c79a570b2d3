package etcd

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestParseURL(t *testing.T) {
	tests := []struct {
		in   string
		want []string
		err  string
	}{
		{in: "etcd://h1", want: []string{"http://h1:2379"}},
		{in: "etcd://h1:1,h2/", want: []string{"http://h1:1", "http://h2:2379"}},
		{in: "etcds://[2001:db8::1],[::1]:5", want: []string{"https://[2001:db8::1]:2379", "https://[::1]:5"}},
		{in: "unix:///run/etcd.sock", want: []string{"unix:///run/etcd.sock"}},
		{in: "etcd+srv://example.com/", want: []string{"etcd+srv://example.com"}},
		{in: "etcds+srv://example.com.", want: []string{"etcds+srv://example.com"}},
		{in: "etcd+srv://", err: "give one domain"},
		{in: "etcd+srv://a,b", err: "give one domain"},
		{in: "etcd+srv://example.com:2379", err: "give one domain"},
		{in: "etcd+srv://user:pw@example.com", err: "--registry-user"},
		{in: "h1:2379", err: "no scheme"},
		{in: "consul://h1", err: `"consul" is unknown`},
		{in: "etcd://", err: "empty"},
		{in: "etcd://h1,,h2", err: "empty"},
		{in: "etcd://h1:http", err: ""},
		{in: "etcd://h1:0", err: "from 1 to 65535"},
		{in: "etcd://h1:65536", err: "from 1 to 65535"},
		{in: "etcd://:2379", err: "HOST:PORT"},
		{in: "etcd://2001:db8::1", err: "brackets"},
		{in: "etcd://h1/prefix", err: "--prefix"},
		{in: "etcd://user:pw@h1", err: "--registry-user"},
		{in: "unix://run/etcd.sock", err: "slash"},
		{in: "unix:///" + strings.Repeat("x", 107), err: "107"},
	}
	for _, tt := range tests {
		got, err := ParseURL(tt.in)
		if tt.want != nil {
			if diff := cmp.Diff(got, tt.want); diff != "" || err != nil {
				t.Errorf("ParseURL(%q) = %v, %v, want %v", tt.in, got, err, tt.want)
			}
			continue
		}
		if tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "pw")) {
			t.Errorf("ParseURL(%q): got %v, want an error with %q", tt.in, err, tt.err)
		}
	}
}

func TestParseAnyURL(t *testing.T) {
	part := rapid.SampledFrom([]string{"etcd", "etcds", "+srv", "unix", "://", "h1", ":1", ",", "/", "[", "]", "::1", "@", "?", "#", " ", "é", "99999"})
	rapid.Check(t, func(t *rapid.T) {
		in := strings.Join(rapid.SliceOf(part).Draw(t, "parts"), "")
		got, err := ParseURL(in)
		if (err == nil) != (len(got) > 0) {
			t.Errorf("ParseURL(%q) = %v, %v", in, got, err)
		}
	})
}

func TestDialRefusesHalfAUser(t *testing.T) {
	for _, cfg := range []Config{{Endpoints: []string{"http://127.0.0.1:1"}, Username: "u"}, {Endpoints: []string{"http://127.0.0.1:1"}, Files: Files{Password: "p"}}, {}} {
		if c, err := Dial(cfg); err == nil {
			c.Close()
			t.Errorf("Dial(%+v) succeeded", cfg)
		}
	}
}
