package render

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/certtest"
	"github.com/sidekick-proxy/sidekick/templates"
)

func trustSettings() Settings {
	s := testSettings()
	s.Set = map[string]string{"server-ca": "/tls/ca.pem", "server-cert": "own.pem"}
	return s
}

// TestGoldenOfServers is TestGolden for what --set says of servers.
func TestGoldenOfServers(t *testing.T) {
	own := certtest.Make(t, 1, time.Hour, "proxy")
	files, model, err := builtin(t, trustSettings()).Render(Input{
		Catalog: readCatalog(t, "testdata/upstreams.json"), ServerCA: ServerFile{Text: own.Cert}, ServerCert: ServerFile{Text: own.PEM()},
	})
	if err != nil {
		t.Fatal(err)
	}
	checkHAProxy(t, files)
	for i, f := range files {
		if f.Name == serverCAFile {
			files[i] = fileOf(f.Name, "(certificates)\n") // other ones at each run
		}
	}
	compareGolden(t, "testdata/upstreams-verified.golden", printed(files)+explained(model))
}

// While there is nothing of a file about servers, a service that needs it is closed, and no template gets to know
// of its servers; all else is as it would be. Once it is there, what it needs is rendered, and nothing else (P7).
func TestServersWithoutTrust(t *testing.T) {
	catalog := mustCatalog(t, map[string]string{
		"instances/n/a": `{"service":"tls","address":"10.0.0.1","port":80,"hosts":["a.test"],"options":{"tls":"server","sticky":"at"}}`,
		"instances/n/b": `{"service":"plain","address":"10.0.0.2","port":80,"hosts":["b.test"]}`,
	})
	r := builtin(t, trustSettings())
	in := Input{Catalog: catalog, ServerCA: ServerFile{Why: "/tls/ca.pem: it is broken"}, ServerCert: ServerFile{Text: "own\n"}}
	files, before, err := r.Render(in)
	if err != nil {
		t.Fatal(err)
	}
	const why = "sidekick.tls=server: its instances get nothing until this is mended: --set server-ca: /tls/ca.pem: it is broken"
	plain, closed := before.Services[0], before.Services[1]
	if closed.Closed != why || closed.Why != why || len(closed.Servers) > 0 || closed.Upstream != (Upstream{}) || closed.Instances[0].Routed || closed.Instances[0].Why != why {
		t.Errorf("got %+v, want it closed and without servers", closed)
	}
	if plain.Why != "" || len(plain.Servers) != 1 {
		t.Errorf("got %+v, want it as it is", plain)
	}
	names := func(files Files) (names []string) {
		for _, f := range files {
			if strings.HasPrefix(f.Name, "server-") {
				names = append(names, f.Name)
			}
		}
		return names
	}
	if got, want := names(files), []string{serverCertFile}; !slices.Equal(got, want) {
		t.Errorf("got files %q, want %q", got, want)
	}
	in.ServerCA = ServerFile{Text: "ca\n"}
	files, after, err := r.Render(in)
	if err != nil {
		t.Fatal(err)
	}
	if s := after.Services[1]; s.Closed != "" || len(s.Servers) != 1 || s.Upstream.CAFile != serverCAFile || s.Upstream.CertFile != serverCertFile {
		t.Errorf("got %+v, want it served", s)
	}
	if after.Services[0] != plain {
		t.Error("the other service was made anew")
	}
	if got, want := names(files), []string{serverCAFile, serverCertFile}; !slices.Equal(got, want) {
		t.Errorf("got files %q, want %q", got, want)
	}
	in.ServerCA.Text = "another\n"
	if _, renewed, err := r.Render(in); err != nil || renewed.Services[1] != after.Services[1] {
		t.Errorf("other certificates changed the service, %v", err)
	}
	in.ServerCert = ServerFile{}
	if _, read, err := r.Render(in); err != nil || !strings.HasSuffix(read.Services[1].Why, "--set server-cert: own.pem: it is not read yet") || read.ServerCertFile != "" {
		t.Errorf("without a certificate: got %+v, %v", read.Services[1], err)
	}
}

// No template may take the names of the files that hold what is about servers.
func TestFilesAboutServersAreKept(t *testing.T) {
	for _, name := range []string{serverCAFile, serverCertFile} {
		if _, err := New("x", templates.HAProxy+`{{define "file `+name+`"}}{{end}}`, testSettings()); err == nil || !strings.Contains(err.Error(), "kept for certificates") {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
}
