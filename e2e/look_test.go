package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/enginetest"
)

// patience is how long a condition may take to come true on a busy machine.
const patience = time.Minute

// until repeats a look until it finds no fault.
func (w *world) until(what string, look func() error) {
	w.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := look()
		if err == nil {
			return
		}
		if w.agent != nil {
			if ended, how := w.agent.Ended(); ended {
				w.Fatalf("the agent ended (%v) before this came true: %s: %v", how, what, err)
			}
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			w.Fatalf("waited %s for: %s: %v", patience, what, err)
		}
	}
}

// answer is what came back for a request.
type answer struct {
	status int
	body   string
	server string
	err    error
}

func (a answer) ok() error {
	if a.err != nil {
		return a.err
	}
	if a.status != http.StatusOK {
		return fmt.Errorf("status %d: %s", a.status, strings.TrimSpace(a.body))
	}
	return nil
}

// get sends one GET over a connection of its own.
func (w *world) get(addr, path, host string) answer {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, http.NoBody)
	if err != nil {
		return answer{err: err}
	}
	req.Host, req.Close = host, true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{status: resp.StatusCode, body: string(body), server: resp.Header.Get("X-Whoami"), err: err}
}

// ask sends a GET to the app through HAProxy.
func (w *world) ask(a app) answer { return w.get(w.httpAddr(), "/", a.host()) }

// answeredBy waits until the app is answered by exactly these containers.
func (w *world) answeredBy(a app, boxes ...*enginetest.Container) {
	w.Helper()
	var want []string
	for _, b := range boxes {
		want = append(want, b.Short())
	}
	w.answeredByNames(a, want...)
}

// answeredByNames waits until the app is answered by exactly these; by none is answered 503 or 404.
func (w *world) answeredByNames(a app, want ...string) {
	w.Helper()
	slices.Sort(want)
	w.until(fmt.Sprintf("%s is answered by %v", a.service, want), func() error {
		var got []string
		for range 4 * max(1, len(want)) {
			one := w.ask(a)
			if len(want) == 0 && (one.status == http.StatusServiceUnavailable || one.status == http.StatusNotFound) {
				continue
			}
			if err := one.ok(); err != nil {
				return err
			}
			if !slices.Contains(got, one.server) {
				got = append(got, one.server)
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			return fmt.Errorf("answered by %v", got)
		}
		return nil
	})
}

// listedService is a service as /api/v1/services shows it; see docs/formats.md.
type listedService struct {
	Name      string           `json:"name"`
	Mode      string           `json:"mode"`
	Hosts     []string         `json:"hosts"`
	Path      string           `json:"path"`
	Listen    uint16           `json:"listen"`
	Why       string           `json:"why"`
	Instances []listedInstance `json:"instances"`
}

type listedInstance struct {
	ID      string `json:"id"`
	Node    string `json:"node"`
	Address string `json:"address"`
	Port    uint16 `json:"port"`
	State   string `json:"state"`
	Routed  bool   `json:"routed"`
	Why     string `json:"why"`
}

func (w *world) services() ([]listedService, error) {
	got := w.get(w.adminAddr(), "/api/v1/services", "")
	if err := got.ok(); err != nil {
		return nil, err
	}
	var list []listedService
	return list, json.Unmarshal([]byte(got.body), &list)
}

// instance finds the container's instance of the service.
func (w *world) instance(service string, box *enginetest.Container) (listedInstance, error) {
	list, err := w.services()
	if err != nil {
		return listedInstance{}, err
	}
	for _, s := range list {
		for _, i := range s.Instances {
			if s.Name == service && strings.Contains(i.ID, box.Short()) {
				return i, nil
			}
		}
	}
	return listedInstance{}, fmt.Errorf("service %s has no instance of container %s", service, box.Short())
}

// gone waits until no service lists the container.
func (w *world) gone(service string, box *enginetest.Container) {
	w.Helper()
	w.until("container "+box.Short()+" is not listed", func() error {
		if _, err := w.services(); err != nil {
			return err
		}
		if i, err := w.instance(service, box); err == nil {
			return fmt.Errorf("it is: %+v", i)
		}
		return nil
	})
}

// metric sums up the samples of a metric.
func (w *world) metric(name string) (float64, error) {
	got := w.get(w.adminAddr(), "/metrics", "")
	if err := got.ok(); err != nil {
		return 0, err
	}
	sum := 0.0
	for lines := bufio.NewScanner(strings.NewReader(got.body)); lines.Scan(); {
		rest, found := strings.CutPrefix(lines.Text(), name)
		if !found || !strings.HasPrefix(rest, "{") && !strings.HasPrefix(rest, " ") {
			continue
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			return 0, err
		}
		sum += v
	}
	return sum, nil
}

func (w *world) mustMetric(name string) float64 {
	w.Helper()
	v, err := w.metric(name)
	w.check(err)
	return v
}

// stage finds what the agent tells about one of its stages.
func (w *world) stage(name string) (ok bool, fault string, err error) {
	got := w.get(w.adminAddr(), "/api/v1/status", "")
	if err := got.ok(); err != nil {
		return false, "", err
	}
	var status struct {
		Stages []struct {
			Stage string `json:"stage"`
			OK    bool   `json:"ok"`
			Error string `json:"error"`
		} `json:"stages"`
	}
	if err := json.Unmarshal([]byte(got.body), &status); err != nil {
		return false, "", err
	}
	for _, s := range status.Stages {
		if s.Stage == name {
			return s.OK, s.Error, nil
		}
	}
	return false, "", fmt.Errorf("no stage %q in %s", name, got.body)
}

// faulty says whether a stage has a fault that contains these words.
func (w *world) faulty(stage, words string) error {
	ok, fault, err := w.stage(stage)
	if err == nil && (ok || !strings.Contains(fault, words)) {
		err = fmt.Errorf("stage %s: ok %v, %q; want a fault that names %q", stage, ok, fault, words)
	}
	return err
}

// inStep waits until every stage works and HAProxy runs what is wanted.
func (w *world) inStep() {
	w.Helper()
	w.until("all is in step", func() error {
		got := w.get(w.adminAddr(), "/api/v1/status", "")
		if err := got.ok(); err != nil {
			return err
		}
		var status struct {
			InStep bool `json:"in_step"`
		}
		if err := json.Unmarshal([]byte(got.body), &status); err != nil {
			return err
		}
		if !status.InStep {
			return errors.New(got.body)
		}
		return nil
	})
}
