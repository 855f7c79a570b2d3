package docker

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/sidekick-proxy/sidekick/internal/fakeengine"
	"github.com/sidekick-proxy/sidekick/pkg/convention"
)

// marked is a fake container without labels of ours, and with that environment.
func marked(n int, env ...string) container.InspectResponse {
	c := fakeContainer(n)
	c.Config.Labels, c.Config.Env = map[string]string{}, env
	return c
}

// told lists what was logged with that message, as "field=value", sorted.
func told(h *logtest.Hook, message string, fields ...string) []string {
	var all []string
	for _, e := range h.AllEntries() {
		if e.Message != message {
			continue
		}
		var line []string
		for _, f := range fields {
			line = append(line, strings.TrimSpace(f+"="+fmt.Sprint(e.Data[f])))
		}
		all = append(all, strings.Join(line, " "))
	}
	slices.Sort(all)
	return all
}

// Containers with marks of a convention that is on are registered; what of them is not acted on is
// told once, however often they are inspected, and does not take them out (P7).
func TestContainersOfOtherConventions(t *testing.T) {
	e := fakeengine.New(t)
	c := marked(1, "VIRTUAL_HOST=a.test", "HTTPS_METHOD=nohttps")
	e.Start(c)
	e.Start(marked(2, "SERVICE_NAME=db"))
	e.Start(marked(3))
	log, hook := logtest.NewNullLogger()
	w := watch(t, e, func(s *Source) {
		s.Conventions = []string{convention.Sidekick, convention.NginxProxy, convention.Registrator}
		s.Log = log
	})
	w.until(t, "c1:ready c2:ready")
	e.Change(c.ID, func(c *container.InspectResponse) { c.State.Paused = true })
	e.EmitContainer(c.ID, events.ActionPause)
	w.until(t, "c1:unhealthy c2:ready")
	got := told(hook, "container asks for something that is not acted on", "container", "what")
	want := []string{"container=c1 what=environment variable HTTPS_METHOD is not acted on: sidekick.redirect=https leads browsers to HTTPS"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// At the start the agent says once, for each convention that is off, how many running containers carry
// its marks and what turns it on.
func TestConventionsThatAreOffAreTold(t *testing.T) {
	e := fakeengine.New(t)
	e.Start(marked(1, "VIRTUAL_HOST=a.test", "SERVICE_NAME=x"))
	e.Start(marked(2, "SERVICE_NAME=db"))
	e.Start(marked(3, "TCP_PORTS=22"))
	log, hook := logtest.NewNullLogger()
	w := watch(t, e, func(s *Source) {
		s.Conventions = []string{convention.Sidekick, convention.DockerCloud}
		s.Log = log
	})
	w.until(t, "c1:ready c3:ready")
	e.Start(marked(4, "SERVICE_NAME=x", "TCP_PORTS=22"))
	w.until(t, "c1:ready c3:ready c4:ready")
	got := told(hook, "running containers carry marks of a convention that is off", "convention", "containers", "mend")
	want := []string{"convention=registrator containers=2 mend=--conventions sidekick,dockercloud,registrator turns it on"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
