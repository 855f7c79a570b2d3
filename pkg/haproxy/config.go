package haproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidekick-proxy/sidekick/internal/atomicfile"
	"github.com/sidekick-proxy/sidekick/pkg/render"
)

// Config says where HAProxy is and how it is driven. Paths must be absolute, because HAProxy's
// master reads them again at each reload.
type Config struct {
	Bin           string // HAProxy's program; "" is "haproxy" on the PATH
	Path          string // the live configuration; its directory must be writable
	MasterSocket  string // the master's command line
	RuntimeSocket string // the worker's Runtime API; the configuration must open it

	// WorkDir is a directory that only the driver can write, made if it is missing: candidates are
	// checked there, and it remembers there what it applied. Without one candidates are checked in
	// temporary directories, and the note lies beside the configuration, where a HAProxy that is
	// another user must not be able to write.
	WorkDir string

	// Managed makes Driver.Run start HAProxy as a child and keep it running.
	Managed bool
	// SameNetwork says that HAProxy shares our network namespace, so that new addresses can be
	// probed before a reload. Managed mode implies it.
	SameNetwork bool

	ReloadInterval time.Duration // least time between two reloads; 0 is none
	StopGrace      time.Duration // how long a managed HAProxy may finish its requests; 0 is 5 s
	DrainLimit     time.Duration // how long sessions of a removed server may go on; 0 is 30 s

	Log logrus.FieldLogger
	// Access is where a managed HAProxy's lines about requests go, as they are: they have a format of their
	// own, and programs that read it. Nil drops them.
	Access io.Writer
	// Report is told about each attempt of the haproxy stage: nil is success. It may be nil. It must
	// not call Apply, and may be called from several goroutines.
	Report func(error)
	// InForce is told of each set of files that was wanted and is in force now, also if it was before.
	// It may be nil. It must not call Apply or block.
	InForce func(render.Files)

	checkLimit time.Duration // for HAProxy's check of a candidate
}

// socketMode is the permission of the sockets that we choose: agent and HAProxy may be two users with a
// group in common, which owns the directory.
const socketMode = "660"

// withDefaults fills what the user left open.
func (c Config) withDefaults() Config {
	if c.Bin == "" {
		c.Bin = "haproxy"
	}
	if c.StopGrace == 0 {
		c.StopGrace = 5 * time.Second
	}
	if c.DrainLimit == 0 {
		c.DrainLimit = 30 * time.Second
	}
	if c.checkLimit == 0 {
		c.checkLimit = checkLimit
	}
	if c.Access == nil {
		c.Access = io.Discard
	}
	if c.Log == nil {
		quiet := logrus.New()
		quiet.SetOutput(io.Discard)
		c.Log = quiet
	}
	return c
}

// validate reports every fault of the configuration at once.
func (c Config) validate() error {
	var errs []error
	for _, p := range []struct{ name, path string }{
		{"configuration", c.Path}, {"master socket", c.MasterSocket}, {"runtime socket", c.RuntimeSocket},
	} {
		if !filepath.IsAbs(p.path) {
			errs = append(errs, fmt.Errorf("%s %q of haproxy: give an absolute path", p.name, p.path))
		}
		if strings.ContainsAny(p.path, "\"'\\#$ \t\r\n,;") {
			errs = append(errs, fmt.Errorf("%s %q of haproxy: choose a path without blanks, quotes and commas", p.name, p.path))
		}
	}
	for _, p := range []string{c.MasterSocket, c.RuntimeSocket} {
		if len(p) > 90 { // sun_path holds 108, and HAProxy binds a temporary name of its own
			errs = append(errs, fmt.Errorf("socket %s of haproxy: the path is longer than 90 bytes, choose a shorter one", p))
		}
	}
	return errors.Join(errs...)
}

