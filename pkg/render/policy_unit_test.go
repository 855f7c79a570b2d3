package render

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// md5Hash, and others below, are hashes of "secret".
const (
	md5Hash    = "$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1"
	sha256Hash = "$5$saltsalt$0IyaXrmV7.sGNS6tirgqHLqX/G.FBvgkYA.lpPdS5sA"
	sha512Hash = "$6$saltsalt$TVLlQcbpFVof5W3Yz4DTP6gRstiNuHwwTt6GLc1E5n0U0aDehy0S5knV8wiOQSpT0Y77vwPZN.Pq.H91p5hVO1"
	bcryptHash = "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a"
)

// TestGoldenOfPolicy is TestGolden for what --set chooses and folders hold.
func TestGoldenOfPolicy(t *testing.T) {
	for log, name := range map[string]string{"json": "policy-json", "http": "policy-http"} {
		s := testSettings()
		s.Set = map[string]string{"access-log": log, "auth-dir": "/users", "error-dir": "/pages", "trusted-proxies": "10.0.0.0/8,2001:db8::1"}
		files, model, err := builtin(t, s).Render(Input{
			Catalog: readCatalog(t, "testdata/policy.json"),
			Users: map[string]UserFile{
				"staff.users": {Users: []User{{"alice", sha512Hash}, {"bob's %[x]", bcryptHash}}}, "broken": {Why: "line 1 is wrong: mend it"},
				"unused": {Users: []User{{"carol", md5Hash}}},
			},
			Pages: map[string]string{"503.html": "<p>503</p>\n", "429.html": "<p>429</p>", "maintenance.html": "<p>away</p>\n"},
		})
		if err != nil {
			t.Fatal(err)
		}
		compareGolden(t, "testdata/"+name+".golden", printed(files)+explained(model))
		checkHAProxy(t, files)
	}
}

func TestParseUsers(t *testing.T) {
	text := "# staff\n\nalice:" + sha512Hash + "\r\n  bob smith:" + bcryptHash + "\nö%:$5$rounds=100000$saltsalt$" + strings.Repeat("a", 43) + "\nold:" + md5Hash
	got, err := ParseUsers(text)
	want := []User{{"alice", sha512Hash}, {"bob smith", bcryptHash}, {"ö%", "$5$rounds=100000$saltsalt$" + strings.Repeat("a", 43)}, {"old", md5Hash}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("error %v, -want +got:\n%s", err, diff)
	}
}

// What HAProxy would take and then let nobody in by, or spend seconds on, is refused with the mend and
// without a hash.
func TestParseUsersRefuses(t *testing.T) {
	const forms = "use htpasswd -5, htpasswd -B or mkpasswd -m sha512crypt"
	many := strings.Builder{}
	for n := range maxUsers + 1 {
		fmt.Fprintf(&many, "u%d:%s\n", n, md5Hash)
	}
	for text, want := range map[string]string{
		"":            "it has no user: add one with htpasswd -5",
		"# nobody\n":  "it has no user",
		"alice":       `line 1: user "alice" has no hash that HAProxy can check: ` + forms,
		"alice:plain": forms,
		"alice:$apr1$abcdefgh$5VEbMkemELfbhC5ck.U.z1":             forms,
		"alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=":                 forms,
		"alice:$y$j9T$abcdefghijklmnop$wRwvHNqzMkHLG74uLLCRVTwaZ": forms,
		"alice:abzlUXK5ed5rs":                                     forms,
		"alice:" + sha256Hash + ":more":                           forms,
		"alice:" + sha256Hash + "\x00":                            forms,
		"alice:" + sha256Hash[:20]:                                forms,
		"a:" + md5Hash + "\na:" + md5Hash:                         `line 2: user "a" is there twice: remove one`,
		":" + md5Hash:                                             "has no name of 1 to 255 bytes",
		"a\x01:" + md5Hash:                                        "without control characters",
		"alice:$2y$11$" + strings.Repeat("a", 53):                 "has a hash of cost 11, and HAProxy would spend that with each request: use at most 10",
		"alice:$6$rounds=100001$salt$" + strings.Repeat("a", 86):  "use at most 100000",
		"a:x\nb:y":    `line 2: user "b"`,
		many.String(): "it has more than 500 users",
	} {
		got, err := ParseUsers(text)
		if err == nil || !strings.Contains(err.Error(), want) || got != nil {
			t.Errorf("%.60q: got %v, %v, want %q", text, got, err, want)
			continue
		}
		for _, hash := range []string{md5Hash, sha256Hash, "5VEbMkemELfbhC5ck", "abzlUXK5ed5rs", "plain"} {
			if strings.Contains(err.Error(), hash) {
				t.Errorf("the error shows a hash: %v", err)
			}
		}
	}
}

