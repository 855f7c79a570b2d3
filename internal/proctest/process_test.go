package proctest_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/proctest"
)

func TestOutputEndAndEnvironment(t *testing.T) {
	t.Setenv("SIDEKICK_PREFIX", "/elsewhere")
	t.Setenv("OTHER", "kept")
	log := filepath.Join(t.TempDir(), "log")
	p, err := proctest.Start("sh", log, "/bin/sh", "-c", `echo "[$SIDEKICK_PREFIX][$OTHER]"; exit 3`)
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if got, want := p.Tail(5), "[][kept]"; got != want {
		t.Errorf("output: got %q, want %q", got, want)
	}
	if ended, err := p.Ended(); !ended || err == nil || !strings.Contains(err.Error(), "3") {
		t.Errorf("ended: got %v, %v, want exit status 3", ended, err)
	}
	p.Signal(syscall.SIGTERM) // reaches nobody
}

func TestEndKillsWhoDoesNotListen(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	p, err := proctest.Start("deaf", log, "/bin/sh", "-c", `trap "" TERM; echo ready; while :; do sleep 1; done`)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.After(30 * time.Second); p.Tail(1) != "ready"; {
		select {
		case <-deadline:
			t.Fatal("it does not start")
		case <-time.After(time.Millisecond):
		}
	}
	if err := p.End(10 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "deaf had to be killed") {
		t.Errorf("got %v, want that it had to be killed", err)
	}
	if ended, _ := p.Ended(); !ended {
		t.Error("it still runs")
	}
}

func TestStartNamesWhatIsMissing(t *testing.T) {
	_, err := proctest.Start("ghost", filepath.Join(t.TempDir(), "log"), "/no/such/program")
	if err == nil || !strings.Contains(err.Error(), "start ghost") {
		t.Errorf("got %v, want an error that names ghost", err)
	}
}
