package convention

import (
	"slices"
	"strings"
)

// Off lists the conventions that are not on although the container carries their marks. Marks that
// two conventions share count for the one that they look like, and only if neither is on.
func Off(on []string, c *Container) []string {
	m := marksOf(Names(), c)
	host := m["VIRTUAL_HOST"].text
	urls := m.urls()
	isOn := func(name string) bool { return slices.Contains(on, name) }
	own := func(label string) bool { return strings.HasPrefix(label, Sidekick+".") }
	carries := map[string]bool{
		Registrator: forRegistrator(m),
		NginxProxy:  m.has("VIRTUAL_HOST_MULTIPORTS") || host != "" && !urls && !isOn(DockerCloud),
		DockerCloud: m.has("TCP_PORTS") || urls,
	}
	for label := range c.Labels {
		carries[Sidekick] = carries[Sidekick] || own(label)
	}
	return slices.DeleteFunc(Names(), func(name string) bool { return isOn(name) || !carries[name] })
}

// urls tells whether VIRTUAL_HOST is written as only dockercloud/haproxy takes it.
func (m marks) urls() bool { return strings.ContainsAny(m["VIRTUAL_HOST"].text, ":/") }