// People see which users there are, and when a password is another one, never a hash.
func TestHashesAreNotShown(t *testing.T) {
	text := "userlist auth_x\n    user 'alice' password '" + sha512Hash + "'\n\tuser bob insecure-password hunter2 groups g\nbackend b\n    # password of nobody\n"
	f := File{Blocks: []Block{NewBlock("", text)}}
	got := f.Shown()
	if !f.Secret() || strings.Contains(got, sha512Hash[10:]) || strings.Contains(got, "hunter2") || !strings.Contains(got, "user 'alice' password (secret, ") || !strings.HasSuffix(got, " groups g\nbackend b\n    # password of nobody\n") {
		t.Errorf("shown as\n%s", got)
	}
	other := File{Blocks: []Block{NewBlock("", strings.Replace(text, "hunter2", "hunter3", 1))}}
	if other.Shown() == got {
		t.Error("another password is shown alike")
	}
	plain := File{Blocks: []Block{NewBlock("", "# a user and a password\nglobal\n")}}
	if plain.Secret() || plain.Shown() != plain.Text() {
		t.Error("a text without hashes is a secret")
	}
}

func TestCheckPage(t *testing.T) {
	for name, want := range map[string]string{"503.html": "503.html", "maintenance.html": "maintenance.html", "418.html": "418.html", "50.html": "", "503.htm": "", "index.html": "", "5030.html": "", "+03.html": "", "503": ""} {
		if got := PageName(name); got != want {
			t.Errorf("%s counts as %q, want %q", name, got, want)
		}
	}
	for _, test := range []struct{ name, text, want string }{
		{"503.html", "<p>é</p>\r\n\t", ""},
		{"503.html", strings.Repeat("x", maxPage), ""},
		{"503.html", strings.Repeat("x", maxPage+1), "it has more than 14336 bytes, which HAProxy has no room for: link pictures and styles instead"},
		{"503.html", " \n", "it is empty: write the page"},
		{"503.html", "\xff", "it is no plain text in UTF-8"},
		{"maintenance.html", "a\x00b", "it is no plain text in UTF-8"},
		{"418.html", "x", "HAProxy answers nothing with 418: take one of [400 "},
	} {
		if err := CheckPage(test.name, test.text); fmt.Sprint(err) != test.want && (err == nil || test.want == "" || !strings.Contains(err.Error(), test.want)) && (err != nil || test.want != "") {
			t.Errorf("%s %.20q: got %v, want %q", test.name, test.text, err, test.want)
		}
	}
}

