package embedded

import (
	"slices"
	"strings"
	"sync/atomic"

	"github.com/sirupsen/logrus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// core passes what the server logs as warnings or worse on to ours, with its fields. It is safe for
// concurrent use, as the server has many goroutines.
type core struct {
	log    logrus.FieldLogger
	silent *atomic.Bool
	death  *death
}

func newCore(log logrus.FieldLogger) *core {
	return &core{log: log, silent: &atomic.Bool{}, death: &death{done: make(chan struct{})}}
}

// logger returns a logger that does not end the process, as the server would have it at what it cannot
// mend.
func (c *core) logger() *zap.Logger {
	return zap.New(c, zap.WithFatalHook(c.death), zap.WithPanicHook(c.death))
}

// silence makes it drop everything from now on.
func (c *core) silence() { c.silent.Store(true) }

// Enabled implements zapcore.Core.
func (c *core) Enabled(level zapcore.Level) bool {
	// What is worse than an error ends the server, and is told by whoever finds that it has ended.
	return level >= zapcore.WarnLevel && level <= zapcore.ErrorLevel && !c.silent.Load()
}

// With implements zapcore.Core.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{log: c.log.WithFields(toFields(fields)), silent: c.silent, death: c.death}
}

// Check implements zapcore.Core.
func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(e.Level) || slices.Contains(ordinary(), e.Message) {
		return ce
	}
	return ce.AddCore(e, c)
}

// Write implements zapcore.Core.
func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	data := toFields(fields)
	if tooEarly(data) {
		return nil
	}
	entry := c.log.WithFields(data).WithField("etcd", e.Message)
	if e.Level == zapcore.WarnLevel {
		entry.Warn("embedded etcd warns")
		return nil
	}
	entry.Error("embedded etcd reports an error")
	return nil
}

// Sync implements zapcore.Core.
func (c *core) Sync() error { return nil }

func toFields(fields []zapcore.Field) logrus.Fields {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	return enc.Fields
}

// tooEarly tells whether the server looked for the version of its data before it had written the first
// thing since its start, which it needs for that. It looks again by itself.
func tooEarly(data logrus.Fields) bool {
	why, _ := data["error"].(string)
	return strings.HasSuffix(why, "missing term information")
}

// ordinary lists warnings about what is as we want it on a single host.
func ordinary() []string {
	return []string{
		"Running http and grpc server on single port. This is not recommended for production.",
		"simple token is not cryptographically signed",
		"serving client traffic insecurely; this is strongly discouraged!",
	}
}
