package haproxy

import (
	"context"
	"time"

	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// Applier makes the proxy behave as these files say. Equal files are no work. On an error the last
// good ones stay in force; the caller tries again, for nothing is remembered for it. Calls follow
// one another, they never overlap inside.
type Applier interface {
	Apply(ctx context.Context, want render.Files) (Result, error)
}

// How a change was made.
const (
	HowNone    = "none"
	HowRuntime = "runtime"
	HowReload  = "reload"
)

// Result says what an Apply did.
type Result struct {
	How      string
	Reason   Reason // why a reload was needed
	Commands int    // runtime commands that HAProxy accepted
	Took     time.Duration
}

// State is what the driver knows, for people and metrics.
type State struct {
	Status      string // in one sentence
	LastError   string // "" when all is in step, or HAProxy is still being started
	Hash        string // of the texts in force, "" when not known
	Differences int    // servers that did not run as wanted at the last look, at least 1 while an apply fails or waits
	// Down are the servers, as backend/server, that HAProxy's own checks found down at the last look.
	Down            []string
	Reloads         map[string]uint64
	RuntimeCommands uint64
	OldWorkers      int
	// OldWorkersMemory is how many bytes old workers hold for their connections. What each holds for
	// its configuration comes on top.
	OldWorkersMemory uint64
	Version          string // of the running HAProxy
}
