package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sidekick-proxy/sidekick/pkg/admin"
)

func statusCommand() *cobra.Command {
	s := newSettings()
	var alive bool
	var output string
	cmd := &cobra.Command{
		Use: "status", Short: "How this host's agent does; exit code 0 only when all is in step", Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.load(environ()); err != nil {
				return err
			}
			if err := checkOutput(output, "", "json"); err != nil {
				return err
			}
			if alive {
				return s.alive(cmd)
			}
			return s.printStatus(cmd, output)
		},
	}
	cmd.Flags().BoolVar(&alive, "alive", false, "ask only whether the agent lives, for health checks: an outage of the registry does not count")
	cmd.Flags().StringVarP(&output, "output", "o", "", "\"json\"")
	s.offer(cmd, []string{"admin"})
	return cmd
}

// checkOutput refuses a value of --output that the command does not know.
func checkOutput(got string, known ...string) error {
	if slices.Contains(known, got) {
		return nil
	}
	return usageError{fmt.Errorf("--output %q: must be one of%s", got, strings.Join(known, " "))}
}

func (s *settings) alive(cmd *cobra.Command) error {
	if s.admin == off {
		fmt.Fprintln(cmd.OutOrStdout(), "not asked: --admin is off")
		return nil // a health check must not restart what nobody can ask
	}
	status, body, err := s.askAgent(cmd.Context(), "/healthz")
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("agent at %s: %d %s", s.admin, status, body)
	}
	fmt.Fprintln(cmd.OutOrStdout(), "alive")
	return nil
}

// errOutOfStep makes the exit code tell what the text says.
var errOutOfStep = errors.New("not all is in step")

func (s *settings) printStatus(cmd *cobra.Command, output string) error {
	var status admin.Status
	if err := s.askAgentJSON(cmd.Context(), "/api/v1/status", &status); err != nil {
		return err
	}
	if output == "json" {
		if err := printJSON(cmd.OutOrStdout(), status); err != nil {
			return err
		}
	} else {
		writeStatus(cmd.OutOrStdout(), status)
	}
	if !status.InStep {
		return errOutOfStep
	}
	return nil
}

func writeStatus(out io.Writer, status admin.Status) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "node\t%s\tsidekick %s\n", status.Node, status.Version)
	fmt.Fprintf(w, "catalog\t%s\t%s\n", catalogWord(status), catalogDetail(status.Catalog))
	if c := status.Catalog; c.Known && c.CopyError != "" {
		fmt.Fprintf(w, "copy\tFAILING\t%s\n", oneLine(c.CopyError))
	}
	fmt.Fprintf(w, "proxy\t%s\t%s\n", stepWord(status.Proxy.InStep), proxyDetail(status.Proxy))
	for _, stage := range status.Stages {
		word, detail := stageWord(stage)
		fmt.Fprintf(w, "%s\t%s\t%s\n", stage.Stage, word, oneLine(detail))
	}
	_ = w.Flush()
}

func stageWord(s admin.StageStatus) (word, detail string) {
	switch {
	case s.OK:
		return "ok", "last success " + ago(s.AgeSeconds)
	case s.Errors == 0:
		return "waiting", s.Error
	default:
		detail = fmt.Sprintf("%s (failing for %s)", s.Error, round(s.FailedFor))
		if s.Cause != "" {
			detail = s.Cause + ": " + detail
		}
		return "FAILING", detail
	}
}

// unconfirmed is how long a registry that is there leaves a catalog without a word at most.
const unconfirmed = 20 * time.Second

// catalogWord says where the catalog comes from, and whether the registry still vouches for it.
func catalogWord(s admin.Status) string {
	c := s.Catalog
	away := slices.ContainsFunc(s.Stages, func(stage admin.StageStatus) bool { return stage.Stage == admin.StageWatch && !stage.OK })
	switch {
	case !c.Known:
		return "NONE"
	case c.Live && (away || c.StalenessSeconds > unconfirmed.Seconds()):
		return "STALE"
	case c.Live:
		return "live"
	default:
		return "CACHED"
	}
}

func catalogDetail(c admin.CatalogStatus) string {
	if !c.Known {
		return "the registry has not answered, and there is no usable copy on disk"
	}
	rejected := ""
	if c.Rejected > 0 {
		rejected = fmt.Sprintf(", %d rejected (see `sidekick services`)", c.Rejected)
	}
	return fmt.Sprintf("%s, %s%s%s, revision %d, confirmed %s",
		count(c.Services, "service"), count(c.Instances, "instance"), suspects(c), rejected, c.Revision, ago(c.StalenessSeconds))
}

// suspects says what the registry does not vouch for at present, and until when that is borne.
func suspects(c admin.CatalogStatus) string {
	if c.Suspects == 0 || c.SuspectUntil == nil {
		return ""
	}
	return fmt.Sprintf(", %s of %s until %s at the longest (see `sidekick services`)",
		count(c.Suspects, "suspect"), count(c.SuspectNodes, "node"), c.SuspectUntil.UTC().Format("15:04:05 UTC"))
}

func stepWord(ok bool) string {
	if ok {
		return "in step"
	}
	return "BEHIND"
}

func proxyDetail(p admin.Proxy) string {
	var reloads uint64
	for _, n := range p.Reloads {
		reloads += n
	}
	detail := fmt.Sprintf("%s, %s, %s, %s", p.Mode, count(reloads, "reload"), count(p.RuntimeCommands, "runtime command"), count(p.OldWorkers, "old worker"))
	if n := len(p.ServersDown); n > 0 {
		detail += ", " + count(n, "server") + " down by HAProxy's own check"
	}
	if p.State != "" && !strings.EqualFold(p.State, stepWord(p.InStep)) {
		detail += "; " + p.State
	}
	return oneLine(detail)
}

// count is a number of things, by the name of one.
func count[N int | uint64](n N, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

func oneLine(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.Join(strings.Fields(line), " "); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

func ago(seconds float64) string { return round(seconds) + " ago" }

// round writes a duration as people say it.
func round(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	default:
		return d.Round(time.Minute).String()
	}
}
