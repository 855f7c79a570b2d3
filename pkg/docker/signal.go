package docker

import (
	"slices"
	"strconv"
	"strings"
)

// Linux's numbers, whatever the agent was compiled for: engines run their containers on Linux.
const (
	sigKill = 9
	sigTerm = 15
	sigMin  = 34 // SIGRTMIN as the C libraries leave it to programs
	sigMax  = 64
)

// signalNames are the names of the signals 1 to 31, in that order.
const signalNames = "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT " +
	"CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"

// parseSignal reads a signal in any form in which an engine takes one: "15", "TERM", "SIGTERM",
// "RTMIN+3", "RTMAX-1".
func parseSignal(text string) (int, bool) {
	name := strings.TrimPrefix(strings.ToUpper(strings.TrimSpace(text)), "SIG")
	if n, err := strconv.Atoi(name); err == nil {
		return n, n >= 1 && n <= sigMax
	}
	if rest, ok := strings.CutPrefix(name, "RTMIN"); ok {
		return realtime(sigMin, rest)
	}
	if rest, ok := strings.CutPrefix(name, "RTMAX"); ok {
		return realtime(sigMax, rest)
	}
	switch name {
	case "IOT":
		name = "ABRT"
	case "CLD":
		name = "CHLD"
	case "POLL":
		name = "IO"
	}
	at := slices.Index(strings.Fields(signalNames), name)
	return at + 1, at >= 0
}

func realtime(base int, offset string) (int, bool) {
	if offset == "" {
		return base, true
	}
	n, err := strconv.Atoi(offset)
	n += base
	return n, err == nil && n >= sigMin && n <= sigMax
}
