package confd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// printed is what a template makes of keys, or the error.
func printed(t *testing.T, text string, keys map[string]string, more ...string) (string, error) {
	t.Helper()
	s := &Server{Dir: "/confd", Environ: []string{"HOSTNAME=localhost", "EMPTY="}}
	d := &definition{resource: &Resource{Name: "conf.d/t.toml", Src: "t.tmpl", Prefix: "/"}, files: map[string]content{}}
	for i, text := range append([]string{"t.tmpl", text}, more...) {
		if i%2 == 1 {
			d.files["/confd/templates/"+append([]string{"t.tmpl", ""}, more...)[i-1]] = content{text: text}
		}
	}
	out, _, err := s.render(t.Context(), d, keys, newLookups())
	return string(out), err
}

// what the templates of these tests are made of.
func sampleKeys() map[string]string {
	return map[string]string{
		"/key": "foobar", "/count": "3", "/empty": "", "/enc": "VmFsdWU=", "/flag": "true",
		"/test/user": "mary", "/test/pass": "abc", "/test/deep/er": "x",
		"/srv/web/b": `{"Id":"b","IP":"10.0.0.2"}`, "/srv/web/a": `{"Id":"a","IP":"10.0.0.1"}`, "/srv/db/a": `{"Id":"db"}`,
		"/list": `["x", 2, true]`, "/zoo": `{"animals":[{"type":"dog","name":"Fido"},{"type":"cat","name":"Misse"}]}`,
		"/addr": "10.0.0.9:8080",
	}
}

