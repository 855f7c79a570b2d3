package haproxy
import ("testing";"github.com/sidekick-proxy/sidekick/internal/haproxytest";"os";"github.com/sirupsen/logrus";"time";"fmt")
func dbg(b *bench){ l:=logrus.New(); l.SetLevel(logrus.DebugLevel); l.SetOutput(os.Stderr); b.driver.cfg.Log=l; if b.driver.child!=nil {b.driver.child.cfg.Log=l} }
func TestDbg(t *testing.T){ t0:=time.Now(); t.Cleanup(func(){fmt.Println("end",time.Since(t0))}); testRemoved(t, func(s string){fmt.Println(s,time.Since(t0))}) }
func testRemoved(t *testing.T, p func(string)) {
	b := managed(t)
	dbg(b)
	one := haproxytest.Server(t, "one")
	slow, release := slowServer(t)
	p("l")
	b.apply(t, b.text("", "s1 "+slow))
	got := make(chan string, 1)
	go func() {
		body, err := haproxytest.Get(b.addr)
		got <- fmt.Sprint(body, err)
	}()
	p("l")
	<-release.started
	p("l")
	if res := b.apply(t, b.text("", "s2 "+one)); res.How != HowRuntime {
		t.Fatalf("got %+v, want runtime", res)
	}
	if n := b.driver.State().Deleting; n != 1 {
		t.Errorf("waiting for deletion: %d, want 1", n)
	}
	if body, err := haproxytest.Get(b.addr); body != "one" {
		t.Errorf("got %q, %v, want one", body, err)
	}
	for _, servers := range [][]string{{"s2 " + one, "s1 " + slow + " weight 7"}, {"s2 " + one}} {
		if res := b.apply(t, b.text("", servers...)); res.How != HowRuntime {
			t.Fatalf("%v: got %+v, want runtime", servers, res)
		}
	}
	p("l")
	close(release.end)
	if body := <-got; body != "slow<nil>" {
		t.Errorf("the stream got %q, want slow", body)
	}
	p("l")
	b.inStep(t, b.text("", "s2 "+one))
}
