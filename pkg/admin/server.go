package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Serve answers requests on the listener until ctx is cancelled.
func Serve(ctx context.Context, listener net.Listener, s *State) error {
	server := &http.Server{Handler: Handler(s), ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("admin listener: %w", err)
	case <-ctx.Done():
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		return errors.Join(ctx.Err(), server.Shutdown(closing))
	}
}

// Handler serves everything that an agent shows.
func Handler(s *State) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), newCollector(s))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive") })
	mux.HandleFunc("GET /readyz", s.serveReady)
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /api/v1/services", s.serveServices)
	mux.HandleFunc("GET /api/v1/status", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.Status()) })
	mux.HandleFunc("GET /api/v1/nodes", s.serveNodes)
	return mux
}

func (s *State) serveReady(w http.ResponseWriter, _ *http.Request) {
	ok, which := s.ready()
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	fmt.Fprintln(w, which)
}

// serveServices answers with the list of services, or with ?format=catalog with the catalog as
// --catalog takes it.
func (s *State) serveServices(w http.ResponseWriter, r *http.Request) {
	catalog, model, local := s.view()
	if r.URL.Query().Get("format") != "catalog" {
		writeJSON(w, Services(catalog, model, local, s.proxy().ServersDown, s.now()))
		return
	}
	if catalog == nil {
		http.Error(w, "no catalog yet: the registry has not answered, and there is no usable copy on disk", http.StatusServiceUnavailable)
		return
	}
	file, err := catalog.File()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, file)
}

// NodeStatus is one agent in /api/v1/nodes.
type NodeStatus struct {
	Name string `json:"name"`
	service.Node
}

func (s *State) serveNodes(w http.ResponseWriter, _ *http.Request) {
	catalog, _, _ := s.view()
	nodes := []NodeStatus{}
	if catalog != nil {
		for _, n := range catalog.Nodes {
			nodes = append(nodes, NodeStatus{Name: n.Name, Node: *n})
		}
	}
	writeJSON(w, nodes)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // fails only when the reader has gone
}
