package quarantine

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// world is a model of HAProxy: suspects that are bad by themselves, pairs that are bad together, and what it
// names of them.
type world struct {
	suspects int
	bad      map[int]bool
	pairs    [][2]int
	names    map[int]bool // the bad ones that it names; others it refuses without a word on them
	lies     []int        // whom it names besides, whenever it refuses
	checks   int
}

func (w *world) try(out []int) (*refusal, error) {
	w.checks++
	r := &refusal{words: "refused"}
	refused := false
	for i := range w.suspects {
		if !w.bad[i] || slices.Contains(out, i) {
			continue
		}
		refused = true
		r.words = fmt.Sprintf("%d is bad", i)
		if w.names[i] {
			r.hints = append(r.hints, i)
		}
	}
	for _, p := range w.pairs {
		refused = refused || !slices.Contains(out, p[0]) && !slices.Contains(out, p[1])
	}
	if !refused {
		return nil, nil //nolint:nilnil // accepted
	}
	r.hints = append(r.hints, w.lies...)
	return r, nil
}

func (w *world) find() ([]int, error) {
	first, _ := w.try(nil)
	found, err := search(w.suspects, first, w.try)
	var out []int
	for _, c := range found {
		out = append(out, c.suspect)
	}
	return out, err
}

// TestSearch: whatever is bad, by itself or together with another, without what is found all is accepted, and
// with any one of it it is not; at a price of a few checks for each. P7, F7.
func TestSearch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 300).Draw(t, "suspects")
		index := rapid.IntRange(0, n-1)
		w := &world{suspects: n, bad: map[int]bool{}, names: map[int]bool{}}
		for _, i := range rapid.SliceOfN(index, 1, 5).Draw(t, "bad") {
			w.bad[i] = true
			w.names[i] = rapid.Bool().Draw(t, "named")
		}
		for range rapid.IntRange(0, 2).Draw(t, "pairs") {
			if a, b := index.Draw(t, "a"), index.Draw(t, "b"); a != b {
				w.pairs = append(w.pairs, [2]int{a, b})
			}
		}
		w.lies = rapid.SliceOfN(index, 0, 2).Draw(t, "lies")
		out, err := w.find()
		if err != nil {
			t.Fatal(err)
		}
		checks := w.checks
		if r, _ := w.try(out); r != nil {
			t.Errorf("refused without %v", out)
		}
		for at := range out {
			if r, _ := w.try(slices.Delete(slices.Clone(out), at, at+1)); r == nil {
				t.Errorf("%v need not be out, of %v", out[at], out)
			}
		}
		if most := (len(out) + 3) * (bits.Len(uint(n)) + 3); checks > most {
			t.Errorf("%d checks for %d of %d, want at most %d", checks, len(out), n, most)
		}
	})
}

// TestSearchCost: one that is named costs one check more than the refusal, one that is not what halving costs.
func TestSearchCost(t *testing.T) {
	for _, tt := range []struct {
		named bool
		want  int
	}{{true, 2}, {false, 13}} {
		w := &world{suspects: 1000, bad: map[int]bool{617: true}, names: map[int]bool{617: tt.named}}
		out, err := w.find()
		if diff := cmp.Diff([]int{617}, out); err != nil || diff != "" || w.checks > tt.want {
			t.Errorf("named %v: %d checks, want at most %d; %v %s", tt.named, w.checks, tt.want, err, diff)
		}
	}
}

// TestSearchTogether: of two that are bad together the later in order, which is the more suspicious, is found.
func TestSearchTogether(t *testing.T) {
	w := &world{suspects: 20, pairs: [][2]int{{17, 3}}}
	if out, err := w.find(); err != nil || !slices.Equal(out, []int{17}) {
		t.Errorf("got %v, %v, want 17", out, err)
	}
}

// TestSearchElsewhere: what is refused without all suspects is not their fault.
func TestSearchElsewhere(t *testing.T) {
	always := func([]int) (*refusal, error) { return &refusal{words: "no"}, nil }
	if _, err := search(20, &refusal{hints: []int{3}}, always); !errors.Is(err, errElsewhere) {
		t.Errorf("got %v, want %v", err, errElsewhere)
	}
}

// TestSearchLimit: a search that may not go on tells so, unless what it has is enough.
func TestSearchLimit(t *testing.T) {
	limited := func(w *world, most int) trial {
		return func(out []int) (*refusal, error) {
			if w.checks == most {
				return nil, errTooLong
			}
			return w.try(out)
		}
	}
	w := &world{suspects: 100, bad: map[int]bool{1: true, 50: true}}
	if _, err := search(w.suspects, &refusal{}, limited(w, 5)); !errors.Is(err, errTooLong) {
		t.Errorf("got %v, want %v", err, errTooLong)
	}
	w = &world{suspects: 100, bad: map[int]bool{1: true, 50: true}}
	found, err := search(w.suspects, &refusal{hints: []int{1, 50, 70}}, limited(w, 1))
	if err != nil || len(found) != 3 {
		t.Errorf("got %v, %v, want the three that were named, for without them it is accepted", found, err)
	}
}
