package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sidekick-proxy/sidekick/pkg/admin"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

func servicesCommand() *cobra.Command {
	s := newSettings()
	var output string
	var direct bool
	cmd := &cobra.Command{
		Use: "services [NAME]", Short: "Services and instances, and why one is not routed", Args: atMostOneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := s.load(environ()); err != nil {
				return err
			}
			if err := checkOutput(output, "", "json", "catalog"); err != nil {
				return err
			}
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			return s.printServices(cmd, name, output, direct)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "\"json\", or \"catalog\" for what --catalog takes")
	cmd.Flags().BoolVar(&direct, "direct", false, "read the registry instead of asking this host's agent")
	s.offer(cmd, []string{"admin", "state-dir", "user"}, registrySettings, templateSettings)
	return cmd
}

// atMostOneName refuses a second argument as wrong usage.
func atMostOneName(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usageError{fmt.Errorf("%s takes one name at most, got %d", cmd.CommandPath(), len(args))}
	}
	return nil
}

func (s *settings) printServices(cmd *cobra.Command, name, output string, direct bool) error {
	out := cmd.OutOrStdout()
	if output == "catalog" {
		catalog, err := s.readCatalog(cmd.Context(), direct)
		if err != nil {
			return err
		}
		file, err := catalog.File()
		if err != nil {
			return err
		}
		return printJSON(out, file)
	}
	services, err := s.listServices(cmd, direct)
	if err != nil {
		return err
	}
	if name != "" {
		if services = onlyNamed(services, name); len(services) == 0 {
			return fmt.Errorf("there is no service %q; `sidekick services` lists all", name)
		}
	}
	if output == "json" {
		return printJSON(out, services)
	}
	if len(services) == 0 && !direct {
		return s.explainNone(cmd)
	}
	writeServices(out, services)
	if !direct {
		return s.warnBehind(cmd)
	}
	return nil
}

// warnBehind says below the list what keeps it from being in force.
func (s *settings) warnBehind(cmd *cobra.Command) error {
	var status admin.Status
	if err := s.askAgentJSON(cmd.Context(), "/api/v1/status", &status); err != nil {
		return err
	}
	for _, stage := range status.Stages {
		if word, detail := stageWord(stage); !stage.OK {
			fmt.Fprintf(cmd.ErrOrStderr(), "not all of this is in force: stage %s is %s: %s\n", stage.Stage, strings.ToLower(word), oneLine(detail))
		}
	}
	return nil
}

// explainNone tells an agent that knows no services from one that knows nothing yet.
func (s *settings) explainNone(cmd *cobra.Command) error {
	var status admin.Status
	if err := s.askAgentJSON(cmd.Context(), "/api/v1/status", &status); err != nil {
		return err
	}
	if !status.Catalog.Known {
		return fmt.Errorf("no services are known: %s; see `sidekick status`", catalogDetail(status.Catalog))
	}
	writeServices(cmd.OutOrStdout(), nil)
	return nil
}

func (s *settings) listServices(cmd *cobra.Command, direct bool) ([]admin.Service, error) {
	if !direct {
		var services []admin.Service
		return services, s.askAgentJSON(cmd.Context(), "/api/v1/services", &services)
	}
	catalog, err := s.readCatalog(cmd.Context(), true)
	if err != nil {
		return nil, err
	}
	in, _ := s.inputOf(catalog) // the agent tells what is wrong with some of it
	return admin.Services(catalog, render.Build(in, s.renderSettings()), nil, nil, time.Now()), nil
}

func onlyNamed(services []admin.Service, name string) []admin.Service {
	for _, service := range services {
		if service.Name == name {
			return []admin.Service{service}
		}
	}
	return nil
}

func writeServices(out io.Writer, services []admin.Service) {
	if len(services) == 0 {
		fmt.Fprintln(out, "no services: start a container with a sidekick.* label, such as -l sidekick.host=shop.example.com")
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SERVICE\tROUTE\tNODE\tINSTANCE\tADDRESS\tSTATE\tWEIGHT\tAGE\tWHY")
	for _, s := range services {
		if len(s.Instances) == 0 {
			fmt.Fprintf(w, "%s\t%s\t-\t-\t-\tempty\t-\t-\t%s\n", s.Name, route(s), s.Why)
		}
		for _, i := range s.Instances {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
				s.Name, route(s), i.Node, i.ID, endpoint(i), i.State, weight(i), age(i), why(i))
		}
		if s.Why != "" && len(s.Instances) > 0 && !slices.ContainsFunc(s.Instances, func(i admin.Instance) bool { return i.Why == s.Why }) {
			fmt.Fprintf(w, "%s\t\t\t\t\t\t\t\t%s\n", s.Name, s.Why)
		}
	}
	_ = w.Flush()
}

// why says why an instance is not routed, and why it is a suspect, which may be routed.
func why(i admin.Instance) string {
	if i.Why == "" || i.Doubt == i.Why {
		return i.Doubt
	}
	return strings.TrimSuffix(i.Why+"; "+i.Doubt, "; ")
}

// route says in one word how requests reach the service.
func route(s admin.Service) string {
	var parts []string
	hosts := s.Hosts
	if s.Default {
		hosts = append(slices.Clone(hosts), "*")
	}
	for _, host := range hosts {
		parts = append(parts, host+strings.TrimSuffix(s.Path, "/"))
	}
	if s.Listen != 0 {
		parts = append(parts, fmt.Sprintf(":%d/%s", s.Listen, s.Mode))
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, ",")
}

func endpoint(i admin.Instance) string {
	if i.Port == 0 {
		return "-"
	}
	return net.JoinHostPort(i.Address, strconv.Itoa(int(i.Port)))
}

// weight is unknown of what was left out, like its address.
func weight(i admin.Instance) string {
	if i.Port == 0 {
		return "-"
	}
	return strconv.Itoa(i.Weight)
}

// age is unknown of what was left out, and of what does not say when it started.
func age(i admin.Instance) string {
	if i.AgeSeconds == 0 {
		return "-"
	}
	return round(i.AgeSeconds)
}

// printJSON writes v as people read JSON.
func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
