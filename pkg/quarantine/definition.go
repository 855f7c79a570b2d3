package quarantine

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"slices"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// labels stands for all that an instance's labels say. Addresses, weights and states do not count: they
// are no free text, and come and go all the time.
type labels [sha256.Size]byte

func labelsOf(i *service.Instance) labels {
	text, _ := json.Marshal([]any{i.Mode, i.Hosts, i.Path, i.Listen, i.Options, i.Tags, i.Meta}) // maps are sorted; all of it can be written
	return sha256.Sum256(text)
}

// definition stands for what the labels of a service say: those of its leading instance, and all others that
// its instances have. It is the same for a service that lost its instances.
type definition [sha256.Size]byte

func definitionOf(s *service.Service) definition {
	var lead labels
	all := make([]labels, 0, len(s.Instances)+1)
	if s.Spec.Lead != nil {
		lead = labelsOf(s.Spec.Lead)
		all = append(all, lead)
	}
	for _, i := range s.Instances {
		all = append(all, labelsOf(i))
	}
	slices.SortFunc(all, func(a, b labels) int { return slices.Compare(a[:], b[:]) })
	h := sha256.New()
	h.Write(lead[:])
	for _, l := range slices.Compact(all) {
		h.Write(l[:])
	}
	return definition(h.Sum(nil))
}

// asBefore is the service by the labels of a former definition, with those instances of now whose own labels
// are not bad; nil if all of them are. Labels that nobody knows yet count as good: whoever mends a service must
// not take it out of service first.
func asBefore(now, good *service.Service, bad map[labels]bool) *service.Service {
	as := &service.Service{Name: now.Name, Spec: good.Spec, Overrides: now.Overrides, Since: now.Since, Until: now.Until}
	for _, i := range now.Instances {
		if bad[labelsOf(i)] {
			continue
		}
		if now.Spec.Conflict(i) == "" { // it is routed as the service asks now, so it is as the service asked before
			like := *i
			like.Mode, like.Hosts, like.Path = cmp.Or(good.Spec.Mode, service.HTTP), good.Spec.Hosts, good.Spec.Path
			i = &like
		}
		as.Instances = append(as.Instances, i)
	}
	if len(as.Instances) == 0 && len(now.Instances) > 0 {
		return nil
	}
	return as
}
