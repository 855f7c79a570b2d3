package render_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// visitor is a client that keeps the cookie.
type visitor struct {
	site   *site
	cookie string // as it sends it
	given  string // all that the last answer said of it
}

// visit returns the name of the server that answers.
func (v *visitor) visit() string {
	v.site.Helper()
	req, err := http.NewRequestWithContext(v.site.Context(), http.MethodGet, "http://"+v.site.addr+"/", nil)
	if err != nil {
		v.site.Fatal(err)
	}
	req.Header.Set("Cookie", strings.Trim("a=b; "+v.cookie, "; "))
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: haproxytest.Patience}
	resp, err := client.Do(req)
	if err != nil {
		v.site.Fatal(err)
	}
	got, err := readSeen(resp)
	if err != nil {
		v.site.Fatal(err)
	}
	if got.Cookie != "a=b" {
		v.site.Errorf("%s saw the cookie %q, want the client's own alone", got.Name, got.Cookie)
	}
	if v.given = resp.Header.Get("Set-Cookie"); v.given != "" {
		v.cookie, _, _ = strings.Cut(v.given, ";")
	}
	return got.Name
}

// stays visits some times and fails the test if that is not always at the same server.
func (v *visitor) stays(at, when string) {
	v.site.Helper()
	for range 6 {
		if got := v.visit(); got != at {
			v.site.Errorf("%s: at %s, want %s", when, got, at)
		}
	}
}

// TestStickyClientsStay: with sidekick.sticky a client stays at its server over changes of others, which need
// no reload but of HAProxy 2.6 (P11), and an operator's drain; of one that stops it goes elsewhere.
func TestStickyClientsStay(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		s := newSite(t, render.ProxyCheckOff, nil)
		const rest = `"options":{"default":"true","sticky":"SRV"}`
		one, two, three := speaking{}.start(t, saw("one")), speaking{}.start(t, saw("two")), speaking{}.start(t, saw("three"))
		items := map[string]string{instanceKey(one): instance(one, rest), instanceKey(two): instance(two, rest)}
		s.put(items)
		visitors := map[string]*visitor{}
		for len(visitors) < 2 {
			v := &visitor{site: s}
			visitors[v.visit()] = v
			if !regexp.MustCompile(`^SRV=[0-9a-f]{12}; path=/; HttpOnly$`).MatchString(v.given) {
				t.Fatalf("given %q", v.given)
			}
		}
		stay := func(when string) {
			t.Helper()
			for name, v := range visitors {
				v.stays(name, when)
			}
		}
		stay("at first")
		items[instanceKey(three)] = instance(three, rest)
		switch got := s.put(items); {
		case strings.HasSuffix(t.Name(), "/2.6"):
			if got.How != haproxy.HowReload || !strings.Contains(got.Reason.String(), `the word "cookie", which this haproxy does not take at run time`) {
				t.Errorf("a server came by %s (%s), want a reload with the reason", got.How, got.Reason)
			}
		case got.How != haproxy.HowRuntime:
			t.Errorf("a server came by %s (%s), want the runtime API", got.How, got.Reason)
		}
		stay("after a server came")
		third := &visitor{site: s}
		haproxytest.Until(t, "a client of the one that came", func() bool {
			third.cookie = ""
			return third.visit() == "three"
		})
		visitors["three"] = third
		stay("with one at the server that came")

		items["overrides/web/n/"+strings.TrimPrefix(instanceKey(one), "instances/n/")] = `{"state":"drain"}`
		s.mustRuntime(items)
		stay("while one is drained")
		for range 6 {
			if got := (&visitor{site: s}).visit(); got == "one" {
				t.Error("a new client came to a server that is drained")
			}
		}
		items[instanceKey(two)] = instance(two, rest+`,"state":"draining"`)
		s.mustRuntime(items)
		moved := visitors["two"]
		if got := moved.visit(); got != "three" || moved.given == "" {
			t.Errorf("the client of one that stops: at %s, given %q, want it at three with a new cookie", got, moved.given)
		}
		moved.stays("three", "after it moved")
		delete(items, instanceKey(two))
		s.mustRuntime(items)
		visitors["one"].stays("one", "at last")
	})
}

// mustRuntime is put, for what needs no reload.
func (s *site) mustRuntime(items map[string]string) {
	s.Helper()
	if got := s.put(items); got.How != haproxy.HowRuntime {
		s.Errorf("it came by %s (%s), want the runtime API", got.How, got.Reason)
	}
}
