package render

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Header is what becomes of a header: it gets the value in place of any other, or is deleted if that is
// empty.
type Header struct {
	Name  string // in the letters of the label
	Value string // free text, empty to delete the header
}

// rateWindow is over how many seconds requests are counted against sidekick.ratelimit: a page with its
// pictures comes at once, and is no flood.
const rateWindow = 10

// rateLimit is how many requests a client may make within the window, 0 for any.
func rateLimit(options map[string]string) int {
	perSecond, _ := strconv.Atoi(options["ratelimit"]) // validated when it was decoded
	return perSecond * rateWindow
}

// headers are those of the options with a prefix, sorted. Names are the same in whatever letters: of those
// that meet, the first counts.
func headers(options map[string]string, prefix string) []Header {
	var list []Header
	for _, option := range slices.Sorted(maps.Keys(options)) {
		if name, ok := strings.CutPrefix(option, prefix); ok {
			list = append(list, Header{Name: name, Value: options[option]})
		}
	}
	slices.SortStableFunc(list, func(a, b Header) int { return cmp.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)) })
	return slices.CompactFunc(list, func(a, b Header) bool { return strings.EqualFold(a.Name, b.Name) })
}

// withoutEffect says which labels are for requests, of which a service in mode tcp has none. They are no
// danger; sidekick.auth, which would be, closes it.
func withoutEffect(spec service.Spec, mode service.Mode) []string {
	if mode != service.TCP {
		return nil
	}
	where := "mode http"
	if spec.Options["tls"] == tlsPassthrough {
		where += " without sidekick.tls=passthrough"
	}
	var names []string
	for option := range spec.Options {
		if forRequests(option, spec.Options) {
			names = append(names, option)
		}
	}
	if len(spec.Hosts) > 0 && !namesTLS(spec.Options["tls"]) {
		names = append(names, "host")
	}
	if strings.Trim(spec.Path, "/") != "" {
		names = append(names, "path")
	}
	slices.Sort(names)
	for at, name := range names {
		place := where
		if name == "host" {
			place += " or sidekick.tls=passthrough"
		}
		names[at] = fmt.Sprintf("sidekick.%s is for %s and has no effect: remove it", name, place)
	}
	return names
}

// namesTLS tells whether hosts have a meaning in TLS alone: as the names by which clients reach a service
// whose TLS is passed through, or as the one that servers are asked for.
func namesTLS(tls string) bool { return tls == tlsPassthrough || tls == tlsServer }

// forRequests tells whether an option has an effect on requests alone. Where sidekick.split divides
// connections, sidekick.sticky keeps a client's together.
func forRequests(option string, options map[string]string) bool {
	switch option {
	case "ratelimit", "retry":
		return true
	case "default", "path.strip":
		return options[option] == "true"
	case "h2": // with TLS it is offered to the server
		return options[option] == "true" && options["tls"] != tlsServer
	case "sticky":
		return options["split"] == ""
	default:
		return strings.HasPrefix(option, "header.")
	}
}

// inMaintenance tells whether people took all instances of a service out.
func inMaintenance(instances []Instance) bool {
	return len(instances) > 0 && !slices.ContainsFunc(instances, func(i Instance) bool { return i.Override != service.Maint })
}
