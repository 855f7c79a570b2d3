package guard

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// TellOverrides logs what a registry that was replaced makes of what people have said. It is believed in
// that: nobody writes it again but people, who must know that they have to.
func (g *Guard) TellOverrides(old, now *service.Catalog, at time.Time) {
	was, is := inForce(old, at), inForce(now, at)
	var lost, again, found []string
	for _, o := range was {
		if !holds(now.Overrides, o, sameTarget) {
			lost = append(lost, o.Words())
			again = append(again, commands(o, at)...)
		}
	}
	for _, o := range is {
		if !holds(old.Overrides, o, sameOverride) {
			found = append(found, o.Words())
		}
	}
	if len(lost) > 0 {
		g.Log.WithField("overrides", strings.Join(lost, "; ")).WithField("again", strings.Join(again, "; ")).
			Warn("the registry was replaced and has lost overrides, which count no more: give those again that are still wanted")
	}
	if len(found) > 0 {
		g.Log.WithField("overrides", strings.Join(found, "; ")).
			Warn("the registry was replaced and has overrides that were not so before, which count now: see whether they are still wanted, and take back the others by `sidekick undrain` or `sidekick weight` without a number")
	}
}

// inForce are the overrides that count.
func inForce(c *service.Catalog, at time.Time) []*service.Override {
	return slices.DeleteFunc(slices.Clone(c.Overrides), func(o *service.Override) bool { return !o.InForce(at) })
}

func holds(all []*service.Override, o *service.Override, same func(a, b *service.Override) bool) bool {
	return slices.ContainsFunc(all, func(other *service.Override) bool { return same(o, other) })
}

func sameTarget(a, b *service.Override) bool { return a.Target == b.Target }

// sameOverride tells whether two overrides say the same, whoever said it.
func sameOverride(a, b *service.Override) bool {
	return a.Target == b.Target && a.State == b.State && a.Until.Equal(b.Until) &&
		(a.Weight == nil) == (b.Weight == nil) && (a.Weight == nil || *a.Weight == *b.Weight)
}

// commands are those that give an override again, for as long as it would have lasted.
func commands(o *service.Override, at time.Time) []string {
	var all []string
	lasts := ""
	if !o.Until.IsZero() {
		lasts = " --for " + max(time.Second, o.Until.Sub(at).Round(time.Second)).String()
	}
	if o.State != "" {
		all = append(all, "sidekick "+string(o.State)+" "+o.String()+lasts)
	}
	if o.Weight != nil {
		all = append(all, fmt.Sprintf("sidekick weight %s %d%s", o.String(), *o.Weight, lasts))
	}
	return all
}
