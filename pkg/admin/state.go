package admin

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Proxy is what the driver of HAProxy tells about it.
type Proxy struct {
	Mode            string            `json:"mode"`    // managed, external or off
	InStep          bool              `json:"in_step"` // what runs is what is wanted
	State           string            `json:"state"`   // one sentence for people
	Version         string            `json:"version,omitempty"`
	Differences     int               `json:"differences"` // between running and wanted at the last look
	OldWorkers      int               `json:"old_workers"` // that still finish streams after a reload
	OldWorkersBytes uint64            `json:"old_workers_memory_bytes"`
	ServersDown     []string          `json:"servers_down"` // backend/server, by HAProxy's own checks
	Reloads         map[string]uint64 `json:"reloads"`      // by reason
	RuntimeCommands uint64            `json:"runtime_commands"`
}

// CatalogStatus is what an agent tells about the catalog that it routes by.
type CatalogStatus struct {
	Known            bool       `json:"known"`
	Live             bool       `json:"live"` // from the registry, not from the copy on disk
	Saved            *time.Time `json:"saved,omitempty"`
	CopyError        string     `json:"copy_error,omitempty"` // why it cannot be kept on disk
	Revision         int64      `json:"revision"`
	StalenessSeconds float64    `json:"staleness_seconds"` // since the registry last confirmed it
	Services         int        `json:"services"`
	Instances        int        `json:"instances"`
	Rejected         int        `json:"rejected"`                // values, keys and this host's labels that break a rule
	Suspects         int        `json:"suspects"`                // instances that the registry does not vouch for at present
	SuspectNodes     int        `json:"suspect_nodes"`           // whose they are
	SuspectUntil     *time.Time `json:"suspect_until,omitempty"` // when the last of them ends, if nothing does before
}

// Status is the format of /api/v1/status.
type Status struct {
	InStep  bool          `json:"in_step"`
	Node    string        `json:"node"`
	Version string        `json:"version"`
	Catalog CatalogStatus `json:"catalog"`
	Proxy   Proxy         `json:"haproxy"`
	Stages  []StageStatus `json:"stages"`
}

// State is where the stages of an agent leave what an observer may see. It is safe for
// concurrent use; what it is given must not be changed afterwards.
type State struct {
	node, version string
	now           func() time.Time
	began         time.Time
	stages        *stages
	proxy         func() Proxy

	mu       sync.Mutex
	catalog  *service.Catalog
	live     bool
	saved    time.Time
	copyErr  error // of the copy on disk
	model    *render.Model
	inForce  bool // a configuration made from a catalog was confirmed by the proxy
	rejected map[string][]service.Rejection
	causes   []string // for which the registry may be out of use
}

// NewState returns the state of an agent on that node with those stages. The proxy's facts are
// asked for each time they are shown.
func NewState(node, version string, order []Stage, proxy func() Proxy, now func() time.Time) *State {
	return &State{
		node: node, version: version, now: now, began: now(), proxy: proxy,
		stages: newStages(now, order), rejected: map[string][]service.Rejection{},
	}
}

// Report returns the function by which a stage tells its outcome; nil is success.
func (s *State) Report(stage Stage) func(error) { return s.stages.report(stage) }

// LastSuccess returns when the stage last succeeded, or the zero time.
func (s *State) LastSuccess(stage Stage) time.Time { return s.stages.lastSuccess(stage) }

// SetCauses says for which causes the registry may be out of use, so that each is shown when it is none.
func (s *State) SetCauses(all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.causes = all
}

// ReportCopy takes the outcome of writing the catalog to disk, or of reading it; nil is success.
func (s *State) ReportCopy(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.copyErr = err
}

// SetCatalog says which catalog the agent routes by: live, or saved at that time.
func (s *State) SetCatalog(c *service.Catalog, live bool, saved time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.catalog, s.live, s.saved = c, live, saved
}

// SetModel says what the catalog's services became for this host's proxy.
func (s *State) SetModel(m *render.Model) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.model = m
}

// SetInForce says that a rendered catalog is in force.
func (s *State) SetInForce() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inForce = true
}

// SetRejected replaces what a stage of this host has left out or holds back, by the stage's name.
func (s *State) SetRejected(by string) func([]service.Rejection) {
	return func(list []service.Rejection) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.rejected[by] = list
	}
}

// Status says how the agent does.
func (s *State) Status() Status {
	status := Status{Node: s.node, Version: s.version, Proxy: s.proxy(), Stages: s.stages.statuses(), Catalog: s.catalogStatus()}
	status.Proxy.ServersDown = orEmpty(status.Proxy.ServersDown)
	_, rejected := s.counts()
	for _, n := range rejected {
		status.Catalog.Rejected += n
	}
	status.InStep = status.Catalog.Live && status.Catalog.CopyError == "" && status.Proxy.InStep
	for _, stage := range status.Stages {
		status.InStep = status.InStep && stage.OK
	}
	return status
}

func (s *State) catalogStatus() CatalogStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := CatalogStatus{StalenessSeconds: s.staleness().Seconds()}
	if s.copyErr != nil {
		status.CopyError = s.copyErr.Error()
	}
	if s.catalog == nil {
		return status
	}
	status.Known, status.Live, status.Revision, status.Services = true, s.live, s.catalog.Revision, len(s.catalog.Services)
	for _, service := range s.catalog.Services {
		status.Instances += len(service.Instances)
	}
	if !s.saved.IsZero() {
		saved := s.saved
		status.Saved = &saved
	}
	if d := s.catalog.Doubts; d != nil {
		status.Suspects, status.SuspectNodes = d.Instances+d.Withheld, len(d.Nodes)
		until := d.Until.UTC()
		status.SuspectUntil = &until
	}
	return status
}

// staleness is the time since the registry last confirmed what is in force. If it never did, that
// is the age of the copy on disk, or else of the agent.
func (s *State) staleness() time.Duration {
	since := s.began
	if !s.saved.IsZero() {
		since = s.saved
	}
	if confirmed := s.LastSuccess(StageWatch); !confirmed.IsZero() {
		since = confirmed
	}
	return s.now().Sub(since)
}

// ready tells whether a catalog is in force, and which.
func (s *State) ready() (ok bool, which string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.catalog == nil:
		return false, "no catalog yet: the registry has not answered, and there is no usable copy on disk"
	case !s.inForce:
		return false, "a catalog is known but not in force yet; see /api/v1/status"
	case s.live:
		return true, "live catalog in force"
	default:
		return true, "cached catalog in force, saved " + s.saved.UTC().Format(time.RFC3339)
	}
}

// view returns what the service list is made of.
func (s *State) view() (*service.Catalog, *render.Model, []service.Rejection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var local []service.Rejection
	for _, by := range slices.Sorted(maps.Keys(s.rejected)) {
		local = append(local, s.rejected[by]...)
	}
	return s.catalog, s.model, local
}
