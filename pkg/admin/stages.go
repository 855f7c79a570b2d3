package admin

import (
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Stage is a step on the way from a container to the proxy.
type Stage string

// The stages of an agent, in the order in which a change passes them.
const (
	StageDocker   Stage = "docker"
	StageRegister Stage = "register"
	StageWatch    Stage = "watch"
	StageRender   Stage = "render"
	StageHAProxy  Stage = "haproxy"
	StageConfd    Stage = "confd" // beside that way: from keys to files
)

// StageStatus is what is known of one stage. It is part of the status format.
type StageStatus struct {
	Stage       Stage      `json:"stage"`
	OK          bool       `json:"ok"`
	LastSuccess *time.Time `json:"last_success,omitempty"`
	AgeSeconds  float64    `json:"age_seconds,omitempty"` // since the last success
	Error       string     `json:"error,omitempty"`       // of the last attempt, if it failed
	Cause       string     `json:"cause,omitempty"`       // of that error in a word, if it has one
	FailedFor   float64    `json:"failed_for_seconds,omitempty"`
	Errors      uint64     `json:"errors"`
}

// stages keeps what each stage last reported.
type stages struct {
	mu     sync.Mutex
	now    func() time.Time
	order  []Stage
	states map[Stage]*stageState
}

type stageState struct {
	success time.Time
	failing time.Time // since when, zero if it works
	err     error
	errors  uint64
}

func newStages(now func() time.Time, order []Stage) *stages {
	s := &stages{now: now, order: order, states: map[Stage]*stageState{}}
	for _, stage := range order {
		s.states[stage] = &stageState{}
	}
	return s
}

// report returns the function by which a stage tells its outcome: nil for success.
func (s *stages) report(stage Stage) func(error) {
	state := s.states[stage]
	return func(err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		now := s.now()
		state.err = err
		if err == nil {
			state.success, state.failing = now, time.Time{}
			return
		}
		state.errors++
		if state.failing.IsZero() {
			state.failing = now
		}
	}
}

func (s *stages) statuses() []StageStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	list := make([]StageStatus, 0, len(s.order))
	for _, stage := range s.order {
		state := s.states[stage]
		status := StageStatus{Stage: stage, OK: state.err == nil && !state.success.IsZero(), Errors: state.errors}
		if !state.success.IsZero() {
			success := state.success
			status.LastSuccess = &success
			status.AgeSeconds = now.Sub(state.success).Seconds()
		}
		switch {
		case state.err != nil:
			status.Error, status.Cause = state.err.Error(), causeOf(state.err)
			status.FailedFor = now.Sub(state.failing).Seconds()
		case state.success.IsZero():
			status.Error = "has not succeeded yet"
		}
		list = append(list, status)
	}
	return list
}

// causeOf is the word by which an error says why it came about, or "".
func causeOf(err error) string {
	var known interface{ Cause() string }
	if errors.As(err, &known) {
		return known.Cause()
	}
	return ""
}

func (s *stages) lastSuccess(stage Stage) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state, ok := s.states[stage]; ok {
		return state.success
	}
	return time.Time{}
}

// collect sends the stages' metrics.
func (s *stages) collect(out chan<- prometheus.Metric, success, failures *prometheus.Desc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, stage := range s.order {
		state := s.states[stage]
		seconds := 0.0
		if !state.success.IsZero() {
			seconds = float64(state.success.UnixMilli()) / 1000
		}
		out <- prometheus.MustNewConstMetric(success, prometheus.GaugeValue, seconds, string(stage))
		out <- prometheus.MustNewConstMetric(failures, prometheus.CounterValue, float64(state.errors), string(stage))
	}
}
