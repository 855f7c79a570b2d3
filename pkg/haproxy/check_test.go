package haproxy

import (
	"os/exec"
	"testing"
	"time"
)

// TestChecksCPU: what a check costs is what it takes of a processor, not how long it waits for one.
func TestChecksCPU(t *testing.T) {
	spent := func(script string) (cpu, clock time.Duration) {
		before, began := checksCPU(), time.Now()
		if out, err := exec.CommandContext(t.Context(), "sh", "-c", script).CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
		return checksCPU() - before, time.Since(began)
	}
	waiting, clock := spent("sleep 0.3")
	if waiting <= 0 || waiting > clock/2 {
		t.Errorf("waiting: got %v of %v, want a small part of it", waiting, clock)
	}
	if busy, _ := spent("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"); busy < 2*waiting {
		t.Errorf("busy: got %v, want much more than the %v of waiting", busy, waiting)
	}
}
