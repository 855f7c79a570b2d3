package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// commandsShown is how many runtime commands are listed.
const commandsShown = 20

// writeChange prints in what these files differ from those in force, and what putting them in force would
// take. Like `diff` it is for people; unlike it, the exit code is 0 for both outcomes, for 1 means failure.
func (s *settings) writeChange(cmd *cobra.Command, files render.Files) error {
	c := haproxy.Config{Path: s.haproxyConfig, RuntimeSocket: s.haproxyRuntimeSocket}
	foresight, err := haproxy.Foresee(cmd.Context(), c, files)
	if err != nil {
		return fmt.Errorf("%w; is that the agent's --haproxy-config, and may this user read it?", err)
	}
	writeDifferences(cmd.OutOrStdout(), s.haproxyConfig, foresight.InForce, files)
	fmt.Fprintln(cmd.OutOrStdout(), outlook(foresight))
	if foresight.Silent != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "HAProxy does not answer (%v): this is what any version could do at run time\n", foresight.Silent)
	}
	return nil
}

// writeDifferences prints a unified diff of all files; config is the path of the first.
func writeDifferences(out io.Writer, config string, before, after render.Files) {
	old := map[string]render.File{}
	for _, f := range before {
		old[f.Name] = f
	}
	for _, f := range after {
		was, known := old[f.Name]
		delete(old, f.Name)
		writeDifference(out, pathBeside(config, f.Name), was, f, known, true)
	}
	for _, f := range before {
		if _, gone := old[f.Name]; gone {
			writeDifference(out, pathBeside(config, f.Name), f, render.File{}, true, false)
		}
	}
}

// writeDifference prints the diff of one file, which is there before, after, or both.
func writeDifference(out io.Writer, path string, before, after render.File, was, stays bool) {
	from, to := path, path+" as it would be"
	if !was {
		from = "/dev/null"
	}
	if !stays {
		to = "/dev/null"
	}
	_, _ = out.Write(diff.Diff(from, []byte(before.Shown()), to, []byte(after.Shown())))
}

// pathBeside is where a file of that name lies, "" being the configuration itself.
func pathBeside(config, name string) string {
	if name == "" {
		return config
	}
	return filepath.Join(filepath.Dir(config), name)
}

// outlook says what it would take to put files in force.
func outlook(f haproxy.Foresight) string {
	switch {
	case f.Same:
		return "nothing would change"
	case f.Reload != haproxy.Reason{}:
		return "a reload, because " + f.Reload.String()
	case len(f.Commands) == 0:
		return "no runtime command, no reload: for HAProxy it is the same"
	}
	shown := f.Commands[:min(len(f.Commands), commandsShown)]
	text := count(len(f.Commands), "runtime command") + ", no reload:\n  " + strings.Join(shown, "\n  ")
	if more := len(f.Commands) - len(shown); more > 0 {
		text += fmt.Sprintf("\n  and %d more", more)
	}
	return text
}
