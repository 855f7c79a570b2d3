package convention

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// mostURLs is how many one VIRTUAL_HOST may list.
const mostURLs = 64

// dockerCloud makes a service of each path, port and scheme that VIRTUAL_HOST lists, and one of each
// of the TCP_PORTS.
func dockerCloud(c *Container, m marks, n *notes) [][]service.Setting {
	web, streams := cloudWeb(c, m, n), cloudStreams(c, m)
	all := slices.Concat(web, streams)
	if len(all) == 0 {
		return nil
	}
	both, onlyWeb := cloudBoth(m, n), cloudOnlyWeb(m, n)
	for at := range all {
		all[at] = append(all[at], both...)
		if at < len(web) {
			all[at] = append(all[at], onlyWeb...)
		}
	}
	n.ignored(m, "the most exact host wins by itself", "VIRTUAL_HOST_WEIGHT")
	n.ignored(m, "the proxies' certificates are not chosen by containers", "SSL_CERT", "DEFAULT_SSL_CERT", "HSTS_MAX_AGE")
	n.ignored(m, "lines of HAProxy's configuration belong into the template (--template)", "EXTRA_SETTINGS", "OPTION", "GZIP_COMPRESSION_TYPE")
	n.ignored(m, "sidekick.sticky names a cookie that the proxies set", "APPSESSION")
	n.ignored(m, "sidekick.auth asks for a password", "HTTP_BASIC_AUTH", "HTTP_BASIC_AUTH_SECURE", "EXCLUDE_BASIC_AUTH")
	return all
}

// cloudURL is an entry of VIRTUAL_HOST: [scheme://]domain[:port][/path].
type cloudURL struct {
	secure     bool
	host, path string
	listen     string // a port of the proxies beside the usual ones
}

// cloudWeb makes the services that VIRTUAL_HOST asks for.
func cloudWeb(c *Container, m marks, n *notes) [][]service.Setting {
	virtual, ok := m["VIRTUAL_HOST"]
	if !ok {
		return nil
	}
	entries := items(virtual.text)
	if len(entries) > mostURLs {
		return [][]service.Setting{{virtual.refuse("host", "%d addresses are more than %d: spread them over several services", len(entries), mostURLs)}}
	}
	groups := map[cloudURL][]string{} // by all but the host
	var order []cloudURL
	for _, entry := range entries {
		u, err := parseCloudURL(entry)
		if err != nil {
			return [][]service.Setting{slices.Concat(virtual.hostService(c, entry, ""), []service.Setting{virtual.refuse("host", "%w", err)}, cloudPort(c, m))}
		}
		if u.listen != "" && u.host != "*" {
			n.add("%s: port %s of the proxies leads to this service, whatever the host", virtual, u.listen)
		}
		host := u.host
		u.host = ""
		if groups[u] == nil {
			order = append(order, u)
		}
		groups[u] = append(groups[u], host)
	}
	var all [][]service.Setting
	for _, u := range order {
		name := cloudName(c, virtual, u, groups[u], len(order) > 1)
		all = append(all, slices.Concat(name, cloudRoute(virtual, u, groups[u]), cloudPort(c, m)))
	}
	return all
}

// parseCloudURL reads one entry.
func parseCloudURL(entry string) (cloudURL, error) {
	u := cloudURL{path: "/"}
	scheme, rest, ok := strings.Cut(entry, "://")
	if !ok {
		scheme, rest = "http", entry
	}
	switch scheme {
	case "http", "ws":
	case "https", "wss":
		u.secure = true
	default:
		return u, fmt.Errorf("the scheme %.20q is not served: use http or https", scheme)
	}
	host, path, ok := strings.Cut(rest, "/")
	if ok {
		u.path = "/" + strings.TrimSuffix(path, "*")
	}
	host, u.listen, _ = strings.Cut(host, ":")
	u.host = cmp.Or(host, "*")
	switch u.listen {
	case "443":
		u.secure, u.listen = true, ""
	case "80":
		u.listen = ""
	}
	if u.host != "*" && strings.Contains(strings.TrimPrefix(u.host, "*."), "*") || strings.Contains(u.path, "*") {
		return u, fmt.Errorf("in %.60q a wildcard is neither all of the host's first part nor the path's end: write *.example.com or a path's beginning, also as labels sidekick.host and sidekick.path", entry)
	}
	u.path = cmp.Or(strings.TrimRight(u.path, "/"), "/")
	return u, nil
}

