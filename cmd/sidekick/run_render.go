package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/sidekick-proxy/sidekick/internal/filepoll"
	"github.com/sidekick-proxy/sidekick/pkg/admin"
	"github.com/sidekick-proxy/sidekick/pkg/catalog"
	"github.com/sidekick-proxy/sidekick/pkg/certificates"
	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
	"github.com/sidekick-proxy/sidekick/pkg/sitefiles"
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
	log     logrus.FieldLogger
	state   *admin.State
	ports   *ports
	passage *passage
	again   <-chan struct{}                                 // the proxy has refused a text, or was lost: other ports may be free now
	refusal *atomic.Pointer[haproxy.Refused]                // of the proxy, that is not explained yet
	memory  string                                          // file of who cannot be served as it asks
	judge   func(ctx context.Context, f render.Files) error // the proxy's own check, nil without a proxy
}

// rendering is the state of a renderStage that runs.
type rendering struct {
	snapshot     *catalog.Snapshot
	certificates []render.Certificate // nil before they are known
	site         *sitefiles.Set       // nil before it is known
	renderer     *render.Renderer
	input        render.Input // of the last text
	exam         examining
	good         *render.Renderer    // the last one that made a text
	refused      error               // why the template on disk is not the one in use
	told         string              // what was logged of that last, "" since it is in use
	checks       string              // what people were told of HAProxy's own checks
	https        string              // the same, on why there is no HTTPS
	slips        []string            // the same, on names of --set
	rejected     []service.Rejection // that people were told of
	said         []*service.Override // the same
	sent         render.Files
}

func (r *renderStage) run(ctx context.Context, group *errgroup.Group, in <-chan *catalog.Snapshot, out chan<- render.Files) error {
	contents, sites, sets := make(chan filepoll.Content), make(chan *sitefiles.Set), make(chan []render.Certificate)
	group.Go(func() error { return r.followTemplate(ctx, contents) })
	group.Go(func() error { return r.followSite(ctx, sites) })
	group.Go(func() error { return r.followCertificates(ctx, sets) })
	probe := time.NewTicker(portProbe)
	defer probe.Stop()
	wake := time.NewTimer(portProbe)
	defer wake.Stop()
	var now rendering
	if err := now.exam.ward.Load(r.memory, time.Now()); err != nil {
		r.log.WithError(err).Warn("services that HAProxy refuses are looked for anew")
	}
	for {
		r.examine(ctx, group, &now, wake)
		onlyPorts := false // nothing but the ports may have changed
		select {
		case now.snapshot = <-in:
			r.state.SetCatalog(now.snapshot.Catalog, now.snapshot.Live, now.snapshot.Saved)
			r.tellRejected(&now)
			r.tellOverrides(&now)
		case content := <-contents:
			r.parse(content, &now)
			r.ports.forget()
		case e := <-now.exam.result:
			if !r.conclude(&now, e) {
				continue
			}
		case <-wake.C:
			continue
		case now.site = <-sites:
		case now.certificates = <-sets:
		case <-r.again:
			r.ports.learn()
			onlyPorts = true
		case <-probe.C:
			onlyPorts = true
		case <-ctx.Done():
			return ctx.Err()
		}
		if now.snapshot == nil || now.renderer == nil || now.site == nil || now.certificates == nil {
			continue
		}
		if err := r.step(ctx, &now, onlyPorts, out); err != nil {
			return err
		}
	}
}

// step makes the text and sends it, unless only the ports may have changed and did not: then the
// driver has this text, and tries by itself.
func (r *renderStage) step(ctx context.Context, now *rendering, onlyPorts bool, out chan<- render.Files) error {
	if onlyPorts && len(r.ports.asked(now.wanted())) == 0 {
		return nil
	}
	files, model, err := r.render(ctx, now)
	if err != nil && now.good != nil && now.good != now.renderer {
		r.complain(now, err)
		now.refused, now.renderer = err, now.good
		files, model, err = r.render(ctx, now)
	}
	r.state.Report(admin.StageRender)(errors.Join(now.refused, err, now.exam.ward.Err()))
	if err != nil {
		r.complain(now, err)
		return nil
	}
	now.good = now.renderer
	r.tellMended(now)
	r.tellHeld(now)
	r.state.SetModel(model)
	r.tellChecks(now, model)
	r.tellHTTPS(now, model)
	same := files.Equal(now.sent)
	if onlyPorts && same {
		return nil
	}
	if !same {
		now.exam.alike = 0 // another text may tell who is to blame
	}
	now.sent = files
	r.passage.rendered(files, passenger{number: now.snapshot.Number, services: now.input.Served(), renderer: now.renderer})
	return send(ctx, out, files)
}

// tellRejected logs what of the registry is left out, whenever that is something else.
func (r *renderStage) tellRejected(now *rendering) {
	rejected := slices.DeleteFunc(slices.Clone(now.snapshot.Catalog.Rejected), func(r service.Rejection) bool {
		return r.Kind == service.HeldInDoubt // of which the guard tells
	})
	if slices.Equal(rejected, now.rejected) {
		return
	}
	now.rejected = rejected
	if len(rejected) == 0 {
		r.log.Info("nothing of the registry is left out any more")
		return
	}
	first := rejected[0]
	r.log.WithFields(logrus.Fields{"count": len(rejected), "first": first.Name, "why": first.Reason}).
		Warn("entries of the registry break a rule and are left out; `sidekick services` lists them")
}

