package guard

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// clock writes a time of day as people read it.
func clock(t time.Time) string { return t.UTC().Format("15:04:05 UTC") }

func leftAlone(at time.Time) string {
	return fmt.Sprintf("its node left the registry at %s without taking leave", clock(at))
}

func cutOff(at time.Time) string {
	return fmt.Sprintf("at %s the registry did not have this host, whose agent is about to register it again", clock(at))
}

func leftWithOthers(at time.Time, gone, known int) string {
	if known == 1 {
		return fmt.Sprintf("its node, the only one, left the registry at %s without taking leave", clock(at))
	}
	return fmt.Sprintf("its node left the registry at %s along with others, %d of %d nodes in all", clock(at), gone, known)
}

func registryReplaced(at time.Time) string {
	return fmt.Sprintf("the registry was replaced at %s and does not have it as it was", clock(at))
}

// why says what is thought of a suspect.
func (s *suspect) why() string {
	d, until := s.of, clock(s.until)
	switch {
	case s.out:
		return fmt.Sprintf("%s; its address does not answer from here: out of service, listed until %s unless it is registered again", d.cause, until)
	case !s.probed:
		return fmt.Sprintf("%s; it is listed as it was until %s at the longest", d.cause, until)
	case d.verdict == pending:
		return d.cause + "; it stays as it was for a moment longer, to see whether other nodes leave as well"
	}
	return fmt.Sprintf("%s; it stays as it was while its address answers, until %s at the longest", d.cause, until)
}

// whyWithheld says why an instance that the registry has gets no requests.
func (d *doubted) whyWithheld(i *service.Instance) string {
	return fmt.Sprintf("the registry was replaced at %s, and this may be from long before: it gets no requests until %s registers again, or its lease has been renewed", clock(d.since), i.Node)
}

// some are names in order, the first of them if they are many.
func some(names []string) string {
	const most = 20
	slices.Sort(names)
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// tellGone logs that a lone departure is believed.
func (g *Guard) tellGone(node string, instances int) {
	g.Log.WithFields(logrus.Fields{"node": node, "instances": instances}).
		Info("a node left the registry without taking leave, as when its lease ends: its instances are taken out")
}

// tellBelieved logs what is not doubted because nothing is to be.
func (g *Guard) tellBelieved(last, c *service.Catalog) {
	if last != nil && c.Replaced != last.Replaced {
		g.Log.Warn("the registry was replaced, and is believed in everything, as --keep-stale 0 asks: what it lacks is taken out, what is new in it is routed")
	}
	for _, d := range c.Departed {
		if !d.Node.Leaving && len(d.Instances) > 0 {
			g.tellGone(d.Node.Name, len(d.Instances))
		}
	}
}

// tellMass logs the start of a mass expiry.
func (g *Guard) tellMass(gone, known int) {
	suspects := 0
	var nodes []string
	for _, d := range g.nodes {
		if d.verdict == mass && len(d.suspects) > 0 {
			suspects += len(d.suspects)
			nodes = append(nodes, d.name)
		}
	}
	if g.alarmed || suspects == 0 {
		return
	}
	g.alarmed = true
	g.Log.WithFields(logrus.Fields{"gone": gone, "of": known, "nodes": some(nodes), "instances": suspects, "keep": g.Keep.String()}).
		Warn("too many nodes left the registry at one time to be believed: their instances are routed while they answer; `sidekick services` lists them as suspect")
}

// tellReplaced logs what a registry that was replaced puts in doubt.
func (g *Guard) tellReplaced() {
	suspects, withheld := 0, 0
	var nodes []string
	for _, d := range g.nodes {
		suspects, withheld = suspects+len(d.suspects), withheld+len(d.withheld)
		if !d.empty() {
			nodes = append(nodes, d.name)
		}
	}
	if suspects+withheld == 0 {
		return
	}
	g.alarmed = true
	g.Log.WithFields(logrus.Fields{"nodes": some(nodes), "missing": suspects, "withheld": withheld, "keep": g.Keep.String()}).
		Warn("the registry was replaced: what ran is routed while it answers, what is new gets no requests, until each node has registered again; `sidekick services` lists both as suspect")
}

// tellEnd logs that nothing is in doubt any more.
func (g *Guard) tellEnd(c *service.Catalog) {
	if g.alarmed && c.Doubts == nil {
		g.alarmed = false
		g.Log.Info("the registry is believed again: nothing is in doubt any more")
	}
}