// cloudName names one of a container's services; where there are several, by what sets it apart.
func cloudName(c *Container, m mark, u cloudURL, hosts []string, several bool) []service.Setting {
	apart := strings.TrimSuffix(u.path, "/")
	if u.listen != "" {
		apart += "-" + u.listen
	}
	if u.secure {
		apart += "-tls"
	}
	switch {
	case !c.Compose:
		return m.hostService(c, strings.Join(hosts, ","), apart)
	case several && apart != "":
		return []service.Setting{m.set("service", service.DeriveName(c.Service+apart))}
	}
	return nil
}

// cloudRoute is how requests come to one of the services.
func cloudRoute(m mark, u cloudURL, hosts []string) []service.Setting {
	settings := []service.Setting{m.set("path", u.path)}
	if u.listen != "" {
		settings = append(settings, m.set("listen", u.listen))
	} else {
		if at := slices.Index(hosts, "*"); at >= 0 {
			settings = append(settings, m.set("default", "true"))
			hosts = slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { return h == "*" })
		}
		if len(hosts) > 0 {
			settings = append(settings, m.set("host", strings.Join(hosts, ",")))
		}
	}
	if u.secure {
		settings = append(settings, m.set("tls", "terminate"))
	}
	return settings
}

// cloudPort is the one port that is neither excluded nor of TCP_PORTS. Where there is none, whoever
// asks for it says what is missing.
func cloudPort(c *Container, m marks) []service.Setting {
	var taken []uint16
	excluded, err := portList(m["EXCLUDE_PORTS"].text)
	if err != nil {
		return []service.Setting{m["EXCLUDE_PORTS"].refuse("port", "%w", err)}
	}
	for _, s := range items(m["TCP_PORTS"].text) {
		number, _, _ := strings.Cut(s, "/")
		if p, err := portList(number); err == nil {
			taken = append(taken, p...)
		}
	}
	left := slices.DeleteFunc(slices.Clone(c.Ports.TCP), func(p uint16) bool {
		return slices.Contains(excluded, p) || slices.Contains(taken, p)
	})
	switch len(left) {
	case 0:
		return nil
	case 1:
		return []service.Setting{portSetting(left[0])}
	}
	return []service.Setting{m["VIRTUAL_HOST"].refuse("port", "the container has several TCP ports (%s): name all but one in EXCLUDE_PORTS, or say which one by the label sidekick.port", PrintPorts(left))}
}

// cloudStreams makes the services that TCP_PORTS asks for.
func cloudStreams(c *Container, m marks) [][]service.Setting {
	tcp, ok := m["TCP_PORTS"]
	if !ok {
		return nil
	}
	entries := items(tcp.text)
	if len(entries) > mostURLs {
		return [][]service.Setting{{tcp.refuse("listen", "%d ports are more than %d", len(entries), mostURLs)}}
	}
	var all [][]service.Setting
	for _, entry := range entries {
		number, kind, tls := strings.Cut(entry, "/")
		settings := []service.Setting{tcp.set("mode", "tcp"), tcp.set("port", number), tcp.set("listen", number)}
		switch {
		case !c.Compose:
			settings = append(settings, tcp.set("service", service.DeriveName("tcp-"+number)))
		case len(entries) > 1 || m.has("VIRTUAL_HOST"):
			settings = append(settings, tcp.set("service", service.DeriveName(c.Service+"-"+number)))
		}
		if tls && kind == "ssl" {
			settings = append(settings, tcp.set("tls", "terminate"))
		} else if tls {
			settings = append(settings, tcp.refuse("tls", "%.40q is no port: want 9000 or 9000/ssl", entry))
		}
		all = append(all, settings)
	}
	return all
}

