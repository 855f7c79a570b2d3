package catalog

import (
	"cmp"
	"slices"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// emptied remembers services that have lost their last instance.
type emptied struct {
	keep time.Duration
	// services are in the order in which they became empty. Each is one value for as long as it is
	// kept, so that readers see that it does not change.
	services []emptyService
}

type emptyService struct {
	service *service.Service
	since   time.Time
}

// update compares two catalogs that follow each other and returns the services to add to the newer
// one: those that it has no more, but for those that have been without instances for too long.
func (e *emptied) update(old, now *service.Catalog, at time.Time) []*service.Service {
	if e.keep <= 0 {
		return nil
	}
	added := e.leave(now, old)
	if added {
		e.expire(at)
	}
	for _, s := range missing(old, now) {
		kept := s.Emptied()
		kept.Since, kept.Until = at, at.Add(e.keep)
		e.services = append(e.services, emptyService{kept, at})
	}
	services := make([]*service.Service, len(e.services))
	for i, s := range e.services {
		services[i] = s.service
	}
	return services
}

// leave forgets services that have instances again, and tells whether the newer catalog has any that
// was neither in the older one nor kept.
func (e *emptied) leave(now, old *service.Catalog) (added bool) {
	kept := map[string]bool{}
	rest := e.services[:0]
	for _, s := range e.services {
		kept[s.service.Name] = true
		if now.Service(s.service.Name) == nil {
			rest = append(rest, s)
		}
	}
	clear(e.services[len(rest):])
	e.services = rest
	return slices.ContainsFunc(missing(now, old), func(s *service.Service) bool { return !kept[s.Name] })
}

// missing are the services of a that b has not, by their names. Both are sorted, and what did not
// change is one value in both.
func missing(a, b *service.Catalog) []*service.Service {
	none := &service.Catalog{}
	var all []*service.Service
	rest := cmp.Or(b, none).Services
	for _, s := range cmp.Or(a, none).Services {
		for len(rest) > 0 && rest[0] != s && rest[0].Name < s.Name {
			rest = rest[1:]
		}
		if len(rest) > 0 && (rest[0] == s || rest[0].Name == s.Name) {
			rest = rest[1:]
		} else {
			all = append(all, s)
		}
	}
	return all
}

// expire forgets services that have been empty for longer than they are kept.
func (e *emptied) expire(at time.Time) {
	rest := e.services[:0]
	for _, s := range e.services {
		if at.Sub(s.since) < e.keep {
			rest = append(rest, s)
		}
	}
	clear(e.services[len(rest):])
	e.services = rest
}
