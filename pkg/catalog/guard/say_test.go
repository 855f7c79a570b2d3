package guard

import (
	"fmt"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// said is a field of the last line of the log that has it.
func (w *world) said(field string) any {
	for _, e := range w.log.AllEntries() {
		if v, ok := e.Data[field]; ok {
			return v
		}
	}
	return nil
}

// TestLogNamesNodes: who reads the log knows which host is meant, also of one that is gone alone, and if
// nothing is doubted.
func TestLogNamesNodes(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b", "c")
	w.expire("a")
	if got, want := w.now.Doubts.Until, w.at.Add(mostHold); !got.Equal(want) {
		t.Errorf("a lone departure is in doubt until %v, want %v", got, want)
	}
	w.pass(mostHold)
	if w.logged("left the registry without") != 1 || w.said("node") != "a" || w.said("instances") != 2 {
		t.Errorf("the log does not say that a has left with two instances: %v", w.log.AllEntries())
	}
	w.log.Reset()
	w.expire("b", "c")
	if got := w.said("nodes"); got != "a, b, c" && got != "b, c" {
		t.Errorf("got nodes %v, want those that left", got)
	}
	w.has("a", "b")
	w.pass(time.Minute)
	w.log.Reset()
	w.replace(nil)
	if got := w.said("nodes"); got != "a, b, c" {
		t.Errorf("got nodes %v, want all that had instances", got)
	}

	w = newWorld(t)
	w.g.Keep = 0
	w.has("a", "b")
	w.expire("a")
	w.replace(nil)
	if w.said("node") != "a" || w.logged("believed in everything") != 1 {
		t.Errorf("with nothing doubted the log does not tell of a node that left and a registry that was replaced: %v", w.log.AllEntries())
	}
}

// TestReplacedRegistryTellsOfOverrides: lost ones with the commands that give them again, and those that
// were not so before; not those that are equal or whose time is up.
func TestReplacedRegistryTellsOfOverrides(t *testing.T) {
	for _, keep := range []time.Duration{0, keep} {
		w := newWorld(t)
		w.g.Keep = keep
		put := func(b backup, target, value string) backup {
			key := prefix + "/v1/overrides/" + target
			b[key] = service.Item{Key: key, Value: []byte(value), Created: 1, Modified: 1}
			return b
		}
		until := w.at.Add(time.Minute).Format(time.RFC3339)
		now := put(backup{}, "equal", `{"state":"drain","by":"ann"}`)
		for _, i := range put(put(put(put(now, "lost", fmt.Sprintf(`{"state":"maint","weight":7,"until":%q,"by":"bob"}`, until)),
			"web/b", `{"weight":0}`), "over", `{"state":"drain","until":"2001-01-01T00:00:00Z"}`), "other", `{"state":"drain"}`) {
			w.b.Take(i)
		}
		w.take()
		w.replace(put(put(put(backup{}, "equal", `{"state":"drain"}`), "other", `{"state":"maint"}`), "new", `{"weight":3,"by":"eve"}`))
		if got, want := w.said("again"), "sidekick maint lost --for 1m0s; sidekick weight lost 7 --for 1m0s; sidekick weight web/b 0"; got != want {
			t.Errorf("got %v, want %v", got, want)
		}
		var overrides []any
		for _, e := range w.log.AllEntries() {
			if o := e.Data["overrides"]; o != nil {
				overrides = append(overrides, o)
			}
		}
		if got, want := fmt.Sprint(overrides), "[lost maint weight 7 by bob; web/b weight 0 new weight 3 by eve; other maint]"; got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}
