package e2e

import (
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sidekick-proxy/sidekick/internal/enginetest"
)

// TestStacksOfOtherProgramsMove: containers as they were set up for other programs are reached as
// they were there, without an edit; own labels override single fields; what is not acted on, and the
// convention that is off, are told (P7).
func TestStacksOfOtherProgramsMove(t *testing.T) {
	w := newWorld(t)
	w.extra = []string{"--conventions", "sidekick,nginx-proxy,dockercloud"}
	run := func(env, labels map[string]string) *enginetest.Container {
		t.Helper()
		box, err := w.engine.Start(w.ctx, enginetest.Spec{Image: programs.image, Network: w.run, Labels: labels, Env: env})
		w.check(err)
		return box
	}
	off := run(map[string]string{"SERVICE_NAME": "db"}, nil)
	w.startAll(embedded)

	// Two containers with the same host share its requests.
	shared := map[string]string{"VIRTUAL_HOST": "blog.example.test"}
	first := run(shared, nil)
	secondEnv := maps.Clone(shared)
	secondEnv["HTTPS_METHOD"] = "noredirect"
	second := run(secondEnv, nil)
	w.answeredBy(app{service: "blog"}, first, second)
	own := run(map[string]string{"VIRTUAL_HOST": "old.example.test"}, map[string]string{"sidekick.host": "new.example.test"})
	w.answeredBy(app{service: "new"}, own)
	stream := run(map[string]string{"TCP_PORTS": "8000"}, nil)
	w.until("the port of the stream answers", func() error {
		if got := w.get(w.at(8000), "/", ""); got.server != stream.Short() {
			return errors.Join(got.ok(), errors.New("answered by "+got.server))
		}
		return nil
	})

	w.gone("db", off)
	log, err := os.ReadFile(w.path("agent.log"))
	w.check(err)
	lines := slices.Collect(strings.SplitSeq(string(log), "\n"))
	for _, wanted := range [][]string{
		{"marks of a convention that is off", "containers=1", "convention=registrator", "--conventions sidekick,nginx-proxy,dockercloud,registrator turns it on"},
		{"not acted on", "HTTPS_METHOD"},
	} {
		told := 0
		for _, line := range lines {
			if !slices.ContainsFunc(wanted, func(part string) bool { return !strings.Contains(line, part) }) {
				told++
			}
		}
		if told != 1 {
			t.Errorf("the log tells %q %d times, want once:\n%s", wanted, told, log)
		}
	}
}
