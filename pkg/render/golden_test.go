package render

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekick-proxy/sidekick/internal/certtest"
	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/service"
	"github.com/sidekick-proxy/sidekick/templates"
)

var update = flag.Bool("update", false, "write the golden files anew")

func testSettings() Settings {
	return Settings{
		Node: "host-a", Zone: "eu-1", HTTPListen: ":8080", HTTPSListen: ":8443",
		RuntimeSocket: "/run/sidekick/haproxy.sock", ServerState: "/run/sidekick/server.state",
	}
}

func builtin(tb testing.TB, s Settings) *Renderer {
	tb.Helper()
	r, err := New("haproxy.cfg.tmpl", templates.HAProxy, s)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// TestGolden renders each catalog of testdata by the built-in template, or by the one beside it,
// and wants the text of the golden file, and HAProxy to take it.
func TestGolden(t *testing.T) {
	cases, err := filepath.Glob("testdata/*.json")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, path := range cases {
		t.Run(filepath.Base(path), func(t *testing.T) {
			base := strings.TrimSuffix(path, ".json")
			text := templates.HAProxy
			if own, err := os.ReadFile(base + ".tmpl"); err == nil {
				text = string(own)
			}
			r, err := New(base+".tmpl", text, testSettings())
			if err != nil {
				t.Fatal(err)
			}
			files, model, err := r.Render(Input{Catalog: readCatalog(t, path), Certificates: readCertificates(t, base+".certs"), Taken: map[uint16]string{9999: "port 9999 is in use by another program"}})
			if err != nil {
				t.Fatal(err)
			}
			compareGolden(t, base+".golden", printed(files)+explained(model))
			checkHAProxy(t, files)
		})
	}
}

// readCertificates makes a certificate for each line of a file: its name and those that it is for, and
// valid for the longer the further up it stands. A case without such a file has none.
func readCertificates(tb testing.TB, path string) (all []Certificate) {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	for i, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		words := strings.Fields(line)
		all = append(all, madeCertificate(tb, words[0], int64(i), time.Duration(100-i)*time.Hour, words[1:]...))
	}
	return all
}

func madeCertificate(tb testing.TB, name string, serial int64, valid time.Duration, names ...string) Certificate {
	tb.Helper()
	slices.Sort(names)
	return Certificate{Name: name, Names: names, NotAfter: time.Now().Add(valid), Text: certtest.Make(tb, serial, valid, names...).PEM()}
}

func readCatalog(tb testing.TB, path string) *service.Catalog {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	c, err := service.ParseFile(b)
	if err != nil {
		tb.Fatal(err)
	}
	for _, r := range c.Rejected {
		tb.Errorf("%s: %s", r.Name, r.Reason)
	}
	return c
}

// printed writes all files into one text, with a line for each block.
func printed(files Files) string {
	var b strings.Builder
	for _, f := range files {
		for _, block := range f.Blocks {
			text := block.Text
			if strings.Contains(text, "PRIVATE KEY-----") {
				text = "(a certificate)\n" // another one at each run
			}
			fmt.Fprintf(&b, "=== file %q, block %q\n%s", f.Name, block.Name, text)
		}
	}
	return b.String()
}

// explained writes what people are told about the model.
func explained(m *Model) string {
	var b strings.Builder
	b.WriteString("=== decisions\n")
	for _, s := range m.Services {
		fmt.Fprintf(&b, "%s: listen %d, %d routes; %s\n", s.Name, s.Listen, len(s.Routes), s.Why)
		for _, i := range s.Instances {
			fmt.Fprintf(&b, "  %s/%s: %v %s\n", i.Node, i.ID, i.Routed, i.Why)
		}
	}
	return b.String()
}

func compareGolden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update writes it anew):\n%s", path, diff)
	}
}

// needHAProxy skips only when the environment asks for it: a machine without HAProxy fails.
func needHAProxy(tb testing.TB) {
	tb.Helper()
	if slices.Contains(strings.FieldsFunc(os.Getenv("TEST_WITHOUT"), func(r rune) bool { return r == ',' || r == ' ' }), "haproxy") {
		tb.Skip("left out: haproxy")
	}
	if _, err := exec.LookPath("haproxy"); err != nil {
		tb.Fatalf("%v: install haproxy, or set TEST_WITHOUT=haproxy", err)
	}
}

// writeFiles puts the files into a new directory, with a state file that says nothing, and returns the
// path of the configuration.
func writeFiles(tb testing.TB, files Files) string {
	tb.Helper()
	dir := tb.TempDir()
	states := filepath.Join(dir, "server.state")
	if err := os.WriteFile(states, []byte("1\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	for _, f := range files {
		name := f.Name
		if name == "" {
			name = "haproxy.cfg"
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(f.Text(), testSettings().ServerState, states)), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return filepath.Join(dir, "haproxy.cfg")
}

// checkHAProxy wants every HAProxy to take the files without a warning, from whatever directory.
func checkHAProxy(tb testing.TB, files Files) {
	tb.Helper()
	path := writeFiles(tb, files)
	for _, bin := range haproxytest.Programs(tb) {
		out, err := exec.Command(bin, "-c", "-f", path).CombinedOutput()
		if err != nil || bytes.Contains(out, []byte("[WARNING]")) || bytes.Contains(out, []byte("[ALERT]")) {
			tb.Errorf("%s -c: %v\n%s\n%s", bin, err, out, numbered(files[0].Text()))
		}
	}
}

func numbered(text string) string {
	var b strings.Builder
	for i, line := range strings.Split(text, "\n") {
		fmt.Fprintf(&b, "%d: %s\n", i+1, line)
	}
	return b.String()
}

// mustCatalog makes a catalog of keys below "/p/v1/" and values.
func mustCatalog(tb testing.TB, items map[string]string) *service.Catalog {
	tb.Helper()
	f := service.File{Items: map[string]json.RawMessage{}}
	for k, v := range items {
		f.Items["/p/v1/"+k] = json.RawMessage(v)
	}
	return f.Catalog()
}
