package render

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// echoed is a proxy that gives texts back, in each of the ways in which a template prints them.
const echoed = `
global
    default-path config
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend fe
    bind {{quote .HTTPListen}}
{{- range $i, $text := split "\x01" .Set.texts}}
    # {{comment $text}}
    acl word{{$i}} req.fhdr(x-sent) -m str -- {{quote $text}}
    acl regex{{$i}} req.fhdr(x-sent) -m reg -- {{quote (print "^" (regex $text) "$")}}
    http-request return status 200 content-type text/plain string {{quote $text}} if { path /string/{{$i}} }
    http-request return status 200 content-type text/plain lf-string {{quotefmt $text}} if { path /lf-string/{{$i}} }
    http-request set-var(txn.text) {{quote (print "str(" (quote $text) ")")}} if { path /argument/{{$i}} }
    http-request return status 200 content-type text/plain lf-string %[var(txn.text)] if { path /argument/{{$i}} }
    http-request set-header X-Text {{quotefmt $text}} if { path /header/{{$i}} }
    http-request return status 200 content-type text/plain lf-string "%[req.fhdr(x-text)]" if { path /header/{{$i}} }
    http-request return status 200 content-type text/plain string same if { path /word/{{$i}} } word{{$i}}
    http-request return status 200 content-type text/plain string same if { path /regex/{{$i}} } regex{{$i}}
    http-request return status 200 content-type text/plain string same if { path /name/{{$i}} } { str({{name $text}}) -m str {{name $text}} }
    http-request return status 200 content-type text/plain lf-string "%[path,map_str(texts.map)]" if { path /map/{{$i}} }
{{- end}}
{{define "file texts.map"}}{{range $i, $text := split "\x01" .Set.texts}}/map/{{$i}} {{mapvalue $text}}
{{end}}{{end}}`

// What a function prints is read by HAProxy as what it was, whatever it is (F7).
func TestHAProxyReadsWhatWasQuoted(t *testing.T) {
	texts := []string{
		"'", "''", `"`, `\`, `\\`, `\'`, `'\''`, "a'b", "#", "a #b", "$", "${HOME}", "$HOME", `"${HOME}"`, "%", "%%", "%[env(HOME)]", "100% sure", "%{+Q}o",
		"a b", "a  b", ";", "a;b", ")", "(", "str(x)", ",", "a,b", "lower)", "[", "]", "{ }", "}", "||", "!", "if", "unless TRUE", "-i", "-f", "--", "@1", "é ü €", "日本語", "\U0001F600", ".*", "^a$", "[a-z]+", "a|b",
		strings.Repeat("%", 1024), strings.Repeat("'", 1024), strings.Repeat("x ", 500) + "x",
	}
	some := rapid.StringMatching(`[!-~]([ -~]{0,30}[!-~])?`)
	for seed := range 60 {
		texts = append(texts, some.Example(seed))
	}
	haproxytest.Each(t, func(t haproxytest.T) {
		s := Settings{Node: "here", HTTPListen: haproxytest.Address(t, proxyAddress), Set: map[string]string{"texts": strings.Join(texts, "\x01")}}
		r, err := New("echoed", echoed, s)
		if err != nil {
			t.Fatal(err)
		}
		files, _, err := r.Render(Input{Catalog: mustCatalog(t, nil)})
		if err != nil {
			t.Fatal(err)
		}
		startProgram(t.T, t.Bin, files, s.HTTPListen)
		c := dialHTTP(t.T, s.HTTPListen)
		for i, text := range texts {
			for _, way := range []struct{ name, want string }{
				{"string", text}, {"lf-string", text}, {"argument", text}, {"header", text}, {"map", text}, {"word", "same"}, {"regex", "same"}, {"name", "same"},
			} {
				if got := c.get(fmt.Sprintf("/%s/%d", way.name, i), text); got != way.want {
					t.Errorf("%s of %q: got %q", way.name, text, got)
				}
			}
		}
	})
}

// connection is one to a proxy, that asks one thing after the other.
type connection struct {
	*testing.T
	net.Conn
	read *bufio.Reader
}

func dialHTTP(t *testing.T, addr string) connection {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return connection{t, c, bufio.NewReader(c)}
}

// get sends a header X-Sent as well, and returns the answer's body.
func (c connection) get(target, sent string) string {
	c.Helper()
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: a.test\r\nX-Sent: %s\r\n\r\n", target, textproto.TrimString(sent))
	resp, err := http.ReadResponse(c.read, nil)
	if err != nil {
		c.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.Fatal(err)
	}
	return string(body)
}

func TestFunctions(t *testing.T) {
	tests := map[string]string{
		`{{default "x" (index .Set "none")}}`: "x",
		`{{default "x" (index .Set "a")}}`:    "1",
		`{{duration "5s" "1m30s"}}`:           "90s",
		`{{duration "5s" "250ms"}}`:           "250ms",
		`{{duration "5s" "0s"}}`:              "5s",
		`{{duration "5s" "-1s"}}`:             "5s",
		`{{duration "5s" "1000h"}}`:           "5s",
		`{{duration "5s" "x\n"}}`:             "5s",
		`{{duration "" ""}}`:                  "",
		`{{number 0 256 100 (.Set.a)}}`:       "1",
		`{{number 2 256 100 (.Set.a)}}`:       "100",
		`{{number 0 256 100 "257"}}`:          "100",
		`{{number 0 256 100 " 7"}}`:           "100",
		`{{name "shop_Web 1"}}`:               "shop-web-1-3f8946",
		`{{name "Web"}}`:                      "web",
		`{{regex "a.b"}}`:                     `a\.b`,
		`{{matches "^a+$" "aa"}}`:             "true",
		`{{matches "^a+$" "ab"}}`:             "false",
		`{{quote 7}}`:                         "'7'",
		`{{quotefmt "5% of 'it'"}}`:           `'5%% of '\''it'\'''`,
		`{{join "+" (split "," "a,b")}}`:      "a+b",
		`{{mapkey "a/b"}}`:                    "a/b",
		`{{settings.Set.a}}`:                  "1",
	}
	s := testSettings()
	s.Set = map[string]string{"a": "1"}
	for text, want := range tests {
		r, err := New("t", text, s)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		files, _, err := r.Render(Input{Catalog: mustCatalog(t, nil)})
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want+"\n", files[0].Text()); want != "" && diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}