// cloudBoth are the settings for services of both modes.
func cloudBoth(m marks, n *notes) []service.Setting {
	var settings []service.Setting
	if b, ok := m["BALANCE"]; ok {
		if b.text == "static-rr" {
			n.add("%s=static-rr is not acted on: roundrobin takes its place, since servers come and go", b)
		} else {
			settings = append(settings, b.set("balance", b.text))
		}
	}
	if most, ok := m["MAXCONN"]; ok {
		settings = append(settings, most.set("maxconn", most.text))
	}
	if backup, ok := m["FAILOVER"]; ok {
		settings = append(settings, backup.set("backup", "true"))
	}
	if extra, ok := m["EXTRA_ROUTE_SETTINGS"]; ok {
		switch strings.TrimSpace(extra.text) {
		case "send-proxy":
			settings = append(settings, extra.set("proxy-protocol", "v1"))
		case "send-proxy-v2":
			settings = append(settings, extra.set("proxy-protocol", "v2"))
		default:
			n.ignored(m, "lines of HAProxy's configuration belong into the template (--template)", extra.name)
		}
	}
	return append(settings, healthCheck(m, n)...)
}

// healthCheck reads HEALTH_CHECK: words of HAProxy's server lines.
func healthCheck(m marks, n *notes) []service.Setting {
	check, ok := m["HEALTH_CHECK"]
	if !ok {
		return nil
	}
	var settings []service.Setting
	words := strings.Fields(check.text)
	for at := 0; at < len(words); at++ {
		label := map[string]string{"inter": "check.interval", "rise": "check.rise", "fall": "check.fall"}[words[at]]
		switch {
		case words[at] == "check":
		case label != "" && at+1 < len(words):
			at++
			settings = append(settings, check.set(label, cloudTime(label, words[at])))
		default:
			n.add("%s: %.40q is not acted on: sidekick.check and what belongs to it say how to check", check, words[at])
		}
	}
	return settings
}

// cloudTime writes HAProxy's milliseconds without a unit as ours.
func cloudTime(label, text string) string {
	if _, err := strconv.Atoi(text); err == nil && label == "check.interval" {
		return text + "ms"
	}
	return text
}

// cloudOnlyWeb are the settings for services in mode http.
func cloudOnlyWeb(m marks, n *notes) []service.Setting {
	settings := append(cloudCookie(m, n), cloudHTTPCheck(m, n)...)
	if force, ok := m["FORCE_SSL"]; ok {
		settings = append(settings, force.set("redirect", "https"))
	}
	return settings
}

// cloudCookie reads COOKIE: a name, and words of HAProxy's cookie line. Those that say what is done
// here anyway are understood.
func cloudCookie(m marks, n *notes) []service.Setting {
	cookie, ok := m["COOKIE"]
	words := strings.Fields(cookie.text)
	if !ok || len(words) == 0 {
		return nil
	}
	for _, word := range words[1:] {
		if !slices.Contains([]string{"insert", "indirect", "nocache", "httponly", "secure"}, word) {
			n.add("%s: %.40q is not acted on: the proxies insert a cookie of their own", cookie, word)
		}
	}
	return []service.Setting{cookie.set("sticky", words[0])}
}

// cloudHTTPCheck reads HTTP_CHECK: METHOD /path and more.
func cloudHTTPCheck(m marks, n *notes) []service.Setting {
	check, ok := m["HTTP_CHECK"]
	words := strings.Fields(check.text)
	if !ok || len(words) == 0 {
		return nil
	}
	path := words[0]
	if !strings.HasPrefix(path, "/") {
		if len(words) == 1 || !strings.HasPrefix(words[1], "/") {
			n.add("%s is not acted on, as it names no path: sidekick.check=http:/path does", check)
			return nil
		}
		path = words[1]
		if words[0] != "GET" {
			n.add("%s: its path is asked for by GET", check)
		}
	}
	return []service.Setting{check.set("check", "http:"+path)}
}
