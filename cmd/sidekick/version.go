package main

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// Set by the linker: see the Makefile.
var (
	version = "devel"
	commit  = "unknown"
)

func versionCommand() *cobra.Command {
	s := newSettings()
	cmd := &cobra.Command{
		Use: "version", Short: "Versions of sidekick, Go and HAProxy", Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.load(environ()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "sidekick %s (%s)\n%s %s/%s\n%s\n",
				version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH, haproxyVersion(cmd.Context(), s.haproxyBin))
			return nil
		},
	}
	s.offer(cmd, []string{"haproxy-bin"})
	return cmd
}

// haproxyVersion returns the first line of `haproxy -v`, or why there is none.
func haproxyVersion(ctx context.Context, bin string) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, bin, "-v").Output()
	if err != nil {
		return fmt.Sprintf("HAProxy: %v", err)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return first
}
