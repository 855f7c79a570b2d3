package main

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// TestPortThatHAProxyCannotHave: where HAProxy lacks the right to a port that the agent cannot judge, the first label
// that leads to it is refused alone, and all else goes on; it is not tried again until something may be different. F7, P7.
func TestPortThatHAProxyCannotHave(t *testing.T) {
	for name, lines := range map[string]func(text string) []int{
		"a line is named": func(text string) []int {
			return []int{1 + strings.Count(text[:strings.Index(text, "bind ':443'")], "\n")}
		},
		"only its own log has it": func(string) []int { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSettings()
				p := &ports{https: s.httpsListen, held: func() []uint16 { return []uint16{80, 8405} }}
				p.forget()
				a := &agent{settings: s, ports: p}
				renderer, err := s.newRenderer()
				if err != nil {
					t.Fatal(err)
				}
				b := service.NewBuilder("/p")
				b.Put("/p/v1/instances/n/1", []byte(`{"service":"vault","address":"10.0.0.1","port":443,"hosts":["vault.test"],"options":{"tls":"passthrough"}}`))
				b.Put("/p/v1/instances/n/2", []byte(`{"service":"web","address":"10.0.0.2","port":80,"hosts":["web.test"],"listen":8000}`))
				made := func() (render.Files, map[string]string) {
					in := render.Input{Catalog: b.Catalog(1), Taken: map[uint16]string{}}
					for port := range p.asked(in) {
						if why := p.lacking(port); why != "" {
							in.Taken[port] = why
						}
					}
					files, model, err := renderer.Render(in)
					if err != nil {
						t.Fatal(err)
					}
					why := map[string]string{}
					for _, s := range model.Services {
						why[s.Name] = s.Why
					}
					return files, why
				}
				refused, _ := made()
				a.noteRefusal(errors.Join(&haproxy.Refused{Stage: haproxy.StageReload, Words: "Binding [haproxy.cfg:7] for frontend fe_https: cannot bind socket (Permission denied).; Some failed", Lines: lines(refused[0].Text()), Files: refused}))
				p.learn()
				files, why := made()
				text := files[0].Text()
				if strings.Contains(text, "':443'") || !strings.Contains(text, "':80'") || !strings.Contains(text, "':8000'") {
					t.Errorf("the text has port 443, or lacks another:\n%s", text)
				}
				if !strings.Contains(why["vault"], "its TLS cannot be passed through: haproxy cannot open port 443 (cannot bind socket (Permission denied)): give it the right to") || why["web"] != "" {
					t.Errorf("got %q", why)
				}
				time.Sleep(time.Hour)
				if _, why := made(); why["vault"] == "" {
					t.Error("it is tried again within an hour")
				}
				time.Sleep(retryUnbound)
				if _, why := made(); why["vault"] != "" {
					t.Errorf("after a day: %s", why["vault"])
				}
				p.forget()
			})
		})
	}
}
