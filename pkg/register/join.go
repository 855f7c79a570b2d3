package register

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Part is what one source has to say of a node's instances: complete sets of those of its origin.
type Part struct {
	Origin service.Origin
	In     <-chan []service.Instance
}

// Join makes one set of what several sources say, and sends it after each change until ctx is
// cancelled; a reader that is slow gets the newest. A source that has said nothing yet, as of an
// engine that is away, holds up no other: until then the set calls its origin unknown.
func Join(ctx context.Context, out chan<- Set, parts ...Part) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	news := make(chan said)
	for n := range parts {
		wg.Go(func() { listen(ctx, n, parts[n].In, news) })
	}
	latest := make([][]service.Instance, len(parts)) // nil while unknown
	var next Set
	var ready chan<- Set
	if len(parts) == 0 {
		ready = out
	}
	for {
		select {
		case s := <-news:
			latest[s.part] = s.set
			next, ready = joined(parts, latest), out
		case ready <- next:
			ready = nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// said is a set and the part that it is of.
type said struct {
	part int
	set  []service.Instance
}

// listen passes on what one source says.
func listen(ctx context.Context, part int, in <-chan []service.Instance, out chan<- said) {
	for {
		select {
		case set := <-in:
			if set == nil {
				set = []service.Instance{}
			}
			select {
			case out <- said{part, set}:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func joined(parts []Part, latest [][]service.Instance) Set {
	var s Set
	for n, p := range parts {
		if latest[n] == nil {
			s.Unknown = append(s.Unknown, p.Origin)
		}
	}
	s.Instances = slices.Concat(latest...)
	slices.SortFunc(s.Instances, func(a, b service.Instance) int { return cmp.Compare(a.ID, b.ID) })
	return s
}
