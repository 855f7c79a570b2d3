package convention

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Whatever a container carries, what comes out keeps every rule of an instance or is refused with a
// reason (P7, F7): a foreign mark is no way around the grammar of labels.
func TestAnyMarks(t *testing.T) {
	name := rapid.OneOf(rapid.SampledFrom([]string{
		"SERVICE_NAME", "SERVICE_80_NAME", "SERVICE_TAGS", "SERVICE_443_TAGS", "SERVICE_CHECK_HTTP", "SERVICE_CHECK_TCP", "SERVICE_CHECK_INTERVAL",
		"SERVICE_80_IGNORE", "SERVICE_X", "VIRTUAL_HOST", "VIRTUAL_PORT", "VIRTUAL_PATH", "VIRTUAL_DEST", "VIRTUAL_PROTO", "VIRTUAL_HOST_MULTIPORTS",
		"TCP_PORTS", "BALANCE", "COOKIE", "EXCLUDE_PORTS", "FORCE_SSL", "HTTP_CHECK", "HEALTH_CHECK", "MAXCONN", "EXTRA_ROUTE_SETTINGS",
		"sidekick.host", "sidekick.service", "sidekick.port", "sidekick.services.web.weight", "sidekick.services.web.enable",
	}), rapid.StringMatching("SERVICE_.*"), rapid.String())
	text := rapid.OneOf(rapid.SampledFrom([]string{
		"web", "80", "80, 443/ssl", "a.test", "*.a.test, b.test", "http://a.test:8080/x/*", "/", "/x", "true", "GET /up", "check inter 2s rise 2",
		"SRV insert", "a\nbackend x", "a\r\nb", "\"x\" y", "a\x00b", "a\xffb", "a\u2028b", strings.Repeat("x", 5000), strings.Repeat("a,", 300),
	}), rapid.String())
	ports := rapid.SliceOfNDistinct(rapid.SampledFrom([]uint16{80, 81, 443, 9000}), 0, 3, rapid.ID[uint16])
	rapid.Check(t, func(t *rapid.T) {
		c := &Container{
			Service: "c1", Image: text.Draw(t, "image"), Compose: rapid.Bool().Draw(t, "compose"), Labels: rapid.MapOf(name, text).Draw(t, "labels"),
			Ports: Ports{TCP: ports.Draw(t, "ports"), UDP: ports.Draw(t, "udp")},
		}
		for n, v := range rapid.MapOf(name, text).Draw(t, "env") {
			c.Env = append(c.Env, n+"="+v)
		}
		r := Read(rapid.Permutation(Names()).Draw(t, "on"), c)
		for _, s := range r.Services {
			if s.Err == nil {
				keepsTheRules(t, c, &s)
			}
		}
	})
}

func keepsTheRules(t *rapid.T, c *Container, s *Service) {
	at := c.place(&s.Definition)
	i := service.Instance{
		Node: "h1", ID: "x", Service: at.service, Address: netip.MustParseAddr("10.0.0.1"), Port: max(at.port, 1), State: service.Ready,
		Weight: s.Weight, Mode: s.Mode, Hosts: s.Hosts, Path: s.Path, Listen: s.Listen, Options: s.Options, Tags: s.Tags,
	}
	// How many entries of meta there are is counted where the value is written.
	for k, v := range s.Meta {
		i.Meta = map[string]string{k: v}
		if err := i.Validate(); err != nil {
			t.Errorf("%s: %v", s.From, err)
		}
	}
	if err := i.Validate(); err != nil {
		t.Errorf("%s: %v", s.From, err)
	}
}

// Every mark that is known comes to a label that is known: one that is not would say nothing.
func TestMarksBecomeKnownLabels(t *testing.T) {
	c := &Container{
		Service: "c1", Ports: Ports{TCP: []uint16{80, 9000}}, Env: []string{
			"SERVICE_80_NAME=a", "SERVICE_TAGS=x", "SERVICE_CHECK_HTTP=/", "SERVICE_CHECK_INTERVAL=1s", "SERVICE_CHECK_TIMEOUT=1s", "SERVICE_X=y",
			"VIRTUAL_HOST=https://a.test:99/x", "VIRTUAL_PATH=/x", "VIRTUAL_DEST=/", "VIRTUAL_PROTO=https", "TCP_PORTS=9000/ssl", "BALANCE=source",
			"COOKIE=x", "FORCE_SSL=1", "HTTP_CHECK=GET /", "HEALTH_CHECK=inter 1 rise 1 fall 1", "MAXCONN=1", "FAILOVER=1", "EXTRA_ROUTE_SETTINGS=send-proxy",
		},
	}
	m := marksOf(Names(), c)
	for _, name := range Names() {
		for _, settings := range read(name, c, m, new(notes)) {
			for _, s := range settings {
				option := service.ValidateOption(s.Label, "\x00")
				if option == nil || strings.Contains(option.Error(), "want at most 1024 bytes") {
					t.Errorf("%s: label %q is unknown", name, s.Label)
				}
			}
		}
	}
}
