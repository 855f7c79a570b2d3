package ask

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// wants compares what was written since the last look, with the keys' common beginning left out.
func (m *memory) wants(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	var got []string
	for _, w := range m.wrote() {
		got = append(got, strings.ReplaceAll(w, prefix+"/v1/", ""))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
}

func answered(revision int64, sessions int) string {
	return fmt.Sprintf(`put answers/a/q {"revision":%d,"applied":true,"sessions":%d}`, revision, sessions)
}

// TestAnswersWhenInForce: an agent answers when its proxy runs what the registry held at the ask's revision,
// and not before; the answer goes with the ask. P10: without an ask nothing is written.
func TestAnswersWhenInForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		m.node("a")
		a := start(t, m, "a")
		at := m.put(prefix+"/v1/overrides/web", `{"state":"maint"}`)
		a.InForce(1)
		time.Sleep(time.Hour)
		m.wants(t)
		m.put(service.AsksKey(prefix)+"q", fmt.Sprintf(`{"want":"applied","revision":%d}`, at))
		time.Sleep(time.Hour)
		m.wants(t)
		a.InForce(2)
		m.wants(t)
		a.InForce(3) // the snapshot that was the newest when the ask was seen
		m.wants(t, answered(3, 0))
		m.put(service.InstancesKey(prefix, "a")+"x", `{}`)
		time.Sleep(time.Hour)
		m.wants(t)
		m.put(service.AsksKey(prefix)+"q", "")
		synctest.Wait()
		if m.leases != 0 {
			t.Errorf("%d leases are held though nobody asks", m.leases)
		}
		a.stop()
	})
}

// TestCountsSessionsToTheEnd: an ask for the end is answered with what is left, at most once a second while
// that falls, at once when nothing is left, and never by a guess. P1, P10.
func TestCountsSessionsToTheEnd(t *testing.T) {
	played(t, func(t *testing.T, m *memory, a *agent) {
		t.Helper()
		m.instance("b", "2", service.Ready)
		a.proxy.set(0, errors.New("a worker does not answer"))
		m.put(service.AsksKey(prefix)+"q", `{"want":"ended","key":"/p/v1/overrides/web/a","revision":3}`)
		time.Sleep(10 * time.Second)
		m.wants(t)
		a.proxy.set(30, nil)
		time.Sleep(countPace)
		m.wants(t, answered(4, 30))
		if got := strings.Join(a.proxy.of, " "); got != "a/1" {
			t.Errorf("counted those of %s, want a/1", got)
		}
		for n := range 20 { // 2 s
			a.proxy.set(29-n, nil)
			time.Sleep(countPace)
		}
		if n := len(m.wrote()); n < 1 || n > 3 {
			t.Errorf("%d answers in 2 s, want about one a second", n)
		}
		m.put(service.InstancesKey(prefix, "a")+"1", "") // it is gone, and its sessions are not
		time.Sleep(10 * time.Second)
		m.wrote()
		a.proxy.set(0, nil)
		time.Sleep(countPace)
		m.wants(t, answered(4, 0))
		a.proxy.set(5, nil)
		time.Sleep(time.Hour)
		m.wants(t)
	})
}

// TestAnswersWithoutAProxy: where there is none, nothing has sessions.
func TestAnswersWithoutAProxy(t *testing.T) {
	played(t, func(t *testing.T, m *memory, a *agent) {
		t.Helper()
		a.Sessions = nil
		m.put(service.AsksKey(prefix)+"q", `{"want":"ended","key":"/p/v1/instances/a/1","revision":2}`)
		m.wants(t, answered(3, 0))
	})
}

// TestOnlyTheOwnerAnswers: an agent that waits for its name to be free says nothing in that name. P9, F15.
func TestOnlyTheOwnerAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		m.put(service.NodeKey(prefix, "a"), `{"agent":"somebody else"}`)
		a := start(t, m, "a")
		a.InForce(9)
		m.put(service.AsksKey(prefix)+"q", `{"want":"applied","revision":1}`)
		time.Sleep(time.Hour)
		m.wants(t)
		m.node("a")
		m.wants(t, answered(3, 0))
		a.stop()
	})
}

// TestAnswersAreWrittenAgain: after the registry was away, and when an answer has vanished from it. F5.
func TestAnswersAreWrittenAgain(t *testing.T) {
	played(t, func(t *testing.T, m *memory, a *agent) {
		t.Helper()
		m.fail(true)
		m.put(service.AsksKey(prefix)+"q", `{"want":"applied","revision":1}`)
		time.Sleep(10 * time.Second)
		m.wants(t)
		m.fail(false)
		time.Sleep(retryPace)
		m.wants(t, answered(3, 0))
		m.put(service.AnswersKey(prefix, "a")+"q", "")
		m.wants(t, answered(3, 0))
		m.put(service.AsksKey(prefix)+"r", `{"want":"applied","revision":1}`)
		m.wants(t, `put answers/a/r {"revision":7,"applied":true,"sessions":0}`)
		m.put(service.AsksKey(prefix)+"q", "")
		m.wants(t, "delete answers/a/q")
		a.stop()
		if m.leases != 0 {
			t.Errorf("%d leases are held by an agent that has ended", m.leases)
		}
	})
}

// TestUndrainIsAnsweredWhenItShows: only the instance's own agent forgets the stop signal, once, and answers
// when the registry shows the instance so.
func TestUndrainIsAnsweredWhenItShows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		m.node("a")
		m.node("b")
		m.instance("a", "1", service.Draining)
		a, b := start(t, m, "a"), start(t, m, "b")
		a.InForce(99)
		b.InForce(99)
		m.put(service.AsksKey(prefix)+"q", `{"want":"undrained","key":"/p/v1/instances/a/1","revision":2}`)
		time.Sleep(time.Minute)
		m.wants(t)
		m.instance("a", "1", service.Ready)
		m.wants(t, answered(4, 0))
		if got := strings.Join(a.undrained, " ") + "; " + strings.Join(b.undrained, " "); got != "1; " {
			t.Errorf("undrained %q, want 1 by its own agent alone", got)
		}
		a.stop()
		b.stop()
	})
}

// An agent whose clock says that the override has ended runs by none, and must not say that it has applied it.
func TestClockAhead(t *testing.T) {
	played(t, func(t *testing.T, m *memory, _ *agent) {
		t.Helper()
		past := time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)
		key := service.Target{Service: "web", Node: "a", ID: "1"}.Key(prefix)
		at := m.put(key, fmt.Sprintf(`{"state":"maint","until":%q}`, past))
		m.put(service.AsksKey(prefix)+"q", fmt.Sprintf(`{"want":"ended","key":%q,"revision":%d}`, key, at))
		m.wants(t)
	})
}

// Two agents that are one to the registry (a machine cloned with its state) do not write answers against each
// other without a pause.
func TestClonesDoNotFight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		m.node("a")
		m.instance("a", "1", service.Ready)
		one, two := start(t, m, "a"), start(t, m, "a")
		one.InForce(1 << 32)
		two.InForce(1 << 32)
		one.proxy.set(3, nil)
		two.proxy.set(5, nil)
		at := m.put(service.Target{Service: "web"}.Key(prefix), `{"state":"maint"}`)
		m.put(service.AsksKey(prefix)+"q", fmt.Sprintf(`{"want":"ended","key":%q,"revision":%d}`, service.Target{Service: "web"}.Key(prefix), at))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		<-ctx.Done()
		if n := len(m.wrote()); n > 60 {
			t.Errorf("%d writes in 10 s", n)
		}
		one.stop()
		two.stop()
	})
}
