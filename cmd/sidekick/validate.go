package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/sidekick-proxy/sidekick/pkg/declared"
	"github.com/sidekick-proxy/sidekick/pkg/docker"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

func validateCommand() *cobra.Command {
	s := newSettings()
	var output string
	cmd := &cobra.Command{
		Use: "validate [FILE…]", Short: "Settings and template, or what the services of compose files would be registered as",
		Long: "Without files it checks the settings as `sidekick run` would take them, the template, the services files and --confd-dir. With compose files\n" +
			"it says for each of their services what would be registered under the same settings, and if not, why.\n" +
			"Nothing is touched: neither registry nor engine nor HAProxy. Exit code 3 when something is refused.",
		RunE: func(cmd *cobra.Command, files []string) error {
			if err := checkOutput(output, "", "json"); err != nil {
				return err
			}
			if output == "json" && len(files) == 0 {
				return usageError{errors.New("-o json is for compose files: name one")}
			}
			if err := s.validateAll(cmd.Context(), len(files) == 0); err != nil {
				return refusedError{err}
			}
			if len(files) == 0 {
				if renderer, err := s.newRenderer(); err == nil { // validateAll has refused a bad one
					s.warnOfSlips(cmd.ErrOrStderr(), renderer)
				}
				fmt.Fprintln(cmd.OutOrStdout(), "settings and template are valid")
				return nil
			}
			return s.validateFiles(cmd, files, output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "\"json\"")
	s.offerAll(cmd)
	return cmd
}

// validateAll finds all faults of the settings; with whole, also of those that only an agent needs.
func (s *settings) validateAll(ctx context.Context, whole bool) error {
	err := found(s.load(environ()))
	if !whole {
		return err
	}
	_, errRegistry := s.registryConfig()
	_, errFiles := s.inputOf(&service.Catalog{})
	return errors.Join(err, errRegistry, found(s.validateAdvertise(ctx)), found(s.validateTemplate()), s.validateServices(), errFiles, s.validateConfd(ctx))
}

// validateAdvertise judges the address that is given; what an agent finds by itself is up to its host.
func (s *settings) validateAdvertise(ctx context.Context) error {
	if _, err := netip.ParseAddr(s.advertise); err != nil {
		return nil //nolint:nilerr // none is given, or one that load has refused
	}
	_, err := s.advertised(ctx, kernelRoutes())
	return err
}

// validateServices finds what is wrong with the services files.
func (s *settings) validateServices() error {
	if s.servicesDir == "" {
		return nil
	}
	return declared.Faults(s.servicesDir, declared.Host{Node: s.node, Zone: s.zone})
}

// found makes of wrong usage a finding: settings are what was to be checked.
func found(err error) error {
	if wrong, ok := errors.AsType[usageError](err); ok {
		return wrong.error
	}
	return err
}

// validateTemplate has the template print two services, so that what is wrong in its loops shows too.
func (s *settings) validateTemplate() error {
	renderer, err := s.newRenderer()
	if err != nil {
		return err
	}
	source := &docker.Source{Node: s.node, Advertise: exampleAddress}
	web := source.Describe(&docker.Plan{Name: "example-http", Labels: map[string]string{"sidekick.port": "80", "sidekick.host": "web.example.com"}, Networks: onlyBridge})
	stream := source.Describe(&docker.Plan{Name: "example-tcp", Labels: map[string]string{"sidekick.port": "81", "sidekick.mode": "tcp", "sidekick.listen": "1024"}, Networks: onlyBridge})
	catalog, err := catalogOf(append(web.Prospects, stream.Prospects...))
	if err != nil {
		return err
	}
	in, _ := s.inputOf(catalog) // what is wrong with some of it is told elsewhere
	_, _, err = renderer.Render(in)
	return err
}

// warnOfSlips tells of names of --set that may be slips of the pen.
func (s *settings) warnOfSlips(w io.Writer, renderer *render.Renderer) {
	for _, slip := range renderer.Slips(s.set) {
		fmt.Fprintln(w, "warning: "+slip)
	}
}

// catalogOf is what every host would see were these registered.
func catalogOf(prospects []docker.Prospect) (*service.Catalog, error) {
	const prefix = ""
	b := service.NewBuilder(prefix)
	for _, p := range prospects {
		value, err := p.Encode()
		if err != nil {
			return nil, err
		}
		b.Put(p.Key(prefix), value)
	}
	return b.Catalog(0), nil
}

// modelOf is what this host's proxy would make of them.
func (s *settings) modelOf(prospects []docker.Prospect) (*render.Model, error) {
	catalog, err := catalogOf(prospects)
	if err != nil {
		return nil, err
	}
	in, _ := s.inputOf(catalog) // what is wrong with some of it is told elsewhere
	return render.Build(in, s.renderSettings()), nil
}
