package docker

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"pgregory.net/rapid"

	"github.com/sidekick-proxy/sidekick/pkg/convention"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// recorded reads an answer of a real engine (20.10, API 1.41; what does not matter here is left
// out) to an inspection of one container in a certain setting.
func recorded(tb testing.TB, name string) container.InspectResponse {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "engine-20.10", name+".json"))
	if err != nil {
		tb.Fatal(err)
	}
	var c container.InspectResponse
	if err := json.Unmarshal(b, &c); err != nil {
		tb.Fatal(err)
	}
	return c
}

// byValue compares addresses by ==.
func byValue() cmp.Option {
	return cmp.Options{
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	}
}

func testHost(advertise string) host {
	h := (&Source{Node: "h1", Zone: "eu"}).describer()
	if advertise != "" {
		h.advertise = netip.MustParseAddr(advertise)
	}
	return h
}

// readOne returns the only instance of a container, or the reason that there is none.
func readOne(tb testing.TB, h host, c *container.InspectResponse, drivers map[string]string) (service.Instance, string) {
	tb.Helper()
	v := newView(c)
	for k, e := range v.endpoints {
		v.endpoints[k].driver = drivers[e.network]
	}
	r := h.read(&v)
	if r == nil {
		return service.Instance{}, "does not run"
	}
	switch {
	case len(r.instances) == 1 && len(r.rejected) == 0:
		return r.instances[0], ""
	case len(r.instances) == 0 && len(r.rejected) == 1:
		return service.Instance{}, r.rejected[0].Reason
	case len(r.instances) == 0 && len(r.rejected) == 0:
		return service.Instance{}, "not exposed"
	}
	tb.Fatalf("got %d instances and %d rejections", len(r.instances), len(r.rejected))
	return service.Instance{}, ""
}

