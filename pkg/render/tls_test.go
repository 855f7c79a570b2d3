package render

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// given is a certificate whose text says nothing.
func given(name string, days int, names ...string) Certificate {
	return Certificate{Name: name, Names: names, NotAfter: time.Unix(int64(days)*24*3600, 0), Text: name + "\n"}
}

// Of two certificates for one name the one counts that is valid for longer, then the first by name,
// whatever their order; the rest of each goes on.
func TestAssign(t *testing.T) {
	all := []Certificate{
		given("a", 1, "x.test", "y.test"),
		given("b", 2, "x.test", "z.test"),
		given("c", 2, "z.test"),
		given("d", 1),
	}
	want := map[string]string{"a": "y.test", "b": "x.test z.test", "c": "", "d": ""}
	for _, order := range [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}, {1, 3, 0, 2}} {
		var in []Certificate
		for _, i := range order {
			in = append(in, all[i])
		}
		got := map[string]string{}
		var files []string
		assigned := assign(in)
		for _, c := range assigned {
			got[c.Name] = strings.Join(c.Hosts, " ")
		}
		for _, f := range certificateFiles(assigned) {
			files = append(files, f.Name+"="+strings.TrimSpace(f.Text()))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("order %v (-want +got):\n%s", order, diff)
		}
		if len(files) != 3 || files[0] != "default.pem=a" {
			t.Errorf("got files %v, want the first as the default one, and those that somebody is shown", files)
		}
	}
}

// Names of files stay apart and are names of files, whatever the certificates are called.
func TestCertificateFileNames(t *testing.T) {
	seen := map[string]string{}
	for _, name := range []string{"a", "A", "a b", "a/b", "ä", "ö", "*.a.test", "_.a.test", "-", "..", strings.Repeat("x", 300), strings.Repeat("x", 301), "a\nb"} {
		for _, hosts := range [][]string{{"x.test"}, {"x.test", "y.test"}} {
			c := given(name, 1, hosts...)
			c.Hosts = hosts
			file := c.fileName()
			if !isFileName(file) || !isCertificateFile(file) || len(file) > 100 || seen[file] != "" {
				t.Errorf("%q for %v: got %q, which is also that of %q", name, hosts, file, seen[file])
			}
			seen[file] = name
		}
	}
}

func TestCoverage(t *testing.T) {
	c := coverageOf([]Certificate{given("a", 1, "a.test", "*.b.test")})
	for host, want := range map[string]bool{"a.test": true, "b.test": false, "x.b.test": true, "x.y.b.test": false, "*.b.test": true, "*.x.b.test": false, "*.test": false} {
		if got := c.has(host); got != want {
			t.Errorf("%s: got %v, want %v", host, got, want)
		}
	}
}

