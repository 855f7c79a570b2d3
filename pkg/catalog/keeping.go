package catalog

import (
	"context"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// keeping is the state of a View's keep.
type keeping struct {
	*View
	known   *Snapshot        // as it came, with overrides whose time is up
	last    *service.Catalog // as it counts, without empty services
	live    bool             // the registry has answered
	number  uint64           // of the last snapshot
	ends    time.Time        // when the next override does, zero for never
	lapses  service.Lapses
	emptied emptied
}

// keep turns catalogs into snapshots: it leaves out those that say nothing new, adds services that
// became empty, and drops overrides when their time is up. What is to be in the copy on disk goes to
// changed.
func (v *View) keep(ctx context.Context, in <-chan heard, out chan<- *Snapshot, changed chan<- *service.Catalog) error {
	k := keeping{View: v, emptied: emptied{keep: v.KeepEmpty}}
	lapse := time.NewTimer(0)
	defer lapse.Stop()
	for {
		var next *Snapshot
		select {
		case h := <-in:
			next = k.heard(h)
		case <-lapse.C:
			next = k.next(false)
		case <-ctx.Done():
			return ctx.Err()
		}
		k.await(lapse)
		if next == nil {
			continue
		}
		if k.live {
			if err := send(ctx, changed, next.Catalog); err != nil {
				return err
			}
		}
		if err := send(ctx, out, next); err != nil {
			return err
		}
	}
}

// heard takes what the guard has heard. The first catalog of the registry is a snapshot in any case, for
// it is live.
func (k *keeping) heard(h heard) *Snapshot {
	if h.catalog == nil {
		k.known = h.copy
		return k.next(true)
	}
	first := !k.live
	if k.live = true; first && k.last == nil && h.copy != nil {
		k.last = h.copy.Catalog
	}
	c := h.catalog
	k.known = &Snapshot{Catalog: c, Live: true}
	next := k.next(first)
	if k.Seen != nil {
		k.Seen(Seen{Catalog: c, Number: k.number})
	}
	return next
}

// next is the snapshot of what is known, as it counts now; nil if nothing is, or if that says nothing
// new and is not wanted all the same.
func (k *keeping) next(always bool) *Snapshot {
	if k.known == nil {
		return nil
	}
	var c *service.Catalog
	c, k.ends = k.lapses.At(time.Now(), k.known.Catalog)
	if !always && same(k.last, c) {
		return nil
	}
	k.number++
	next := *k.known
	next.Catalog, next.Number = c.WithEmpty(k.emptied.update(k.last, c, time.Now())), k.number
	k.last = c
	return &next
}

// await sets the time for another look at what counts: when an override ends, but soon enough for a
// clock that was put right meanwhile.
func (k *keeping) await(lapse *time.Timer) {
	const most = time.Minute
	lapse.Stop()
	if !k.ends.IsZero() {
		lapse.Reset(min(most, max(0, time.Until(k.ends))))
	}
}