// Instances are registered under an address that those reach who are told of it: on this host and, if
// there is one, on others (P1: the gate checks the container itself).
func TestAddresses(t *testing.T) {
	label := func(name, text string) func(*container.InspectResponse) {
		return func(c *container.InspectResponse) { c.Config.Labels["sidekick."+name] = text }
	}
	bind := func(bindings ...string) func(*container.InspectResponse) {
		return func(c *container.InspectResponse) {
			var all []network.PortBinding
			for _, b := range bindings {
				addr, port, _ := strings.Cut(b, " ")
				pb := network.PortBinding{HostPort: port}
				if addr != "any" {
					pb.HostIP = netip.MustParseAddr(addr)
				}
				all = append(all, pb)
			}
			c.NetworkSettings.Ports[network.MustParsePort("8080/tcp")] = all
		}
	}
	// in gives the container these networks: name, address and perhaps one of the other family.
	in := func(networks ...string) func(*container.InspectResponse) {
		return func(c *container.InspectResponse) {
			c.NetworkSettings.Networks = map[string]*network.EndpointSettings{}
			for _, text := range networks {
				part := strings.Fields(text)
				e := &network.EndpointSettings{NetworkID: part[0]}
				for _, a := range part[1:] {
					if address := netip.MustParseAddr(a); address.Is4() {
						e.IPAddress = address
					} else {
						e.GlobalIPv6Address = address
					}
				}
				c.NetworkSettings.Networks[part[0]] = e
			}
		}
	}
	tests := map[string]struct {
		recording string
		advertise string
		change    []func(*container.InspectResponse)
		drivers   map[string]string
		want      string // address, scope, target
		wantErr   string
	}{
		"published everywhere":                        {recording: "published", advertise: "10.0.0.1", want: "10.0.0.1:18080  172.17.0.2:8080"},
		"published in both families, advertised in 6": {recording: "published", advertise: "fd00::1", want: "[fd00::1]:18080  172.17.0.2:8080"},
		"published without an address": {
			recording: "published", advertise: "10.0.0.1", change: []func(*container.InspectResponse){bind("any 7")},
			want: "10.0.0.1:7  172.17.0.2:8080",
		},
		"published on one address": {
			recording: "published", advertise: "10.0.0.1", change: []func(*container.InspectResponse){bind("127.0.0.1 5", "10.0.0.9 6")},
			want: "10.0.0.9:6  172.17.0.2:8080",
		},
		"published on the advertised address and another": {
			recording: "published", advertise: "10.0.0.1", change: []func(*container.InspectResponse){bind("10.0.0.0 5", "10.0.0.1 6")},
			want: "10.0.0.1:6  172.17.0.2:8080",
		},
		"published for the other family only": {
			recording: "published", advertise: "10.0.0.1", change: []func(*container.InspectResponse){bind(":: 5")},
			want: "172.17.0.2:8080 node 172.17.0.2:8080",
		},
		"published on loopback is not for others": {recording: "loopback", advertise: "10.0.0.1", want: "172.17.0.4:8080 node 172.17.0.4:8080"},
		"published on loopback, one host":         {recording: "loopback", advertise: "127.0.0.1", want: "127.0.0.1:32768  172.17.0.4:8080"},
		"published everywhere, one host":          {recording: "published", advertise: "127.0.0.1", want: "127.0.0.1:18080  172.17.0.2:8080"},
		"published, but the container is asked for": {
			recording: "published", advertise: "10.0.0.1", change: []func(*container.InspectResponse){label("address", "container")},
			want: "172.17.0.2:8080 node 172.17.0.2:8080",
		},
		"not published, but asked to be": {
			recording: "loopback", advertise: "10.0.0.1", change: []func(*container.InspectResponse){label("address", "published")},
			wantErr: "container rec-loopback does not publish port 8080 on an address that other hosts reach: publish it (-p 8080), or drop the label sidekick.address",
		},
		"host network": {
			recording: "host", advertise: "10.0.0.1", change: []func(*container.InspectResponse){label("port", "8080")},
			want: "10.0.0.1:8080  10.0.0.1:8080",
		},
		"host network, port exposed by the image": {recording: "host", advertise: "10.0.0.1", want: "10.0.0.1:8080  10.0.0.1:8080"},
		"host network, no advertised address": {
			recording: "host", wantErr: "container rec-host is reached through this host, whose address is not known: set --advertise",
		},
		"bridge":                         {recording: "bridge", advertise: "10.0.0.1", want: "172.17.0.3:8080 node 172.17.0.3:8080"},
		"two bridges, the first by name": {recording: "two", advertise: "10.0.0.1", want: "172.17.0.5:8080 node 172.17.0.5:8080"},
		"two bridges, one asked for": {
			recording: "two", advertise: "10.0.0.1", change: []func(*container.InspectResponse){label("network", "skrecnet")},
			want: "172.18.0.2:8080 node 172.18.0.2:8080",
		},
		"a network it is not in": {
			recording: "two", advertise: "10.0.0.1", change: []func(*container.InspectResponse){label("network", "front")},
			wantErr: `container rec-two has no address in the network "front", but in: bridge, skrecnet; mend the label sidekick.network`,
		},
		"macvlan beside a bridge is checked by the bridge": {
			recording: "two", advertise: "10.0.0.1", drivers: map[string]string{"skrecnet": "macvlan"},
			want: "172.18.0.2:8080  172.17.0.5:8080",
		},
		"overlay only": {
			recording: "two", advertise: "10.0.0.1", drivers: map[string]string{"skrecnet": "overlay"},
			change: []func(*container.InspectResponse){label("network", "skrecnet")},
			want:   "172.18.0.2:8080  172.18.0.2:8080",
		},
		"published on one address of the other family": {
			recording: "published", advertise: "10.0.0.1", change: []func(*container.InspectResponse){bind("fd00::9 6")},
			want: "[fd00::9]:6  172.17.0.2:8080",
		},
		"published on an address of the link": {
			recording: "published", advertise: "10.0.0.1", change: []func(*container.InspectResponse){bind("fe80::9 6")},
			want: "172.17.0.2:8080 node 172.17.0.2:8080",
		},
		"published on an ephemeral port": {
			recording: "published", advertise: "10.0.0.1", change: []func(*container.InspectResponse){bind("0.0.0.0 49153", ":: 49153")},
			want: "10.0.0.1:49153  172.17.0.2:8080",
		},
		"published on several ports": {
			recording: "published", advertise: "10.0.0.1", change: []func(*container.InspectResponse){bind("0.0.0.0 9001", "0.0.0.0 9000")},
			want: "10.0.0.1:9000  172.17.0.2:8080",
		},
		"published on nothing": {
			recording: "published", advertise: "10.0.0.1", change: []func(*container.InspectResponse){bind()},
			want: "172.17.0.2:8080 node 172.17.0.2:8080",
		},
		"published on loopback of the other family, one host": {
			recording: "published", advertise: "127.0.0.1", change: []func(*container.InspectResponse){bind("::1 5")},
			want: "[::1]:5  172.17.0.2:8080",
		},
		"IPv6 only": {
			recording: "published", advertise: "fd00::1", change: []func(*container.InspectResponse){in("six fd00:77::2"), bind(":: 5")},
			want: "[fd00::1]:5  [fd00:77::2]:8080",
		},
		"IPv6 only, not published": {
			recording: "bridge", advertise: "fd00::1", change: []func(*container.InspectResponse){in("six fd00:77::2")},
			want: "[fd00:77::2]:8080 node [fd00:77::2]:8080",
		},
		"both families in a network that spans hosts, advertised in 6": {
			recording: "bridge", advertise: "fd00::1", change: []func(*container.InspectResponse){in("lan 10.9.0.2 fd00:9::2")}, drivers: map[string]string{"lan": "macvlan"},
			want: "[fd00:9::2]:8080  10.9.0.2:8080",
		},
		"both families in a network that spans hosts, advertised in 4": {
			recording: "bridge", advertise: "10.0.0.1", change: []func(*container.InspectResponse){in("lan 10.9.0.2 fd00:9::2")}, drivers: map[string]string{"lan": "ipvlan"},
			want: "10.9.0.2:8080  10.9.0.2:8080",
		},
		"published wins over a network that spans hosts": {
			recording: "published", advertise: "10.0.0.1", change: []func(*container.InspectResponse){in("lan 10.9.0.2")}, drivers: map[string]string{"lan": "overlay"},
			want: "10.0.0.1:18080  10.9.0.2:8080",
		},
		"several networks, published": {
			recording: "published", advertise: "10.0.0.1", change: []func(*container.InspectResponse){in("back 10.8.0.2", "front 10.9.0.2")},
			want: "10.0.0.1:18080  10.8.0.2:8080",
		},
		"a network named, although published": {
			recording: "published", advertise: "10.0.0.1", change: []func(*container.InspectResponse){in("back 10.8.0.2", "front 10.9.0.2"), label("network", "front")},
			want: "10.9.0.2:8080 node 10.9.0.2:8080",
		},
		"a network named, and published asked for": {
			recording: "published", advertise: "10.0.0.1",
			change: []func(*container.InspectResponse){in("back 10.8.0.2", "front 10.9.0.2"), label("network", "front"), label("address", "published")},
			want:   "10.0.0.1:18080  10.9.0.2:8080",
		},
		"the host's network, another named": {
			recording: "host", advertise: "10.0.0.1", change: []func(*container.InspectResponse){label("network", "front")},
			wantErr: "container rec-host is on its host's network and in no other: remove the label sidekick.network",
		},
		"a network without an address": {
			recording: "bridge", advertise: "10.0.0.1", change: []func(*container.InspectResponse){in("front"), label("network", "front")},
			wantErr: `container rec-bridge has no address in the network "front", but in: none; mend the label sidekick.network`,
		},
		"no network":             {recording: "none", advertise: "10.0.0.1", wantErr: "container rec-none has no address in any network: connect it to one"},
		"the network of another": {recording: "shared", advertise: "10.0.0.1", wantErr: "container rec-shared shares the network of another container: put its labels on that one"},
		"stopped":                {recording: "stopped", advertise: "10.0.0.1", wantErr: "does not run"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := recorded(t, tt.recording)
			for _, change := range tt.change {
				change(&c)
			}
			i, reason := readOne(t, testHost(tt.advertise), &c, tt.drivers)
			if reason != tt.wantErr {
				t.Fatalf("got reason %q, want %q", reason, tt.wantErr)
			}
			if reason != "" {
				return
			}
			got := strings.Join([]string{i.Endpoint().String(), i.Scope, i.Check.Target.String()}, " ")
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestInstanceIsComplete(t *testing.T) {
	c := recorded(t, "two")
	got, reason := readOne(t, testHost("10.0.0.1"), &c, nil)
	if reason != "" {
		t.Fatal(reason)
	}
	want := service.Instance{
		Node: "h1", Zone: "eu", ID: "568b17b93adf.shop-web.8080", Service: "shop-web",
		Address: netip.MustParseAddr("172.17.0.5"), Port: 8080, State: service.Ready, Weight: 100,
		Mode: service.HTTP, Path: "/", Scope: service.ScopeNode, Container: "568b17b93adf", Name: "rec-two",
		Started: got.Started,
		Check: &service.Check{
			Kind: service.CheckDocker, Target: netip.MustParseAddrPort("172.17.0.5:8080"), Health: "healthy",
			Interval: service.DefaultCheckInterval, Timeout: service.DefaultCheckTimeout, Rise: 1, Fall: 3,
		},
	}
	if diff := cmp.Diff(want, got, byValue()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got, want := got.Started.Format("15:04:05.000000000"), "04:11:27.426699168"; got != want {
		t.Errorf("started: got %s, want %s", got, want)
	}
	v := newView(&c)
	if v.stop != 3 {
		t.Errorf("stop signal: got %d, want 3", v.stop)
	}
}

func TestWhatLabelsAskFor(t *testing.T) {
	tests := map[string]struct {
		recording string
		labels    map[string]string
		all       bool
		expose    []string // more ports
		only      []string // instead of the recorded ones
		want      string   // ids, or the reasons
	}{
		"none":                {labels: map[string]string{"other": "x"}, want: ""},
		"none, all exposed":   {labels: nil, all: true, want: "rec-bridge.8080"},
		"off":                 {labels: map[string]string{"sidekick.enable": "false", "sidekick.service": "web"}, all: true, want: ""},
		"only on":             {labels: map[string]string{"sidekick.enable": "true"}, want: "rec-bridge.8080"},
		"the name":            {labels: map[string]string{"sidekick.service": "web"}, want: "web.8080"},
		"compose's names":     {labels: map[string]string{"sidekick.enable": "true", composeProject: "my_shop", composeService: "web"}, want: service.DeriveName("my_shop-web") + ".8080"},
		"a port":              {labels: map[string]string{"sidekick.port": "9"}, expose: []string{"9/tcp", "10/tcp"}, want: "rec-bridge.9"},
		"a port not exposed":  {labels: map[string]string{"sidekick.port": "9"}, want: "rec-bridge.9"},
		"UDP does not count":  {labels: map[string]string{"sidekick.enable": "true"}, expose: []string{"53/udp"}, want: "rec-bridge.8080"},
		"only UDP":            {labels: map[string]string{"sidekick.enable": "true"}, only: []string{"53/udp", "514/udp"}, want: "label: container rec-bridge exposes only UDP ports (53, 514): HAProxy carries TCP; expose a TCP port, or say which one it listens on with the label sidekick.port"},
		"only UDP, a port":    {labels: map[string]string{"sidekick.port": "80"}, only: []string{"53/udp"}, want: "rec-bridge.80"},
		"only UDP, that port": {labels: map[string]string{"sidekick.port": "53"}, only: []string{"53/udp"}, want: "label: port 53 of container rec-bridge is one of UDP: HAProxy carries TCP; if it takes TCP as well, expose 53/tcp"},
		"no port":             {labels: map[string]string{"sidekick.enable": "true"}, only: []string{}, want: "label: container rec-bridge exposes no TCP port: say which one it listens on with the label sidekick.port"},
		"both protocols":      {labels: map[string]string{"sidekick.port": "53"}, only: []string{"53/udp", "53/tcp"}, want: "rec-bridge.53"},
		"several ports":       {labels: map[string]string{"sidekick.service": "web"}, expose: []string{"9/tcp"}, want: "label: container rec-bridge has several TCP ports (9, 8080): say which one with the label sidekick.port"},
		"two services":        {labels: map[string]string{"sidekick.services.a.port": "1", "sidekick.services.b.port": "2"}, want: "a.1 b.2"},
		"one of two is wrong": {labels: map[string]string{"sidekick.services.a.port": "x", "sidekick.services.b.port": "2"}, want: "b.2 label: …"},
		"declared twice": {
			labels: map[string]string{"sidekick.services.a.port": "1", "sidekick.services.b.port": "1", "sidekick.services.b.service": "a"},
			want:   "a.1 label: container rec-bridge declares port 1 of the service a twice",
		},
		"docker's check without HEALTHCHECK": {
			labels: map[string]string{"sidekick.check": "docker"},
			want:   "label: container rec-bridge has no HEALTHCHECK, which the label sidekick.check=docker relies on: give its image one, or use tcp or http:/path",
		},
		"newline in a value (P7, F7)": {labels: map[string]string{"sidekick.services.a.host": "x\nbackend y", "sidekick.services.b.port": "2"}, want: "b.2 label: …"},
		"10 kB of meta (P7, F7)": {
			labels: bigLabels(), want: "label: …",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := recorded(t, "bridge")
			c.Config.Labels = tt.labels
			if tt.only != nil {
				c.Config.ExposedPorts, c.NetworkSettings.Ports = network.PortSet{}, nil
			}
			for _, p := range append(tt.expose, tt.only...) {
				c.Config.ExposedPorts[network.MustParsePort(p)] = struct{}{}
			}
			h := testHost("10.0.0.1")
			h.exposeAll = tt.all
			v := newView(&c)
			r := h.read(&v)
			var got []string
			for _, i := range r.instances {
				got = append(got, strings.TrimPrefix(i.ID, i.Container+"."))
			}
			for _, j := range r.rejected {
				if strings.Contains(j.Reason, "\n") {
					t.Errorf("reason has more than one line: %q", j.Reason)
				}
				if strings.HasSuffix(tt.want, "label: …") {
					j.Reason = "…"
				}
				got = append(got, j.Kind+": "+j.Reason)
			}
			if got := strings.Join(got, " "); got != tt.want {
				t.Errorf("labels %v: got %q, want %q", tt.labels, got, tt.want)
			}
		})
	}
}

func bigLabels() map[string]string {
	labels := map[string]string{}
	for _, k := range "abcdefghijklmnopqrstuvwxyz012345" {
		labels["sidekick.meta.big"+string(k)] = strings.Repeat("x", 256)
	}
	labels["sidekick.tags"] = strings.Repeat("t", 250)
	return labels
}

func TestCheck(t *testing.T) {
	tests := map[string]struct {
		recording string
		labels    map[string]string
		want      string
	}{
		"HEALTHCHECK":            {recording: "published", want: "docker healthy 5s 2s 1 3"},
		"no HEALTHCHECK":         {recording: "bridge", want: "tcp 5s 2s 1 3"},
		"asked for TCP":          {recording: "published", labels: map[string]string{"check": "tcp"}, want: "tcp healthy 5s 2s 1 3"},
		"none":                   {recording: "published", labels: map[string]string{"check": "none"}, want: "none healthy 5s 2s 1 3"},
		"HTTP":                   {recording: "bridge", labels: map[string]string{"check": "http:/up?x=1", "host": "*.example.com,shop.example.com"}, want: "http /up?x=1 shop.example.com 5s 2s 1 3"},
		"interval, timeout, ...": {recording: "bridge", labels: map[string]string{"check.interval": "500ms", "check.timeout": "1s", "check.rise": "2", "check.fall": "5"}, want: "tcp 500ms 1s 2 5"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := recorded(t, tt.recording)
			c.Config.Labels = map[string]string{"sidekick.enable": "true"}
			for k, v := range tt.labels {
				c.Config.Labels["sidekick."+k] = v
			}
			i, reason := readOne(t, testHost("10.0.0.1"), &c, nil)
			if reason != "" {
				t.Fatal(reason)
			}
			k := i.Check
			b, _ := json.Marshal([]any{k.Rise, k.Fall})
			rise, fall, _ := strings.Cut(strings.Trim(string(b), "[]"), ",")
			got := strings.Join(strings.Fields(strings.Join([]string{string(k.Kind), k.HTTPPath, k.Host, k.Health, k.Interval.String(), k.Timeout.String(), rise, fall}, " ")), " ")
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestPausedIsUnhealthy(t *testing.T) {
	c := recorded(t, "paused")
	i, reason := readOne(t, testHost("10.0.0.1"), &c, nil)
	if got, want := i.State, service.Unhealthy; got != want || reason != "" {
		t.Errorf("got %q (%s), want %q", got, reason, want)
	}
}

func TestRestartingDoesNotRun(t *testing.T) {
	c := recorded(t, "bridge")
	c.State.Restarting = true
	if _, reason := readOne(t, testHost("10.0.0.1"), &c, nil); reason != "does not run" {
		t.Errorf("got %q, want it not to run", reason)
	}
}

func TestEmptyInspectionIsHarmless(t *testing.T) {
	for _, c := range []container.InspectResponse{{}, {State: &container.State{Running: true}}, {State: &container.State{Running: true}, Config: &container.Config{Labels: map[string]string{"sidekick.enable": "true"}}}} {
		v := newView(&c)
		r := testHost("10.0.0.1").read(&v)
		if r != nil && len(r.instances) > 0 {
			t.Errorf("got instances from %+v", c)
		}
	}
}

// No label of a container makes reading it panic, or gives an instance that cannot be written (P7,
// F7). The grammar itself is fuzzed in pkg/service; here every build of a fuzzer would instrument the
// engine's client.
func TestAnyLabels(t *testing.T) {
	c := recorded(t, "published")
	key := rapid.OneOf(rapid.SampledFrom([]string{
		"sidekick.service", "sidekick.port", "sidekick.host", "sidekick.check", "sidekick.services.a.check.interval", "sidekick.network",
		"sidekick.address", "sidekick.enable", "SERVICE_NAME", "VIRTUAL_HOST", "TCP_PORTS", "com.docker.compose.service", "com.docker.compose.project",
	}), rapid.String())
	text := rapid.OneOf(rapid.SampledFrom([]string{"web", "80", "0s", "http:/", "bridge", "published", "maybe", "a\nb", ""}), rapid.String())
	labels := rapid.MapOf(key, text)
	rapid.Check(t, func(t *rapid.T) {
		c := c
		config := *c.Config
		config.Labels = labels.Draw(t, "labels")
		c.Config = &config
		v := newView(&c)
		h := testHost("10.0.0.1")
		h.conventions = convention.Names()
		for _, i := range h.read(&v).instances {
			if _, err := i.Encode(); err != nil {
				t.Errorf("labels %q: %v", config.Labels, err)
			}
		}
	})
}

func TestParseSignal(t *testing.T) {
	tests := map[string]int{
		"15": 15, "SIGTERM": 15, "term": 15, "SIGQUIT": 3, "3": 3, "RTMIN+3": 37, "SIGRTMIN+3": 37, "RTMIN": 34, "RTMAX-2": 62, "KILL": 9,
		"IOT": 6, "SYS": 31, "SIGUSR1": 10, "WINCH": 28, "": -1, "0": -1, "65": -1, "-1": -1, "RTMIN-1": -1, "RTMAX+1": -1, "HUPPY": -1, "RTMIN+x": -1,
	}
	for text, want := range tests {
		got, ok := parseSignal(text)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("parseSignal(%q): got %d, want %d", text, got, want)
		}
	}
}
