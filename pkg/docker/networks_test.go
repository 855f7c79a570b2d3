package docker

import (
	"net/netip"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"github.com/sidekick-proxy/sidekick/internal/fakeengine"
)

// connected gives the container these networks, "name address" each, and logs what an engine logs: an
// event of the network, which names the container; a disconnection twice.
func connected(e *fakeengine.Engine, id string, action events.Action, changed string, networks map[string]string) {
	e.Change(id, func(c *container.InspectResponse) {
		settings := &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{}}
		for name, address := range networks {
			settings.Networks[name] = &network.EndpointSettings{NetworkID: name + "1", IPAddress: netip.MustParseAddr(address)}
		}
		c.NetworkSettings = settings
	})
	m := events.Message{Type: events.NetworkEventType, Action: action, Actor: events.Actor{
		ID: changed + "1", Attributes: map[string]string{"container": id, "name": changed, "type": "bridge"},
	}}
	e.Emit(m)
	if action == events.ActionDisconnect {
		e.Emit(m)
	}
}

// A container that is connected to networks and disconnected while it runs is reached where it is
// (F1), and told of with the mend when it is nowhere.
func TestConnectAndDisconnect(t *testing.T) {
	e := fakeengine.New(t)
	for _, name := range []string{"back1", "front1"} {
		e.PutNetwork(name, "bridge")
	}
	e.PutNetwork("lan1", "macvlan")
	c := fakeContainer(1)
	e.Start(c)
	w := watch(t, e)
	w.next(t)
	steps := []struct {
		what, changed string
		action        events.Action
		networks      map[string]string
		want          string // address and scope, or the reason
	}{
		{"connected to another bridge", "front", events.ActionConnect, map[string]string{"back": "10.8.0.2", "front": "10.9.0.2"}, "10.8.0.2:80 node"},
		{"disconnected from the first", "back", events.ActionDisconnect, map[string]string{"front": "10.9.0.2"}, "10.9.0.2:80 node"},
		{"disconnected from the last", "front", events.ActionDisconnect, nil, "container c1 has no address in any network: connect it to one"},
		{"connected to a network that spans hosts", "lan", events.ActionConnect, map[string]string{"lan": "10.7.0.2"}, "10.7.0.2:80 "},
		{"and to a bridge", "front", events.ActionConnect, map[string]string{"front": "10.9.0.3", "lan": "10.7.0.2"}, "10.7.0.2:80 "},
	}
	for _, step := range steps {
		connected(e, c.ID, step.action, step.changed, step.networks)
		w.next(t)
		var got string
		if len(w.last) == 1 {
			got = w.last[0].Endpoint().String() + " " + w.last[0].Scope
		} else {
			w.eventually(t, step.what, func() bool { return len(w.rejected) == 1 })
			got = w.rejected[0].Reason
		}
		if got != step.want {
			t.Errorf("%s: got %q, want %q", step.what, got, step.want)
		}
	}
	if got, want := w.last[0].Check.Target.String(), "10.9.0.3:80"; got != want {
		t.Errorf("checked at %s, want %s", got, want)
	}
}