// tellOverrides logs which overrides come into force and which end.
func (r *renderStage) tellOverrides(now *rendering) {
	overrides := now.snapshot.Catalog.Overrides
	about := func(o *service.Override) logrus.FieldLogger {
		return r.log.WithFields(logrus.Fields{"override": describe(o)})
	}
	for _, o := range overrides {
		if !slices.Contains(now.said, o) {
			about(o).Info("override is in force")
		}
	}
	for _, o := range now.said {
		if !slices.ContainsFunc(overrides, func(other *service.Override) bool { return other.Target == o.Target }) {
			about(o).Info("override has ended")
		}
	}
	now.said = overrides
}

// complain logs what is wrong with the template, unless that is what was logged last.
func (r *renderStage) complain(now *rendering, err error) {
	if now.told == err.Error() {
		return
	}
	now.told = err.Error()
	if now.good == nil {
		r.log.WithError(err).Error("the template fails; until it is mended, HAProxy goes on with what is on disk")
	} else {
		r.log.WithError(err).Warn("the template fails; the last good configuration stays in force")
	}
}

// tellMended logs that the template on disk is in use after it was not.
func (r *renderStage) tellMended(now *rendering) {
	if now.told != "" && now.refused == nil {
		now.told = ""
		r.log.Info("the template is mended and in use")
	}
}

// tellChecks logs what --proxy-check auto came to, whenever that is something else.
func (r *renderStage) tellChecks(now *rendering, m *render.Model) {
	checks := string(render.ProxyCheckOff)
	if m.Check {
		checks = string(render.ProxyCheckOn)
	}
	if r.proxyCheck != string(render.ProxyCheckAuto) || checks == now.checks {
		return
	}
	now.checks = checks
	servers := 0
	for _, s := range m.Services {
		servers += len(s.Servers)
	}
	r.log.WithFields(logrus.Fields{"checks": checks, "servers": servers}).Info("--proxy-check auto has decided on HAProxy's own checks")
}

// tellHTTPS tells why there is no HTTPS though there is a directory of certificates, whenever that is
// something else.
func (r *renderStage) tellHTTPS(now *rendering, m *render.Model) {
	if m.HTTPSWhy == now.https {
		return
	}
	now.https = m.HTTPSWhy
	if m.HTTPSWhy == "" {
		r.state.SetRejected("https")(nil)
		r.log.WithField("listen", m.HTTPSListen).Info("there is HTTPS now")
		return
	}
	r.state.SetRejected("https")([]service.Rejection{{
		Kind: service.RejectedCertificate, Node: r.node, Name: "HTTPS", Reason: "there is no HTTPS: " + m.HTTPSWhy,
	}})
	r.log.WithField("why", m.HTTPSWhy).Warn("there is no HTTPS")
}

// wanted is what the text is made of, without the ports that cannot be had.
func (now *rendering) wanted() render.Input {
	return render.Input{Catalog: now.snapshot.Catalog, Certificates: now.certificates}
}

// render makes the text with the ports that can be had, and the services that can be served.
func (r *renderStage) render(ctx context.Context, now *rendering) (render.Files, *render.Model, error) {
	for {
		in := now.wanted()
		in.Taken, in.Held = r.ports.taken(ctx, in), now.exam.ward.Held(in.Catalog)
		now.input = now.site.Add(in)
		files, model, err := now.renderer.Render(now.input)
		if faults, ok := errors.AsType[render.ServiceErrors](err); ok && r.blame(now, faults) {
			continue
		}
		if err != nil || !r.ports.conflict(files, model) {
			return files, model, err
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

// followSite sends what the folders of --set hold, and again when that changes.
func (r *renderStage) followSite(ctx context.Context, out chan<- *sitefiles.Set) error {
	source := &sitefiles.Source{Choices: r.choices(), Node: r.node, Log: r.log, Rejected: r.state.SetRejected("folders")}
	return source.Run(ctx, out)
}

// followCertificates sends the certificates, and again when they change; none if there is no directory of
// them.
func (r *renderStage) followCertificates(ctx context.Context, out chan<- []render.Certificate) error {
	if r.certs == "" {
		return send(ctx, out, []render.Certificate{})
	}
	source := &certificates.Source{Dir: r.certs, Node: r.node, Log: r.log, Rejected: r.state.SetRejected("certificates")}
	return source.Run(ctx, out)
}

// parse takes the template's text. One that is no template leaves the former renderer in use.
func (r *renderStage) parse(content filepoll.Content, now *rendering) {
	name := r.template
	if name == "" {
		name = templates.Name
	}
	renderer, err := render.New(name, content.Text, r.renderSettings())
	if content.Err != nil {
		err = fmt.Errorf("--template: %w", content.Err)
	}
	now.refused = err
	if err != nil {
		r.state.Report(admin.StageRender)(err)
		r.complain(now, err)
		return
	}
	now.renderer = renderer
	now.exam.ward.Under(content.Text)
	r.tellSlips(now)
}

// tellSlips warns of names of --set that may be slips of the pen, whenever these are others.
func (r *renderStage) tellSlips(now *rendering) {
	slips := now.renderer.Slips(r.set)
	for _, slip := range slips {
		if !slices.Contains(now.slips, slip) {
			r.log.Warn(slip)
		}
	}
	now.slips = slips
}
