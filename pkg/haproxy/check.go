package haproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

const (
	// checkLimit bounds HAProxy's own check of a file. While the driver waits for one, changes of servers
	// wait as well.
	checkLimit = 30 * time.Second
	// fileLimit is what each file beside the configuration adds to the time that HAProxy has: a certificate
	// takes 2.6 a millisecond, and ten where others keep the machine busy.
	fileLimit = 10 * time.Millisecond
	// versionLimit bounds HAProxy's word on its version.
	versionLimit = 5 * time.Second
	// pipeLimit is how long a program's end may be waited for when only its children have its output.
	pipeLimit = time.Second
)

// Stages at which a text can be refused.
const (
	StageText   = "text"   // the text lacks what the driver needs
	StageCheck  = "check"  // HAProxy's own check
	StageProbe  = "probe"  // a new address is taken
	StageReload = "reload" // HAProxy's load of the new text
	StageStart  = "start"  // HAProxy's start with the text on disk
	// StageConfirm is after the reload: what runs is not what the text says.
	StageConfirm = "confirm"
)

// Refused says that a text was not put in force, and why; the former one stays.
type Refused struct {
	Stage   string
	Address string // the address that is taken, for StageProbe
	Words   string // HAProxy's own words where there are any

	// Lines are those of the configuration that HAProxy names as refused, counted from 1; none if it names none,
	// or if the text is not to blame.
	Lines []int
	Files render.Files // that were refused, if that is for their text

	deadly bool // HAProxy ended while it loaded the text
	slow   bool // to find that out takes so long that other servers are no reason to try again
}

// Error tells the stage and the reason.
func (r *Refused) Error() string {
	switch r.Stage {
	case StageCheck:
		return "haproxy refuses the configuration: " + r.Words
	case StageReload:
		return "haproxy could not load the configuration: " + r.Words
	default:
		return "configuration refused: " + r.Words
	}
}

// OfText tells whether it is the text that HAProxy refuses, and not what it met on this host.
func (r *Refused) OfText() bool {
	return r.Stage == StageCheck && !r.slow || r.Stage == StageReload && len(r.Lines) > 0 && !r.deadly
}

// Unbound are the ports that HAProxy may not have got when it loaded the text: those of the bind lines that it
// names. Where it names no line, for an external HAProxy 2.6 tells the reason to nothing but its own log, they are
// the ones that take a right.
func (r *Refused) Unbound() (ports []uint16) {
	if r.Stage != StageReload || r.deadly || len(r.Files) == 0 {
		return nil
	}
	text := r.Files[0].Text()
	if len(r.Lines) == 0 {
		return slices.DeleteFunc(Bound(text), func(port uint16) bool { return port >= firstFree })
	}
	lines := strings.Split(text, "\n")
	for _, n := range r.Lines {
		if n <= len(lines) {
			ports = append(ports, Bound(lines[n-1])...)
		}
	}
	return ports
}

// firstFree is the lowest port for which a program needs no right.
const firstFree = 1024

// lineName is how HAProxy names a line of a file.
var lineName = regexp.MustCompile(`\[([^][]*):(\d+)\]`)

// linesIn are the lines of the configuration that these words name, each once.
func linesIn(words, path string) (lines []int) {
	for _, found := range lineName.FindAllStringSubmatch(words, -1) {
		line, err := strconv.Atoi(found[2])
		if err == nil && filepath.Base(found[1]) == filepath.Base(path) && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// errHangs says that HAProxy's program was given up.
var errHangs = errors.New("it does not come to an end")

// patience is how long HAProxy may take to read a configuration and so many files beside it.
func patience(least time.Duration, files int) time.Duration {
	return least + time.Duration(files)*fileLimit
}

// check lets HAProxy judge the configuration at path, whose relative names are looked up in its own
// directory, until ctx ends. Any alert is a refusal, for some versions exit with 0 after one. In the reason the
// paths are those of the file that will be live.
func check(ctx context.Context, bin, path, live string) error {
	cmd := exec.CommandContext(ctx, bin, "-c", "-f", path) // the operator names the program
	cmd.Dir, cmd.WaitDelay = filepath.Dir(path), pipeLimit
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what it starts ends with it
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if ctx.Err() != nil {
		if cmd.Process != nil {
			bury(cmd.Process.Pid)
		}
		return fmt.Errorf("check %s with %s: %w", live, bin, context.Cause(ctx))
	}
	alerts := alertsOf(out.String())
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("run %s: %w", bin, err)
	}
	if err == nil && len(alerts) == 0 {
		return nil
	}
	if len(alerts) == 0 {
		alerts = []string{strings.TrimSpace(out.String()), err.Error()}
	}
	lines := linesIn(strings.Join(alerts, "\n"), path)
	words := strings.Join(once(alerts), "; ")
	words = strings.ReplaceAll(words, path, live)
	return &Refused{Stage: StageCheck, Words: strings.ReplaceAll(words, filepath.Dir(path), filepath.Dir(live)), Lines: lines}
}

// checksCPU is the processor time of all programs that were run and have ended. By the clock a check
// takes many times that on a machine that is busy with other things.
func checksCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_CHILDREN, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// alertLine is HAProxy's form of an alert, with the process id and the area that said it.
var alertLine = regexp.MustCompile(`^\[ALERT\]\s*(?:\S+\s+)?\(\d+\)\s*:\s*(?:config\s*:\s*)?(.*)$`)

// alertsOf picks HAProxy's alerts out of what it printed; the summing-up ones only if there is no
// other.
func alertsOf(out string) []string {
	var found, summaries []string
	for line := range strings.Lines(out) {
		m := alertLine.FindStringSubmatch(strings.TrimSpace(line))
		switch {
		case m == nil:
		case isSummary(m[1]):
			summaries = append(summaries, m[1])
		default:
			found = append(found, strings.TrimSpace(m[1]))
		}
	}
	if len(found) == 0 {
		return summaries
	}
	return found
}

// placeInAlert is what differs between alerts of one fault that a template has put into many sections: the line, and
// what HAProxy calls the section or the server there.
var placeInAlert = regexp.MustCompile(`:\d+\]|'(?:server|proxy|backend|frontend|listen) [^']*'`)

// once names each fault at its first place, with the number of the others.
func once(alerts []string) (faults []string) {
	at, more := map[string]int{}, []int{}
	for _, alert := range alerts {
		fault := placeInAlert.ReplaceAllString(alert, "")
		if n, known := at[fault]; known {
			more[n]++
			continue
		}
		at[fault] = len(faults)
		faults, more = append(faults, alert), append(more, 0)
	}
	for n, others := range more {
		switch {
		case others == 1:
			faults[n] += " (and at one more place)"
		case others > 1:
			faults[n] += fmt.Sprintf(" (and at %d more places)", others)
		}
	}
	return faults
}

// isSummary tells alerts that only say that there were others.
func isSummary(words string) bool {
	return strings.HasPrefix(words, "Error(s) found in configuration file") ||
		strings.HasPrefix(words, "Fatal errors found in configuration") ||
		strings.Contains(words, "Loading failure!")
}
