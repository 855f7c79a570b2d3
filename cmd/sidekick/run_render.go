package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/sidekick-proxy/sidekick/internal/filepoll"
	"github.com/sidekick-proxy/sidekick/pkg/admin"
	"github.com/sidekick-proxy/sidekick/pkg/catalog"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/templates"
)

const (
	templatePoll = time.Second      // how often the template's file is looked at
	portProbe    = 10 * time.Second // how often a port that was taken is tried again
)

// renderStage joins what the text for HAProxy depends on: the catalog, the template, and the ports
// that are free on this host. A template that fails leaves the last good text in force.
type renderStage struct {
	*settings
	log   logrus.FieldLogger
	state *admin.State
}

func (r *renderStage) run(ctx context.Context, group *errgroup.Group, in <-chan *catalog.Snapshot, out chan<- render.Files) error {
	contents := make(chan filepoll.Content)
	group.Go(func() error { return r.followTemplate(ctx, contents) })
	probe := time.NewTicker(portProbe)
	defer probe.Stop()

	var snapshot *catalog.Snapshot
	var renderer *render.Renderer
	var refused error                             // why the template on disk is not the one in use
	host, _, _ := net.SplitHostPort(r.httpListen) // validate has refused a bad one
	ports := newPorts(r.haproxyConfig, host)
	for {
		select {
		case snapshot = <-in:
			r.state.SetCatalog(snapshot.Catalog, snapshot.Live, snapshot.Saved)
		case content := <-contents:
			renderer, refused = r.parse(content, renderer)
		case <-probe.C:
			if !ports.anyTaken() {
				continue
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		if snapshot == nil || renderer == nil {
			continue
		}
		files, model, err := renderer.Render(snapshot.Catalog, ports.taken(ctx, snapshot.Catalog))
		r.state.Report(admin.StageRender)(errors.Join(refused, err))
		if err != nil {
			r.log.WithError(err).Error("template failed; the last good configuration stays in force")
			continue
		}
		ports.granted(model)
		r.state.SetModel(model)
		if err := send(ctx, out, files); err != nil {
			return err
		}
	}
}

// followTemplate sends the template's text, and again when its file changes.
func (r *renderStage) followTemplate(ctx context.Context, out chan<- filepoll.Content) error {
	if r.template == "" {
		return send(ctx, out, filepoll.Content{Text: templates.HAProxy})
	}
	return filepoll.Run(ctx, r.template, templatePoll, out)
}

// parse returns the renderer of the new text, or the old one and why the text is no template.
func (r *renderStage) parse(content filepoll.Content, old *render.Renderer) (*render.Renderer, error) {
	name := r.template
	if name == "" {
		name = builtinTemplate
	}
	renderer, err := render.New(name, content.Text, r.renderSettings())
	if content.Err != nil {
		err = fmt.Errorf("--template: %w", content.Err)
	}
	if err != nil {
		r.state.Report(admin.StageRender)(err)
		r.log.WithError(err).Error("template refused; the last good one stays in force")
		return old, err
	}
	return renderer, nil
}
