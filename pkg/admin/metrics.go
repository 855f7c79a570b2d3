package admin

import (
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// collector reads the state at each scrape, so that no metric can lag behind what is shown
// elsewhere.
type collector struct {
	state *State

	stageSuccess, stageErrors         *prometheus.Desc
	reloads, runtimeCommands          *prometheus.Desc
	revision, staleness, problem      *prometheus.Desc
	differences, inStep               *prometheus.Desc
	oldWorkers, oldWorkersMemory      *prometheus.Desc
	serversDown                       *prometheus.Desc
	instances, rejected, servicesDesc *prometheus.Desc
	certificateExpiry                 *prometheus.Desc
}

func newCollector(s *State) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sidekick_"+name, help, labels, nil)
	}
	return &collector{
		state:             s,
		stageSuccess:      desc("stage_last_success_timestamp_seconds", "When the stage last succeeded, as Unix time; 0 for never.", "stage"),
		stageErrors:       desc("stage_errors_total", "Failures of the stage.", "stage"),
		reloads:           desc("reloads_total", "Reloads of HAProxy, by what made them necessary.", "reason"),
		runtimeCommands:   desc("runtime_commands_total", "Commands that HAProxy's runtime API accepted."),
		revision:          desc("registry_revision", "Revision of the registry that the catalog shows."),
		staleness:         desc("registry_staleness_seconds", "Time since the registry last confirmed the catalog."),
		problem:           desc("registry_problem", "1 for each cause for which a stage cannot use the registry at present.", "cause"),
		differences:       desc("proxy_differences", "Differences between what HAProxy runs and what is wanted, at the last look."),
		oldWorkers:        desc("old_workers", "HAProxy workers of before a reload that still finish streams."),
		oldWorkersMemory:  desc("old_workers_memory_bytes", "What these workers hold for their connections; their configuration comes on top."),
		serversDown:       desc("servers_down", "Servers in service that HAProxy's own checks find down."),
		inStep:            desc("in_step", "1 when every stage works and HAProxy runs what is wanted."),
		instances:         desc("instances", "Instances in the catalog, by state; starting ones are this host's only.", "state"),
		rejected:          desc("rejected", "What is left out at present: values, keys and labels that break a rule.", "kind"),
		certificateExpiry: desc("certificate_expiry_timestamp_seconds", "Until when the certificate is valid, as Unix time.", "certificate"),
		servicesDesc:      desc("services", "Services in the catalog."),
	}
}

// Describe sends the descriptions of all metrics.
func (c *collector) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, out) }

// Collect sends the metrics as of now.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	status := c.state.Status()
	c.state.stages.collect(out, c.stageSuccess, c.stageErrors)
	for _, reason := range slices.Sorted(maps.Keys(status.Proxy.Reloads)) {
		counter(c.reloads, float64(status.Proxy.Reloads[reason]), reason)
	}
	counter(c.runtimeCommands, float64(status.Proxy.RuntimeCommands))
	gauge(c.revision, float64(status.Catalog.Revision))
	gauge(c.staleness, status.Catalog.StalenessSeconds)
	problems := c.state.problems(status.Stages)
	for _, cause := range slices.Sorted(maps.Keys(problems)) {
		gauge(c.problem, problems[cause], cause)
	}
	gauge(c.differences, float64(status.Proxy.Differences))
	gauge(c.oldWorkers, float64(status.Proxy.OldWorkers))
	gauge(c.oldWorkersMemory, float64(status.Proxy.OldWorkersBytes))
	gauge(c.serversDown, float64(len(status.Proxy.ServersDown)))
	gauge(c.inStep, map[bool]float64{true: 1}[status.InStep])
	gauge(c.servicesDesc, float64(status.Catalog.Services))
	states, rejected := c.state.counts()
	for _, state := range slices.Sorted(maps.Keys(states)) {
		gauge(c.instances, float64(states[state]), state)
	}
	for _, kind := range slices.Sorted(maps.Keys(rejected)) {
		gauge(c.rejected, float64(rejected[kind]), kind)
	}
	if _, model, _ := c.state.view(); model != nil {
		for _, certificate := range model.Certificates {
			gauge(c.certificateExpiry, float64(certificate.NotAfter.Unix()), certificate.Name)
		}
	}
}

// problems are all causes for which the registry may be out of use, with 1 for those that it is for.
func (s *State) problems(stages []StageStatus) map[string]float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	problems := map[string]float64{}
	for _, cause := range s.causes {
		problems[cause] = 0
	}
	for _, stage := range stages {
		if stage.Cause != "" && !stage.OK {
			problems[stage.Cause] = 1
		}
	}
	return problems
}

// has tells whether the catalog lists what could not be written now: it was, before.
func has(catalog *service.Catalog, r service.Rejection) bool {
	if catalog == nil {
		return false
	}
	group := catalog.Service(r.Service)
	return group != nil && slices.ContainsFunc(group.Instances, func(i *service.Instance) bool { return i.ID == r.ID && i.Node == r.Node })
}

// counts returns the number of instances by state, and of rejections by kind.
func (s *State) counts() (states, rejected map[string]int) {
	catalog, model, local := s.view()
	states = map[string]int{"ready": 0, "draining": 0, "unhealthy": 0, stateStarting: 0, stateWaiting: 0, stateSuspect: 0}
	rejected = map[string]int{"label": 0, "value": 0, "key": 0, service.RejectedFile: 0, service.RejectedCertificate: 0, rejectedText: refusedIn(model)}
	all := local
	if catalog != nil {
		all = slices.Concat(local, catalog.Rejected)
		countInstances(catalog, states)
	}
	for _, r := range all {
		switch r.Kind {
		case service.HeldByCheck:
			states[stateStarting]++
		case service.HeldInDoubt:
			states[stateSuspect]++
		case service.Unwritten:
			if !has(catalog, r) {
				states[stateWaiting]++
			}
		case service.UnhealthyByCheck: // the catalog has it
		default:
			rejected[r.Kind]++
		}
	}
	return states, rejected
}

// rejectedText is the kind of services whose texts HAProxy, or the template, does not take.
const rejectedText = "text"

// refusedIn counts the services of a model that are not served as they ask, for their texts are refused.
func refusedIn(m *render.Model) int {
	if m == nil {
		return 0
	}
	names := map[string]bool{}
	for _, s := range slices.Concat(m.Services, m.LeftOut) {
		if s.Refused != "" {
			names[s.Name] = true
		}
	}
	return len(names)
}

// countInstances adds a catalog's instances to the numbers by state.
func countInstances(catalog *service.Catalog, states map[string]int) {
	for _, group := range catalog.Services {
		for _, i := range group.Instances {
			states[countedState(i)]++
		}
	}
}

// countedState is under what an instance of the catalog is counted.
func countedState(i *service.Instance) string {
	if i.Doubt != nil {
		return stateSuspect
	}
	return string(i.State)
}
