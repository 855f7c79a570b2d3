package embedded

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"go.etcd.io/etcd/api/v3/version"
	"go.uber.org/zap/zapcore"
)

// death is the hook for what the server cannot go on after, and would end the process or panic at. It
// keeps the first such message, and ends the goroutine that it is called on. The server is of no more
// use then, and cannot be closed either: locks may be held for ever.
type death struct {
	once sync.Once
	done chan struct{} // closed when err is set
	err  error
}

// OnWrite implements zapcore.CheckWriteHook.
func (d *death) OnWrite(entry *zapcore.CheckedEntry, fields []zapcore.Field) {
	d.once.Do(func() {
		d.err = failure(entry.Message, fields)
		close(d.done)
	})
	runtime.Goexit()
}

// came tells whether the server has ended in this way.
func (d *death) came() bool {
	select {
	case <-d.done:
		return true
	default:
		return false
	}
}

// failure makes an error of a message of the server, with the error among its fields wrapped.
func failure(message string, fields []zapcore.Field) error {
	text := map[string]string{}
	for _, f := range fields {
		if err, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			return fmt.Errorf("%s: %w", message, err)
		}
		text[f.Key] = f.String
	}
	if newer := text["determined-cluster-version"]; newer != "" {
		return newerError(newer)
	}
	return errors.New(message)
}

// newerError says that the data was written by a newer version.
type newerError string

func (e newerError) Error() string {
	return fmt.Sprintf("it was written by etcd %s, and this is %s", string(e), version.Version)
}

// unsupported is how the server names a version of the data that it does not know. It has no kind of
// error for that.
const unsupported = `version "%s is not supported`

// explainStart is explain for an error that the server returned instead of starting.
func explainStart(dir string, err error) error {
	var newer string
	if n, _ := fmt.Sscanf(err.Error(), unsupported, &newer); n == 1 {
		return explain(dir, newerError(strings.TrimSuffix(newer, `"`)), true)
	}
	if errors.As(err, new(*net.OpError)) {
		return Refused{fmt.Errorf("start the embedded etcd: %w; is the address this host's, and free?", err)}
	}
	return explain(dir, err, true)
}

// Refused says that a server will not start however often it is tried: somebody has to do something.
type Refused struct{ error }

func (e Refused) Unwrap() error { return e.error }

// afresh is the mend for data that cannot be used.
const afresh = "remove that directory (what runs is registered anew; drain, maint and weight without an end are lost) or restore a snapshot"

// explain names the directory, and the mend, of what the server said at its end. starting tells that it
// has not served before.
func explain(dir string, err error, starting bool) error {
	var newer newerError
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("the embedded etcd cannot write to %s: %w; make room there", dir, err)
	case errors.As(err, &newer):
		return Refused{fmt.Errorf("the embedded etcd cannot use the data in %s: %w; run a sidekick as new as the one that wrote it, or %s", dir, err, afresh)}
	case starting:
		return Refused{fmt.Errorf("the embedded etcd cannot use the data in %s: %w; %s", dir, err, afresh)}
	}
	return fmt.Errorf("the embedded etcd in %s ended: %w", dir, err)
}
