package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/sidekick-proxy/sidekick/pkg/certificates"
	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
	"github.com/sidekick-proxy/sidekick/pkg/quarantine"
	"github.com/sidekick-proxy/sidekick/pkg/registry/etcd"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
	"github.com/sidekick-proxy/sidekick/pkg/sitefiles"
	"github.com/sidekick-proxy/sidekick/templates"
)

type renderOptions struct {
	catalog                    string
	direct, check, diff, print bool
}

func renderCommand() *cobra.Command {
	s := newSettings()
	var o renderOptions
	var c confdOptions
	cmd := &cobra.Command{
		Use: "render", Short: "What the template makes of the catalog, without touching anything", Args: noArguments,
		Long: "Prints the file(s) that HAProxy would be given. The catalog comes from this host's agent, from the\n" +
			"registry (--direct), or from a file (--catalog), as `sidekick services -o catalog` prints it.\n\n" +
			"With --confd-dir it shows what that directory's resources would write, from the keys in the registry;\n" +
			"with --onetime it writes them and runs their commands.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			forConfd := c.onetime || c.noop || cmd.Flags().Changed("confd-dir") // not by the agent's environment
			if err := s.load(environ()); err != nil {
				return err
			}
			if forConfd {
				return s.renderConfd(cmd, c)
			}
			if o.print {
				_, err := io.WriteString(cmd.OutOrStdout(), templates.HAProxy)
				return err
			}
			return s.render(cmd, o)
		},
	}
	cmd.Flags().StringVar(&o.catalog, "catalog", "", "`file` to take the catalog from")
	cmd.Flags().BoolVar(&o.direct, "direct", false, "take the catalog from the registry")
	cmd.Flags().BoolVar(&o.check, "check", false, "have HAProxy check the result; exit code 3 when it refuses")
	cmd.Flags().BoolVar(&o.diff, "diff", false, "print what would change in the files of --haproxy-config instead, and whether by runtime commands or a reload")
	cmd.Flags().BoolVar(&o.print, "print-template", false, "print the built-in template instead, to start your own from")
	c.offer(cmd)
	s.offer(cmd, []string{"admin", "state-dir", "confd-dir", "confd-prefix"}, registrySettings, templateSettings, logSettings)
	return cmd
}

// keptByAgent says why the text may be another one than that of an agent.
const keptByAgent = "; an agent that has read what was good before goes on with that"

func (s *settings) render(cmd *cobra.Command, o renderOptions) error {
	catalog, err := s.catalogFor(cmd.Context(), o)
	if err != nil {
		return err
	}
	for _, r := range catalog.Rejected {
		fmt.Fprintf(cmd.ErrOrStderr(), "left out: %s: %s\n", r.Name, r.Reason)
	}
	renderer, err := s.newRenderer()
	if err != nil {
		return refusedError{err}
	}
	s.warnOfSlips(cmd.ErrOrStderr(), renderer)
	in, err := s.inputOf(catalog)
	if err != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), "left out:", oneLine(err.Error())+keptByAgent)
	}
	files, _, err := renderer.Render(in)
	if err != nil {
		return refusedError{err}
	}
	if o.diff {
		err = s.writeChange(cmd, files)
	} else {
		err = writeFiles(cmd.OutOrStdout(), files)
	}
	if err != nil || !o.check {
		return err
	}
	if err := s.checkFiles(cmd.Context(), files); err != nil {
		return s.toBlame(cmd.Context(), renderer, in, err)
	}
	for _, warning := range haproxy.Warnings(files) {
		fmt.Fprintln(cmd.ErrOrStderr(), "warning:", warning)
	}
	fmt.Fprintln(cmd.ErrOrStderr(), "HAProxy accepts it")
	return nil
}

// checkFiles has HAProxy judge the files; what it refuses is a refusedError.
func (s *settings) checkFiles(ctx context.Context, files render.Files) error {
	err := haproxy.Check(ctx, s.haproxyBin, s.haproxyRuntimeSocket, files)
	if _, refused := errors.AsType[*haproxy.Refused](err); refused {
		return refusedError{err}
	}
	if err != nil {
		return fmt.Errorf("%w; is HAProxy installed, and --haproxy-bin its program?", err)
	}
	return nil
}

// toBlame adds to HAProxy's refusal which services it is about.
func (s *settings) toBlame(ctx context.Context, renderer *render.Renderer, in render.Input, refusal error) error {
	if refused, ok := errors.AsType[*haproxy.Refused](refusal); !ok || !refused.OfText() {
		return refusal
	}
	exam := quarantine.Exam{Renderer: renderer, Input: in, Cold: true, Judge: func(ctx context.Context, files render.Files) error {
		return haproxy.Check(ctx, s.haproxyBin, s.haproxyRuntimeSocket, files)
	}}
	verdict, err := exam.Run(ctx)
	if err != nil || len(verdict.Findings) == 0 {
		return refusal // it is no service's fault alone
	}
	for _, f := range verdict.Findings {
		err = errors.Join(err, fmt.Errorf("an agent would leave service %s out: %s", f.Service.Name, f.Words))
	}
	return refusedError{errors.Join(refusal, err)}
}

