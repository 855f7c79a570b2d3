package service

import (
	"maps"
	"slices"
	"time"
)

// Lapses takes overrides out of catalogs whose time is up. Services that it has changed keep their
// identity in the catalogs that follow. Its zero value is ready; it is not safe for concurrent use.
type Lapses struct {
	made map[*Service]*Service // by the service as the registry holds it
}

// At returns the catalog as it counts at that time, which is c itself if no override has ended, and when
// the next one ends, zero for never.
func (l *Lapses) At(now time.Time, c *Catalog) (inForce *Catalog, next time.Time) {
	over := map[string]bool{} // services
	for _, o := range c.Overrides {
		switch {
		case !o.InForce(now):
			over[o.Service] = true
		case !o.Until.IsZero() && (next.IsZero() || o.Until.Before(next)):
			next = o.Until
		}
	}
	if len(over) == 0 {
		l.made = nil
		return c, next
	}
	made := map[*Service]*Service{}
	counts := *c
	counts.Overrides = counting(now, c.Overrides)
	counts.Services = slices.Clone(c.Services)
	for _, name := range slices.Sorted(maps.Keys(over)) {
		if at, ok := c.find(name); ok {
			s := c.Services[at]
			made[s] = l.without(s, counting(now, s.Overrides))
			counts.Services[at] = made[s]
		}
	}
	l.made = made
	return &counts, next
}

// without is the service with those overrides only: the value made before, if that has the same.
func (l *Lapses) without(s *Service, overrides []*Override) *Service {
	if old := l.made[s]; old != nil && slices.Equal(old.Overrides, overrides) {
		return old
	}
	changed := *s
	changed.Overrides = overrides
	return &changed
}

// counting are those that count at that time, nil if none do.
func counting(now time.Time, overrides []*Override) []*Override {
	var some []*Override
	for _, o := range overrides {
		if o.InForce(now) {
			some = append(some, o)
		}
	}
	return some
}
