package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Exit codes, as documented in the README.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitRefused = 3
)

// usageError marks a fault in flags or settings.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// refusedError marks what a validation refused.
type refusedError struct{ error }

func (e refusedError) Unwrap() error { return e.error }

func main() { os.Exit(run()) }

// run executes the command that the arguments name and returns the exit code.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once, for whoever does not want to wait.
	context.AfterFunc(ctx, stop)

	err := newCommand().ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if line = strings.TrimRight(line, " "); line != "" {
			fmt.Fprintln(os.Stderr, "sidekick:", line)
		}
	}
	if exit := (exitError{}); errors.As(err, &exit) {
		return exit.code
	}
	switch {
	case errors.As(err, &usageError{}):
		return exitUsage
	case errors.As(err, &refusedError{}):
		return exitRefused
	default:
		return exitFailed
	}
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "sidekick",
		Short:         "Service discovery and HAProxy for plain Docker hosts",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArguments,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(runCommand(), haproxyCommand(), etcdCommand(), embeddedCommand(), servicesCommand(), renderCommand(), testCommand(), statusCommand(), registerCommand(), validateCommand(), versionCommand())
	root.AddCommand(overrideCommands()...)
	root.AddCommand(stopCommand(), confdCommand())
	return root
}

// flagError is for a flag that is not known, or not so.
func flagError(cmd *cobra.Command, err error) error {
	hint := ""
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok && unknown.GetSpecifiedShortnames() == "" {
		hint = closest("--"+unknown.GetSpecifiedName(), dashed(flagNames(cmd.Flags())))
	}
	return usageError{fmt.Errorf("%w%s; see %s --help", err, hint, cmd.CommandPath())}
}

// dashed are names of flags as they are typed.
func dashed(names []string) []string {
	typed := make([]string, 0, len(names))
	for _, name := range names {
		typed = append(typed, "--"+name)
	}
	return typed
}

// noArguments refuses arguments by name; an unknown command arrives here as one.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasSubCommands() {
		return usageError{fmt.Errorf("unknown command %q; see %s --help", args[0], cmd.CommandPath())}
	}
	return usageError{fmt.Errorf("%s takes no argument, got %q", cmd.CommandPath(), args[0])}
}
