package load

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"
	"time"
)

// Report is what became of the requests. It is a value: a copy shares nothing with the run.
type Report struct {
	Sent     int
	OK       int
	Failed   int
	Reasons  map[string]int  // why requests failed
	Servers  map[string]int  // who answered the good ones, by their X-Whoami header
	Kinds    map[Kind]Counts // the same counts for each kind of request
	Reopened int             // kept connections that the server closed, in between or after an answer, without harm to a request
	Examples []string        // the first failures in words
	Elapsed  time.Duration

	latency histogram
}

// Counts are the requests of one kind.
type Counts struct{ Sent, Failed int }

// maxExamples is how many failures are described in words.
const maxExamples = 10

func newReport() Report {
	return Report{Reasons: map[string]int{}, Servers: map[string]int{}, Kinds: map[Kind]Counts{}}
}

func (r *Report) add(kind Kind, res result, at time.Duration) {
	counts := r.Kinds[kind]
	r.Sent++
	counts.Sent++
	if res.reopened {
		r.Reopened++
	}
	if res.reason == "" {
		r.OK++
		r.Servers[res.server]++
		r.latency.add(res.took)
	} else {
		r.Failed++
		counts.Failed++
		r.Reasons[res.reason]++
		if len(r.Examples) < maxExamples {
			r.Examples = append(r.Examples, fmt.Sprintf("after %.3fs: %s: %s: %s", at.Seconds(), kind, res.reason, res.detail))
		}
	}
	r.Kinds[kind] = counts
}

func (r *Report) clone() Report {
	c := *r
	c.Reasons, c.Servers, c.Kinds = maps.Clone(r.Reasons), maps.Clone(r.Servers), maps.Clone(r.Kinds)
	c.Examples = slices.Clone(r.Examples)
	return c
}

// Percentile is the time within which that part of the good answers came: 0.5 is the median. It is
// too high by an eighth at most.
func (r *Report) Percentile(part float64) time.Duration { return r.latency.percentile(part) }

// Why lists the reasons for failures, the most frequent first: "12 × status 503, 1 × timeout".
func (r *Report) Why() string {
	reasons := slices.SortedFunc(maps.Keys(r.Reasons), func(a, b string) int {
		if d := r.Reasons[b] - r.Reasons[a]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	parts := make([]string, 0, len(reasons))
	for _, reason := range reasons {
		parts = append(parts, fmt.Sprintf("%d × %s", r.Reasons[reason], reason))
	}
	return strings.Join(parts, ", ")
}

// String sums the report up in a line, with examples of failures below it.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d sent in %.1fs, %d failed", r.Sent, r.Elapsed.Seconds(), r.Failed)
	if r.Failed > 0 {
		fmt.Fprintf(&b, " (%s)", r.Why())
	}
	fmt.Fprintf(&b, ", %d re-opened, p50 %s, p99 %s", r.Reopened, r.Percentile(0.5), r.Percentile(0.99))
	for _, e := range r.Examples {
		b.WriteString("\n  " + e)
	}
	return b.String()
}

// histogram counts durations in buckets that each span an eighth of a power of two of
// microseconds, so that it stays small however long the load goes on.
type histogram [64 * 8]int

func bucketOf(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 1))
	exp := bits.Len64(us) - 1
	return exp*8 + int(us<<3>>exp&7)
}

func (h *histogram) add(d time.Duration) { h[bucketOf(d)]++ }

func (h *histogram) percentile(part float64) time.Duration {
	total := 0
	for _, n := range h {
		total += n
	}
	seen, want := 0, int(part*float64(total))
	for i, n := range h {
		seen += n
		if n > 0 && seen >= want {
			// The upper end of the bucket.
			return time.Duration(float64(uint64(1)<<(i/8))*(1+float64(i%8+1)/8)) * time.Microsecond
		}
	}
	return 0
}
