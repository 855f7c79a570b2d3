package haproxy

import (
	"context"
	"slices"
	"strings"
)

// asker is the name of a server that is never added.
const asker = "sidekick-only-asks"

// learned is what one version of HAProxy was seen to take at run time.
type learned struct {
	version string
	known   bool
	can     Capabilities
}

// by is what is known of a version, the least if it is another than before.
func (l *learned) by(version string) Capabilities {
	if l.version != version {
		*l = learned{version: version}
	}
	return l.can
}

// learn finds out whether servers with cookies can be added at run time, once, and only for a text that
// needs the answer.
func (d *Driver) learn(ctx context.Context, text string) {
	if d.learned.known {
		return
	}
	d.learned.can.Cookie, d.learned.known = d.api.takesCookies(ctx, text)
	d.can = d.learned.can
}

// takesCookies tells whether servers with cookies can be added at run time. HAProxy has no list of the
// words that it takes, so it is asked to add a server that it must refuse, and its reason tells which
// word stopped it. It logs that, so it is not asked for a text without such servers: then it is not known.
func (r runtimeAPI) takesCookies(ctx context.Context, text string) (takes, known bool) {
	backend := cookieBackend(text)
	if backend == "" {
		return false, false
	}
	answers, err := r.batch(ctx, []string{"add server " + backend + "/" + asker + " 127.0.0.1:1 cookie x id 0"})
	if err != nil {
		return false, false // whoever talks to the worker next finds out why
	}
	takes = strings.Contains(answers[0], "'id'")
	return takes, takes || strings.Contains(answers[0], "'cookie'")
}

// cookieBackend names a backend whose servers have cookies and may come and go, "" if there is none.
func cookieBackend(text string) string {
	if !strings.Contains(text, "cookie") {
		return ""
	}
	all := parse(text)
	defaults := defaultsOf(all)
	for _, s := range all {
		if !s.isProxy() {
			continue
		}
		p := readProxy(s, defaults(s))
		cookies := slices.ContainsFunc(p.servers, func(s server) bool { return s.has("cookie") })
		if cookies && (&proxyChange{after: p}).mayChange() == "" {
			return p.name
		}
	}
	return ""
}
