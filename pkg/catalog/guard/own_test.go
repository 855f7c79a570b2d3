package guard

import (
	"strings"
	"testing"
	"time"
)

// TestOwnDepartureIsNotBelieved: a host that was cut off finds its own entries gone when it is back. What
// runs on it is routed meanwhile by its own proxy, alone or not, until all is written again.
func TestOwnDepartureIsNotBelieved(t *testing.T) {
	w := newWorld(t)
	w.has("a", "b", "c", "me")
	w.die("me", 2)
	w.expire("me")
	w.pass(time.Minute)
	w.want("a/1 a/2 b/1 b/2 c/1 c/2 me/1? me/2!")
	if got := w.now.Service("web").Instances[6].Doubt.Why; !strings.HasPrefix(got, "at 12:00:00 UTC the registry did not have this host, whose agent is about to register it again; it stays as it was while") {
		t.Errorf("got %q, want what happened to this host", got)
	}
	w.claim("me")
	w.put("me", 1)
	w.want("a/1 a/2 b/1 b/2 c/1 c/2 me/1 me/2!")
	w.pass(quiet)
	w.want("a/1 a/2 b/1 b/2 c/1 c/2 me/1")
	w.expire("me")
	w.pass(keep)
	w.want("a/1 a/2 b/1 b/2 c/1 c/2")
}
