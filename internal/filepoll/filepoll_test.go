package filepoll

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func TestRunSendsWhatChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "template")
		ctx, cancel := context.WithCancel(t.Context())
		out, done := make(chan Content), make(chan error)
		go func() { done <- Run(ctx, path, time.Second, out) }()

		if got := <-out; got.Err == nil {
			t.Errorf("a missing file gave %q, want an error", got.Text)
		}
		for _, text := range []string{"one", "two"} {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := <-out; got.Text != text || got.Err != nil {
				t.Errorf("got %+v, want %q", got, text)
			}
		}
		time.Sleep(time.Minute) // a minute of the test's own clock, in which nothing changes
		select {
		case got := <-out:
			t.Errorf("an unchanged file was sent again: %+v", got)
		default:
		}
		cancel()
		<-done
	})
}
