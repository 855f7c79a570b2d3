package guard

import (
	"testing"
	"time"
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