// writeFiles prints the configuration, and each file beside it below a line with its name, without secrets.
func writeFiles(out io.Writer, files render.Files) error {
	for _, file := range files {
		if file.Name != "" {
			fmt.Fprintf(out, "\n# ---- %s ----\n", file.Name)
		}
		if _, err := io.WriteString(out, file.Shown()); err != nil {
			return err
		}
	}
	return nil
}

func (s *settings) catalogFor(ctx context.Context, o renderOptions) (*service.Catalog, error) {
	if o.catalog == "" {
		return s.readCatalog(ctx, o.direct)
	}
	text, err := os.ReadFile(o.catalog)
	if err != nil {
		return nil, usageError{fmt.Errorf("--catalog: %w", err)}
	}
	catalog, err := service.ParseFile(text)
	if err != nil {
		return nil, refusedError{fmt.Errorf("--catalog %s: %w", o.catalog, err)}
	}
	catalog, _ = new(service.Lapses).At(time.Now(), catalog)
	return catalog, nil
}

// readCatalog returns the catalog of this host's agent, or of the registry itself.
func (s *settings) readCatalog(ctx context.Context, direct bool) (*service.Catalog, error) {
	if direct {
		return s.readRegistry(ctx)
	}
	status, body, err := s.askAgent(ctx, "/api/v1/services?format=catalog")
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("agent at %s: %s", s.admin, oneLine(string(body)))
	}
	return service.ParseFile(body)
}

// readRegistry lists the registry once.
func (s *settings) readRegistry(ctx context.Context) (*service.Catalog, error) {
	if err := s.becomeAgent(false); err != nil {
		return nil, err
	}
	client, err := s.openRegistry(ctx)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return s.readFrom(ctx, client, 10*time.Second, func(*service.Catalog) bool { return true })
}

// errUnmet says that the registry answers, and is not as it is waited for.
var errUnmet = errors.New("the registry does not show it yet")

// readFrom follows the registry until a catalog is as it is wanted, and returns that one as it counts now.
func (s *settings) readFrom(ctx context.Context, client *clientv3.Client, patience time.Duration, wanted func(*service.Catalog) bool) (*service.Catalog, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last error // of the watcher, whose goroutine has ended when it is read
	out := make(chan *service.Catalog, 1)
	watcher := &etcd.Watcher{Client: client, Prefix: s.prefix, Log: s.newLogger(io.Discard), Report: func(err error) {
		if last = err; refuses(err) {
			cancel()
		}
	}}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return watcher.Run(ctx, out) })
	var catalog *service.Catalog
	unmet := false
	group.Go(func() error {
		for {
			select {
			case c := <-out:
				if unmet = !wanted(c); !unmet {
					catalog, _ = new(service.Lapses).At(time.Now(), c)
					return context.Canceled // one catalog is enough
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	err := group.Wait()
	switch {
	case unmet:
		return nil, errUnmet
	case catalog == nil && refuses(last):
		return nil, fmt.Errorf("registry %s: %w", s.registry, last)
	case catalog == nil:
		return nil, fmt.Errorf("registry %s did not answer within %s: %w", s.registry, patience, cmp.Or(last, err))
	}
	return catalog, nil
}

// refuses tells whether an error of the registry is of those that waiting does not mend.
func refuses(err error) bool {
	problem, ok := errors.AsType[*etcd.Problem](err)
	return ok && slices.Contains([]etcd.Cause{etcd.Credentials, etcd.Denied, etcd.Certificate, etcd.ClientCertificate}, problem.Is)
}

// newRenderer reads and parses the template that the settings name.
func (s *settings) newRenderer() (*render.Renderer, error) {
	if s.template == "" {
		return render.New(templates.Name, templates.HAProxy, s.renderSettings())
	}
	text, err := os.ReadFile(s.template)
	if err != nil {
		return nil, usageError{fmt.Errorf("--template: %w", err)}
	}
	return render.New(s.template, string(text), s.renderSettings())
}

// choices are what --set chose of what the model knows.
func (s *settings) choices() render.Choices {
	c, _ := render.ChoicesOf(s.set) // validate has refused bad ones
	return c
}

// inputOf is what a text is made of: a catalog, and the files of --certs and --set as they are. The error says
// what is wrong with some of these; the others count.
func (s *settings) inputOf(catalog *service.Catalog) (render.Input, error) {
	in := render.Input{Catalog: catalog}
	var errCertificates error
	if s.certs != "" {
		in.Certificates, errCertificates = certificates.Read(s.certs)
	}
	site, errSite := sitefiles.Read(s.choices())
	return site.Add(in), errors.Join(errCertificates, errSite)
}

// renderSettings are the facts of this host that the model holds.
func (s *settings) renderSettings() render.Settings {
	low, high, _ := s.portRange() // validate has refused a bad one
	https := s.httpsListen
	if https == off {
		https = ""
	}
	return render.Settings{
		Node: s.node, Zone: s.zone, HTTPListen: s.httpListen, HTTPSListen: https, Stats: s.statsListen, Certs: s.certs,
		HTTPSSocket: filepath.Join(filepath.Dir(s.haproxyConfig), "https.sock"),
		ListenLow:   low, ListenHigh: high, Set: s.set, RuntimeSocket: s.haproxyRuntimeSocket,
		ProxyCheck:  render.ProxyCheck(s.proxyCheck),
		ServerState: filepath.Join(filepath.Dir(s.haproxyConfig), "server.state"),
	}
}
