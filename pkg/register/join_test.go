package register

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// TestJoin: sets of several sources become one, and a source that says nothing yet, as of an engine
// that is away, neither holds up the others nor counts as empty (P3, P7).
func TestJoin(t *testing.T) {
	tests := map[string]struct {
		play func(containers, files func(...string))
		want string
	}{
		"nothing is known": {
			play: func(_, _ func(...string)) {},
			want: "[]",
		},
		"only the files are": {
			play: func(_, files func(...string)) { files("file.a.1") },
			want: "[[file.a.1:ready] unknown [container]]",
		},
		"nothing is not unknown": {
			play: func(containers, files func(...string)) {
				files()
				containers()
			},
			want: "[[] unknown [container] [] unknown []]",
		},
		"both, sorted; one goes": {
			play: func(containers, files func(...string)) {
				containers("c1", "g1")
				files("file.a.1")
				containers("g1")
			},
			want: "[[c1:ready g1:ready] unknown [file] [c1:ready file.a.1:ready g1:ready] unknown [] [file.a.1:ready g1:ready] unknown []]",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := join(t, func(in ...chan []service.Instance) { tt.play(each(in[0]), each(in[1])) }, service.FromContainer, service.FromFile)
				if got := fmt.Sprint(got); got != tt.want {
					t.Errorf("got sets %s, want %s", got, tt.want)
				}
			})
		})
	}
}

// Without any source what a node has is known: nothing.
func TestJoinOfNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if got, want := fmt.Sprint(join(t, func(...chan []service.Instance) {})), "[[] unknown []]"; got != want {
			t.Errorf("got sets %s, want %s", got, want)
		}
	})
}

// each sends one set after the other, when the last one has come through.
func each(in chan<- []service.Instance) func(...string) {
	return func(ids ...string) {
		in <- instances(ids...)
		synctest.Wait()
	}
}

// join runs Join while play sends, and tells what came out.
func join(t *testing.T, play func(in ...chan []service.Instance), origins ...service.Origin) (got []string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, done := make(chan Set), make(chan error, 1)
	var in []chan []service.Instance
	var parts []Part
	for _, o := range origins {
		c := make(chan []service.Instance)
		in, parts = append(in, c), append(parts, Part{o, c})
	}
	go func() { done <- Join(ctx, out, parts...) }()
	go func() {
		for {
			select {
			case s := <-out:
				got = append(got, fmt.Sprintf("%s unknown %v", summary(s.Instances), s.Unknown))
			case <-ctx.Done():
				return
			}
		}
	}()
	play(in...)
	synctest.Wait()
	cancel()
	<-done
	synctest.Wait()
	return got
}
