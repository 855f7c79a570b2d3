package main

import (
	"context"
	"slices"
	"sync"

	"github.com/sidekick-proxy/sidekick/pkg/ask"
	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
	"github.com/sidekick-proxy/sidekick/pkg/registry/etcd"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// newAnswerer returns what answers the asks of other hosts.
func (a *agent) newAnswerer() *ask.Answerer {
	answerer := &ask.Answerer{
		Node: a.node, Agent: a.self.Agent, Prefix: a.prefix,
		Registry: &etcd.Board{Client: a.client, Prefix: a.prefix}, Log: a.log.WithField("stage", "ask"),
	}
	if a.docker != off {
		answerer.Undrain = func(id string) {
			select {
			case a.undrain <- id:
			default: // the gate is far behind; whoever asks is told that nothing was answered
			}
		}
	}
	if a.driver != nil {
		answerer.Sessions = a.sessions
	}
	return answerer
}

// sessions counts what is open on the servers of these instances.
func (a *agent) sessions(ctx context.Context, of []*service.Instance) (int, error) {
	var servers []haproxy.Endpoint
	for _, i := range of {
		servers = append(servers, haproxy.Endpoint{Name: render.ServerName(i), Address: i.Endpoint().String()})
	}
	return a.driver.Sessions(ctx, servers)
}

// passage remembers which snapshot each set of files on its way to the proxy was made of, the oldest
// first. It is safe for concurrent use.
type passage struct {
	mu   sync.Mutex
	on   []passenger
	last passenger // that arrived
}

type passenger struct {
	files  *render.File // the first, which is a set's own
	number uint64

	services []*service.Service // that the files serve
	renderer *render.Renderer   // that made them
}

// rendered notes that files were made of this.
func (p *passage) rendered(files render.Files, of passenger) {
	const most = 64 // more than can be on the way; the rest was overtaken by newer ones
	p.mu.Lock()
	defer p.mu.Unlock()
	of.files = &files[0]
	p.on = append(slices.Delete(p.on, 0, max(0, len(p.on)-most)), of)
}

// inForce returns the snapshot that the proxy runs, given the files that are in force now.
func (p *passage) inForce(files render.Files) (number uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for at, one := range p.on {
		if one.files == &files[0] {
			p.on, p.last = slices.Delete(p.on, 0, at), one // which lets go of those before
			break
		}
	}
	return p.last.number
}

// accepted returns the services that the proxy was last seen to run, and what made their text; nil for none.
func (p *passage) accepted() ([]*service.Service, *render.Renderer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last.services, p.last.renderer
}
