package haproxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
)

// TestWordsAtRunTime: every word of a server line that the planner takes for one that can be added at
// run time is one, on each HAProxy (P11).
func TestWordsAtRunTime(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managed(t, t.Bin)
		one := haproxytest.Server(t, "one")
		text := func(servers ...string) string { return b.withOptions("    option httpchk\n", "", servers...) }
		b.apply(t, text("s1 "+one))
		servers := []string{"s1 " + one}
		for i, words := range []string{
			"check inter 1s fastinter 1s downinter 1s fall 2 rise 2 port 9 addr 127.0.0.1", "backup", "disabled", "weight 7",
			"ssl verify none sni str(x) alpn h2 no-ssl-reuse force-tlsv12", "ssl verify none check check-ssl check-sni x",
			"send-proxy", "send-proxy-v2 proxy-v2-options unique-id", "check check-send-proxy", "check check-proto h1", "proto h2", "tfo", "ws h1",
			"maxconn 7 minconn 3 maxqueue 9", "slowstart 10s", "id 4711", "check observe layer4 error-limit 10 on-error mark-down",
			"check on-marked-down shutdown-sessions on-marked-up shutdown-backup-sessions",
			"pool-max-conn 7 pool-low-conn 2 pool-purge-delay 3s", "ssl ca-file @system-ca verify required verifyhost x",
		} {
			servers = append(servers, fmt.Sprintf("w%d %s %s", i, one, words))
		}
		if res := b.apply(t, text(servers...)); res.How != HowRuntime {
			t.Errorf("got %+v, want runtime commands alone", res)
		}
		b.inStep(t, text(servers...))
	})
}

// TestCookies: whether servers with cookies can be added at run time is asked of HAProxy itself, once
// there are any; where they cannot be, that is the reason of the reload from then on (P11).
func TestCookies(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managed(t, t.Bin)
		one := haproxytest.Server(t, "one")
		text := func(servers ...string) string { return b.withOptions("    cookie X insert\n", "", servers...) }
		b.apply(t, text("s1 "+one+" cookie a"))
		if err := b.driver.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		takes, known := b.driver.can.Cookie, b.driver.learned.known
		b.driver.release()
		if old := strings.HasSuffix(t.Name(), "/2.6"); takes == old || !known {
			t.Errorf("takes cookies at run time: %v, known %v", takes, known)
		}
		for _, servers := range [][]string{{"s1 " + one + " cookie a", "s2 " + one + " cookie b"}, {"s2 " + one + " cookie b", "s3 " + one + " cookie c"}} {
			res := b.apply(t, text(servers...))
			if takes && res.How != HowRuntime || !takes && (res.How != HowReload || !strings.Contains(res.Reason.Detail, `"cookie"`)) {
				t.Errorf("%v: got %+v", servers, res)
			}
			b.inStep(t, text(servers...))
		}
	})
}

// TestAddedServerReusesConnections: a server that was added at run time is asked over kept connections,
// like one of the text.
func TestAddedServerReusesConnections(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		b := managed(t, t.Bin)
		var opened atomic.Int32
		web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "kept") }))
		web.Config.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				opened.Add(1)
			}
		}
		web.Start()
		t.Cleanup(web.Close)
		text := func(server string) string { return b.withOptions("    http-reuse always\n", "", server) }
		b.apply(t, text("s1 "+haproxytest.Server(t, "one")))
		if res := b.apply(t, text("s2 "+web.Listener.Addr().String())); res.How != HowRuntime {
			t.Fatalf("got %+v, want runtime commands", res)
		}
		const requests = 20
		for range requests {
			if got, err := haproxytest.Get(b.addr); got != "kept" {
				t.Fatalf("got %q, %v, want kept", got, err)
			}
		}
		if n := opened.Load(); n > requests/2 {
			t.Errorf("%d connections for %d requests, want them to be used again", n, requests)
		}
	})
}
