package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/load"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// rawTemplate prints what meta says as it is, a line of each service and a word of each server: what no template
// should do.
const rawTemplate = `
{{define "more backend"}}
{{- range $key, $value := .Meta}}{{if eq $key "line"}}
    {{$value}}{{end}}{{end}}
{{- end}}
{{define "servers"}}
{{- range .Servers}}
    server {{.Name}} {{.Endpoint}} weight {{.Weight}}{{range $i := $.Instances}}{{range $key, $value := .Meta}}{{if eq $key "word"}} {{$value}}{{end}}{{end}}{{end}}
{{- end}}
{{- end}}
`

// template writes the template of the test.
func (s *site) writeTemplate(text string) string {
	s.Helper()
	path := s.path("raw.tmpl")
	s.check(os.WriteFile(path, []byte(text), 0o600))
	return path
}

// says is the instance with a meta that the template prints.
func says(i service.Instance, key, text string) service.Instance {
	i.Meta = map[string]string{key: text}
	return i
}

// servicesOf starts and registers so many services of one server each.
func (s *site) servicesOf(number int) (apps []app, all []service.Instance) {
	s.Helper()
	for n := range number {
		a := app{service: "app" + strconv.Itoa(n)}
		i := s.serve(a.service).instance(a)
		s.register(i)
		apps, all = append(apps, a), append(all, i)
	}
	return apps, all
}

// TestQuarantine: a service whose text HAProxy refuses blocks no other. One that was served before goes on by
// its former labels, with its instances of now; a new one is left out. All others go on changing, and lose no
// request. Once it is mended, it is served as it asks. The file on disk is valid at every step, and an agent or
// a HAProxy that is killed goes on from there. P6, P7, F7, F8.
func TestQuarantine(t *testing.T) {
	onSites(t, func(s *site) {
		s.begin("--template", s.writeTemplate(rawTemplate))
		apps, instances := s.servicesOf(20)
		for _, a := range apps {
			s.serves(s.httpAddr(), "/", a.host())
		}
		s.inStep()
		var loads []*load.Run
		for _, n := range []int{0, 5, 6, 19} {
			loads = append(loads, s.run(apps[n], load.Options{Pause: 20 * time.Millisecond, Workers: 1}))
		}

		// One becomes bad: it is served as before, and a second instance with these labels as well.
		s.register(says(instances[5], "line", "nonsense here"))
		s.held("app5", "served as before its labels changed, for HAProxy refuses its text", "nonsense", "of its text")
		s.register(says(s.serve("second").instance(apps[5]), "line", "nonsense here"))
		s.answeredByNames(apps[5], "app5", "second")
		s.agentKilled(apps[5], "app5", "second")

		// A good one comes while that is so.
		good := s.serve("good").instance(app{service: "good"})
		s.register(good)
		s.serves(s.httpAddr(), "/", app{service: "good"}.host())
		s.valid()

		// A server comes with a bad word: its service goes on with the others.
		s.register(says(s.serve("wordy").instance(apps[7]), "word", "nonsense"))
		s.held("app7", "served as before, without instances whose labels are new", "nonsense")
		s.answeredByNames(apps[7], "app7")
		s.deregister(service.Instance{Node: "there", ID: "wordy"})

		// A template that HAProxy refuses for all is not used.
		s.writeTemplate(rawTemplate + `{{define "more global"}}` + "\n    nonsense\n{{end}}")
		s.until("the template is refused", func() error { return s.faulty("render", "the template is not used, for HAProxy refuses") })
		s.register(s.serve("later").instance(app{service: "later"}))
		s.serves(s.httpAddr(), "/", app{service: "later"}.host())
		s.writeTemplate(rawTemplate)
		s.until("the template is mended", func() error { return s.faulty("render", "service app5 is ") })

		// A second one becomes bad, and two come at once of which one is bad.
		s.register(says(instances[6], "line", "http-request nonsense"))
		s.held("app6", "served as before its labels changed")
		late, lost := app{service: "late"}, app{service: "lost"}
		s.register(says(s.serve("lost").instance(lost), "line", "server"))
		s.register(s.serve("late").instance(late))
		s.held("lost", "left out, for HAProxy refuses its text")
		s.serves(s.httpAddr(), "/", late.host())
		if got := s.ask(lost); got.status != http.StatusServiceUnavailable {
			s.Errorf("the service that is left out answers %+v, want 503", got)
		}
		if n := s.mustMetric("sidekick_rejected"); n != 3 {
			s.Errorf("%v are rejected, want 3", n)
		}
		s.valid()
		s.proxyKilled(apps[0], loads)

		// Mended, they are served as they ask.
		s.register(says(instances[5], "line", "http-response set-header X-Mended yes"))
		s.register(instances[6])
		s.deregister(service.Instance{Node: "there", ID: "second"})
		s.register(s.serve("lost-mended").instance(lost))
		s.deregister(service.Instance{Node: "there", ID: "lost"})
		s.answeredByNames(lost, "lost-mended")
		s.inStep()
		if n := s.mustMetric("sidekick_rejected"); n != 0 {
			s.Errorf("%v are rejected, want none", n)
		}
		for n := range loads {
			s.noneFailed(loads[n])
		}
		s.valid()
		s.noneRefused()
	})
}

// held waits until the service says why it is not served as it asks.
func (s *site) held(service string, words ...string) {
	s.Helper()
	s.until(service+" says why it is held", func() error {
		for _, part := range words {
			if err := s.says(service, part); err != nil {
				return err
			}
		}
		return s.faulty("render", "service "+service+" is ")
	})
}

// valid asserts that HAProxy accepts what is on disk.
func (s *site) valid() {
	s.Helper()
	out, err := exec.CommandContext(s.ctx, s.bin, "-c", "-f", s.config()).CombinedOutput()
	if err != nil || strings.Contains(string(out), "[ALERT]") {
		s.Errorf("the file on disk is not valid: %v\n%s", err, out)
	}
}

// agentKilled kills the agent and starts it again: the service that is held is served as before.
func (s *site) agentKilled(a app, names ...string) {
	s.Helper()
	s.agent.Kill()
	s.agent = nil
	s.valid()
	s.startAgent()
	s.held(a.service, "served as before")
	s.answeredByNames(a, names...)
}

// proxyKilled kills the agent and HAProxy, which starts with what is on disk.
func (s *site) proxyKilled(a app, loads []*load.Run) {
	s.Helper()
	for n := range loads {
		s.noneFailed(loads[n])
	}
	s.agent.Kill()
	s.agent = nil
	s.killHAProxy()
	<-s.proxy.Done()
	s.until("HAProxy is gone", func() error { return none(s.haproxies()) })
	s.startProxy()
	s.serves(s.httpAddr(), "/", a.host())
	s.startAgent()
	s.held("lost", "left out")
	for n, number := range []int{0, 5, 6, 19} {
		loads[n] = s.run(app{service: fmt.Sprintf("app%d", number)}, load.Options{Pause: 20 * time.Millisecond, Workers: 1})
	}
}
