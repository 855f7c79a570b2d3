package folder

import (
	"context"
	"errors"
	"maps"
	"testing"
	"testing/synctest"
	"time"
)

// Follow looks until it is told to end, and soon again while something moves; a reader gets the newest.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		f := newParts(dir)
		ctx, cancel := context.WithCancel(t.Context())
		sets, done := make(chan map[string]string), make(chan error, 1)
		next := func(changed bool) (map[string]string, bool) { return maps.Collect(f.Good()), changed }
		go func() { done <- Follow(ctx, Every, f.Look, next, sets) }()
		<-sets // complete
		began := time.Now()
		write(t, dir, "x.a", "1\n2\n")
		if got := <-sets; got["x"] != "1\n2\n" || time.Since(began) > Every+again {
			t.Errorf("a new file counted as %q after %s, want it after %s at most", got, time.Since(began), Every+again)
		}
		for _, text := range []string{"3\n4\n", "5\n6\n"} {
			write(t, dir, "x.a", text)
			time.Sleep(2 * Every)
			synctest.Wait()
		}
		if got := <-sets; got["x"] != "5\n6\n" {
			t.Errorf("got %q, want the newest", got)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
	})
}