// MinimalConfig is the least text that HAProxy starts with: no listener, and the socket by which the
// driver finds the worker. It is what HAProxy runs until the first real text is applied.
func MinimalConfig(c Config) string {
	return "# Written by sidekick, until the first real configuration is known.\n" +
		"global\n" +
		"    stats socket " + c.RuntimeSocket + " mode " + socketMode + " level admin expose-fd listeners\n"
}

// ExecArgs is the command line, program first, that runs HAProxy in the foreground as master and
// worker with the sockets of c. It works in the configuration's directory, as its check does: some
// versions look there for some relative names, whatever default-path says.
func ExecArgs(c Config) []string {
	c = c.withDefaults()
	return []string{c.Bin, "-W", "-C", filepath.Dir(c.Path), "-S", c.MasterSocket + ",mode," + socketMode, "-f", c.Path}
}

// Prepare makes HAProxy startable: it writes the minimal configuration if there is none, or if HAProxy
// refuses the one on disk, which is kept beside it as "<name>.refused". In external mode it is to be
// called where HAProxy is about to run, and refuses also what the check does not see: an address that
// another program has, and a text with which HAProxy ended soon after each of its last starts. The
// error wraps a *Refused when a text was set aside, although all is well to start; any other error
// means that it is not.
func Prepare(ctx context.Context, c Config) error {
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return err
	}
	dir := filepath.Dir(c.Path)
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // HAProxy may be another user
		return fmt.Errorf("prepare haproxy: %w", err)
	}
	_, err := os.Stat(c.Path)
	if errors.Is(err, os.ErrNotExist) {
		return writeMinimal(c)
	}
	if err != nil {
		return fmt.Errorf("prepare haproxy: %w", err)
	}
	err = c.acceptable(ctx)
	if asRefused(err) == nil {
		return err
	}
	return errors.Join(err, setAside(c))
}

// acceptable refuses a configuration on disk with which a HAProxy of this process's user would not start.
// One that the driver replaces meanwhile is judged anew, for HAProxy reads one file after another.
func (c Config) acceptable(ctx context.Context) error {
	s := store{path: c.Path}
	for {
		set := s.inForce()
		err := c.startable(ctx, s)
		if err == nil || ctx.Err() != nil || s.inForce() == set {
			return err
		}
	}
}

// startable is one look at it.
func (c Config) startable(ctx context.Context, s store) error {
	files, err := s.read(nil)
	if err != nil {
		return err
	}
	if err := permitted(files, os.Geteuid()); err != nil {
		return err
	}
	names, _ := s.present(nil) // unknown is like none
	limited, cancel := context.WithTimeoutCause(ctx, patience(checkLimit, len(names)), errHangs)
	defer cancel()
	if err := check(limited, c.Bin, c.Path, c.Path); err != nil {
		return err
	}
	if c.Managed || len(Answering(ctx, c)) > 0 { // the supervisor sees the end; one that runs has the addresses
		return nil
	}
	return c.survivable(ctx, files)
}

// setAside replaces a configuration that HAProxy does not start with by the minimal one and keeps a
// copy. At no time is there none.
func setAside(c Config) error {
	files, err := store{path: c.Path}.read(nil)
	if err != nil {
		return fmt.Errorf("set the refused configuration aside: %w", err)
	}
	info, err := os.Stat(c.Path)
	if err != nil {
		return fmt.Errorf("set the refused configuration aside: %w", err)
	}
	err = atomicfile.Write(c.Path+refusedSuffix, info.Mode().Perm(), func(w io.Writer) error {
		_, err := files[0].WriteTo(w)
		return err
	})
	if err != nil {
		return fmt.Errorf("set the refused configuration aside: %w", err)
	}
	return writeMinimal(c)
}

// writeMinimal puts the minimal configuration in place.
func writeMinimal(c Config) error {
	return atomicfile.Write(c.Path, 0o644, func(w io.Writer) error {
		_, err := io.WriteString(w, MinimalConfig(c))
		return err
	})
}
