package haproxy

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/haproxytest"
	"github.com/sidekick-proxy/sidekick/pkg/render"
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

// TestOneFaultIsToldOnce: what a template puts into every backend is one fault.
func TestOneFaultIsToldOnce(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		const head = "defaults\n mode http\n timeout connect 1s\n timeout client 1s\n timeout server 1s\n"
		section := func(name string) string {
			return "backend " + name + "\n nonsense\n server " + name + "1 127.0.0.1:1 folly\n"
		}
		text := head + section("a") + section("b") + section("c") + " other nonsense\n"
		path := filepath.Join(t.TempDir(), "haproxy.cfg")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		refused, ok := errors.AsType[*Refused](check(t.Context(), t.Bin, path, path))
		if !ok {
			t.Fatal("it was not refused")
		}
		for words, want := range map[string]int{"keyword 'nonsense'": 1, "folly": 1, "keyword 'other'": 1, ".cfg:7]": 1, "(and at 2 more places)": 2} {
			if got := strings.Count(refused.Words, words); got != want {
				t.Errorf("%q is told %d times, want %d: %s", words, got, want, refused.Words)
			}
		}
	})
}

// TestPatienceGrowsWithFiles: HAProxy has more time for more files, so that thousands of certificates are not
// taken for a check that hangs.
func TestPatienceGrowsWithFiles(t *testing.T) {
	haproxytest.Each(t, func(t haproxytest.T) {
		s := store{path: filepath.Join(t.TempDir(), "haproxy.cfg"), work: t.TempDir()}
		few := files(MinimalConfig(configFor(t, t.Bin)))
		many := slices.Clone(few)
		for i := range 1000 {
			many = append(many, file(fmt.Sprintf("%d.map", i), ""))
		}
		for _, set := range []render.Files{few, many} {
			c, err := s.stage(set)
			plant(t, err)
			if err := c.check(t.Context(), t.Bin, 0); errors.Is(err, errHangs) != (len(set) == 1) {
				t.Errorf("%d files and no time besides: got %v", len(set), err)
			}
		}
	})
}
