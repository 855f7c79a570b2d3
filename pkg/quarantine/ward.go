package quarantine

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// retryEvery is how often who is held is tried again though nothing of it has changed.
const retryEvery = 10 * time.Minute

// Ward holds the services that cannot be served as they ask. Its zero value is empty. It is not safe for
// concurrent use.
type Ward struct {
	template string // the hash of the one that it is under
	patients map[string]*patient
	saved    []byte // the file as it is
}

// patient is a service that is held.
type patient struct {
	Finding

	definition definition // against which the words are
	retry      time.Time
	now, as    *service.Service // as it is now, and what is served in its place
	changed    bool             // now differs from what was refused
}

// Held is what becomes of those of a catalog's services that are held. Who is not in the catalog is
// forgotten, and so is that the template failed for one that has changed: another try costs next to nothing.
func (w *Ward) Held(c *service.Catalog) map[string]render.Held {
	if len(w.patients) == 0 {
		return nil
	}
	held := map[string]render.Held{}
	for name, p := range w.patients {
		now := c.Service(name)
		if now == nil || p.Failed && p.now != nil && p.now != now {
			delete(w.patients, name)
			continue
		}
		p.follow(now)
		held[name] = render.Held{Why: p.why(), As: p.as}
	}
	return held
}

// follow takes in the service as it is now.
func (p *patient) follow(now *service.Service) {
	if p.now == now {
		return
	}
	p.now, p.as, p.changed = now, nil, definitionOf(now) != p.definition
	if p.Good != nil {
		p.as = asBefore(now, p.Good, p.bad)
	}
}

// why is the sentence for people.
func (p *patient) why() string {
	who, mend := "HAProxy refuses its text", "it is tried again when its labels change, and every 10 minutes"
	if p.Failed {
		who, mend = "the template fails for it", "it is tried again when the service or the template changes"
	}
	switch {
	case p.as == nil:
		return fmt.Sprintf("left out, for %s: %s; %s", who, p.Words, mend)
	case len(p.as.Instances) < len(p.now.Instances):
		return fmt.Sprintf("served as before, without instances whose labels are new, for %s: %s; %s", who, p.Words, mend)
	default:
		return fmt.Sprintf("served as before its labels changed, for %s: %s; %s", who, p.Words, mend)
	}
}

// Due are those of the last catalog that are to be tried again, sorted: their labels changed, or it was long
// ago.
func (w *Ward) Due(now time.Time) (names []string) {
	for name, p := range w.patients {
		if !p.Failed && (p.changed || !now.Before(p.retry)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Take does as a verdict says.
func (w *Ward) Take(v Verdict, now time.Time) {
	for _, name := range v.Cleared {
		delete(w.patients, name)
	}
	for _, f := range v.Findings {
		w.admit(f, now)
	}
}

func (w *Ward) admit(f Finding, now time.Time) {
	if w.patients == nil {
		w.patients = map[string]*patient{}
	}
	w.patients[f.Service.Name] = &patient{Finding: f, definition: definitionOf(f.Service), retry: now.Add(retryEvery)}
}

// Fail holds the services that a template fails for: as they were served last, if that does not fail too, else
// not at all.
func (w *Ward) Fail(faults render.ServiceErrors, c *service.Catalog, good []*service.Service, now time.Time) {
	for _, fault := range faults {
		s := c.Service(fault.Service)
		if s == nil {
			continue
		}
		f := Finding{Service: s, Words: fault.Err.Error(), Failed: true}
		if _, again := w.patients[s.Name]; !again {
			f = f.asBefore(find(good, s.Name))
		}
		w.admit(f, now)
	}
}

// asBefore is the finding with the first way in which that may be served as before, if there is one.
func (f Finding) asBefore(good *service.Service) Finding {
	if good == nil {
		return f
	}
	if all := ways(f.Service, good); len(all) > 0 {
		f.Good, f.bad = good, all[0]
	}
	return f
}

// Why is what is said of one that is held.
func (w *Ward) Why(name string) string { return w.patients[name].why() }

// Err is nil if nobody is held.
func (w *Ward) Err() error {
	var errs []error
	for _, name := range w.Names() {
		errs = append(errs, fmt.Errorf("service %s is %s", name, w.Why(name)))
	}
	return errors.Join(errs...)
}