func TestHeadersOfOptions(t *testing.T) {
	got := headers(map[string]string{
		"header.request.X-B": "1", "header.request.x-a": "", "header.request.X-b": "2", "header.response.X-C": "3", "headers": "4",
	}, "header.request.")
	if diff := cmp.Diff([]Header{{"x-a", ""}, {"X-B", "1"}}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestTrustedProxies(t *testing.T) {
	for text, want := range map[string][]string{
		"10.0.0.0/8":             {"10.0.0.0/8"},
		"10.1.2.3/8, 192.0.2.1":  {"10.0.0.0/8", "192.0.2.1/32"},
		"2001:db8::1 fd00::/8":   {"2001:db8::1/128", "fd00::/8"},
		"":                       nil,
		"10.0.0.0/33":            nil,
		"example.com":            nil,
		"10.0.0.0/8,fe80::1%lo0": nil,
		"10.0.0.0/8\n}":          nil,
	} {
		c, err := ChoicesOf(map[string]string{"trusted-proxies": text})
		if want == nil {
			if err == nil || !strings.Contains(err.Error(), "--set trusted-proxies=") || !strings.Contains(err.Error(), "write CIDR,CIDR") {
				t.Errorf("%q: got %v, want an error with the mend", text, err)
			}
			continue
		}
		var got []string
		for _, p := range c.TrustedProxies {
			got = append(got, netip.Prefix.String(p))
		}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%q: error %v, -want +got:\n%s", text, err, diff)
		}
	}
}

// A service that asks for users is closed until they are there, and again when they are not, whatever else
// changes (fail closed).
func TestUsersComeAndGo(t *testing.T) {
	b := service.NewBuilder("/p")
	b.Put("/p/v1/instances/n/1", []byte(`{"service":"a","address":"10.0.0.1","port":80,"hosts":["a.test"],"options":{"auth":"x"}}`))
	b.Put("/p/v1/instances/n/2", []byte(`{"service":"b","address":"10.0.0.1","port":81,"hosts":["b.test"]}`))
	s := testSettings()
	s.Set = map[string]string{"auth-dir": "/users"}
	r := builtin(t, s)
	alice := map[string]UserFile{"x": {Users: []User{{"alice", md5Hash}}}}
	var other *Service
	for n, step := range []struct {
		users  map[string]UserFile
		closed string
	}{
		{nil, "sidekick.auth=x: there is no such file in /users, and nobody is let in without it: put one there"},
		{alice, ""},
		{alice, ""},
		{map[string]UserFile{"x": {Why: "it is broken: mend it"}}, "sidekick.auth=x: nobody is let in while the file in /users is as it is: it is broken: mend it"},
		{alice, ""},
		{map[string]UserFile{"y": alice["x"]}, "sidekick.auth=x: there is no such file"},
	} {
		_, m, err := r.Render(Input{Catalog: b.Catalog(int64(n)), Users: step.users})
		if err != nil {
			t.Fatal(err)
		}
		a := m.Services[0]
		open := step.closed == ""
		if open != (a.Closed == "") || !strings.Contains(a.Closed, step.closed) || a.Why != a.Closed || open != (a.Auth == "auth_x") || open != (len(m.UserLists) == 1) || a.Instances[0].Routed != open {
			t.Errorf("step %d: closed %q, why %q, auth %q, %d lists, routed %v", n, a.Closed, a.Why, a.Auth, len(m.UserLists), a.Instances[0].Routed)
		}
		if other != nil && m.Services[1] != other {
			t.Errorf("step %d: another service was made again (P12)", n)
		}
		other = m.Services[1]
	}
}

// A share of a service goes to no other one that lets in whom this one keeps out.
func TestSplitDoesNotPassBySidekickAuth(t *testing.T) {
	b := service.NewBuilder("/p")
	b.Put("/p/v1/instances/n/1", []byte(`{"service":"web","address":"10.0.0.1","port":80,"hosts":["a.test"],"options":{"auth":"x","split":"canary:10"}}`))
	s := testSettings()
	s.Set = map[string]string{"auth-dir": "/users"}
	r, staff := builtin(t, s), UserFile{Users: []User{{"alice", sha512Hash}}}
	for options, refused := range map[string]bool{"": true, `,"options":{"auth":"y"}`: true, `,"options":{"auth":"x"}`: false} {
		b.Put("/p/v1/instances/n/2", []byte(`{"service":"canary","address":"10.0.0.2","port":80`+options+`}`))
		_, m, err := r.Render(Input{Catalog: b.Catalog(1), Users: map[string]UserFile{"x": staff, "y": staff}})
		if err != nil {
			t.Fatal(err)
		}
		web := m.Services[1]
		if (len(web.Split) == 0) != refused || strings.Contains(web.Why, "it would be served to whom sidekick.auth=x keeps out: give it that label too") != refused {
			t.Errorf("%s: %d slices go elsewhere; why is %q", options, len(web.Split), web.Why)
		}
	}
}

func TestWithoutEffect(t *testing.T) {
	all := "header.request.X=a ratelimit=5 sticky=S retry=post path.strip=true h2=true default=true host=a.test path=/a"
	const none = "default h2 header.request.X host path path.strip ratelimit retry sticky"
	for _, c := range []struct{ options, want string }{
		{all, none},
		{all + " tls=terminate", none},
		{all + " tls=passthrough", strings.Replace(none, "host ", "", 1)},
		{"sticky=S split=b:10", ""},    // a client's connections stay together
		{"h2=true tls=server", ""},     // is offered within TLS
		{"host=a.test tls=server", ""}, // is what the server is asked for
		{"h2=false path.strip=false default=false path=/", ""},
	} {
		spec, where := service.Spec{Options: map[string]string{}}, "mode http"
		for pair := range strings.FieldsSeq(c.options) {
			switch name, value, _ := strings.Cut(pair, "="); name {
			case "host":
				spec.Hosts = []string{value}
			case "path":
				spec.Path = value
			default:
				spec.Options[name] = value
			}
		}
		if spec.Options["tls"] == "passthrough" {
			where += " without sidekick.tls=passthrough"
		}
		var want []string
		for name := range strings.FieldsSeq(c.want) {
			place := where
			if name == "host" {
				place += " or sidekick.tls=passthrough"
			}
			want = append(want, "sidekick."+name+" is for "+place+" and has no effect: remove it")
		}
		if diff := cmp.Diff(want, withoutEffect(spec, service.TCP)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", c.options, diff)
		}
		if got := withoutEffect(spec, service.HTTP); got != nil {
			t.Errorf("%s in mode http: got %q, want nothing", c.options, got)
		}
	}
}
