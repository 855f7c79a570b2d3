package render

import "github.com/sidekick-proxy/sidekick/pkg/service"

// tier is how near an instance is to the proxy, of a service with sidekick.locality=prefer.
type tier int

const (
	ownHost tier = iota
	ownZone
	elsewhere
	spare // sidekick.backup, wherever it is
)

func tierOf(i *service.Instance, viewer Settings) tier {
	switch {
	case i.Options["backup"] == "true":
		return spare
	case i.Node == viewer.Node:
		return ownHost
	case viewer.Zone != "" && i.Zone == viewer.Zone:
		return ownZone
	}
	return elsewhere
}

// fullWeight is the largest weight that HAProxy knows.
const fullWeight = 256

// prefer makes near servers come first. Those of the own host alone are no backups, so that HAProxy takes
// the others at the moment when none of these is left. If watch is set, it finds that out by itself as well:
// a request for the last one would otherwise try nothing but that.
//
// Among the others, weights say what is nearer: they can change at run time. A server in another zone keeps the
// weight 1, for HAProxy to go on there at once with a request whose servers in the zone do not answer.
func prefer(servers []Server, tiers []tier, watch bool) {
	nearest, most := spare, 1
	for at, s := range servers {
		t := tiers[at]
		if t == ownHost || t > nearest || !s.usable() {
			continue
		}
		if t < nearest {
			nearest, most = t, 1
		}
		most = max(most, s.Weight)
	}
	for at := range servers {
		s, t := &servers[at], tiers[at]
		s.Backup, s.Watched = t != ownHost, watch && t == ownHost
		switch {
		case t == spare && nearest != spare:
			s.Weight = 0
		case t == elsewhere && nearest == ownZone:
			s.Weight = min(s.Weight, 1)
		case t == ownZone && nearest == ownZone:
			s.Weight = (s.Weight*fullWeight + most - 1) / most
		}
	}
}