// A template cannot take the place of a certificate.
func TestFilesOfCertificatesAreKept(t *testing.T) {
	for _, name := range []string{"default.pem", "cert-a.pem"} {
		_, err := New("t", "global\n{{define \"file "+name+"\"}}x{{end}}", testSettings())
		if err == nil || !strings.Contains(err.Error(), "kept for certificates: choose another") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// What is decided step by step, as certificates, ports and services come and go, is what is decided at
// once.
func TestTLSIsDecidedAnew(t *testing.T) {
	const web, vault = `"hosts":["a.test","x.v.test"],"options":{"tls":"terminate","redirect":"https"}`, `"hosts":["v.test","*.v.test"],"options":{"tls":"passthrough"}`
	catalog := func(services ...string) map[string]string {
		items := map[string]string{}
		for i, rest := range services {
			items[fmt.Sprintf("instances/n/%d", i)] = fmt.Sprintf(`{"service":"s%d","address":"10.0.0.1","port":80,%s}`, i, rest)
		}
		return items
	}
	busy := map[uint16]string{8443: "port 8443 is in use by another program on this host"}
	steps := []struct {
		items map[string]string
		certs []Certificate
		taken map[uint16]string
		why   []string // of each service
		https bool
	}{
		{catalog(web), nil, nil, []string{"there are no certificates"}, false},
		{catalog(web), []Certificate{given("a", 1, "a.test")}, nil, []string{"no certificate in --certs is for x.v.test"}, true},
		{catalog(web), []Certificate{given("a", 1, "a.test", "*.v.test")}, nil, []string{""}, true},
		{catalog(web, vault), []Certificate{given("a", 1, "a.test", "*.v.test")}, nil, []string{"", ""}, true},
		{catalog(web, vault), []Certificate{given("a", 1, "a.test", "*.v.test")}, busy, []string{"in use", "in use"}, false},
		{catalog(web, vault), nil, nil, []string{"there are no certificates", ""}, false},
		{catalog(web), nil, nil, []string{"there are no certificates"}, false},
	}
	r := builtin(t, testSettings())
	for i, step := range steps {
		in := Input{Catalog: mustCatalog(t, step.items), Certificates: step.certs, Taken: step.taken}
		files, m, err := r.Render(in)
		if err != nil {
			t.Fatal(err)
		}
		if m.HTTPS != step.https {
			t.Errorf("step %d: got HTTPS %v, want %v", i, m.HTTPS, step.https)
		}
		for at, s := range m.Services {
			if want := step.why[at]; !strings.Contains(s.Why, want) || (want == "") != (s.Why == "") {
				t.Errorf("step %d: service %s: got why %q, want %q", i, s.Name, s.Why, want)
			}
			if s.Redirect != (at == 0 && step.https) {
				t.Errorf("step %d: service %s: got redirect %v", i, s.Name, s.Redirect)
			}
		}
		fresh, _, err := builtin(t, testSettings()).Render(in)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(fresh, files); diff != "" {
			t.Errorf("step %d (-at once +step by step):\n%s", i, diff)
		}
	}
}

// A private key is never shown, also where its end is missing, and two keys can be told apart.
func TestShown(t *testing.T) {
	key := func(body string) string {
		return "-----BEGIN EC PRIVATE KEY-----\n" + body + "\n-----END EC PRIVATE KEY-----\n"
	}
	shown := func(texts ...string) string {
		var f File
		for _, text := range texts {
			f.Blocks = append(f.Blocks, NewBlock("", text))
		}
		return f.Shown()
	}
	one := shown("before\n"+key("AAAA"), "between\n"+key("BBBB")+"behind\n")
	for _, part := range []string{"before\n(a private key, ", "between\n(a private key, ", "behind\n"} {
		if !strings.Contains(one, part) {
			t.Errorf("got %q, want %q in it", one, part)
		}
	}
	cut := shown("-----BEGIN PRIVATE KEY-----\nAAAA")
	for _, text := range []string{one, cut} {
		if strings.Contains(text, "AAAA") || strings.Contains(text, "BBBB") {
			t.Errorf("got %q, with a key in it", text)
		}
	}
	if shown(key("AAAA")) == shown(key("BBBB")) || !slices.Equal([]string{shown("x")}, []string{"x"}) {
		t.Error("keys look alike, or what is none is changed")
	}
}

// Who is let in cannot be seen within TLS that is passed through, so that nobody is (F7).
func TestPassthroughNeedsNoUsers(t *testing.T) {
	m := Build(Input{Catalog: mustCatalog(t, map[string]string{
		"instances/n/1": `{"service":"v","address":"10.0.0.1","port":80,"hosts":["v.test"],"options":{"tls":"passthrough","auth":"users","sticky":"id","h2":"true"}}`,
	})}, testSettings())
	s := m.Services[0]
	if s.Closed == "" || s.Instances[0].Routed || s.Mode != "tcp" || s.Upstream.Cookie != "" {
		t.Errorf("got %+v, want a closed service of mode tcp", s)
	}
}
