package ask

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// waits runs a Wait for a minute at most, and returns what it came to, also as words.
func waits(t *testing.T, m *memory, asks ...service.Ask) (words string, progress []string, err error) {
	t.Helper()
	asker := &Asker{Registry: m, Watcher: m, Prefix: prefix, Progress: func(r Report) { progress = append(progress, said(r)) }}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := asker.Wait(ctx, asks...)
	synctest.Wait()
	if m.leases != 0 {
		t.Errorf("%d leases are held after the wait", m.leases)
	}
	return said(r), progress, err
}

func said(r Report) string {
	return fmt.Sprintf("%d asked, silent %v, gone %v, sessions %v", r.Nodes, r.Silent, r.Gone, r.Sessions)
}

// TestWaitsForEveryAgent: who has a node's key is waited for until it has answered; who does not answer is
// named when the time is up, and so is who leaves meanwhile. P1.
func TestWaitsForEveryAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		m.node("a")
		m.node("b")
		a := start(t, m, "a")
		ask := service.Ask{ID: "q", Want: service.WantApplied, Revision: 2}
		words, _, err := waits(t, m, ask)
		if want := "2 asked, silent [a b], gone [], sessions map[]"; words != want || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("nobody answers: got %s, %v, want %s", words, err, want)
		}
		a.InForce(99)
		if words, _, err = waits(t, m, ask); words != "2 asked, silent [b], gone [], sessions map[]" || err == nil {
			t.Errorf("one answers: got %s, %v", words, err)
		}
		time.AfterFunc(30*time.Second, func() { m.put(service.NodeKey(prefix, "b"), "") })
		words, progress, err := waits(t, m, ask)
		if words != "1 asked, silent [], gone [b], sessions map[]" || err != nil {
			t.Errorf("one leaves: got %s, %v after %v", words, err, progress)
		}
		if words, _, err = waits(t, m, ask); words != "1 asked, silent [], gone [], sessions map[]" || err != nil {
			t.Errorf("only one is there: got %s, %v", words, err)
		}
		a.stop()
	})
}

// TestWaitsForTheLastSession: progress is told, and what is left when the time is up.
func TestWaitsForTheLastSession(t *testing.T) {
	played(t, func(t *testing.T, m *memory, a *agent) {
		t.Helper()
		a.proxy.set(2, nil)
		asks := []service.Ask{
			{ID: "q", Want: service.WantEnded, Key: "/p/v1/instances/a/1", Revision: 2},
			{ID: "r", Want: service.WantEnded, Key: "/p/v1/overrides/web", Revision: 2},
		}
		words, _, err := waits(t, m, asks...)
		if words != "1 asked, silent [], gone [], sessions map[a:4]" || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("sessions go on: got %s, %v", words, err)
		}
		time.AfterFunc(30*time.Second, func() { a.proxy.set(0, nil) })
		words, progress, err := waits(t, m, asks...)
		if words != "1 asked, silent [], gone [], sessions map[]" || err != nil || !strings.Contains(strings.Join(progress, "\n"), "map[a:4]") {
			t.Errorf("sessions end: got %s, %v after %v", words, err, progress)
		}
	})
}

// TestUndrainAsksOneNode: the others are not waited for, and one that is not there is no answer.
func TestUndrainAsksOneNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		m.node("b")
		m.instance("a", "1", service.Ready)
		ask := service.Ask{ID: "q", Want: service.WantUndrained, Key: "/p/v1/instances/a/1", Revision: 2}
		if words, _, err := waits(t, m, ask); words != "0 asked, silent [], gone [], sessions map[]" || err != nil {
			t.Errorf("without its agent: got %s, %v", words, err)
		}
		m.node("a")
		a := start(t, m, "a")
		a.InForce(99)
		if words, _, err := waits(t, m, ask); words != "1 asked, silent [], gone [], sessions map[]" || err != nil {
			t.Errorf("got %s, %v", words, err)
		}
		a.stop()
	})
}

// TestCannotAsk: a registry that takes no ask is said at once.
func TestCannotAsk(t *testing.T) {
	m := newMemory(t)
	m.fail(true)
	if _, err := (&Asker{Registry: m, Watcher: m, Prefix: prefix}).Wait(t.Context(), service.Ask{ID: "q"}); err == nil {
		t.Error("got no error")
	}
}

// Whose ask has gone from the registry, as with a lease that ran out, does not wait for answers that cannot come.
func TestAskThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		m.node("a") // whose agent does not answer
		asker := &Asker{Registry: m, Watcher: m, Prefix: prefix}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		go func() { time.Sleep(time.Minute); m.put(service.AsksKey(prefix)+"q", "") }()
		_, err := asker.Wait(ctx, service.Ask{ID: "q", Want: service.WantApplied})
		if !errors.Is(err, errGone) {
			t.Errorf("got %v", err)
		}
		if time.Since(began) > 2*time.Minute {
			t.Errorf("waited %s", time.Since(began))
		}
	})
}
