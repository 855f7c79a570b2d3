package confd

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"
)

const (
	// commandLimit is how long a command may take that its resource gives no time.
	commandLimit = 30 * time.Second
	// linger is how long the output of a command that has ended is waited for, if something that it
	// started holds it open.
	linger = 500 * time.Millisecond
	// heard is how much of a command's output is kept, from its end.
	heard = 2 << 10
)

// run runs a command line in a shell, as confd does. What it started is killed along with it when the
// time is up; what it leaves behind when it ends by itself may stay, as a daemon does.
func (s *Server) run(ctx context.Context, what, line string, limit time.Duration) error {
	limit = cmp.Or(limit, commandLimit)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var out tail
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", line)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = linger
	err := cmd.Run()
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil:
		s.Log.WithField("command", line).WithField("output", out.String()).Debug(what + " succeeded")
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("ended after %s, its time limit", limit)
	}
	return fmt.Errorf("%s %q: %w%s", what, line, err, out.quoted())
}

// tail keeps the end of what is written to it.
type tail struct{ buf []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if cut := len(t.buf) - heard; cut > 0 {
		t.buf = append(t.buf[:0], t.buf[cut:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(bytes.TrimSpace(t.buf)) }

// quoted is the output as the end of a message.
func (t *tail) quoted() string {
	if t.String() == "" {
		return ""
	}
	return ": " + t.String()
}

// check judges a staged file by check_cmd.
func (s *Server) check(ctx context.Context, r *Resource, staged string) error {
	var line strings.Builder
	if err := r.check.Execute(&line, map[string]string{"src": staged, "dest": r.Dest}); err != nil {
		return err
	}
	return s.run(ctx, "check_cmd", line.String(), cmp.Or(r.checkLimit, s.CheckLimit))
}

// reload announces the new file by reload_cmd. The staged file is the new one by now, so both names mean
// that. Other braces are left alone: the command may have a template of its own, as docker ps --format does.
func (s *Server) reload(ctx context.Context, r *Resource) error {
	return s.run(ctx, "reload_cmd", placeholder().ReplaceAllLiteralString(r.reload, r.Dest), cmp.Or(r.reloadLimit, s.ReloadLimit))
}

func placeholder() *regexp.Regexp { return regexp.MustCompile(`\{\{-?\s*\.(src|dest)\s*-?\}\}`) }