// TestFunctions: each function that confd documents, as its documents use it, and at its edges. A want
// that begins with "error:" is part of an error's text.
func TestFunctions(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "there"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	host, _ := os.Hostname()
	tests := []struct{ text, want string }{
		{`{{with get "/key"}}{{.Key}} {{base .Key}} {{.Value}}{{end}}`, "/key key foobar"},
		{`{{get "/no"}}`, "error:t.tmpl:1:2: executing \"t.tmpl\" at <get \"/no\">: error calling get: key does not exist: /no"},
		{`{{exists "/key"}} {{exists "/no"}} {{exists "/test"}} {{exists "/empty"}}`, "true false false true"},
		{`{{range gets "/test/*"}}{{.Key}}={{.Value}} {{end}}`, "/test/pass=abc /test/user=mary "},
		{`{{range gets "/no/*"}}x{{end}}none`, "none"},
		{`{{range gets "/*/user"}}{{.Value}}{{end}}`, "mary"},
		{`{{gets "[]a]"}}`, "error:syntax error in pattern"},
		{`{{getv "/key"}} {{getv "/no" "default"}} {{getv "/no" ""}}`, "foobar default "},
		{`{{getv "/no"}}`, "error:key does not exist: /no"},
		{`{{getv "/key/"}} {{exists "/key/"}} {{(get "/key/").Key}} {{getv "/no/" "d"}} {{exists "/"}}`, "foobar true /key d false"},
		{`{{getv "/test/"}}`, "error:key does not exist: /test"},
		{`{{range gets "/srv/*"}}never{{end}}{{range gets "/test/"}}never{{end}}{{range gets "test/*"}}never{{end}}`, ""},
		{`{{range $k := gets "/test/*"}}{{range gets $k.Key}}{{.Value}} {{end}}{{end}}`, "abc mary "},
		{`{{range getvs "/test/*"}}{{.}} {{end}}`, "abc mary "}, // sorted as values
		{`{{getvs "/no/*"}}`, "[]"},
		{`{{ls "/test"}} {{ls "/srv"}} {{ls "/no"}} {{ls "/key"}} {{ls "/tes"}}`, "[deep pass user] [db web] [] [key] []"},
		{`{{lsdir "/test"}} {{lsdir "/srv"}} {{lsdir "/no"}} {{lsdir "/"}}`, "[deep] [db web] [] []"},
		{`{{dir "/services/data/url"}} {{base "/a/b"}} {{base "/"}}`, "/services/data b /"},
		{`{{join (getvs "/test/*") ","}} {{split (getv "/addr") ":"}} {{index (split (getv "/addr") ":") 1}}`, "abc,mary [10.0.0.9 8080] 8080"},
		{`{{replace "a-b-c" "-" "_" -1}} {{replace "a-b-c" "-" "_" 1}}`, "a_b_c a_b-c"},
		{`{{contains (getv "/key") "bar"}} {{contains "a" "b"}} {{trimSuffix "a.txt" ".txt"}} {{"x" | toUpper}} {{toLower "ABC"}}`, "true false a X abc"},
		{`{{$d := json (getv "/srv/web/a")}}{{$d.Id}} {{$d.IP}} {{$d.No}}`, "a 10.0.0.1 <no value>"},
		{`{{$d := json (getv "/zoo")}}{{(index $d.animals 1).name}}{{range $d.animals}} {{.type}}{{end}}`, "Misse dog cat"},
		{`{{json (getv "/key")}}`, "error:error calling json: invalid character"},
		{`{{range jsonArray (getv "/list")}}{{.}} {{end}}`, "x 2 true "},
		{`{{jsonArray "{}"}}`, "error:cannot unmarshal"},
		{`{{range $d := lsdir "/srv"}}{{base $d}}:{{range gets (printf "/srv/%s/*" $d)}}{{$v := json .Value}} {{$v.Id}}{{end}}; {{end}}`, "db: db; web: a b; "},
		{`{{$m := map "name" "es" "port" 9200}}{{index $m "name"}}:{{$m.port}}`, "es:9200"},
		{`{{map "a"}}`, "error:want keys and values in turn"},
		{`{{map 1 2}}`, "error:keys are strings"},
		{`{{getenv "HOSTNAME"}} {{getenv "NO"}}|{{getenv "NO" "x"}}|{{getenv "EMPTY" "y"}}|{{getenv "HOSTNAME" "z"}}`, "localhost |x|y|localhost"},
		{`{{base64Encode "Value"}} {{base64Decode (getv "/enc")}}`, "VmFsdWU= Value"},
		{`{{base64Decode "%"}}`, "error:illegal base64"},
		{`{{if parseBool (getv "/flag")}}yes{{end}} {{parseBool "0"}}`, "yes false"},
		{`{{parseBool "maybe"}}`, "error:invalid syntax"},
		{`{{seq 1 3}} {{seq 1 (atoi (getv "/count"))}} {{seq 3 1}} {{seq 2 2}} {{range seq 0 1}}w{{.}} {{end}}`, "[1 2 3] [1 2 3] [] [2] w0 w1 "},
		{`{{seq 1 99999999999}}`, "error:more than"},
		{`{{seq -9223372036854775808 9223372036854775807}}`, "error:more than"},
		{`{{atoi "x"}}`, "error:invalid syntax"},
		{`{{add 5 3}} {{sub 10 4}} {{mul 6 7}} {{div 20 6}} {{mod 17 5}}`, "8 6 42 3 2"},
		{`{{div 1 0}}`, "error:division by zero"},
		{`{{mod 1 0}}`, "error:division by zero"},
		{`{{reverse (split "a:b:c" ":")}} {{range reverse (gets "/test/*")}}{{.Key}} {{end}}{{reverse 5}}`, "[c b a] /test/user /test/pass 5"},
		{`{{$l := split "a:b" ":"}}{{$r := reverse $l}}{{$l}} {{$r}}`, "[a b] [b a]"},
		{`{{sortByLength (split "ccc:a:bb:b" ":")}}`, "[a b bb ccc]"},
		{`{{range sortKVByLength (gets "/*")}}{{.Key}} {{end}}`, "/enc /key /zoo /addr /flag /list /count /empty "},
		{`{{fileExists "` + dir + `/there"}} {{fileExists "` + dir + `/no"}}`, "true false"},
		{`{{hostname}}`, host},
		{`{{datetime.Format "2006"}} {{(datetime).Year}}`, time.Now().Format("2006 2006")},
		{`{{cget "/key"}}`, "error:secret_keyring"},
		{`{{cgetv "/no"}}`, "error:key does not exist"},
		{`{{nofunc}}`, "error:function \"nofunc\" not defined"},
		{"line one\n{{if}}", "error:conf.d/t.toml: template: t.tmpl:2: missing value for if"},
		{`{{.}}`, "<no value>"},

		// What the continued confd has as well.
		{`{{default "d" (getv "/empty")}} {{default "d" "v"}} {{default 7 0}} {{default "d" (list)}} {{default "d" false}}`, "d v 7 d d"},
		{`{{ternary "a" "b" true}} {{parseBool "f" | ternary "a" "b"}} {{coalesce "" 0 "x" "y"}} {{coalesce "" nil}}`, "a b x <no value>"},
		{`{{empty ""}} {{empty "a"}} {{empty (dict)}} {{empty 1.5}}`, "true false true false"},
		{`{{toJson (dict "b" 1 "a" "x<")}} {{(fromJson "[1,2]")}} {{index (fromJson "{\"a\":\"b\"}") "a"}}`, `{"a":"x\u003c","b":1} [1 2] b`},
		{`{{toPrettyJson (list 1)}}`, "[\n  1\n]"},
		{`{{fromJson "{"}}`, "error:unexpected end"},
		{"{{indent 2 \"a\\nb\"}}|{{nindent 1 \"c\"}}|{{indent 2 \"\"}}", "  a\n  b|\n c|"},
		{`{{indent 99999999 "a"}}`, "error:blanks"},
		{`{{indent -1 "a"}}`, "error:blanks"},
		{`{{quote "a\"b"}} {{squote "x"}}`, `"a\"b" 'x'`},
		{`{{regexMatch "^fo+" (getv "/key")}} {{regexFind "[0-9]+\\.[0-9]+" "v1.25-x"}} {{regexReplaceAll "[^a-z]" "a1b2" "_"}}`, "true 1.25 a_b_"},
		{`{{regexFind "(" "x"}}`, "error:missing closing"},
		{`{{trimPrefix "svc-web" "svc-"}} {{repeat 3 "ab"}} {{nospace " a b\tc "}}`, "web ababab abc"},
		{`{{repeat 9999999 "abcdefgh"}}`, "error:repeat"},
		{`{{repeat -1 "a"}}`, "error:repeat"},
		{`{{snakecase "settingName"}} {{snakecase "HTTPServer"}} {{kebabcase "ServiceName two"}} {{camelcase "app_setting-name"}} {{camelcase ""}}`, "setting_name http_server service-name-two appSettingName "},
		{`{{$l := list "a" "b"}}{{$m := append $l "c"}}{{$l}} {{$m}} {{hasKey (dict "a" 1) "a"}} {{keys (dict "b" 1 "a" 2)}} {{values (dict "b" 1 "a" 2)}}`, "[a b] [a b c] true [a b] [2 1]"},
		{`{{pluck "p" (dict "p" 80) (dict "q" 1) (dict "p" 81)}}`, "[80 81]"},
		{`{{sha256sum "abc"}}`, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
		{`{{getv "/key" | toUpper}} {{"/a/b" | base}} {{"/a/b" | dir}} {{base64Encode "a" | base64Decode}} {{ getv "/key" | printf "%s!" }}`, "FOOBAR b /a a foobar!"},
		{`{{- /* made by hand */ -}}{{define "row"}}<{{.}}>{{end}}{{range $i, $v := getvs "/test/*"}}{{if $i}},{{end}}{{template "row" $v}}{{end}}`, "<abc>,<mary>"},
		{`{{range $i, $n := seq 1 5}}{{if eq (mod $i 2) 0}}{{$n}}{{end}}{{end}} {{mul (add (atoi "5") (atoi "10")) 2}} {{div -7 2}} {{mod -7 2}}`, "135 30 -3 -1"},
		{`{{$u := split "a,b,c" ","}}{{len $u}} {{index $u 2}} {{toUpper (join $u "-")}} {{split "" ","}} {{split "abc" ""}}`, "3 c A-B-C [] [a b c]"},
		{`{{index $.x 0}}`, "error:t.tmpl:1:"},
		{`{{index (split "a" ":") 1}}`, "error:index out of range"},
		{`{{lookupIfaceIPV4 "lo"}} {{lookupIfaceIPV4 "nolink"}}|`, "127.0.0.1 |"},
	}
	for _, tt := range tests {
		got, err := printed(t, tt.text, sampleKeys())
		if err != nil {
			got = "error:" + err.Error()
		}
		part, wantsError := strings.CutPrefix(tt.want, "error:")
		if ok := got == tt.want || wantsError && err != nil && strings.Contains(err.Error(), part); !ok {
			t.Errorf("%s\n got %q\nwant %q", tt.text, got, tt.want)
		}
	}
}

// Whatever the registry holds, a text has an end: values that multiply are errors, not the end of the agent (P7).
func TestTextsHaveAnEnd(t *testing.T) {
	keys := map[string]string{"/many": strings.Repeat("a", 1<<16), "/long": strings.Repeat("b", 1<<20), "/some": "aaa"}
	for _, text := range []string{
		`{{replace (getv "/many") "a" (getv "/long") -1}}`, `{{replace (getv "/many") "" (getv "/long") 1000}}`,
		`{{join (split (getv "/many") "a") (getv "/long")}}`,
		`{{regexReplaceAll "a" (getv "/many") (getv "/long")}}`, `{{regexReplaceAll "a+" (getv "/many") (join (split (getv "/many") "") "$0")}}`,
		`{{range seq 1 1000}}{{getv "/long"}}{{end}}`,
	} {
		if got, err := printed(t, text, keys); err == nil || !strings.Contains(err.Error(), "at most") {
			t.Errorf("%s: got %d bytes, %v; want an error with the limit", text, len(got), err)
		}
	}
	got, err := printed(t, `{{replace (getv "/some") "a" (getv "/long") 2 | len}} {{replace "aab" "a" "" 1}} {{replace "aab" "a" "xy" -1}} {{regexReplaceAll "(a)(b)" "xabx" "$2$1"}} {{len (getv "/many")}}`, keys)
	if want := "2097153 ab xyxyb xbax 65536"; err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

// FuzzTemplate: no template ends the agent, whatever the keys hold; it gives a text or an error (P7).
func FuzzTemplate(f *testing.F) {
	for _, text := range []string{
		`{{getv "/key"}}`, `{{range gets "/*"}}{{.Key}}{{json .Value}}{{end}}`, `{{index (split (getv "/key") ":") 9}}`, `{{include "t.tmpl"}}`, `{{include "/etc/passwd" 1 2}}`,
		`{{seq -9223372036854775808 9223372036854775807}}`, `{{div -9223372036854775808 -1}}{{mod -9223372036854775808 -1}}`, `{{repeat 9223372036854775807 "ab"}}`, `{{indent 9223372036854775807 "a\nb"}}`,
		`{{map}}{{map 1}}{{dict "a" nil}}{{pluck "a" nil}}{{values nil}}{{keys (fromJson "{}")}}{{append nil nil}}{{append (list 1) 2}}`, `{{reverse nil}}{{reverse (gets "/*")}}{{sortByLength nil}}{{sortKVByLength (gets "/*")}}`,
		`{{empty nil}}{{empty .}}{{coalesce}}{{default nil nil}}{{ternary 1 2 (parseBool "x")}}`, `{{regexMatch "(" ""}}{{regexReplaceAll "" "aé" "$1"}}`, `{{base64Decode (getv "/key")}}{{cgetv "/key"}}`,
		`{{gets "["}}{{ls ""}}{{lsdir "//"}}{{ls (getv "/key")}}{{get ""}}{{getv "/"}}`, `{{camelcase (getv "/key")}}{{snakecase "É_-a"}}{{kebabcase "\xff"}}`, `{{datetime.Format (getv "/key")}}{{.x.y}}{{range 3}}{{end}}`,
		`{{with $x := get "/key"}}{{$x.Value.No}}{{end}}{{call .}}{{printf "%1000000d%s" 1}}{{slice "a" 5}}`, "{{/*", `{{`, "\x00{{hostname}}",
	} {
		f.Add(text, "value")
	}
	f.Fuzz(func(t *testing.T, text, value string) {
		if strings.Contains(text, "lookup") || strings.Contains(text, "seq") && strings.Contains(text, "range") {
			return // one asks name servers, the other may take a while
		}
		_, _ = printed(t, text, map[string]string{"/key": value, "/" + value: text, "/a/b": "", "/a": value})
	})
}

// localhost is in every host's own file, so these need no name server.
func TestLookupsOfTheHostItself(t *testing.T) {
	got, err := printed(t, `{{lookupIPV4 "localhost"}} {{lookupIP "127.0.0.1"}} {{lookupIPV6 "::1"}} {{lookupIPV4 "::1"}}`, nil)
	if want := "[127.0.0.1] [127.0.0.1] [::1] []"; err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

// Services come in confd's order, which compares numbers as texts.
func TestOrderOfServices(t *testing.T) {
	list := []*net.SRV{{Target: "b.", Port: 80}, {Target: "a.", Port: 80, Priority: 2}, {Target: "a.", Port: 443}, {Target: "a.", Port: 80, Priority: 10}}
	slices.SortFunc(list, compareServices)
	var got []string
	for _, s := range list {
		got = append(got, fmt.Sprintf("%s:%d/%d", s.Target, s.Port, s.Priority))
	}
	if want := "a.:443/0 a.:80/10 a.:80/2 b.:80/0"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// A name server that fails takes nothing away that it gave before; a name that is gone does.
func TestLookupsOutliveAFailure(t *testing.T) {
	l := newLookups()
	reply, failure := []string{"10.0.0.2", "10.0.0.1"}, error(nil)
	ask := func() []string {
		return answer(t.Context(), l, "q", func(context.Context) ([]string, error) { return reply, failure })
	}
	first := ask()
	reply, failure = nil, &net.DNSError{Err: "server misbehaving", IsTemporary: true}
	if got := ask(); !cmp.Equal(got, first) {
		t.Errorf("during a failure: got %v, want what was known, %v", got, first)
	}
	failure = &net.DNSError{Err: "no such host", IsNotFound: true}
	if got := ask(); len(got) != 0 {
		t.Errorf("a name that is gone: got %v, want nothing", got)
	}
	failure = errors.New("timeout")
	if got := ask(); len(got) != 0 {
		t.Errorf("a failure after that: got %v, want nothing", got)
	}
}

// TestInclude: templates can be made of others, which lie in the same directory and do not turn in a ring.
func TestInclude(t *testing.T) {
	tests := map[string]struct {
		text string
		more []string
		want string
	}{
		"one":       {`a {{include "b.tmpl"}}`, []string{"b.tmpl", `b {{getv "/key"}}`}, "a b foobar"},
		"with data": {`{{include "sub/c.tmpl" (map "p" 80)}}`, []string{"sub/c.tmpl", `port {{.p}}`}, "port 80"},
		"twice":     {`{{include "b.tmpl"}}{{include "b.tmpl"}}`, []string{"b.tmpl", "b"}, "bb"},
		"a ring":    {`{{include "b.tmpl"}}`, []string{"b.tmpl", `{{include "c.tmpl"}}`, "c.tmpl", `{{include "b.tmpl"}}`}, "error:b.tmpl includes itself: b.tmpl > c.tmpl > b.tmpl"},
		"outside":   {`{{include "../conf.d/x"}}`, nil, "error:outside the directory of templates"},
		"missing":   {`{{include "no.tmpl"}}`, nil, "error:/confd/templates/no.tmpl: there is no such template"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := printed(t, tt.text, sampleKeys(), tt.more...)
			if part, ok := strings.CutPrefix(tt.want, "error:"); ok {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("got %q, %v; want an error with %q", got, err, part)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

// The documents of this repository name every function there is.
func TestEveryFunctionIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/confd.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, word := range regexp.MustCompile("`([a-zA-Z0-9]+)[` ]").FindAllStringSubmatch(string(text), -1) {
		documented[word[1]] = true
	}
	store := (&Resource{}).store(nil)
	all := (&Server{}).functions(t.Context(), store, "", newLookups())
	all["include"] = nil
	for name := range all {
		if !documented[name] {
			t.Errorf("docs/confd.md does not name the function %s", name)
		}
	}
}
